//! expect_callback, call_back, and parking (finish_claim, tick).

use std::time::Duration;

use serde_json::value::RawValue;
use windrow_queue::{
    Member,
    store::{Callback, CalledBack, Finish, MAX_CALLBACK_BYTES, StoreError, TokenDigest},
};

use crate::{hold::running, support::*};

const TOKEN: TokenDigest = TokenDigest([1; 16]);
const PATIENCE: u64 = 5000;

fn payload(text: &str) -> Box<RawValue> {
    raw_args(text.to_owned())
}

fn park() -> Finish {
    Finish::Park { delay: Duration::from_millis(PATIENCE) }
}

async fn call_back(rig: &Rig, token: TokenDigest, text: &str) -> Callback {
    rig.store.call_back(&rig.queue, token, &payload(text)).await.unwrap()
}

async fn came(rig: &Rig, member: Member) -> Option<String> {
    match rig.store.extras(&rig.queue, member).await.unwrap().callback {
        Some(CalledBack::Payload(payload)) => Some(payload.get().to_owned()),
        Some(CalledBack::TimedOut) => Some("timed out".into()),
        None => None,
    }
}

/// A job that expects to be called back, and parks.
async fn parked(rig: &Rig) -> (Worker, Member) {
    let (mut worker, claim, hold) = running(rig).await;
    assert!(rig.store.expect_callback(&hold, TOKEN).await.unwrap());
    assert_eq!(worker.finish(&[outcome(&claim, park())]).await.len(), 1);
    assert_eq!(rig.place(claim.member).await, Some(Place::Parked { deadline: rig.now() + PATIENCE }));
    (worker, claim.member)
}

#[tokio::test]
async fn a_parked_job_runs_again_when_it_is_called_back_and_finds_what_came() {
    let rig = Rig::new().await;
    let (mut worker, member) = parked(&rig).await;
    assert!(worker.claim(1).await.is_empty(), "a parked job holds no slot and is nobody's");
    assert_eq!(rig.tick().await.promoted, 0);
    rig.advance(700).await;
    assert_eq!(call_back(&rig, TOKEN, r#"{"score":7}"#).await, Callback::Delivered);
    assert_eq!(rig.audit().await.tokens, 1, "it wakes somebody");
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!((claim.member, claim.attempt, claim.extras), (member, 0, true));
    assert_eq!(claim.ready_at.timestamp_millis().unsigned_abs(), rig.now(), "the wait was deliberate");
    assert_eq!(came(&rig, member).await.unwrap(), r#"{"score":7}"#);
    worker.finish(&[outcome(&claim, retry(1, 0))]).await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert!(claim.extras);
    assert_eq!(came(&rig, member).await.unwrap(), r#"{"score":7}"#, "the next attempt finds it, too");
    worker.complete(&[claim]).await;
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Unknown, "its job is over");
    rig.audit().await;
}

#[tokio::test]
async fn the_second_callback_is_a_duplicate_and_changes_nothing() {
    let rig = Rig::new().await;
    let (mut worker, member) = parked(&rig).await;
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Delivered);
    for _ in 0..2 {
        assert_eq!(call_back(&rig, TOKEN, "2").await, Callback::Duplicate);
    }
    assert_eq!(worker.claim_members(10).await, [member], "it stands in its lane once");
    assert_eq!(call_back(&rig, TOKEN, "3").await, Callback::Duplicate);
    assert_eq!(came(&rig, member).await.unwrap(), "1");
    rig.audit().await;
}

#[tokio::test]
async fn a_callback_before_the_park_is_kept_and_the_park_is_none() {
    let rig = Rig::new().await;
    let (mut worker, claim, hold) = running(&rig).await;
    assert!(rig.store.expect_callback(&hold, TOKEN).await.unwrap());
    assert_eq!(call_back(&rig, TOKEN, r#""early""#).await, Callback::Delivered);
    assert!(matches!(rig.place(claim.member).await, Some(Place::Running { .. })), "it still runs");
    let reply = worker.serve(0, &[outcome(&claim, park())]).await;
    assert!(reply.more, "it is ready at once");
    let claim = worker.claim(1).await.pop().unwrap();
    assert!(claim.extras);
    assert_eq!(came(&rig, claim.member).await.unwrap(), r#""early""#);
    assert_eq!(call_back(&rig, TOKEN, "2").await, Callback::Duplicate);
    worker.complete(&[claim]).await;
    rig.audit().await;
}

#[tokio::test]
async fn a_callback_that_comes_while_the_job_waits_for_another_attempt_is_there_for_it() {
    let rig = Rig::new().await;
    let (mut worker, claim, hold) = running(&rig).await;
    assert!(rig.store.expect_callback(&hold, TOKEN).await.unwrap());
    worker.finish(&[outcome(&claim, retry(1, 1000))]).await;
    assert_eq!(call_back(&rig, TOKEN, "5").await, Callback::Delivered);
    assert_eq!(rig.place(claim.member).await, Some(Place::Scheduled { due: rig.now() + 1000 }), "its delay stands");
    rig.advance(1000).await;
    rig.tick().await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!((claim.attempt, claim.extras), (1, true));
    assert_eq!(came(&rig, claim.member).await.unwrap(), "5");
}

#[tokio::test]
async fn after_the_deadline_the_job_runs_without_an_answer_and_a_callback_is_late() {
    let rig = Rig::new().await;
    let (mut worker, member) = parked(&rig).await;
    rig.advance(PATIENCE - 1).await;
    assert_eq!(rig.tick().await.promoted, 0);
    rig.advance(1).await;
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Late, "the deadline counts, not the tick that notices it");
    assert_eq!(rig.tick().await.promoted, 1);
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Late);
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!((claim.member, claim.attempt, claim.extras), (member, 0, true));
    assert_eq!(came(&rig, member).await.unwrap(), "timed out");
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Late);
    worker.complete(&[claim]).await;
    rig.audit().await;
}

#[tokio::test]
async fn a_job_has_one_open_token_and_a_new_one_replaces_the_old() {
    let rig = Rig::new().await;
    let (mut worker, claim, hold) = running(&rig).await;
    let second = TokenDigest([2; 16]);
    for token in [TOKEN, TOKEN, second, second] {
        assert!(rig.store.expect_callback(&hold, token).await.unwrap());
        rig.audit().await;
    }
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Unknown);
    assert_eq!(call_back(&rig, second, "2").await, Callback::Delivered);
    assert!(rig.store.expect_callback(&hold, second).await.unwrap());
    assert_eq!(came(&rig, claim.member).await.unwrap(), "2", "asking again forgets nothing that came");
    worker.complete(&[claim]).await;
    rig.audit().await;
}

#[tokio::test]
async fn a_token_of_another_job_is_not_taken_over() {
    let rig = Rig::new().await;
    let (_first, claim, hold) = running(&rig).await;
    let (_second, _, other) = running(&rig).await;
    assert!(rig.store.expect_callback(&hold, TOKEN).await.unwrap());
    assert!(!rig.store.expect_callback(&other, TOKEN).await.unwrap());
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Delivered);
    assert_eq!(came(&rig, claim.member).await.unwrap(), "1");
    assert_eq!(came(&rig, other.member).await, None);
    rig.audit().await;
}

#[tokio::test]
async fn a_token_that_nobody_gave_away_is_unknown() {
    let rig = Rig::new().await;
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Unknown);
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_refused_and_the_job_waits_on() {
    let rig = Rig::new().await;
    let (_worker, member) = parked(&rig).await;
    let text = |bytes: usize| payload(&format!("\"{}\"", "x".repeat(bytes - 2)));
    let error = rig.store.call_back(&rig.queue, TOKEN, &text(MAX_CALLBACK_BYTES + 1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    assert!(matches!(rig.place(member).await, Some(Place::Parked { .. })));
    let answer = rig.store.call_back(&rig.queue, TOKEN, &text(MAX_CALLBACK_BYTES)).await.unwrap();
    assert_eq!(answer, Callback::Delivered);
}

#[tokio::test]
async fn a_job_that_died_or_crashed_leaves_no_token_behind_that_opens_anything() {
    let rig = Rig::new().await;
    let (mut worker, claim, hold) = running(&rig).await;
    assert!(rig.store.expect_callback(&hold, TOKEN).await.unwrap());
    worker.finish(&[outcome(&claim, Finish::Bury { error: error(1, "no") })]).await;
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Unknown);
    rig.audit().await;

    let (_lost, claim, hold) = running(&rig).await;
    assert!(rig.store.expect_callback(&hold, TOKEN).await.unwrap());
    rig.lapse(&[]).await;
    assert_eq!(call_back(&rig, TOKEN, "1").await, Callback::Delivered, "a rescued job still waits for its answer");
    let mut worker = rig.worker().await;
    let again = worker.claim(1).await.pop().unwrap();
    assert_eq!((again.member, again.extras, again.rescues), (claim.member, true, 1));
    assert_eq!(came(&rig, claim.member).await.unwrap(), "1");
    assert!(!rig.store.expect_callback(&hold, TOKEN).await.unwrap(), "the worker that was lost has no say in it");
    rig.audit().await;
}

#[tokio::test]
async fn a_job_that_parks_without_a_token_comes_back_at_its_deadline() {
    let rig = Rig::new().await;
    let (mut worker, claim, _) = running(&rig).await;
    worker.finish(&[outcome(&claim, park())]).await;
    rig.advance(PATIENCE).await;
    assert_eq!(rig.tick().await.promoted, 1);
    assert_eq!(worker.claim_members(1).await, [claim.member]);
    assert_eq!(came(&rig, claim.member).await, None);
    rig.audit().await;
}

#[tokio::test]
async fn more_parked_jobs_than_one_tick_takes_come_back_at_once() {
    let rig = Rig::new().await;
    for _ in 0..3 {
        rig.put_many(400).await;
    }
    let mut worker = rig.worker().await;
    for _ in 0..3 {
        let claims = worker.claim(400).await;
        let outcomes: Vec<_> = claims.iter().map(|claim| outcome(claim, park())).collect();
        worker.finish(&outcomes).await;
    }
    rig.audit().await;
    rig.advance(PATIENCE).await;
    assert_eq!(rig.tick().await.promoted, 1200);
    assert_eq!(worker.drain().await.len(), 1200);
    rig.audit().await;
}
