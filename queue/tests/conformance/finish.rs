//! finish_claim: outcomes.

use std::time::Duration;

use windrow_queue::{
    Member,
    store::{Applied, Finish, JobState, Verdict, kept_result},
};

use crate::support::*;

#[tokio::test]
async fn a_retry_counts_its_attempt_and_comes_back_when_it_is_due() {
    let rig = Rig::new().await;
    let member = rig.put_many(1).await[0];
    let mut worker = rig.worker().await;
    for attempt in 1..=12 {
        let claim = worker.claim(1).await.pop().unwrap();
        assert_eq!(claim.attempt, attempt - 1);
        assert_eq!(worker.finish(&[outcome(&claim, retry(attempt, 500))]).await, [Verdict::Applied]);
        assert_eq!(rig.place(member).await, Some(Place::Scheduled { due: rig.now() + 500 }));
        assert_eq!(rig.tick().await.promoted, 0);
        rig.advance(500).await;
        assert_eq!(rig.tick().await.promoted, 1);
        rig.audit().await;
    }
    let status = rig.store.status(&rig.queue, member).await.unwrap().unwrap();
    assert_eq!((status.state, status.attempt), (JobState::Ready, 12));
    assert_eq!(status.errors.iter().map(|error| error.attempt).collect::<Vec<_>>(), (3..=12).collect::<Vec<_>>());
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!(claim.ready_at.timestamp_millis().unsigned_abs(), rig.now(), "the wait begins when it is due");
    worker.complete(&[claim]).await;
    let snapshot = rig.audit().await;
    assert!(snapshot.jobs.is_empty() && snapshot.mutable.is_empty());
}

#[tokio::test]
async fn snooze_and_release_count_no_attempt() {
    let rig = Rig::new().await;
    let members = rig.put_many(3).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(2).await;
    let snooze = Finish::Snooze { delay: Duration::from_millis(50) };
    assert_eq!(worker.finish(&[outcome(&claims[0], snooze), outcome(&claims[1], Finish::Release)]).await.len(), 2);
    assert_eq!(rig.place(members[0]).await, Some(Place::Scheduled { due: rig.now() + 50 }));
    let claims = worker.claim(1).await;
    assert_eq!(claims[0].member, members[1], "what was released goes before what was never claimed");
    assert_eq!(claims[0].attempt, 0);
    rig.advance(50).await;
    rig.tick().await;
    let claims = worker.claim(2).await;
    assert_eq!(
        claims.iter().map(|claim| (claim.member, claim.attempt)).collect::<Vec<_>>(),
        [(members[2], 0), (members[0], 0)]
    );
    rig.audit().await;
}

#[tokio::test]
async fn released_jobs_keep_their_order() {
    let rig = Rig::new().await;
    let members = rig.put_many(4).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(3).await;
    let outcomes: Vec<_> = claims.iter().map(|claim| outcome(claim, Finish::Release)).collect();
    let reply = worker.serve(4, &outcomes).await;
    assert_eq!(reply.claims.iter().map(|claim| claim.member).collect::<Vec<_>>(), members[3..]);
    assert!(reply.more, "what it gave back is there for the next request");
    assert_eq!(worker.claim_members(4).await, members[..3]);
    rig.audit().await;
}

#[tokio::test]
async fn a_delay_of_nothing_is_ready_at_once_and_one_of_for_ever_is_kept() {
    let rig = Rig::new().await;
    let members = rig.put_many(2).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(2).await;
    let snooze = Finish::Snooze { delay: Duration::MAX };
    worker.finish(&[outcome(&claims[0], retry(1, 0)), outcome(&claims[1], snooze)]).await;
    assert_eq!(rig.place(members[0]).await, Some(Place::Lane));
    assert_eq!(rig.place(members[1]).await, Some(Place::Scheduled { due: 253_402_300_799_999 }));
}

#[tokio::test]
async fn the_same_outcome_twice_in_one_request_counts_once() {
    let rig = Rig::new().await;
    rig.put_many(2).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(2).await;
    let release = outcome(&claims[0], Finish::Release);
    let again = outcome(&claims[1], retry(1, 0));
    let verdicts = worker.finish(&[release.clone(), again.clone(), release, again]).await;
    assert_eq!(verdicts, [Verdict::Applied, Verdict::Applied, Verdict::Already, Verdict::Already]);
    assert_eq!(rig.audit().await.places.len(), 2);
}

#[tokio::test]
async fn an_outcome_with_another_claims_number_is_not_yours() {
    let rig = Rig::new().await;
    let member = rig.put_many(1).await[0];
    let mut worker = rig.worker().await;
    let first = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&first, Finish::Release)]).await;
    let second = worker.claim(1).await.pop().unwrap();
    assert_ne!(first.claim_no, second.claim_no);
    let bury = Finish::Bury { error: error(1, "late") };
    for finish in [complete(), Finish::Gone, retry(9, 10), Finish::Release, bury] {
        assert_eq!(worker.finish(&[outcome(&first, finish)]).await, [Verdict::NotYours]);
        assert!(matches!(rig.place(member).await, Some(Place::Running { .. })));
    }
    worker.complete(&[second]).await;
}

#[tokio::test]
async fn nobody_finishes_what_another_session_holds() {
    let rig = Rig::new().await;
    let member = rig.put_many(1).await[0];
    let (mut mine, mut other) = (rig.worker().await, rig.worker().await);
    let claim = mine.claim(1).await.pop().unwrap();
    let forged = Applied { member, claim_no: claim.claim_no, finish: complete() };
    assert_eq!(other.finish(&[forged]).await, [Verdict::Already], "it holds nothing of that name");
    assert!(matches!(rig.place(member).await, Some(Place::Running { .. })));
    mine.complete(&[claim]).await;
}

#[tokio::test]
async fn five_hundred_outcomes_of_every_sort_fit_into_one_request() {
    let rig = Rig::new().await;
    rig.put_many(500).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(500).await;
    let outcomes: Vec<_> = claims
        .iter()
        .enumerate()
        .map(|(i, claim)| {
            outcome(
                claim,
                match i % 7 {
                    0 => complete(),
                    1 => Finish::Cancel { keep: None },
                    2 => Finish::Gone,
                    3 => retry(1, 100),
                    4 => Finish::Snooze { delay: Duration::from_millis(100) },
                    5 => Finish::Release,
                    _ => Finish::Bury { error: error(1, "no") },
                },
            )
        })
        .collect();
    assert_eq!(worker.finish(&outcomes).await, vec![Verdict::Applied; 500]);
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.dead.len(), snapshot.jobs.len()), (71, 142 + 71));
    rig.advance(100).await;
    assert_eq!(rig.tick().await.promoted, 142);
    assert_eq!(worker.drain().await.len(), 142 + 71);
    rig.audit().await;
}

#[tokio::test]
async fn a_kept_result_can_be_asked_for() {
    let rig = Rig::new().await;
    let members = rig.put_many(2).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(2).await;
    let record = |state, reason| kept_result(state, &rig.job(0).kind, None, 1, reason);
    let keep = [
        outcome(&claims[0], Finish::Complete { keep: Some(record(JobState::Completed, None)) }),
        outcome(&claims[1], Finish::Cancel { keep: Some(record(JobState::Cancelled, Some("not wanted"))) }),
    ];
    worker.finish(&keep).await;
    let status = rig.store.status(&rig.queue, members[0]).await.unwrap().unwrap();
    assert_eq!((status.state, status.attempt), (JobState::Completed, 1));
    let status = rig.store.status(&rig.queue, members[1]).await.unwrap().unwrap();
    assert_eq!((status.state, status.result), (JobState::Cancelled, Some("not wanted".into())));
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn what_is_kept_of_a_journaled_job_is_found_under_its_first_generation() {
    let rig = Rig::new().await;
    let mut job = rig.relay_job();
    let id = job.member.id;
    job.member = Member::journaled(id, 3);
    rig.store.relay(&rig.queue, &[job]).await.unwrap().pop().unwrap().unwrap();
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    let record = kept_result(JobState::Completed, &rig.job(0).kind, None, 1, None);
    worker.finish(&[outcome(&claim, Finish::Complete { keep: Some(record) })]).await;
    let status = rig.store.status(&rig.queue, Member::journaled(id, 1)).await.unwrap().unwrap();
    assert_eq!((status.state, status.attempt), (JobState::Completed, 1));
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_journaled_job_is_forgotten_when_postgres_buried_it() {
    let rig = Rig::new().await;
    rig.relay_many(1).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&claim, Finish::Bury { error: error(1, "no") })]).await;
    let snapshot = rig.audit().await;
    assert!(snapshot.jobs.is_empty() && snapshot.dead.is_empty(), "its dead letter is in job_closed");
}
