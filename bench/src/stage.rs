//! What the benchmarks share: servers without noise, a no-op job, a worker, and the proof that every job ran once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    Handler, JobArgs, JobContext, JobResult, Kind, NewJob, Outcome, QueueName, Tenant, database,
    health::Health,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{Config as StoreConfig, Store},
};
use windrow_worker::{Config as WorkerConfig, Deps, Registry};

/// Tenants over which jobs are spread.
pub(crate) const TENANTS: usize = 100;
/// Bytes of a job's args.
pub(crate) const PAYLOAD: usize = 150;
/// The longest that jobs may take to be done.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A no-op whose args have [`PAYLOAD`] bytes.
#[derive(Serialize, Deserialize)]
pub(crate) struct Noop {
    n: usize,
    pad: String,
}

impl JobArgs for Noop {
    const KIND: Kind = Kind::from_static("bench.noop");
    const QUEUE: QueueName = QueueName::from_static("bench");
}

/// The no-op jobs of these numbers, each of a tenant in turn.
pub(crate) fn noops(numbers: impl IntoIterator<Item = usize>) -> Result<Vec<NewJob>> {
    noops_of(numbers, |n| n)
}

/// The same, of the tenant that `turn` says, counted over and over.
pub(crate) fn noops_of(numbers: impl IntoIterator<Item = usize>, turn: impl Fn(usize) -> usize) -> Result<Vec<NewJob>> {
    let tenants = (0..TENANTS).map(|n| Tenant::new(format!("tenant-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let job = |n: usize| {
        let bare = r#"{"n":,"pad":""}"#.len() + n.to_string().len();
        let job = NewJob::new(&Noop { n, pad: "x".repeat(PAYLOAD - bare) })?.tenant(tenants[turn(n) % TENANTS].clone());
        debug_assert_eq!(job.args.get().len(), PAYLOAD);
        Ok(job)
    };
    numbers.into_iter().map(job).collect()
}

/// Puts jobs in, and insists on their being taken.
pub(crate) async fn enqueue(store: &Store, jobs: &[NewJob]) -> Result<()> {
    for answer in store.enqueue(jobs).await? {
        answer.context("the queue refused a job")?;
    }
    Ok(())
}

/// Puts no-op jobs in, few at a time in memory.
pub(crate) async fn fill(store: &Store, jobs: usize) -> Result<()> {
    for first in (0..jobs).step_by(5000) {
        enqueue(store, &noops(first..(first + 5000).min(jobs))?).await?;
    }
    Ok(())
}

/// How often each job ran.
#[derive(Clone)]
pub(crate) struct Tally {
    runs: Arc<Vec<AtomicU64>>,
    done: Arc<AtomicU64>,
}

impl Tally {
    pub(crate) fn of(jobs: usize) -> Self {
        Self { runs: Arc::new((0..jobs).map(|_| AtomicU64::new(0)).collect()), done: Arc::default() }
    }

    pub(crate) fn ran(&self, n: usize) {
        self.runs[n].fetch_add(1, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until as many runs were counted as there are jobs.
    pub(crate) async fn all(&self) -> Result<()> {
        let started = Instant::now();
        while self.done() < self.runs.len() as u64 {
            anyhow::ensure!(started.elapsed() < PATIENCE, "{} of {} jobs ran", self.done(), self.runs.len());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Jobs that never ran.
    pub(crate) fn lost(&self) -> u64 {
        self.runs.iter().filter(|runs| runs.load(Ordering::Relaxed) == 0).count() as u64
    }

    /// Runs beyond the first.
    pub(crate) fn duplicated(&self) -> u64 {
        self.runs.iter().map(|runs| runs.load(Ordering::Relaxed).saturating_sub(1)).sum()
    }
}

/// Executes no-op jobs, and tells the number of each as it starts.
pub(crate) struct OnStart<F>(pub(crate) F);

impl<F: Fn(usize) + Send + Sync + 'static> Handler for OnStart<F> {
    type Args = Noop;

    async fn run(&self, _: JobContext, args: Noop) -> JobResult {
        (self.0)(args.n);
        Ok(Outcome::Done)
    }
}

/// A worker in this process.
pub(crate) struct Worker {
    shutdown: Shutdown,
    task: JoinHandle<Result<()>>,
}

impl Worker {
    pub(crate) fn start(store: &Store, database: PgPool, handlers: Registry, queue: QueueName, slots: usize) -> Self {
        let shutdown = Shutdown::new();
        let deps = Deps {
            store: store.clone(),
            database,
            handlers,
            metrics: QueueMetrics::new(&prometheus::Registry::new()),
            health: Health::default(),
        };
        let config = WorkerConfig { queues: BTreeMap::from([(queue, slots.into())]), ..WorkerConfig::default() };
        let task = tokio::spawn(windrow_worker::run(config, deps, shutdown.clone()));
        Self { shutdown, task }
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.shutdown.stop();
        self.task.await?
    }
}

/// A Redis without snapshots: a fork in the middle would be measured too, on both sides, at random.
pub(crate) fn redis(aof: bool) -> Result<RedisServer> {
    let settings = vec![("save".into(), String::new())];
    Ok(RedisServer::start(RedisOptions { aof, settings, ..RedisOptions::default() })?)
}

pub(crate) fn store(url: String) -> Result<Store> {
    Ok(Store::new(&StoreConfig { url, ..StoreConfig::default() })?)
}

/// A pool for workers without journaled jobs: nothing connects.
pub(crate) fn no_database() -> Result<PgPool> {
    let url = "postgres://127.0.0.1:1/none".into();
    Ok(database::pool(&database::Config { url, ..database::Config::default() })?)
}

/// A field of what Redis tells of itself.
pub(crate) async fn info(redis: &RedisServer, section: &str) -> Result<String> {
    let mut connection = redis::Client::open(redis.url())?.get_multiplexed_async_connection().await?;
    Ok(redis::cmd("INFO").arg(section).query_async(&mut connection).await?)
}

/// A number in it.
pub(crate) fn field(info: &str, name: &str) -> Result<f64> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        .with_context(|| format!("INFO has no {name}"))
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn per_second(jobs: usize, since: Instant) -> f64 {
    jobs as f64 / since.elapsed().as_secs_f64()
}
