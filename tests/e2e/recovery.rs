//! What survives: lost workers, servers that restart, processes that are told to stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use windrow_queue::{Outcome, QueueName};
use windrow_tests::{Number, Stage, handler, numbers, until, until_within};
use windrow_worker::{Config, Registry};

const QUEUE: QueueName = QueueName::from_static("test");

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_stop_finishes_what_runs_and_gives_back_the_rest_with_no_attempt_counted() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let (entered, at_gate) = (Arc::new(AtomicU64::new(0)), Arc::clone(&gate));
    let inside = Arc::clone(&entered);
    let registry = Registry::new().with(handler(move |ctx, args: Number| {
        let (gate, inside) = (Arc::clone(&at_gate), Arc::clone(&inside));
        async move {
            assert_eq!(ctx.attempt(), 1);
            inside.fetch_add(1, Ordering::Relaxed);
            if args.n == 0 {
                // Stops at no safe point: its future is dropped.
                std::future::pending::<()>().await;
            }
            drop(gate.acquire().await.unwrap());
            Ok(Outcome::Done)
        }
    }));
    let config = Config { concurrency: 4, grace: Duration::from_secs(1), ..Config::default() };
    let worker = stage.worker_with(registry, config);
    stage.enqueue(&numbers(10)).await;
    until("all slots are taken", || async { entered.load(Ordering::Relaxed) == 4 }).await;
    worker.shutdown.stop();
    gate.add_permits(100);
    let (finished, released) = {
        until("it gave the stubborn one back", || async {
            let counts = stage.store.counts(&QUEUE).await.unwrap();
            counts.running == 0 && counts.sessions == 0
        })
        .await;
        (
            worker.counted("windrow_jobs_finished_total", "complete"),
            worker.counted("windrow_jobs_finished_total", "release"),
        )
    };
    assert_eq!((finished, released), (3, 1));
    assert_eq!(stage.store.counts(&QUEUE).await.unwrap().ready, 7);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_after_redis_restarted_and_none_is_rescued_that_was_not_lost() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let (ran, at_gate) = (Arc::new(AtomicU64::new(0)), Arc::clone(&gate));
    let runs = Arc::clone(&ran);
    let worker = stage.worker(Registry::new().with(handler(move |_, _: Number| {
        let gate = Arc::clone(&at_gate);
        runs.fetch_add(1, Ordering::Relaxed);
        async move {
            drop(gate.acquire().await.unwrap());
            Ok(Outcome::Done)
        }
    })));
    stage.enqueue(&numbers(100)).await;
    until("some run", || async { ran.load(Ordering::Relaxed) == 8 }).await;
    // Everything is in the file before the server goes: what AOF everysec may lose is another test's matter.
    stage.redis.stop().unwrap();
    until("it says so", || async { !worker.health.is_ready() }).await;
    gate.add_permits(1000);
    stage.redis.restart().unwrap();
    until("all are done", || async {
        let counts = stage.store.counts(&QUEUE).await;
        counts.is_ok_and(|counts| counts.ready + counts.running == 0)
    })
    .await;
    until("it is well again", || async { worker.health.is_ready() }).await;
    assert_eq!(ran.load(Ordering::Relaxed), 100, "some ran twice, or not at all");
    assert_eq!(worker.counted("windrow_jobs_rescued_total", ""), 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_vanished_has_its_jobs_run_by_another_within_its_lease_and_two_seconds() {
    let stage = Stage::with_lease(Duration::from_secs(3)).await;
    let started = Arc::new(AtomicU64::new(0));
    let entered = Arc::clone(&started);
    let stuck = Registry::new().with(handler(move |_, _: Number| {
        entered.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    }));
    let lost = stage.worker(stuck);
    stage.enqueue(&numbers(8)).await;
    until("all run", || async { started.load(Ordering::Relaxed) == 8 }).await;
    // A hard stop is what kill -9 is to Redis: the session is silent from now on.
    lost.shutdown.kill();
    let worker = stage.worker(Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) })));
    until_within(Duration::from_secs(5), "another ran them", || async {
        worker.counted("windrow_jobs_finished_total", "complete") == 8
    })
    .await;
    assert_eq!(worker.counted("windrow_jobs_rescued_total", ""), 8);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_while_redis_is_away_ends_after_its_grace() {
    let stage = Stage::new().await;
    let started = Arc::new(AtomicU64::new(0));
    let entered = Arc::clone(&started);
    let registry = Registry::new().with(handler(move |_, _: Number| {
        entered.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    }));
    let config = Config { concurrency: 2, grace: Duration::from_secs(1), ..Config::default() };
    let worker = stage.worker_with(registry, config);
    stage.enqueue(&numbers(2)).await;
    until("both run", || async { started.load(Ordering::Relaxed) == 2 }).await;
    stage.redis.stop().unwrap();
    until("it says so", || async { !worker.health.is_ready() }).await;
    let told = std::time::Instant::now();
    worker.stop().await;
    assert!(told.elapsed() < Duration::from_secs(20), "it waited for Redis for {:?}", told.elapsed());
}
