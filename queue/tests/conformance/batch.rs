//! batch_open, batch_seal, and how members are counted.

use windrow_queue::{
    BatchId, Due, Enqueued, Member, NewJob,
    store::{BatchStatus, Claim, Finish, NewBatch, Refused, StoreError},
};

use crate::support::*;

fn batch_id() -> BatchId {
    BatchId(uuid::Uuid::from_u128(rand::random()))
}

async fn open(rig: &Rig) -> NewBatch {
    let batch = NewBatch { id: batch_id(), follow_up: rig.job(1000) };
    let answer = rig.store.open_batch(&batch).await.unwrap().unwrap();
    assert_eq!(answer, Enqueued::Created(batch.follow_up.id));
    batch
}

async fn status(rig: &Rig, batch: &NewBatch) -> BatchStatus {
    rig.store.batch(&rig.queue, batch.id).await.unwrap().unwrap()
}

fn members(rig: &Rig, batch: &NewBatch, count: usize) -> Vec<NewJob> {
    rig.jobs(count).into_iter().map(|job| job.batch(batch.id)).collect()
}

async fn claim_follow_up(worker: &mut Worker, batch: &NewBatch) -> Claim {
    let claim = worker.claim(10).await.pop().unwrap();
    assert_eq!(claim.member, Member::fast(batch.follow_up.id));
    let envelope = claim.envelope.as_ref().unwrap();
    assert_eq!((envelope.follows, envelope.batch), (Some(batch.id), None), "it knows what it follows");
    assert_eq!(envelope.args.as_ref().unwrap().get(), r#"{"n":1000}"#);
    claim
}

#[tokio::test]
async fn the_follow_up_runs_once_when_all_members_are_final_however_they_ended() {
    let rig = Rig::new().await;
    let batch = open(&rig).await;
    let jobs = members(&rig, &batch, 5);
    rig.put(&jobs).await;
    assert!(rig.store.seal_batch(&rig.queue, batch.id).await.unwrap());
    let mut worker = rig.worker().await;
    let claims = worker.claim(4).await;
    assert_eq!(claims.len(), 4);
    let ends = [complete(), Finish::Bury { error: error(1, "no") }, Finish::Cancel { keep: None }, retry(1, 0)];
    let outcomes: Vec<_> = claims.iter().zip(ends).map(|(claim, end)| outcome(claim, end)).collect();
    worker.finish(&outcomes).await;
    rig.audit().await;
    let before = status(&rig, &batch).await;
    assert_eq!((before.members, before.completed, before.dead, before.cancelled), (5, 1, 1, 1));
    assert!(before.sealed && before.fired_at.is_none());

    rig.store.cancel(&rig.queue, &[Member::fast(jobs[4].id)]).await.unwrap();
    let claims = worker.claim(10).await;
    assert_eq!(claims.len(), 1, "the one that is tried again; the follow-up waits for it");
    rig.advance(250).await;
    worker.complete(&claims).await;
    let after = status(&rig, &batch).await;
    assert_eq!((after.members, after.completed, after.dead, after.cancelled), (5, 2, 1, 2));
    assert_eq!(after.fired_at.unwrap().timestamp_millis().unsigned_abs(), rig.now());
    let claim = claim_follow_up(&mut worker, &batch).await;
    worker.complete(&[claim]).await;
    let snapshot = rig.audit().await;
    assert!(snapshot.jobs.is_empty());
    assert!(rig.store.seal_batch(&rig.queue, batch.id).await.unwrap(), "sealing again is safe");
    assert!(worker.claim(10).await.is_empty(), "and fires nothing again");
    let ttl: i64 = rig.raw(redis::cmd("PTTL").arg(batch_key(&rig, &batch))).await;
    assert!((1..=7 * 24 * 3_600_000).contains(&ttl), "it is forgotten after a week: {ttl}");
}

fn batch_key(rig: &Rig, batch: &NewBatch) -> Vec<u8> {
    [rig.key("b:").as_bytes(), batch.id.0.as_bytes()].concat()
}

#[tokio::test]
async fn a_batch_that_is_sealed_last_or_is_empty_fires_with_its_seal() {
    let rig = Rig::new().await;
    let (empty, full) = (open(&rig).await, open(&rig).await);
    rig.put(&members(&rig, &full, 2)).await;
    let mut worker = rig.worker().await;
    assert_eq!(worker.drain().await.len(), 2, "members do not wait for the seal");
    assert!(status(&rig, &full).await.fired_at.is_none());
    for batch in [&full, &empty] {
        assert!(rig.store.seal_batch(&rig.queue, batch.id).await.unwrap());
        assert_eq!(rig.audit().await.tokens, 1, "the follow-up wakes somebody");
        let claim = claim_follow_up(&mut worker, batch).await;
        worker.complete(&[claim]).await;
    }
    rig.audit().await;
}

#[tokio::test]
async fn a_batch_is_opened_once_and_takes_each_member_once_until_it_is_sealed() {
    let rig = Rig::new().await;
    let batch = open(&rig).await;
    let again = NewBatch { follow_up: rig.job(7), ..batch.clone() };
    let answer = rig.store.open_batch(&again).await.unwrap().unwrap();
    assert_eq!(answer, Enqueued::Exists(batch.follow_up.id), "the first one's follow-up stands");
    let jobs = members(&rig, &batch, 2);
    rig.put(&jobs).await;
    rig.store.enqueue(&jobs).await.unwrap();
    assert_eq!(status(&rig, &batch).await.members, 2, "the same request again counts nobody twice");
    assert!(rig.store.seal_batch(&rig.queue, batch.id).await.unwrap());
    let late = members(&rig, &batch, 1);
    assert_eq!(rig.store.enqueue(&late).await.unwrap(), [Err(Refused::BatchClosed)]);
    let again: Vec<_> = rig.store.enqueue(&jobs).await.unwrap();
    assert!(again.iter().all(|answer| answer.is_ok()), "{again:?}");
    let nowhere = rig.job(1).batch(batch_id());
    assert_eq!(rig.store.enqueue(&[nowhere]).await.unwrap(), [Err(Refused::BatchClosed)]);
    rig.audit().await;
}

#[tokio::test]
async fn what_never_was_opened_is_neither_sealed_nor_known() {
    let rig = Rig::new().await;
    assert!(!rig.store.seal_batch(&rig.queue, batch_id()).await.unwrap());
    assert!(rig.store.batch(&rig.queue, batch_id()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_batch_that_nobody_seals_is_forgotten_and_its_members_run() {
    let rig = Rig::new().await;
    let batch = open(&rig).await;
    rig.put(&members(&rig, &batch, 2)).await;
    let ttl: i64 = rig.raw(redis::cmd("PTTL").arg(batch_key(&rig, &batch))).await;
    assert!((1..=7 * 24 * 3_600_000).contains(&ttl), "{ttl}");
    rig.raw::<()>(redis::cmd("DEL").arg(batch_key(&rig, &batch))).await;
    assert_eq!(rig.worker().await.drain().await.len(), 2);
    assert!(!rig.store.seal_batch(&rig.queue, batch.id).await.unwrap());
    let snapshot = rig.audit().await;
    assert!(snapshot.jobs.is_empty(), "and nothing is counted into a batch that is gone");
    let sealed = open(&rig).await;
    rig.put(&members(&rig, &sealed, 1)).await;
    rig.store.seal_batch(&rig.queue, sealed.id).await.unwrap();
    let ttl: i64 = rig.raw(redis::cmd("PTTL").arg(batch_key(&rig, &sealed))).await;
    assert_eq!(ttl, -1, "a sealed one is kept until it fires");
}

#[tokio::test]
async fn a_member_that_crashes_to_death_or_is_redriven_counts_once() {
    let rig = Rig::with(|config| config.rescue_limit = 0).await;
    let batch = open(&rig).await;
    rig.put(&members(&rig, &batch, 2)).await;
    rig.store.seal_batch(&rig.queue, batch.id).await.unwrap();
    let mut worker = rig.worker().await;
    let claims = worker.claim(2).await;
    worker.finish(&[outcome(&claims[0], Finish::Bury { error: error(1, "no") })]).await;
    rig.store.redrive(&rig.queue, &[claims[0].member.id]).await.unwrap();
    assert_eq!(worker.drain().await.len(), 1, "the redriven one");
    let before = status(&rig, &batch).await;
    assert_eq!((before.completed, before.dead, before.fired_at), (0, 1, None), "its end was counted when it died");
    for _ in 0..2 {
        rig.lapse(&[]).await;
        rig.worker().await.claim(1).await;
    }
    rig.lapse(&[]).await;
    let after = status(&rig, &batch).await;
    assert_eq!((after.members, after.dead, after.fired_at.is_some()), (2, 2, true));
    rig.audit().await;
}

#[tokio::test]
async fn members_cancelled_while_they_run_count_as_cancelled() {
    let rig = Rig::new().await;
    let batch = open(&rig).await;
    let jobs = rig.put(&members(&rig, &batch, 2)).await;
    rig.store.seal_batch(&rig.queue, batch.id).await.unwrap();
    let (mut worker, mut lost) = (rig.worker().await, rig.worker().await);
    let claim = worker.claim(1).await.pop().unwrap();
    lost.claim(1).await;
    rig.store.cancel(&rig.queue, &jobs).await.unwrap();
    worker.finish(&[outcome(&claim, Finish::Release)]).await;
    rig.lapse(&[&worker]).await;
    let after = status(&rig, &batch).await;
    assert_eq!((after.cancelled, after.fired_at.is_some()), (2, true));
    claim_follow_up(&mut worker, &batch).await;
    rig.audit().await;
}

#[tokio::test]
async fn a_full_queue_opens_no_batch_but_fires_what_was_opened() {
    let rig = Rig::with(|config| config.max_jobs = 2).await;
    let batch = open(&rig).await;
    rig.put(&members(&rig, &batch, 1)).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(1).await;
    rig.put_many(1).await;
    let another = NewBatch { id: batch_id(), follow_up: rig.job(2) };
    assert_eq!(rig.store.open_batch(&another).await.unwrap(), Err(Refused::QueueFull));
    rig.store.seal_batch(&rig.queue, batch.id).await.unwrap();
    rig.put_many(0).await;
    worker.complete(&claims).await;
    assert_eq!(rig.audit().await.jobs.len(), 2, "the follow-up of accepted jobs is not refused");
    rig.raw::<()>(redis::cmd("HSET").arg(rig.key("meta")).arg("gate").arg(1)).await;
    assert_eq!(rig.store.open_batch(&another).await.unwrap(), Err(Refused::MemoryGate));
    assert_eq!(rig.store.open_batch(&batch).await.unwrap(), Ok(Enqueued::Exists(batch.follow_up.id)));
}

#[tokio::test]
async fn a_follow_up_has_no_key_no_time_and_no_batch_of_its_own() {
    let rig = Rig::new().await;
    for follow_up in [
        rig.job(1).unique("k"),
        rig.job(1).idempotent("k"),
        rig.job(1).due(Due::In(std::time::Duration::from_secs(1))),
        rig.job(1).batch(batch_id()),
    ] {
        let error = rig.store.open_batch(&NewBatch { id: batch_id(), follow_up }).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    }
    assert!(rig.audit().await.jobs.is_empty());
}
