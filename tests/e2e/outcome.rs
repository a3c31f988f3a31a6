//! What becomes of a job: every outcome, fast and journaled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use windrow_queue::{
    Due, JobError, Member, NewJob, Outcome, QueueName,
    store::{Filter, JobState, Redriven},
};
use windrow_tests::{Number, Other, Stage, handler, numbers, until};
use windrow_worker::Registry;

const QUEUE: QueueName = QueueName::from_static("test");

fn counter() -> (Arc<AtomicU64>, Arc<AtomicU64>) {
    let counter = Arc::new(AtomicU64::new(0));
    (Arc::clone(&counter), counter)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fast_job_is_executed_once_and_leaves_nothing_behind() {
    let stage = Stage::new().await;
    let (ran, seen) = counter();
    let worker = stage.worker(Registry::new().with(handler(move |_, _: Number| {
        ran.fetch_add(1, Ordering::Relaxed);
        async { Ok(Outcome::Done) }
    })));
    stage.enqueue(&numbers(2000)).await;
    until("all are done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 2000 }).await;
    until("Redis has forgotten them", || async {
        let counts = stage.store.counts(&QUEUE).await.unwrap();
        counts.ready + counts.running + counts.scheduled + counts.dead == 0
    })
    .await;
    assert_eq!(seen.load(Ordering::Relaxed), 2000);
    worker.stop().await;
    assert_eq!(stage.store.counts(&QUEUE).await.unwrap().sessions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_job_is_retried_then_dead_with_every_attempts_error() {
    let stage = Stage::new().await;
    let worker = stage.worker(Registry::new().with(handler(|ctx, _: Number| async move {
        Err(JobError::retry("weather", anyhow::anyhow!("rain on attempt {}", ctx.attempt())))
    })));
    let jobs = numbers(1);
    stage.enqueue(&jobs).await;
    until("it is dead", || async { stage.store.counts(&QUEUE).await.unwrap().dead == 1 }).await;
    let dead = stage.store.dead(&QUEUE, &Filter::default(), None, 10).await.unwrap().items.remove(0);
    assert_eq!((dead.id, dead.attempt), (jobs[0].id, 3));
    let errors = stage.store.status(&QUEUE, Member::fast(jobs[0].id)).await.unwrap().unwrap().errors;
    let messages: Vec<_> = errors.iter().map(|error| (error.attempt, &*error.class, &*error.message)).collect();
    assert_eq!(
        messages,
        [(1, "weather", "rain on attempt 1"), (2, "weather", "rain on attempt 2"), (3, "weather", "rain on attempt 3")]
    );
    assert_eq!(worker.counted("windrow_jobs_failed_total", "weather"), 3);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_job_is_redriven_with_fresh_attempts_and_the_same_args() {
    let stage = Stage::new().await;
    let (fail, failing) = counter();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, args: Number| {
        let first = fail.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                return Err(JobError::bury("broken", anyhow::anyhow!("no")));
            }
            assert_eq!((ctx.attempt(), args.n), (1, 0));
            Ok(Outcome::Done)
        }
    })));
    let jobs = numbers(1);
    stage.enqueue(&jobs).await;
    until("it is dead", || async { stage.store.counts(&QUEUE).await.unwrap().dead == 1 }).await;
    assert!(matches!(stage.store.redrive(&QUEUE, &[jobs[0].id]).await.unwrap()[..], [Redriven::As(_)]));
    assert_eq!(stage.store.redrive(&QUEUE, &[jobs[0].id]).await.unwrap(), [Redriven::NotDead], "redriven twice");
    until("it is done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    assert_eq!(failing.load(Ordering::Relaxed), 2);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_and_a_timeout_are_errors_of_the_attempt_and_of_nothing_else() {
    let stage = Stage::new().await;
    let worker = stage.worker(
        Registry::new()
            .with(handler(|ctx, args: Number| async move {
                assert!(args.n != 0 || ctx.attempt() > 1, "number zero");
                Ok(Outcome::Done)
            }))
            .with(handler(|ctx, _: Other| async move {
                if ctx.attempt() == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(Outcome::Done)
            })),
    );
    let mut jobs = numbers(10);
    jobs.push(NewJob::new(&Other { n: 1 }).unwrap());
    stage.enqueue(&jobs).await;
    until("all are done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 11 }).await;
    assert_eq!(worker.counted("windrow_jobs_failed_total", "panic"), 1);
    assert_eq!(worker.counted("windrow_jobs_failed_total", "timeout"), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snoozes_count_no_attempt_and_a_cancelled_job_is_final() {
    let stage = Stage::new().await;
    let (runs, ran) = counter();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, _: Number| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        async move {
            assert_eq!(ctx.attempt(), 1);
            match run {
                0..5 => Ok(Outcome::Snooze(Duration::from_millis(1))),
                _ => Ok(Outcome::Cancel("no longer wanted".into())),
            }
        }
    })));
    let mut job = numbers(1).remove(0);
    job.policy.keep_result = true;
    stage.enqueue(std::slice::from_ref(&job)).await;
    until("it is final", || async { worker.counted("windrow_jobs_finished_total", "cancel") == 1 }).await;
    until("its state is kept", || async {
        let status = stage.store.status(&QUEUE, Member::fast(job.id)).await.unwrap();
        status.is_some_and(|status| {
            status.state == JobState::Cancelled && status.result == Some("no longer wanted".into())
        })
    })
    .await;
    assert_eq!(ran.load(Ordering::Relaxed), 6);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_job_waits_for_its_time() {
    let stage = Stage::new().await;
    let worker = stage.worker(Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) })));
    let job = numbers(1).remove(0).due(Due::In(Duration::from_millis(700)));
    let started = std::time::Instant::now();
    stage.enqueue(std::slice::from_ref(&job)).await;
    let status = stage.store.status(&QUEUE, Member::fast(job.id)).await.unwrap().unwrap();
    assert_eq!(status.state, JobState::Scheduled);
    until("it is done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    assert!(started.elapsed() >= Duration::from_millis(700));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journaled_job_commits_its_effects_once_and_its_row_is_gone() {
    let stage = Stage::new().await;
    sqlx::query("CREATE TABLE effect (n bigint)").execute(&stage.database).await.unwrap();
    let worker = stage.worker(Registry::new().with(handler(|ctx, args: Number| async move {
        let mut tx = ctx.begin().await?;
        sqlx::query("INSERT INTO effect VALUES ($1)").bind(args.n).execute(&mut *tx).await?;
        if ctx.attempt() == 1 && args.n % 10 == 0 {
            return Err(JobError::retry("unlucky", anyhow::anyhow!("after the effect, before the commit")));
        }
        Ok(tx.commit().await?.into())
    })));
    stage.enqueue_journaled(&numbers(100)).await;
    until("all are done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 100 }).await;
    assert_eq!(stage.count("SELECT count(*) FROM effect").await, 100);
    assert_eq!(stage.count("SELECT count(DISTINCT n) FROM effect").await, 100);
    assert_eq!(stage.count("SELECT count(*) FROM job_journal").await, 0);
    assert_eq!(worker.counted("windrow_jobs_finished_total", "retry"), 10);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journaled_job_without_effects_is_completed_in_bulk() {
    let stage = Stage::new().await;
    let worker = stage.worker(Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) })));
    stage.enqueue_journaled(&numbers(500)).await;
    until("all are done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 500 }).await;
    assert_eq!(stage.count("SELECT count(*) FROM job_journal").await, 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_journaled_job_is_kept_in_postgres_and_forgotten_by_redis() {
    let stage = Stage::new().await;
    let worker = stage.worker(Registry::new().with(handler(|ctx, _: Number| async move {
        Err(JobError::retry("weather", anyhow::anyhow!("rain on attempt {}", ctx.attempt())))
    })));
    stage.enqueue_journaled(&numbers(1)).await;
    until("it is dead", || async { stage.count("SELECT count(*) FROM job_closed WHERE state = 'dead'").await == 1 })
        .await;
    until("Redis has forgotten it", || async {
        let counts = stage.store.counts(&QUEUE).await.unwrap();
        counts.ready + counts.running + counts.scheduled + counts.dead == 0
    })
    .await;
    assert_eq!(stage.count("SELECT count(*) FROM job_journal").await, 0);
    assert_eq!(stage.count("SELECT jsonb_array_length(job->'errors')::bigint FROM job_closed").await, 3);
    assert_eq!(worker.counted("windrow_jobs_finished_total", "dead"), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_row_is_gone_is_acknowledged_unrun() {
    let stage = Stage::new().await;
    stage.enqueue_journaled(&numbers(20)).await;
    sqlx::query("DELETE FROM job_journal").execute(&stage.database).await.unwrap();
    let (ran, seen) = counter();
    let worker = stage.worker(Registry::new().with(handler(move |_, _: Number| {
        ran.fetch_add(1, Ordering::Relaxed);
        async { Ok(Outcome::Done) }
    })));
    until("all are acknowledged", || async { worker.counted("windrow_jobs_ghost_total", "") == 20 }).await;
    until("Redis has forgotten them", || async {
        let counts = stage.store.counts(&QUEUE).await.unwrap();
        counts.ready + counts.running == 0
    })
    .await;
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    worker.stop().await;
}
