//! R27, R29: parks that end, batches that fire, and what is pruned of both.

use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;
use windrow_queue::{
    BatchId, Member, OnConflict, UniqueScope,
    journal::{self, Parked},
    store::{Callback, NewBatch, TokenDigest},
};
use windrow_scheduler::{
    batches::Batches,
    pruner::{self, Pruner},
    service::{Pace, Service},
    unparker::Unparker,
};

use crate::{
    support::{count, database, enqueue, job, queue, redis},
    tidying::{metrics, relay_all},
};

#[tokio::test]
async fn parked_jobs_go_on_after_their_deadline_in_batches_and_into_redis() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let jobs: Vec<_> = (0..600).map(|_| job(&queue)).collect();
    enqueue(&pool, &jobs).await;
    relay_all(&pool, &store).await;
    sqlx::query("UPDATE job_journal SET state = 'parked', park_deadline = now() + interval '1 h'")
        .execute(&pool)
        .await
        .unwrap();
    let mut unparker = Unparker::new(pool.clone(), metrics());
    assert!(unparker.run_once().await.unwrap().is_empty(), "none is due");
    sqlx::query("UPDATE job_journal SET park_deadline = now() - interval '1 s'").execute(&pool).await.unwrap();
    let first = unparker.run_once().await.unwrap();
    assert_eq!((first.count("past their deadline"), first.pace), (500, Pace::Again));
    let second = unparker.run_once().await.unwrap();
    assert_eq!(second.count("past their deadline"), 100);
    assert_ne!(second.pace, Pace::Again);
    relay_all(&pool, &store).await;
    let new = Member::journaled(jobs[0].id, 2);
    assert_eq!(store.exists(&queue, &[new]).await.unwrap(), [true]);
}

#[tokio::test]
async fn a_called_back_job_is_in_redis_under_its_new_generation() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let job = job(&queue);
    enqueue(&pool, std::slice::from_ref(&job)).await;
    relay_all(&pool, &store).await;
    let token = TokenDigest([5; 16]);
    let hour = Duration::from_secs(3600);
    assert!(journal::expect_callback(&pool, job.id, 1, token, hour).await.unwrap());
    assert_eq!(journal::park(&pool, job.id, 1, hour, 0).await.unwrap(), Parked::Parked);
    let payload = RawValue::from_string("7".to_owned()).unwrap();
    assert_eq!(journal::call_back(&pool, token, &payload).await.unwrap(), Callback::Delivered);
    relay_all(&pool, &store).await;
    assert_eq!(store.exists(&queue, &[Member::journaled(job.id, 2)]).await.unwrap(), [true]);
    // The old member waits there, too, if nobody told Redis: the start check acknowledges it unrun.
    assert!(journal::start_check(&pool, &[Member::journaled(job.id, 1)]).await.unwrap().is_empty());
}

#[tokio::test]
async fn batches_fire_whatever_page_they_are_on_and_only_once_with_two_schedulers() {
    let (pool, queue) = (database().await, queue());
    for number in 1..=1200_u128 {
        let mut tx = pool.begin().await.unwrap();
        let batch = NewBatch { id: BatchId(Uuid::from_u128(number)), follow_up: job(&queue) };
        journal::open_batch_in(&mut tx, &batch).await.unwrap();
        if number < 1190 {
            journal::enqueue_in(&mut tx, &[job(&queue).batch(batch.id)]).await.unwrap();
        }
        journal::seal_batch_in(&mut tx, batch.id).await.unwrap();
        tx.commit().await.unwrap();
    }
    let (mut one, mut two) = (Batches::new(pool.clone(), metrics()), Batches::new(pool.clone(), metrics()));
    let mut fired = 0;
    for _ in 0..3 {
        let both = tokio::join!(one.run_once(), two.run_once());
        let both = [both.0.unwrap(), both.1.unwrap()];
        fired += both.iter().map(|done| done.count("batches over")).sum::<u64>();
    }
    assert_eq!(fired, 11);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE follows IS NOT NULL").await, 11);
}

#[tokio::test]
async fn keys_tokens_and_batches_are_pruned_and_what_still_counts_is_kept() {
    let (pool, queue) = (database().await, queue());
    let hour = Duration::from_secs(3600);
    let keyed = |key: &str| job(&queue).unique_for(key, UniqueScope::Period(hour), OnConflict::Ignore);
    enqueue(&pool, &[keyed("old"), keyed("new")]).await;
    let standing = job(&queue);
    enqueue(&pool, std::slice::from_ref(&standing)).await;
    sqlx::raw_sql(
        "UPDATE job_unique SET expires_at = now() - interval '2 h' WHERE digest = (SELECT digest FROM job_unique ORDER BY digest LIMIT 1);
         INSERT INTO job_callback (token_hash, id, gen, deadline) VALUES
             ('\\x01', gen_random_uuid(), 1, now() - interval '2 days'), ('\\x02', gen_random_uuid(), 1, now());
         INSERT INTO job_batch (id, follow_up, opened_at, sealed_at, fired_at) VALUES
             ('00000000-0000-0000-0000-000000000001', '{}', now() - interval '60 days', now(), now() - interval '40 days'),
             ('00000000-0000-0000-0000-000000000002', '{}', now() - interval '60 days', now(), now()),
             ('00000000-0000-0000-0000-000000000003', '{}', now() - interval '60 days', now(), NULL),
             ('00000000-0000-0000-0000-000000000004', '{}', now() - interval '60 days', NULL, NULL);
         INSERT INTO job_closed (id, gen, state, queue, kind, reason, closed_at, batch_id, job)
         SELECT gen_random_uuid(), 1, 'cancelled', 'q', 'k', 'r', now() - interval '40 days', batch, '{}'
         FROM unnest(ARRAY['00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003']::uuid[]) AS batch;
         INSERT INTO job_idempotency (digest, job_id, expires_at) VALUES
             ('\\x01', gen_random_uuid(), now() + interval '1 day' - interval '1 min')",
    )
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO job_idempotency (digest, job_id, expires_at)
         VALUES ('\\x02', $1, now() + interval '1 day' - interval '1 min'), ('\\x03', $1, now() - interval '9 days')",
    )
    .bind(standing.id.0)
    .execute(&pool)
    .await
    .unwrap();
    let mut pruner = Pruner::new(pruner::Config::default(), pool.clone(), metrics());
    let done = pruner.run_once().await.unwrap();
    let counts =
        ["unique keys", "callback tokens", "batches", "closed jobs", "idempotency keys"].map(|what| done.count(what));
    assert_eq!(counts, [1, 1, 2, 1, 0]);
    let batches = "SELECT count(*) FROM job_batch WHERE id::text ~ '(2|3)$'";
    assert_eq!((count(&pool, batches).await, count(&pool, "SELECT count(*) FROM job_batch").await), (2, 2));
    let counted = "SELECT count(*) FROM job_closed WHERE batch_id::text ~ '3$'";
    assert_eq!(count(&pool, counted).await, 1, "a batch that has not fired counts it when it does");
    let kept = "SELECT count(*) FROM job_idempotency WHERE digest = '\\x02' AND expires_at > now() + interval '2 days'";
    assert_eq!(count(&pool, kept).await, 1, "the key of a job that stands");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_idempotency").await, 3);
}
