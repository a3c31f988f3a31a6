//! How many no-op jobs one worker process executes a second, all features on, over 100 tenants.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use windrow_queue::JobArgs;
use windrow_worker::Registry;

use crate::{
    cost::Cost,
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
    let cost = Cost::start(&redis).await?;
    let started = Instant::now();
    let worker = Worker::start(&store, stage::no_database()?, handlers, Noop::QUEUE, 2 * BATCH);
    tally.all().await?;
    // The last acknowledgement counts too.
    while store.counts(&Noop::QUEUE).await?.running > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let rate = per_second(jobs, started);
    cost.print("execute", jobs, &redis).await?;
    worker.stop().await?;
    Ok((rate, tally))
}
