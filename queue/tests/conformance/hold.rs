//! checkpoint, progress, extras: what a running job writes about itself, and who may.

use std::time::Duration;

use windrow_queue::{
    BatchId, Enqueued, Member,
    store::{
        Callback, Cancelled, Claim, Finish, Hold, Limit, MAX_CHECKPOINT_BYTES, NewBatch, Refused, Scope, StoreError,
    },
};

use crate::support::*;

/// The hold of a worker on what it claimed.
pub(crate) fn hold_of(rig: &Rig, worker: &Worker, claim: &Claim) -> Hold {
    let (queue, session) = (rig.queue.clone(), worker.session.id().clone());
    Hold { queue, session, member: claim.member, claim_no: claim.claim_no }
}

/// A job that a worker of its own runs.
pub(crate) async fn running(rig: &Rig) -> (Worker, Claim, Hold) {
    rig.put_many(1).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    let hold = hold_of(rig, &worker, &claim);
    (worker, claim, hold)
}

/// Everything that a hold allows, tried; all of it has the same answer.
async fn tried(rig: &Rig, hold: &Hold) -> bool {
    let digest = windrow_queue::store::TokenDigest([7; 16]);
    let answers = [
        rig.store.checkpoint(hold, b"state").await.unwrap(),
        rig.store.progress(hold, 1, 2).await.unwrap(),
        rig.store.expect_callback(hold, digest).await.unwrap(),
    ];
    assert!(answers.iter().all(|&answer| answer == answers[0]), "{answers:?}");
    answers[0]
}

async fn checkpoint_of(rig: &Rig, member: Member) -> Option<Vec<u8>> {
    rig.store.extras(&rig.queue, member).await.unwrap().checkpoint
}

#[tokio::test]
async fn the_next_attempt_goes_on_from_the_last_checkpoint_however_the_last_one_ended() {
    let rig = Rig::new().await;
    let (mut worker, mut claim, hold) = running(&rig).await;
    assert!(!claim.extras, "nothing waits for a first attempt");
    for state in ["one", "two", "two"] {
        assert!(rig.store.checkpoint(&hold, state.as_bytes()).await.unwrap());
        rig.audit().await;
    }
    let snooze = Finish::Snooze { delay: Duration::from_millis(10) };
    let park = Finish::Park { delay: Duration::from_millis(10) };
    for finish in [retry(1, 500), snooze, Finish::Release, park, retry(2, 0)] {
        worker.finish(&[outcome(&claim, finish)]).await;
        rig.advance(500).await;
        rig.tick().await;
        claim = worker.claim(1).await.pop().unwrap();
        assert!(claim.extras, "the claim says that something waits");
        assert_eq!(checkpoint_of(&rig, hold.member).await.unwrap(), b"two");
        rig.audit().await;
    }
    rig.lapse(&[]).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!((claim.extras, claim.attempt, claim.rescues), (true, 2, 1), "after a crash, too");
    assert!(rig.store.checkpoint(&hold_of(&rig, &worker, &claim), b"three").await.unwrap());
    assert_eq!(rig.audit().await.mutable[&claim.member.to_bytes()][4], 1, "a checkpoint is no outcome");
    worker.complete(&[claim]).await;
    assert_eq!(checkpoint_of(&rig, hold.member).await, None);
    assert!(rig.audit().await.mutable.is_empty());
}

#[tokio::test]
async fn a_checkpoint_does_not_change_since_when_a_job_was_ready() {
    let rig = Rig::new().await;
    rig.put_many(1).await;
    let ready = rig.now();
    rig.advance(300).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert!(rig.store.checkpoint(&hold_of(&rig, &worker, &claim), b"x").await.unwrap());
    worker.finish(&[outcome(&claim, Finish::Release)]).await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!((claim.ready_at.timestamp_millis().unsigned_abs(), claim.attempt), (ready, 0));
}

#[tokio::test]
async fn who_does_not_hold_a_job_writes_nothing_about_it() {
    let rig = Rig::new().await;
    let (mut worker, claim, hold) = running(&rig).await;
    let other = rig.worker().await;
    assert!(!tried(&rig, &hold_of(&rig, &other, &claim)).await, "another session");
    assert!(!tried(&rig, &Hold { claim_no: claim.claim_no + 1, ..hold.clone() }).await, "another claim");
    let unknown = Member::fast(windrow_queue::JobId::new());
    assert!(!tried(&rig, &Hold { member: unknown, ..hold.clone() }).await, "another job");
    worker.finish(&[outcome(&claim, Finish::Release)]).await;
    assert!(!tried(&rig, &hold).await, "it went back");
    let second = worker.claim(1).await.pop().unwrap();
    assert!(!tried(&rig, &hold).await, "this very session claimed it again since");
    let snapshot = rig.audit().await;
    assert!(snapshot.mutable.is_empty(), "{:?}", snapshot.mutable);
    assert!(checkpoint_of(&rig, claim.member).await.is_none());
    assert!(tried(&rig, &hold_of(&rig, &worker, &second)).await);
    worker.complete(&[second]).await;
    assert!(!tried(&rig, &hold).await, "it is over");
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_doomed_session_writes_nothing_even_before_its_jobs_went_back() {
    let rig = Rig::new().await;
    let (_worker, _claim, hold) = running(&rig).await;
    // Between two calls of tick a doomed session's jobs may still stand among those that run.
    rig.raw::<()>(redis::cmd("DEL").arg(rig.key(&format!("s:{}", hold.session.as_str())))).await;
    assert!(!tried(&rig, &hold).await);
    assert!(rig.audit().await.mutable.is_empty());
}

#[tokio::test]
async fn a_checkpoint_that_is_too_large_is_refused_before_it_is_sent() {
    let rig = Rig::new().await;
    let (mut worker, claim, hold) = running(&rig).await;
    let largest = vec![0; MAX_CHECKPOINT_BYTES];
    assert!(rig.store.checkpoint(&hold, &largest).await.unwrap());
    let error = rig.store.checkpoint(&hold, &vec![0; MAX_CHECKPOINT_BYTES + 1]).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)) && error.to_string().contains("65537"), "{error}");
    assert_eq!(checkpoint_of(&rig, hold.member).await.unwrap(), largest, "the one before stands");
    worker.complete(&[claim]).await;
}

#[tokio::test]
async fn journaled_jobs_have_progress_too_and_it_goes_with_the_job() {
    let rig = Rig::new().await;
    rig.relay_many(1).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert!(rig.store.progress(&hold_of(&rig, &worker, &claim), 3, u64::MAX).await.unwrap());
    let stored: Vec<Vec<u8>> = rig.raw(redis::cmd("HVALS").arg(rig.key("prog"))).await;
    assert_eq!(stored, [[&[0, 0, 0, 0, 0, 3][..], &[255; 6]].concat()]);
    rig.audit().await;
    worker.complete(&[claim]).await;
    rig.audit().await;
}

#[tokio::test]
async fn of_a_job_that_nobody_knows_nothing_waits() {
    let rig = Rig::new().await;
    let extras = rig.store.extras(&rig.queue, Member::fast(windrow_queue::JobId::new())).await.unwrap();
    assert!(extras.checkpoint.is_none() && extras.callback.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_full_redis_jobs_are_seen_through_and_nothing_new_begins() {
    let start = || windrow_devserver::RedisServer::start(windrow_devserver::RedisOptions::default());
    let server = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
    let rig = Rig::at(&server.url(), |_| ()).await;
    let batch = |n| NewBatch { id: BatchId(uuid::Uuid::from_u128(rand::random())), follow_up: rig.job(n) };
    let (before, full) = (batch(1), batch(2));
    assert!(rig.store.open_batch(&before).await.unwrap().is_ok());
    let (mut worker, claim, hold) = running(&rig).await;
    let waits = rig.put_many(2).await;
    let digest = windrow_queue::store::TokenDigest([1; 16]);

    rig.raw::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1)).await;
    let store = &rig.store;
    assert_eq!(store.open_batch(&full).await.unwrap(), Err(Refused::MemoryGate));
    let answer = store.open_batch(&before).await.unwrap();
    assert_eq!(answer, Ok(Enqueued::Exists(before.follow_up.id)), "asking again is no new batch");
    assert!(store.batch(&rig.queue, full.id).await.unwrap().is_none());
    assert!(store.checkpoint(&hold, b"x").await.unwrap() && store.progress(&hold, 1, 2).await.unwrap());
    assert!(store.expect_callback(&hold, digest).await.unwrap());
    worker.finish(&[outcome(&claim, Finish::Park { delay: Duration::from_secs(60) })]).await;
    let answer = store.call_back(&rig.queue, digest, &raw_args("1".into())).await.unwrap();
    assert_eq!(answer, Callback::Delivered);
    assert_eq!(store.cancel(&rig.queue, &waits[..1]).await.unwrap(), [Cancelled::Done]);
    let one = Limit { concurrency: Some(1), rate: None };
    assert!(store.set_limit(&rig.queue, &Scope::Queue, &one).await.unwrap());
    assert!(store.seal_batch(&rig.queue, before.id).await.unwrap(), "the follow-up of what was accepted runs");
    rig.raw::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0)).await;
    let mut done = 0;
    for _ in 0..10 {
        let claims = worker.claim(5).await;
        assert!(claims.len() <= 1);
        done += claims.len();
        worker.complete(&claims).await;
    }
    assert_eq!(done, 3, "the one that was called back, the other one, and the follow-up");
    assert!(rig.audit().await.jobs.is_empty());
}
