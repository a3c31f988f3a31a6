//! sync and heartbeat.

use windrow_queue::store::{Finish, Reply, Verdict};

use crate::support::*;

#[tokio::test]
async fn a_lease_that_nobody_executes_goes_back_and_nothing_runs_twice() {
    let rig = Rig::new().await;
    let members = rig.put_many(6).await;
    let mut worker = rig.worker().await;
    let held = worker.claim(2).await;
    // Its answer is lost.
    let n = worker.next_n();
    drop(worker.session.finish_claim(n, worker.prev_n, 2, PLENTY, true, &[]).await.unwrap());
    let running: Vec<_> = held.iter().map(|claim| (claim.member, claim.claim_no)).collect();
    let n = worker.next_n();
    let reply = ok(worker.session.sync(n, &running, &[]).await.unwrap());
    assert_eq!((reply.given_back, reply.more, reply.lost.len()), (2, false, 0));
    worker.prev_n = n;
    rig.audit().await;
    let mut rest = worker.claim_members(10).await;
    rest.sort_by_key(|member| member.id);
    assert_eq!(rest, members[2..]);
}

#[tokio::test]
async fn after_a_sync_every_earlier_request_is_stale() {
    let rig = Rig::new().await;
    rig.put_many(2).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    let (delayed, synced) = (worker.next_n(), worker.next_n());
    ok(worker.session.sync(synced, &[(claim.member, claim.claim_no)], &[]).await.unwrap());
    let finish = [outcome(&claim, Finish::Release)];
    for n in [delayed, synced] {
        let reply = worker.session.finish_claim(n, 1, 5, PLENTY, true, &finish).await.unwrap();
        assert!(matches!(reply, Reply::Stale), "{reply:?}");
        assert!(matches!(worker.session.sync(n, &[], &[]).await.unwrap(), Reply::Stale));
    }
    let held = ok(worker.session.heartbeat().await.unwrap());
    assert_eq!((held.held, held.n), (1, synced));
    rig.audit().await;
}

#[tokio::test]
async fn a_sync_says_that_the_session_lives() {
    let rig = Rig::new().await;
    rig.put_many(1).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(1).await;
    rig.tick().await;
    for _ in 0..20 {
        rig.advance(1000).await;
        let n = worker.next_n();
        ok(worker.session.sync(n, &[(claims[0].member, claims[0].claim_no)], &[]).await.unwrap());
        worker.prev_n = n;
        assert_eq!(rig.tick().await.rescued, 0);
    }
    worker.complete(&claims).await;
}

#[tokio::test]
async fn recent_outcomes_are_replayed_and_foreign_jobs_named_as_lost() {
    let rig = Rig::new().await;
    rig.put_many(4).await;
    let (mut worker, mut other) = (rig.worker().await, rig.worker().await);
    let claims = worker.claim(3).await;
    let foreign = other.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&claims[0], complete())]).await;
    let recent = [outcome(&claims[0], complete()), outcome(&claims[1], complete()), outcome(&foreign, complete())];
    let running = [(claims[2].member, claims[2].claim_no), (foreign.member, foreign.claim_no)];
    let n = worker.next_n();
    let reply = ok(worker.session.sync(n, &running, &recent).await.unwrap());
    assert_eq!(reply.verdicts, [Verdict::Already, Verdict::Applied, Verdict::Already]);
    assert_eq!((reply.lost, reply.given_back), (vec![foreign.member], 0));
    assert_eq!(rig.audit().await.places.len(), 2);
    other.complete(&[foreign]).await;
}

#[tokio::test]
async fn a_running_job_of_an_earlier_claim_is_lost_and_its_newer_claim_goes_back() {
    let rig = Rig::new().await;
    let member = rig.put_many(1).await[0];
    let mut worker = rig.worker().await;
    let first = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&first, Finish::Release)]).await;
    // The answer to the second claim is lost, while the first still runs.
    assert_eq!(worker.claim(1).await.len(), 1);
    let n = worker.next_n();
    let reply = ok(worker.session.sync(n, &[(member, first.claim_no)], &[outcome(&first, complete())]).await.unwrap());
    assert_eq!((reply.lost, reply.given_back), (vec![member], 1));
    assert_eq!(reply.verdicts, [Verdict::NotYours]);
    assert_eq!(rig.place(member).await, Some(Place::Lane));
}

#[tokio::test]
async fn thousands_of_orphans_go_back_in_bounded_calls() {
    let rig = Rig::new().await;
    for _ in 0..4 {
        rig.put_many(500).await;
    }
    let mut worker = rig.worker().await;
    let mut claims = worker.claim(1000).await;
    claims.extend(worker.claim(1000).await);
    let recent: Vec<_> = claims[..700].iter().map(|claim| outcome(claim, complete())).collect();
    let running: Vec<_> = claims[700..800].iter().map(|claim| (claim.member, claim.claim_no)).collect();
    let mut given_back = 0;
    for call in 1.. {
        assert!(call < 10, "it gives back what it gave back");
        let n = worker.next_n();
        let reply = ok(worker.session.sync(n, &running, &recent).await.unwrap());
        worker.prev_n = n;
        assert!(reply.lost.is_empty() && reply.given_back <= 500);
        given_back += reply.given_back;
        rig.audit().await;
        if !reply.more {
            break;
        }
    }
    assert_eq!(given_back, 1200);
    assert_eq!(ok(worker.session.heartbeat().await.unwrap()).held, 100);
}

#[tokio::test]
async fn a_sync_that_finds_everything_lost_says_so() {
    let rig = Rig::new().await;
    let mut worker = rig.worker().await;
    let running: Vec<_> = (0..3000).map(|_| (windrow_queue::Member::fast(windrow_queue::JobId::new()), 1)).collect();
    let n = worker.next_n();
    let reply = ok(worker.session.sync(n, &running, &[]).await.unwrap());
    assert_eq!(reply.lost, running.iter().map(|(member, _)| *member).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_hello_that_comes_twice_changes_nothing() {
    let rig = Rig::new().await;
    rig.put_many(1).await;
    let mut worker = rig.worker().await;
    worker.claim(1).await;
    let copy = windrow_queue::store::Session::open(&rig.store, &rig.queue, worker.session.id().clone(), 5, "copy");
    copy.await.unwrap();
    let beat = ok(worker.session.heartbeat().await.unwrap());
    assert_eq!((beat.held, beat.n), (1, 1));
    rig.audit().await;
}
