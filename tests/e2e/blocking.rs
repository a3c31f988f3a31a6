//! A handler that blocks every core must not look like a dead worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use windrow_queue::{Outcome, QueueName};
use windrow_tests::{Number, Stage, handler, numbers, until};
use windrow_worker::{Config, Registry};

const QUEUE: QueueName = QueueName::from_static("test");
const LEASE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_every_thread_keeps_its_lease() {
    let stage = Stage::with_lease(LEASE).await;
    // Somebody else, on a runtime of their own, who rescues what lapses while this one is blocked.
    let (store, over) = (stage.store.detached(), Arc::new(AtomicBool::new(false)));
    let (rescued, stop) = (Arc::new(AtomicU64::new(0)), Arc::clone(&over));
    let counted = Arc::clone(&rescued);
    let ticker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            while !stop.load(Ordering::Relaxed) {
                counted.fetch_add(store.tick(&QUEUE).await.unwrap().rescued, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    });
    let registry = Registry::new().with(handler(|_, _: Number| async {
        let started = Instant::now();
        while started.elapsed() < 4 * LEASE {
            std::hint::spin_loop();
        }
        Ok(Outcome::Done)
    }));
    let worker = stage.worker_with(registry, Config { concurrency: 2, ..Config::default() });
    stage.enqueue(&numbers(2)).await;
    until("both are done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 2 }).await;
    until("Redis has taken it", || async { stage.store.counts(&QUEUE).await.unwrap().running == 0 }).await;
    over.store(true, Ordering::Relaxed);
    ticker.join().unwrap();
    assert_eq!(rescued.load(Ordering::Relaxed), 0);
    assert_eq!(worker.counted("windrow_leases_lost_total", ""), 0);
    worker.stop().await;
}
