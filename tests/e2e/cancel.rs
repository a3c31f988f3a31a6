//! Cancelling a job that runs, from anywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use windrow_queue::{
    JobError, Member, Outcome, QueueName,
    journal::{self, CloseState, Closing},
    store::{Cancelled, JobState},
};
use windrow_tests::{Number, Stage, handler, numbers, until};
use windrow_worker::{Config, Registry};

const QUEUE: QueueName = QueueName::from_static("test");

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_learns_within_a_second_that_it_is_cancelled_whichever_worker_runs_it() {
    let stage = Stage::new().await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let (stopped, mut stops) = mpsc::unbounded_channel();
    let registry = || {
        let (started, stopped) = (started.clone(), stopped.clone());
        Registry::new().with(handler(move |ctx, args: Number| {
            let (started, stopped) = (started.clone(), stopped.clone());
            async move {
                started.send(()).unwrap();
                ctx.cancelled().await;
                stopped.send((args.n, Instant::now())).unwrap();
                Err::<Outcome, _>(JobError::retry("stopped", anyhow::anyhow!("it was told to stop")))
            }
        }))
    };
    let workers = [stage.worker(registry()), stage.worker(registry())];
    let mut jobs = numbers(8);
    jobs.iter_mut().for_each(|job| job.policy.keep_result = true);
    stage.enqueue(&jobs).await;
    for _ in 0..8 {
        starts.recv().await.unwrap();
    }
    for job in &jobs[..4] {
        let asked = Instant::now();
        let answers = stage.store.cancel(&QUEUE, &[Member::fast(job.id)]).await.unwrap();
        assert_eq!(answers, [Cancelled::Stopping]);
        let (_, at) = stops.recv().await.unwrap();
        assert!(at - asked < Duration::from_secs(1), "after {:?}", at - asked);
    }
    let cancelled =
        || workers.iter().map(|worker| worker.counted("windrow_jobs_finished_total", "cancel")).sum::<u64>();
    until("they are cancelled", || async { cancelled() == 4 }).await;
    until("Redis has taken it", || async { stage.store.counts(&QUEUE).await.unwrap().running == 4 }).await;
    let status = stage.store.status(&QUEUE, Member::fast(jobs[0].id)).await.unwrap().unwrap();
    assert_eq!((status.state, status.result), (JobState::Cancelled, Some("cancelled on request".into())));
    assert!(stops.try_recv().is_err(), "one that nobody cancelled was stopped");
    for worker in workers {
        worker.shutdown.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_that_completes_anyway_is_complete() {
    let stage = Stage::new().await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, _: Number| {
        let started = started.clone();
        async move {
            started.send(()).unwrap();
            ctx.cancelled().await;
            Ok(Outcome::Done)
        }
    })));
    let jobs = numbers(1);
    stage.enqueue(&jobs).await;
    starts.recv().await.unwrap();
    stage.store.cancel(&QUEUE, &[Member::fast(jobs[0].id)]).await.unwrap();
    until("it is complete", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    assert_eq!(worker.counted("windrow_jobs_finished_total", "cancel"), 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_that_is_deaf_is_dropped_and_its_slot_is_free() {
    let stage = Stage::new().await;
    let runs = Arc::new(AtomicU64::new(0));
    let ran = Arc::clone(&runs);
    let registry = Registry::new().with(handler(move |_, args: Number| {
        ran.fetch_add(1, Ordering::Relaxed);
        async move {
            if args.n == 0 {
                std::future::pending::<()>().await;
            }
            Ok(Outcome::Done)
        }
    }));
    let worker = stage.worker_with(registry, Config { concurrency: 1, ..Config::default() });
    let jobs = numbers(2);
    stage.enqueue(&jobs).await;
    until("the deaf one runs", || async { runs.load(Ordering::Relaxed) == 1 }).await;
    stage.store.cancel(&QUEUE, &[Member::fast(jobs[0].id)]).await.unwrap();
    until("the other one is done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    assert_eq!(worker.counted("windrow_jobs_finished_total", "cancel"), 1);
    until("nothing is left", || async { stage.is_idle().await }).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_journaled_job_stops_and_stays_cancelled() {
    let stage = Stage::new().await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, _: Number| {
        let started = started.clone();
        async move {
            started.send(()).unwrap();
            ctx.cancelled().await;
            // Too late: its row is gone.
            Ok(ctx.begin().await?.commit().await?.into())
        }
    })));
    let jobs = numbers(1);
    stage.enqueue_journaled(&jobs).await;
    starts.recv().await.unwrap();
    let closing = Closing {
        state: CloseState::Cancelled,
        reason: "no longer wanted",
        fingerprint: [0; 16],
        error: None,
        attempt: 0,
    };
    assert!(journal::close(&stage.database, jobs[0].id, 1, &closing).await.unwrap());
    stage.store.cancel(&QUEUE, &[Member::journaled(jobs[0].id, 1)]).await.unwrap();
    until("it is cancelled", || async { worker.counted("windrow_jobs_finished_total", "cancel") == 1 }).await;
    until("nothing is left", || async { stage.is_idle().await }).await;
    assert_eq!(stage.count("SELECT count(*) FROM job_closed WHERE reason = 'no longer wanted'").await, 1);
    worker.stop().await;
}
