//! cancel: jobs that wait and jobs that run.

use std::{slice::from_ref, time::Duration};

use windrow_queue::{
    JobId, Member,
    store::{Cancelled, Finish, Refused, Scope, TokenDigest, Verdict},
};

use crate::{hold::hold_of, support::*};

async fn cancel(rig: &Rig, members: &[Member]) -> Vec<Cancelled> {
    rig.store.cancel(&rig.queue, members).await.unwrap()
}

#[tokio::test]
async fn jobs_that_wait_are_gone_at_once() {
    let rig = Rig::new().await;
    let ready = rig.put_many(3).await;
    let mut later = rig.job(9).unique("k");
    later.due = due_in(5000);
    let scheduled = rig.put(from_ref(&later)).await[0];
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    let hold = hold_of(&rig, &worker, &claim);
    assert!(rig.store.expect_callback(&hold, TokenDigest([1; 16])).await.unwrap());
    assert!(rig.store.checkpoint(&hold, b"x").await.unwrap());
    worker.finish(&[outcome(&claim, Finish::Park { delay: Duration::from_secs(60) })]).await;

    let answers = cancel(&rig, &[claim.member, ready[1], scheduled]).await;
    assert_eq!(answers, [Cancelled::Done; 3]);
    let snapshot = rig.audit().await;
    assert_eq!(snapshot.jobs.keys().cloned().collect::<Vec<_>>(), [ready[2].to_bytes()]);
    assert_eq!(cancel(&rig, &[claim.member, ready[1], scheduled]).await, [Cancelled::Unknown; 3], "and again");
    assert_eq!(worker.claim_members(10).await, [ready[2]], "claims pass over what is left in the lane");
    rig.audit().await;
    later.id = JobId::new();
    rig.put(&[later]).await;
    rig.audit().await;
}

#[tokio::test]
async fn what_is_taken_out_is_gone_if_it_waits_and_is_left_alone_if_it_runs() {
    let rig = Rig::new().await;
    let members = rig.put_many(3).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!(rig.store.take_out(&rig.queue, &members).await.unwrap(), 2);
    let snapshot = rig.audit().await;
    assert_eq!(snapshot.jobs.keys().cloned().collect::<Vec<_>>(), [claim.member.to_bytes()]);
    assert!(snapshot.stopping.is_empty() && ok(worker.session.heartbeat().await.unwrap()).cancelled.is_empty());
    worker.finish(&[outcome(&claim, Finish::Release)]).await;
    assert_eq!(worker.claim_members(10).await, [claim.member], "it runs on as if nobody had asked");
    rig.audit().await;
}

#[tokio::test]
async fn a_job_that_runs_is_told_and_does_not_come_back() {
    let rig = Rig::new().await;
    let members = rig.put_many(6).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(5).await;
    assert!(ok(worker.session.heartbeat().await.unwrap()).cancelled.is_empty());
    assert_eq!(cancel(&rig, &members[..5]).await, [Cancelled::Stopping; 5]);
    assert_eq!(cancel(&rig, &members[..5]).await, [Cancelled::Stopping; 5], "asking again is safe");
    let mut told = ok(worker.session.heartbeat().await.unwrap()).cancelled;
    told.sort_by_key(|member| member.to_bytes());
    let mut expected = members[..5].to_vec();
    expected.sort_by_key(|member| member.to_bytes());
    assert_eq!(told, expected);
    let other = rig.worker().await;
    assert!(ok(other.session.heartbeat().await.unwrap()).cancelled.is_empty(), "others have nothing to stop");

    let snooze = Finish::Snooze { delay: Duration::from_secs(1) };
    let ends = [retry(1, 0), snooze, Finish::Release, Finish::Park { delay: Duration::from_secs(1) }, complete()];
    let outcomes: Vec<_> = claims.iter().zip(ends).map(|(claim, end)| outcome(claim, end)).collect();
    assert_eq!(worker.finish(&outcomes).await, [Verdict::Applied; 5]);
    let snapshot = rig.audit().await;
    assert_eq!(snapshot.jobs.keys().cloned().collect::<Vec<_>>(), [members[5].to_bytes()]);
    assert!(ok(worker.session.heartbeat().await.unwrap()).cancelled.is_empty());
    assert_eq!(cancel(&rig, &members[..5]).await, [Cancelled::Unknown; 5]);
    let letters: Vec<u8> = rig
        .raw::<Vec<Vec<u8>>>(redis::cmd("LRANGE").arg(rig.key("fin")).arg(0).arg(-1))
        .await
        .iter()
        .map(|r| r[0])
        .collect();
    assert_eq!(letters.iter().filter(|&&letter| letter == b'x').count(), 4, "{letters:?}");
}

#[tokio::test]
async fn a_cancelled_job_whose_worker_is_lost_is_not_rescued() {
    let rig = Rig::new().await;
    let members = rig.put_many(2).await;
    let mut worker = rig.worker().await;
    worker.claim(2).await;
    assert_eq!(cancel(&rig, &members[..1]).await, [Cancelled::Stopping]);
    rig.lapse(&[]).await;
    let snapshot = rig.audit().await;
    assert_eq!(snapshot.jobs.keys().cloned().collect::<Vec<_>>(), [members[1].to_bytes()]);
}

#[tokio::test]
async fn a_cancelled_job_that_nobody_executes_does_not_go_back() {
    let rig = Rig::new().await;
    let members = rig.put_many(2).await;
    let mut worker = rig.worker().await;
    worker.claim(2).await;
    assert_eq!(cancel(&rig, &members[..1]).await, [Cancelled::Stopping]);
    let n = worker.next_n();
    ok(worker.session.sync(n, &[], &[]).await.unwrap());
    worker.prev_n = n;
    assert_eq!(worker.drain().await, members[1..]);
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_producer_who_asks_again_for_a_cancelled_job_does_not_bring_it_back_twice() {
    let rig = Rig::new().await;
    let jobs = rig.jobs(3);
    let members = rig.put(&jobs).await;
    let relayed = rig.relay_job();
    rig.store.relay(&rig.queue, from_ref(&relayed)).await.unwrap();
    assert_eq!(cancel(&rig, &[members[1], relayed.member]).await, [Cancelled::Done; 2]);
    for _ in 0..2 {
        let answers = rig.store.enqueue(&jobs).await.unwrap();
        assert!(answers.iter().all(|answer| !answer.as_ref().unwrap().is_created()), "{answers:?}");
        rig.store.relay(&rig.queue, from_ref(&relayed)).await.unwrap()[0].as_ref().unwrap();
        rig.audit().await;
    }
    let mut worker = rig.worker().await;
    assert_eq!(worker.drain().await, [members[0], members[2]]);
    assert!(rig.audit().await.tombstones.is_empty());
}

#[tokio::test]
async fn dead_and_unknown_jobs_are_unknown_and_a_member_named_twice_counts_once() {
    let rig = Rig::new().await;
    assert!(cancel(&rig, &[]).await.is_empty());
    let members = rig.put_many(2).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&claim, Finish::Bury { error: error(1, "no") })]).await;
    let asked = [claim.member, Member::fast(JobId::new()), members[1], members[1]];
    let answers = cancel(&rig, &asked).await;
    assert_eq!(answers, [Cancelled::Unknown, Cancelled::Unknown, Cancelled::Done, Cancelled::Unknown]);
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.jobs.len(), snapshot.dead.len()), (0, 1));
}

#[tokio::test]
async fn many_are_cancelled_in_one_go_and_claims_pass_over_them_in_bounded_steps() {
    let rig = Rig::new().await;
    let mut members = Vec::new();
    for _ in 0..10 {
        members.extend(rig.put_many(500).await);
    }
    let last = members.pop().unwrap();
    assert_eq!(cancel(&rig, &members).await, vec![Cancelled::Done; 4999]);
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().ready, 1);
    let mut worker = rig.worker().await;
    let mut requests = 0;
    let claims = loop {
        requests += 1;
        assert!(requests < 200, "it makes headway");
        let reply = worker.serve(10, &[]).await;
        rig.audit().await;
        if !reply.claims.is_empty() {
            break reply.claims;
        }
        assert!(reply.more, "there is one more, and it says so");
    };
    assert!(requests >= 5, "not all of them in one request");
    assert_eq!(claims[0].member, last);
    worker.complete(&claims).await;
}

#[tokio::test]
async fn what_is_left_of_cancelled_jobs_does_not_grow_without_bound() {
    let rig = Rig::with(|config| config.max_jobs = 16).await;
    rig.store.pause(&rig.queue, &Scope::Queue).await.unwrap();
    let mut left_over = 0;
    loop {
        let answers = rig.store.enqueue(&rig.jobs(16)).await.unwrap();
        let created: Vec<Member> = answers.iter().flatten().map(|answer| Member::fast(answer.id())).collect();
        if created.is_empty() {
            assert!(answers.iter().all(|answer| *answer == Err(Refused::QueueFull)));
            break;
        }
        assert_eq!(cancel(&rig, &created).await, vec![Cancelled::Done; created.len()]);
        left_over += created.len();
        assert!(left_over <= 8 * 16 + 16, "{left_over} entries in a queue of 16 jobs");
        rig.audit().await;
    }
    assert!(left_over >= 4 * 16, "a few of them take no room yet: {left_over}");
    rig.store.resume(&rig.queue, &Scope::Queue).await.unwrap();
    assert!(rig.worker().await.drain().await.is_empty());
    rig.put_many(16).await;
    rig.audit().await;
}

#[tokio::test]
async fn suspects_and_journaled_poison_are_cancelled_too() {
    let rig = Rig::with(|config| config.rescue_limit = 0).await;
    let fast = rig.put_many(1).await[0];
    let journaled = rig.relay_many(1).await[0];
    for _ in 0..2 {
        rig.worker().await.claim(2).await;
        rig.lapse(&[]).await;
    }
    assert_eq!(rig.place(fast).await, Some(Place::Suspect));
    assert_eq!(cancel(&rig, &[fast]).await, [Cancelled::Done]);
    rig.audit().await;
    rig.worker().await.claim(2).await;
    rig.lapse(&[]).await;
    assert_eq!(rig.place(journaled).await, Some(Place::ToBury));
    assert_eq!(cancel(&rig, &[journaled]).await, [Cancelled::Done]);
    assert!(rig.worker().await.claim(2).await.is_empty());
    let snapshot = rig.audit().await;
    assert!(snapshot.jobs.is_empty() && snapshot.tombstones.is_empty());
}
