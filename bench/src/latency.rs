//! How long it takes from enqueue to the start of the handler: in an idle queue, and with 10,000 jobs a second.
//!
//! Under load every job has a time at which it is due to be enqueued, whatever became of the ones before it, and its latency
//! counts from that time: a moment in which everything stands still is felt by all the jobs that were due in it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;
use windrow_devserver::RedisServer;
use windrow_queue::{JobArgs, store::Store};
use windrow_worker::Registry;

use crate::{
    report::{self, Figure, Target, Unit},
    stage::{self, Noop, OnStart, Tally, Worker},
};

const SLOTS: usize = 200;
/// Between two jobs of an idle queue: long enough for the worker to wait again.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many jobs are tried in an idle queue.
    #[arg(long, default_value_t = 1000)]
    samples: usize,
    /// Jobs a second under load.
    #[arg(long, default_value_t = 10_000)]
    rate: usize,
    /// For how many seconds, after one to warm up.
    #[arg(long, default_value_t = 10)]
    seconds: usize,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    idle_p50_ms: f64,
    idle_p99_ms: f64,
    loaded_p50_ms: f64,
    loaded_p99_ms: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    anyhow::ensure!(args.samples > 0 && args.rate > 0 && args.seconds > 0, "nothing to measure");
    let idle = idle(args.samples).await?;
    let loaded = loaded(args.rate, args.seconds).await?;
    let figures = Figures {
        idle_p50_ms: idle.percentile(50),
        idle_p99_ms: idle.percentile(99),
        loaded_p50_ms: loaded.percentile(50),
        loaded_p99_ms: loaded.percentile(99),
    };
    let figure = |name, value, target| Figure { name, unit: Unit::Milliseconds, value, raw: None, target };
    let table = [
        figure("idle, median", figures.idle_p50_ms, Target::None),
        figure("idle, p99", figures.idle_p99_ms, Target::Below(2.0)),
        figure("idle, longest", idle.percentile(100), Target::None),
        figure("loaded, median", figures.loaded_p50_ms, Target::None),
        figure("loaded, p99", figures.loaded_p99_ms, Target::Below(10.0)),
        figure("loaded, longest", loaded.percentile(100), Target::None),
    ];
    report::print(&table, &figures, args.json)
}

/// Latencies in ascending order.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self(latencies)
    }

    /// In milliseconds: so many of a hundred are no longer.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1].as_secs_f64() * 1000.0
    }
}

/// A worker that notes when each job started.
struct Stage {
    epoch: Instant,
    starts: Arc<Vec<AtomicU64>>,
    tally: Tally,
    store: Store,
    worker: Worker,
    _redis: RedisServer,
}

impl Stage {
    fn new(jobs: usize) -> Result<Self> {
        let redis = stage::redis(false)?;
        let store = stage::store(redis.url())?;
        let (epoch, tally) = (Instant::now(), Tally::of(jobs));
        let starts: Arc<Vec<AtomicU64>> = Arc::new((0..jobs).map(|_| AtomicU64::new(0)).collect());
        let on_start = {
            let (starts, tally) = (Arc::clone(&starts), tally.clone());
            move |n: usize| {
                let nanos = u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
                starts[n].store(nanos, Ordering::Relaxed);
                tally.ran(n);
            }
        };
        let handlers = Registry::new().with(OnStart(on_start));
        let worker = Worker::start(&store, stage::no_database()?, handlers, Noop::QUEUE, SLOTS);
        Ok(Self { epoch, starts, tally, store, worker, _redis: redis })
    }

    fn start_of(&self, n: usize) -> Instant {
        self.epoch + Duration::from_nanos(self.starts[n].load(Ordering::Relaxed))
    }

    /// Stops the worker, and answers for every job's having run once.
    async fn end(self) -> Result<()> {
        self.tally.all().await?;
        self.worker.stop().await?;
        let (lost, duplicated) = (self.tally.lost(), self.tally.duplicated());
        anyhow::ensure!(lost + duplicated == 0, "{lost} jobs were lost, {duplicated} ran again");
        Ok(())
    }
}

async fn idle(samples: usize) -> Result<Latencies> {
    // The first ones connect, load scripts, and are not counted.
    const WARM_UP: usize = 20;
    let jobs = WARM_UP + samples;
    let stage = Stage::new(jobs)?;
    let mut latencies = Vec::with_capacity(samples);
    for (n, job) in stage::noops(0..jobs)?.iter().enumerate() {
        let called = Instant::now();
        stage::enqueue(&stage.store, std::slice::from_ref(job)).await?;
        while stage.tally.done() <= n as u64 {
            anyhow::ensure!(called.elapsed() < Duration::from_secs(30), "a job did not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if n >= WARM_UP {
            latencies.push(stage.start_of(n) - called);
        }
        tokio::time::sleep(PAUSE).await;
    }
    stage.end().await?;
    Ok(Latencies::of(latencies))
}

async fn loaded(rate: usize, seconds: usize) -> Result<Latencies> {
    let (warm_up, jobs) = (rate, rate * (seconds + 1));
    let stage = Stage::new(jobs)?;
    let work = stage::noops(0..jobs)?;
    let first = Instant::now() + Duration::from_millis(500);
    let due = move |n: usize| first + Duration::from_secs_f64(n as f64 / rate as f64);
    let (runtime, store) = (tokio::runtime::Handle::current(), stage.store.clone());
    // A thread of its own keeps the time: the runtime's timers count in whole milliseconds.
    let pacer = std::thread::spawn(move || {
        let mut enqueues = JoinSet::new();
        for (n, job) in work.into_iter().enumerate() {
            if let Some(early) = due(n).checked_duration_since(Instant::now()) {
                #[expect(clippy::disallowed_methods, reason = "no runtime lives on this thread")]
                std::thread::sleep(early);
            }
            let store = store.clone();
            enqueues.spawn_on(async move { stage::enqueue(&store, &[job]).await }, &runtime);
            while let Some(done) = enqueues.try_join_next() {
                done??;
            }
        }
        anyhow::Ok(enqueues)
    });
    let paced = tokio::task::spawn_blocking(move || pacer.join()).await?;
    let mut enqueues = paced.ok().context("the pacing thread panicked")??;
    while let Some(done) = enqueues.join_next().await {
        done??;
    }
    stage.tally.all().await?;
    let latencies = (warm_up..jobs).map(|n| stage.start_of(n).saturating_duration_since(due(n))).collect();
    stage.end().await?;
    Ok(Latencies::of(latencies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_longest_of_so_many_of_a_hundred() {
        let latencies = Latencies::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!([1, 50, 99, 100].map(|percent| latencies.percentile(percent)), [2.0, 100.0, 198.0, 200.0]);
        assert_eq!(Latencies::of(vec![Duration::from_millis(3)]).percentile(1), 3.0);
    }
}
