//! checkpoint, progress, extras: what a running job writes about itself, and who may.

use std::time::Duration;

use windrow_queue::{
    Member,
    store::{Claim, Finish, Hold, MAX_CHECKPOINT_BYTES, StoreError},
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
