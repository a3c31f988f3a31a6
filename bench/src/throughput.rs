//! How many no-op jobs one worker process executes a second, all features on, over 100 tenants.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    Handler, JobArgs, JobContext, JobResult, Kind, NewJob, Outcome, QueueName, Tenant, database,
    health::Health,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{Config as StoreConfig, Store},
};
use windrow_worker::{Config as WorkerConfig, Deps, Registry};

use crate::raw::Raw;

/// Jobs in one request, on both sides.
const BATCH: usize = 200;
const TENANTS: usize = 100;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many jobs.
    #[arg(long, default_value_t = 500_000)]
    jobs: usize,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    executed_per_s: f64,
    raw_executed_per_s: f64,
    ratio: f64,
    executed_per_s_aof: f64,
    jobs: usize,
    lost: u64,
    duplicated: u64,
}

/// A no-op whose args have about 150 bytes.
#[derive(Serialize, Deserialize)]
struct Noop {
    n: usize,
    pad: String,
}

impl JobArgs for Noop {
    const KIND: Kind = Kind::from_static("bench.noop");
    const QUEUE: QueueName = QueueName::from_static("bench");
}

struct Count {
    runs: Arc<Vec<AtomicU64>>,
    done: Arc<AtomicU64>,
}

impl Handler for Count {
    type Args = Noop;

    async fn run(&self, _: JobContext, args: Noop) -> JobResult {
        self.runs[args.n].fetch_add(1, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(Outcome::Done)
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let raw = raw(args.jobs).await?;
    let (executed, lost, duplicated) = executed(args.jobs, false).await?;
    let (executed_aof, lost_aof, duplicated_aof) = self::executed(args.jobs, true).await?;
    let figures = Figures {
        executed_per_s: executed,
        raw_executed_per_s: raw,
        ratio: executed / raw,
        executed_per_s_aof: executed_aof,
        jobs: args.jobs,
        lost: lost + lost_aof,
        duplicated: duplicated + duplicated_aof,
    };
    println!("raw claim + acknowledge: {raw:>10.0} /s");
    println!("executed:                {executed:>10.0} /s  ({:.0} % of raw)", 100.0 * figures.ratio);
    println!("executed, AOF everysec:  {executed_aof:>10.0} /s");
    println!("lost {}, duplicated {}", figures.lost, figures.duplicated);
    if args.json {
        println!("{}", serde_json::to_string(&figures)?);
    }
    anyhow::ensure!(figures.lost + figures.duplicated == 0, "jobs were lost or duplicated");
    Ok(())
}

async fn raw(jobs: usize) -> Result<f64> {
    let redis = RedisServer::start(RedisOptions { settings: quiet(), ..RedisOptions::default() })?;
    let mut raw = Raw::connect(&redis.url()).await?;
    raw.fill(jobs, &[b'x'; 150], 500).await?;
    let started = Instant::now();
    let done = raw.drain(BATCH).await?;
    anyhow::ensure!(done == jobs, "the raw limit lost jobs: {done} of {jobs}");
    Ok(per_second(jobs, started))
}

async fn executed(jobs: usize, aof: bool) -> Result<(f64, u64, u64)> {
    let redis = RedisServer::start(RedisOptions { aof, settings: quiet(), ..RedisOptions::default() })?;
    let store = Store::new(&StoreConfig { url: redis.url(), ..StoreConfig::default() })?;
    let tenants: Vec<Tenant> = (0..TENANTS).map(|n| Tenant::new(format!("tenant-{n}"))).collect::<Result<_, _>>()?;
    for first in (0..jobs).step_by(5000) {
        let batch: Vec<NewJob> = (first..(first + 5000).min(jobs))
            .map(|n| Ok(NewJob::new(&Noop { n, pad: "x".repeat(132) })?.tenant(tenants[n % TENANTS].clone())))
            .collect::<Result<_>>()?;
        for answer in store.enqueue(&batch).await? {
            answer.context("the queue refused a job")?;
        }
    }

    let runs: Arc<Vec<AtomicU64>> = Arc::new((0..jobs).map(|_| AtomicU64::new(0)).collect());
    let done = Arc::new(AtomicU64::new(0));
    let handler = Count { runs: Arc::clone(&runs), done: Arc::clone(&done) };
    let shutdown = Shutdown::new();
    let deps = Deps {
        store: store.clone(),
        // No journaled job, so nothing connects.
        database: database::pool(&database::Config {
            url: "postgres://127.0.0.1:1/none".into(),
            ..database::Config::default()
        })?,
        handlers: Registry::new().with(handler),
        metrics: QueueMetrics::new(&prometheus::Registry::new()),
        health: Health::default(),
    };
    let config = WorkerConfig { queues: BTreeMap::from([(Noop::QUEUE, 2 * BATCH)]), ..WorkerConfig::default() };
    let (mut redis_cpu, mut own_cpu) = (redis_cpu_seconds(&redis).await?, own_cpu_seconds()?);
    let started = Instant::now();
    let worker = tokio::spawn(windrow_worker::run(config, deps, shutdown.clone()));
    while done.load(Ordering::Relaxed) < jobs as u64 && started.elapsed().as_secs() < 300 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    // The last acknowledgement counts too.
    while store.counts(&Noop::QUEUE).await?.running > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let rate = per_second(jobs, started);
    redis_cpu = redis_cpu_seconds(&redis).await? - redis_cpu;
    own_cpu = own_cpu_seconds()? - own_cpu;
    shutdown.stop();
    worker.await??;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = |seconds: f64| seconds * 1e6 / jobs as f64;
    println!("  a job costs Redis {:.2} us and the worker {:.2} us of processor time", each(redis_cpu), each(own_cpu));
    let lost = runs.iter().filter(|runs| runs.load(Ordering::Relaxed) == 0).count() as u64;
    let duplicated = runs.iter().map(|runs| runs.load(Ordering::Relaxed).saturating_sub(1)).sum();
    Ok((rate, lost, duplicated))
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(jobs: usize, since: Instant) -> f64 {
    jobs as f64 / since.elapsed().as_secs_f64()
}

/// No snapshots: a fork in the middle would be measured too, on both sides, at random.
fn quiet() -> Vec<(String, String)> {
    vec![("save".into(), String::new())]
}

/// Processor time that a Redis has used, which does not depend on what else the machine does.
async fn redis_cpu_seconds(redis: &RedisServer) -> Result<f64> {
    let mut connection = redis::Client::open(redis.url())?.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut connection).await?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    Ok(field("used_cpu_user:").context("INFO cpu")? + field("used_cpu_sys:").context("INFO cpu")?)
}

/// Processor time that this process has used.
fn own_cpu_seconds() -> Result<f64> {
    // Fields 14 and 15, counted behind the name in parentheses, in ticks of 10 ms (proc_pid_stat(5)).
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
