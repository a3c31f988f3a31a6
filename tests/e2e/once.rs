//! Jobs that run at most once: whatever becomes of the run, there is no second one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use windrow_queue::{
    JobError, NewJob, Outcome, QueueName,
    policy::Delivery,
    store::{DeadJob, Filter},
};
use windrow_tests::{Number, Stage, handler, numbers, until};
use windrow_worker::{Config, Registry};

const QUEUE: QueueName = QueueName::from_static("test");
const LEASE: Duration = Duration::from_secs(1);

fn once(count: i64) -> Vec<NewJob> {
    let mut jobs = numbers(count);
    for job in &mut jobs {
        job.policy.delivery = Some(Delivery::AtMostOnce);
    }
    jobs
}

/// Ends in a way of its own for each number, and counts its starts.
fn ending(starts: &Arc<AtomicU64>) -> Registry {
    let starts = Arc::clone(starts);
    Registry::new().with(handler(move |_, args: Number| {
        starts.fetch_add(1, Ordering::Relaxed);
        async move {
            match args.n {
                0 => Ok(Outcome::Done),
                1 => Err(JobError::retry("weather", anyhow::anyhow!("rain"))),
                2 => Err(JobError::snooze(Duration::from_secs(1), "busy", anyhow::anyhow!("later"))),
                3 => Ok(Outcome::Snooze(Duration::from_secs(1))),
                4 => Ok(Outcome::Release),
                5 => Ok(Outcome::Park { deadline: Duration::from_secs(1) }),
                6 => panic!("number six"),
                _ => std::future::pending().await,
            }
        }
    }))
}

const ENDINGS: [&str; 7] = [
    "it is not started again: weather: rain",
    "it is not started again: busy: later",
    "it is not started again: its handler asked to be run again",
    "it is not started again: its handler asked to be run again",
    "it is not started again: its handler asked to be run again",
    "it is not started again: panic: the handler panicked: number six",
    "it is not started again: timeout: the attempt ran longer than its timeout of 50ms",
];

async fn dead(stage: &Stage) -> Vec<DeadJob> {
    stage.store.dead(&QUEUE, &Filter::default(), None, 100).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_job_that_did_not_complete_is_dead_with_the_reason_however_its_run_ended() {
    let stage = Stage::new().await;
    let starts = Arc::new(AtomicU64::new(0));
    let worker = stage.worker(ending(&starts));
    let mut jobs = once(8);
    jobs[7].policy.timeout = Some(Duration::from_millis(50));
    stage.enqueue(&jobs).await;
    until("all are final", || async { stage.is_idle().await }).await;
    let mut dead = dead(&stage).await;
    dead.sort_by_key(|dead| jobs.iter().position(|job| job.id == dead.id));
    let ends: Vec<_> = dead.iter().map(|dead| dead.error.as_ref().unwrap()).collect();
    assert!(ends.iter().all(|error| error.class == "at_most_once"), "{ends:?}");
    assert_eq!(ends.iter().map(|error| &*error.message).collect::<Vec<_>>(), ENDINGS);
    assert_eq!(worker.counted("windrow_jobs_finished_total", "complete"), 1);
    assert_eq!(starts.load(Ordering::Relaxed), 8);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journaled_job_that_did_not_complete_is_dead_with_the_reason_however_its_run_ended() {
    let stage = Stage::new().await;
    let starts = Arc::new(AtomicU64::new(0));
    let worker = stage.worker(ending(&starts));
    let mut jobs = once(8);
    jobs[7].policy.timeout = Some(Duration::from_millis(50));
    stage.enqueue_journaled(&jobs).await;
    until("all are final", || async { stage.is_idle().await }).await;
    let reasons: Vec<String> = sqlx::query_scalar("SELECT reason FROM job_closed ORDER BY (job->'args'->>'n')::int")
        .fetch_all(&stage.database)
        .await
        .unwrap();
    assert_eq!(reasons, ENDINGS);
    assert_eq!(stage.count("SELECT count(*) FROM job_closed WHERE runs_until IS NOT NULL").await, 0);
    assert_eq!(worker.counted("windrow_jobs_finished_total", "complete"), 1);
    assert_eq!(starts.load(Ordering::Relaxed), 8);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_stopped_is_dead_and_one_that_never_started_is_given_back() {
    let stage = Stage::new().await;
    let starts = Arc::new(AtomicU64::new(0));
    let config = Config { concurrency: 1, grace: Duration::ZERO, ..Config::default() };
    let worker = stage.worker_with(ending(&starts), config);
    stage.enqueue(&once(8).split_off(7)).await;
    until("it runs", || async { starts.load(Ordering::Relaxed) == 1 }).await;
    stage.enqueue(&once(1)).await;
    worker.stop().await;
    let dead = dead(&stage).await;
    assert_eq!(dead.len(), 1);
    let error = dead[0].error.as_ref().unwrap();
    assert_eq!(
        (&*error.class, &*error.message),
        ("at_most_once", "it is not started again: its worker stopped before it was done")
    );
    assert_eq!(stage.store.counts(&QUEUE).await.unwrap().ready, 1, "the other one was never started");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_job_whose_worker_was_lost_is_dead_and_never_started_again() {
    let stage = Stage::with_lease(LEASE).await;
    let starts = Arc::new(AtomicU64::new(0));
    let lost = stage.worker(ending(&starts));
    stage.enqueue(&once(8).split_off(7)).await;
    until("it runs", || async { starts.load(Ordering::Relaxed) == 1 }).await;
    lost.shutdown.kill();
    let worker = stage.worker(ending(&starts));
    until("it is dead", || async { stage.store.counts(&QUEUE).await.unwrap().dead == 1 }).await;
    stage.enqueue(&numbers(1)).await;
    until("others run", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    assert_eq!(starts.load(Ordering::Relaxed), 2);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journaled_job_whose_worker_was_lost_is_closed_and_never_started_again() {
    let stage = Stage::with_lease(LEASE).await;
    let starts = Arc::new(AtomicU64::new(0));
    let lost = stage.worker(ending(&starts));
    let jobs = once(8).split_off(7);
    stage.enqueue_journaled(&jobs).await;
    until("it runs", || async { starts.load(Ordering::Relaxed) == 1 }).await;
    lost.shutdown.kill();
    // Redis forgets that it ran, and hands it out again.
    stage.flush().await;
    let worker = stage.worker(ending(&starts));
    assert_eq!(stage.count("SELECT count(*) FROM job_journal").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM job_closed WHERE state = 'dead'").await, 1);
    stage.enqueue(&numbers(1)).await;
    until("others run", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    assert_eq!(starts.load(Ordering::Relaxed), 2);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_run_that_cannot_even_be_dropped_is_buried_when_its_worker_stops() {
    let stage = Stage::new().await;
    let (started, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (starts, stop) = (Arc::clone(&started), Arc::clone(&over));
    let registry = Registry::new().with(handler(move |_, _: Number| {
        let (starts, stop) = (Arc::clone(&starts), Arc::clone(&stop));
        async move {
            starts.fetch_add(1, Ordering::Relaxed);
            // Deaf to everything, and never at an await.
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Ok(Outcome::Done)
        }
    }));
    let worker = stage.worker_with(registry, Config { grace: Duration::ZERO, ..Config::default() });
    stage.enqueue(&once(1)).await;
    until("it runs", || async { started.load(Ordering::Relaxed) == 1 }).await;
    worker.shutdown.stop();
    until("it is dead", || async { stage.store.counts(&QUEUE).await.unwrap().dead == 1 }).await;
    over.store(true, Ordering::Relaxed);
    worker.stop().await;
    let error = dead(&stage).await.remove(0).error.unwrap();
    assert_eq!(error.message, "it is not started again: its run was dropped before it was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_postgres_cannot_take_at_once_is_not_given_up() {
    let stage = Stage::with_postgres().await;
    let postgres = stage.postgres.as_ref().unwrap();
    let (started, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let (starts, at_gate) = (Arc::clone(&started), Arc::clone(&gate));
    let worker = stage.worker(Registry::new().with(handler(move |_, _: Number| {
        let (starts, gate) = (Arc::clone(&starts), Arc::clone(&at_gate));
        async move {
            starts.fetch_add(1, Ordering::Relaxed);
            gate.acquire().await.unwrap().forget();
            Ok(Outcome::Done)
        }
    })));
    stage.enqueue_journaled(&once(1)).await;
    until("it runs", || async { started.load(Ordering::Relaxed) == 1 }).await;
    postgres.stop().unwrap();
    gate.add_permits(1);
    until("it has found Postgres away", || async { !worker.health.is_ready() }).await;
    postgres.restart().unwrap();
    until("it is complete", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    assert_eq!(stage.count("SELECT count(*) FROM job_closed").await, 0);
    worker.stop().await;
}
