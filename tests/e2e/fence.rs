//! Two runs of one journaled job at the same time: a worker that lost it and does not know yet, and the one that has it now.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use windrow_queue::{JobError, Outcome};
use windrow_tests::{Number, Stage, Worker, handler, numbers, until};
use windrow_worker::{Config, Registry};

const JOBS: usize = 5;

/// Has every job run twice at once: Redis forgets that it runs, and hands it out again. Each run waits at the gate until the
/// other is there too, and no run has been told to stop for long enough to be given up.
async fn twice_at_once(stage: &Stage, entered: &Arc<AtomicU64>, gate: &Arc<Semaphore>, registry: Registry) -> Worker {
    sqlx::query("CREATE TABLE effect (n bigint)").execute(&stage.database).await.unwrap();
    let jobs = numbers(JOBS as i64);
    stage.enqueue_journaled(&jobs).await;
    let worker = stage.worker_with(registry, Config { concurrency: 2 * JOBS, ..Config::default() });
    until("each runs", || async { entered.load(Ordering::Relaxed) == JOBS as u64 }).await;
    stage.flush().await;
    stage.relay_again(&jobs).await;
    until("each runs again", || async { entered.load(Ordering::Relaxed) == 2 * JOBS as u64 }).await;
    gate.add_permits(1000);
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_of_a_journaled_job_at_once_have_its_effects_once() {
    let stage = Stage::new().await;
    let (entered, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let (inside, at_gate) = (Arc::clone(&entered), Arc::clone(&gate));
    let registry = Registry::new().with(handler(move |ctx, args: Number| {
        let (inside, gate) = (Arc::clone(&inside), Arc::clone(&at_gate));
        async move {
            inside.fetch_add(1, Ordering::Relaxed);
            drop(gate.acquire().await.unwrap());
            let mut tx = ctx.begin().await?;
            sqlx::query("INSERT INTO effect VALUES ($1)").bind(args.n).execute(&mut *tx).await?;
            Ok(tx.commit().await?.into())
        }
    }));
    let worker = twice_at_once(&stage, &entered, &gate, registry).await;
    until("all are done", || async { stage.is_idle().await }).await;
    let effects = "SELECT count(*) FROM effect";
    assert_eq!((stage.count(effects).await, stage.count("SELECT count(DISTINCT n) FROM effect").await), (5, 5));
    assert_eq!(worker.counted("windrow_leases_lost_total", ""), JOBS as u64);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_of_a_job_that_dies_leave_one_dead_letter() {
    let stage = Stage::new().await;
    let (entered, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let (inside, at_gate) = (Arc::clone(&entered), Arc::clone(&gate));
    let registry = Registry::new().with(handler(move |_, _: Number| {
        let (inside, gate) = (Arc::clone(&inside), Arc::clone(&at_gate));
        async move {
            inside.fetch_add(1, Ordering::Relaxed);
            drop(gate.acquire().await.unwrap());
            Err::<Outcome, _>(JobError::bury("broken", anyhow::anyhow!("no")))
        }
    }));
    let worker = twice_at_once(&stage, &entered, &gate, registry).await;
    until("all are dead", || async { stage.is_idle().await }).await;
    assert_eq!(stage.count("SELECT count(*) FROM job_closed WHERE state = 'dead'").await, 5);
    assert_eq!(stage.count("SELECT jsonb_array_length(job->'errors')::bigint FROM job_closed LIMIT 1").await, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_jobs_in_all_its_slots_takes_new_ones() {
    let stage = Stage::new().await;
    let (runs, ran) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let begun = Arc::clone(&runs);
    let done = Arc::clone(&ran);
    let registry = Registry::new().with(handler(move |_, args: Number| {
        begun.fetch_add(1, Ordering::Relaxed);
        let done = Arc::clone(&done);
        async move {
            if args.n < 4 {
                // Deaf to the token: it is dropped when the time to wind down is over.
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            done.fetch_add(1, Ordering::Relaxed);
            Ok(Outcome::Done)
        }
    }));
    let worker = stage.worker_with(registry, Config { concurrency: 4, ..Config::default() });
    stage.enqueue(&numbers(4)).await;
    until("all slots are taken", || async { runs.load(Ordering::Relaxed) == 4 }).await;
    stage.flush().await;
    until("it has learnt that it lost them", || async { worker.counted("windrow_leases_lost_total", "") == 4 }).await;
    stage.enqueue(&numbers(12).split_off(4)).await;
    until("new ones are done", || async { ran.load(Ordering::Relaxed) == 8 }).await;
    worker.stop().await;
}
