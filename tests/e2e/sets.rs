//! Kinds that are executed set by set: many journaled jobs in one transaction.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use windrow_queue::{BatchHandler, BatchJob, Batched, JobError, journal::BatchTx};
use windrow_tests::{Number, Stage, numbers, until};
use windrow_worker::{Config, Registry};

/// Inserts its numbers; refuses 13, panics at 17, and gives Postgres what it cannot take at 23.
struct Insert {
    batches: Arc<AtomicU64>,
}

impl BatchHandler for Insert {
    type Args = Number;

    async fn run_batch(&self, jobs: &[BatchJob<Number>], tx: &mut BatchTx) -> Result<(), JobError> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        if jobs.iter().any(|job| job.args.n == 13) {
            return Err(JobError::bury("unlucky", anyhow::anyhow!("thirteen")));
        }
        assert!(jobs.iter().all(|job| job.args.n != 17), "seventeen");
        let numbers: Vec<_> = jobs.iter().map(|job| job.args.n).collect();
        sqlx::query("INSERT INTO effect SELECT unnest($1::bigint[])").bind(numbers).execute(&mut **tx).await?;
        Ok(())
    }
}

async fn stage() -> Stage {
    let stage = Stage::new().await;
    sqlx::query("CREATE TABLE effect (n bigint PRIMARY KEY CHECK (n <> 23))").execute(&stage.database).await.unwrap();
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_run_together_are_committed_together_and_each_once() {
    let stage = stage().await;
    let batches = Arc::new(AtomicU64::new(0));
    let registry = Registry::new().with(Batched::new(Insert { batches: Arc::clone(&batches) }));
    let jobs: Vec<_> = numbers(1100).split_off(100);
    stage.enqueue_journaled(&jobs).await;
    let worker = stage.worker_with(registry, Config { concurrency: 200, ..Config::default() });
    until("all are done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1000 }).await;
    assert_eq!(stage.count("SELECT count(*) FROM effect").await, 1000);
    until("nothing is left", || async { stage.is_idle().await }).await;
    assert!(batches.load(Ordering::Relaxed) <= 200, "{batches:?} transactions for 1000 jobs");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_spoils_its_batch_is_found_and_the_others_are_done() {
    let stage = stage().await;
    let batches = Arc::new(AtomicU64::new(0));
    let registry = Registry::new().with(Batched::new(Insert { batches: Arc::clone(&batches) }));
    stage.enqueue_journaled(&numbers(100)).await;
    let worker = stage.worker_with(registry, Config { concurrency: 100, ..Config::default() });
    until("nothing is left", || async { stage.is_idle().await }).await;
    assert_eq!(stage.count("SELECT count(*) FROM effect").await, 97);
    let dead = "SELECT array_agg(n ORDER BY n) FROM (SELECT (job->'args'->>'n')::bigint AS n, state FROM job_closed) AS closed WHERE state = 'dead'";
    let dead: Vec<i64> = sqlx::query_scalar(dead).fetch_one(&stage.database).await.unwrap();
    assert_eq!(dead, [13, 17, 23]);
    assert_eq!(worker.counted("windrow_jobs_failed_total", "unlucky"), 1, "buried at its first attempt");
    assert_eq!(worker.counted("windrow_jobs_failed_total", "panic"), 3, "retried alone");
    assert_eq!(worker.counted("windrow_jobs_failed_total", "database"), 3);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_job_of_a_kind_of_batches_is_refused_with_the_reason() {
    let stage = stage().await;
    let registry = Registry::new().with(Batched::new(Insert { batches: Arc::default() }));
    let worker = stage.worker(registry);
    stage.enqueue(&numbers(1)).await;
    until("it is dead", || async { worker.counted("windrow_jobs_failed_total", "not_journaled") == 1 }).await;
    worker.stop().await;
}
