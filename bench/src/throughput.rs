//! How many no-op jobs one worker process executes a second, all features on, over 100 tenants.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use windrow_devserver::RedisServer;
use windrow_queue::JobArgs;
use windrow_worker::Registry;

use crate::{
    raw::Raw,
    report::{self, Figure, Target, Unit},
    stage::{self, Noop, OnStart, PAYLOAD, Tally, Worker, per_second},
};

/// Jobs in one request, on both sides.
const BATCH: usize = 200;

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

pub(crate) async fn run(args: Args) -> Result<()> {
    let raw = raw(args.jobs).await?;
    let (executed, tally) = executed(args.jobs, false).await?;
    let (executed_aof, tally_aof) = self::executed(args.jobs, true).await?;
    let figures = Figures {
        executed_per_s: executed,
        raw_executed_per_s: raw,
        ratio: executed / raw,
        executed_per_s_aof: executed_aof,
        jobs: args.jobs,
        lost: tally.lost() + tally_aof.lost(),
        duplicated: tally.duplicated() + tally_aof.duplicated(),
    };
    let figure = |name, value, raw, target| Figure { name, unit: Unit::PerSecond, value, raw, target };
    let table = [
        figure("executed", executed, Some(raw), Target::Share(0.5)),
        figure("executed, AOF everysec", executed_aof, None, Target::None),
    ];
    println!("lost {}, duplicated {} of {} jobs", figures.lost, figures.duplicated, 2 * args.jobs);
    report::print(&table, &figures, args.json)?;
    anyhow::ensure!(figures.lost + figures.duplicated == 0, "jobs were lost or duplicated");
    Ok(())
}

async fn raw(jobs: usize) -> Result<f64> {
    let redis = stage::redis(false)?;
    let mut raw = Raw::connect(&redis.url()).await?;
    raw.fill(jobs, &[b'x'; PAYLOAD], 500).await?;
    let started = Instant::now();
    let done = raw.drain(BATCH).await?;
    anyhow::ensure!(done == jobs, "the raw limit lost jobs: {done} of {jobs}");
    Ok(per_second(jobs, started))
}

async fn executed(jobs: usize, aof: bool) -> Result<(f64, Tally)> {
    let redis = stage::redis(aof)?;
    let store = stage::store(redis.url())?;
    stage::fill(&store, jobs).await?;

    let tally = Tally::of(jobs);
    let on_start = {
        let tally = tally.clone();
        move |n| tally.ran(n)
    };
    let handlers = Registry::new().with(OnStart(on_start));
    let (mut redis_cpu, mut own_cpu) = (redis_cpu_seconds(&redis).await?, own_cpu_seconds()?);
    let started = Instant::now();
    let worker = Worker::start(&store, stage::no_database()?, handlers, Noop::QUEUE, 2 * BATCH);
    tally.all().await?;
    // The last acknowledgement counts too.
    while store.counts(&Noop::QUEUE).await?.running > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let rate = per_second(jobs, started);
    redis_cpu = redis_cpu_seconds(&redis).await? - redis_cpu;
    own_cpu = own_cpu_seconds()? - own_cpu;
    worker.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = |seconds: f64| seconds * 1e6 / jobs as f64;
    println!("a job costs Redis {:.2} us and the worker {:.2} us of processor time", each(redis_cpu), each(own_cpu));
    Ok((rate, tally))
}

/// Processor time that a Redis has used, which does not depend on what else the machine does.
async fn redis_cpu_seconds(redis: &RedisServer) -> Result<f64> {
    let info = stage::info(redis, "cpu").await?;
    Ok(stage::field(&info, "used_cpu_user")? + stage::field(&info, "used_cpu_sys")?)
}

/// Processor time that this process has used.
fn own_cpu_seconds() -> Result<f64> {
    // Fields 14 and 15, counted behind the name in parentheses, in ticks of 10 ms (proc_pid_stat(5)).
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
