//! Several queues in one process under a common bound.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use windrow_queue::{JobArgs, NewJob, Outcome};
use windrow_tests::{Number, Other, Stage, handler, numbers, until};
use windrow_worker::{Config, QueueSlots, Registry};

const DONE: (&str, &str) = ("windrow_jobs_finished_total", "complete");

fn others(count: i64) -> Vec<NewJob> {
    (0..count).map(|n| NewJob::new(&Other { n }).unwrap()).collect()
}

#[derive(Clone, Default)]
struct Tally {
    running: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
    starts: Arc<[AtomicU64; 2]>,
    /// Starts of the second kind when the first had 300.
    then: Arc<AtomicU64>,
}

impl Tally {
    async fn run(self, which: usize) -> windrow_queue::JobResult {
        let started = self.starts[which].fetch_add(1, Ordering::SeqCst) + 1;
        if which == 0 && started == 300 {
            self.then.store(self.starts[1].load(Ordering::SeqCst), Ordering::SeqCst);
        }
        self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        sleep(Duration::from_millis(5)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(Outcome::Done)
    }

    fn registry(&self) -> Registry {
        let (first, second) = (self.clone(), self.clone());
        Registry::new()
            .with(handler(move |_, _: Number| first.clone().run(0)))
            .with(handler(move |_, _: Other| second.clone().run(1)))
    }
}

fn weighted() -> Config {
    let slots = |weight| QueueSlots { concurrency: Some(8), weight };
    let queues = BTreeMap::from([(Number::QUEUE, slots(3)), (Other::QUEUE, slots(1))]);
    Config { max_running: 4, queues, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_share_the_slots_of_a_process_by_weight() {
    let stage = Stage::new().await;
    let tally = Tally::default();
    stage.enqueue(&numbers(400)).await;
    stage.enqueue(&others(400)).await;
    let worker = stage.worker_with(tally.registry(), weighted());
    until("all are done", || async { worker.counted(DONE.0, DONE.1) == 800 }).await;
    let then = tally.then.load(Ordering::SeqCst);
    assert!((85..=115).contains(&then), "{then} of the second queue beside 300 of the first");
    assert_eq!(tally.most.load(Ordering::SeqCst), 4, "the bound is reached and kept");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_uses_what_the_other_leaves_and_gives_way_when_it_comes() {
    let stage = Stage::new().await;
    let tally = Tally::default();
    stage.enqueue(&others(400)).await;
    let worker = stage.worker_with(tally.registry(), weighted());
    until("it has all slots", || async { tally.most.load(Ordering::SeqCst) == 4 }).await;
    stage.enqueue(&numbers(3)).await;
    until("the newcomers are through", || async { tally.starts[0].load(Ordering::SeqCst) == 3 }).await;
    let second = tally.starts[1].load(Ordering::SeqCst);
    assert!(second < 400, "they waited until nothing else was there");
    until("all are done", || async { worker.counted(DONE.0, DONE.1) == 403 }).await;
    worker.stop().await;
}
