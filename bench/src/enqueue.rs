//! How many jobs are enqueued a second: in batches, several on their way at once over one connection, and one at a time by many
//! tasks. Jobs are built beforehand, the raw limit's payloads too; what is measured is handing them over.

use std::{sync::Arc, time::Instant};

use anyhow::Result;
use futures::future::try_join_all;
use serde::Serialize;
use windrow_queue::{JobArgs, NewJob};

use crate::{
    cost::Cost,
    raw::Raw,
    report::{self, Figure, Target, Unit},
    stage::{self, Noop, PAYLOAD, per_second},
};

/// Jobs in one call, on both sides.
const BATCH: usize = 500;
/// Batches on their way at once, on both sides.
const PIPELINED: usize = 4;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many jobs are enqueued in batches.
    #[arg(long, default_value_t = 500_000)]
    jobs: usize,
    /// How many jobs are enqueued one at a time.
    #[arg(long, default_value_t = 200_000)]
    single: usize,
    /// Tasks that enqueue one at a time.
    #[arg(long, default_value_t = 50)]
    tasks: usize,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    batched_per_s: f64,
    raw_batched_per_s: f64,
    single_per_s: f64,
    raw_single_per_s: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let figures = Figures {
        raw_batched_per_s: raw(args.jobs, PIPELINED, BATCH).await?,
        batched_per_s: enqueued(args.jobs, PIPELINED, BATCH).await?,
        raw_single_per_s: raw(args.single, args.tasks, 1).await?,
        single_per_s: enqueued(args.single, args.tasks, 1).await?,
    };
    let figure = |name, value, raw, share| Figure {
        name,
        unit: Unit::PerSecond,
        value,
        raw: Some(raw),
        target: Target::Share(share),
    };
    let table = [
        figure("batches of 500", figures.batched_per_s, figures.raw_batched_per_s, 0.6),
        figure("one at a time", figures.single_per_s, figures.raw_single_per_s, 0.8),
    ];
    report::print(&table, &figures, args.json)
}

/// Every task's share of the batches.
fn shares(jobs: usize, tasks: usize, batch: usize) -> Vec<Vec<std::ops::Range<usize>>> {
    let mut shares = vec![Vec::new(); tasks];
    for (i, first) in (0..jobs).step_by(batch).enumerate() {
        shares[i % tasks].push(first..(first + batch).min(jobs));
    }
    shares
}

async fn enqueued(jobs: usize, tasks: usize, batch: usize) -> Result<f64> {
    let redis = stage::redis(false)?;
    let store = stage::store(redis.url())?;
    // Who enqueues many jobs at once does it for one tenant; the next call is the next tenant's.
    let batch_of = |numbers| stage::noops_of(numbers, |n| n / batch);
    let work = shares(jobs, tasks, batch)
        .into_iter()
        .map(|share| share.into_iter().map(batch_of).collect::<Result<Vec<Vec<NewJob>>>>())
        .collect::<Result<Vec<_>>>()?;
    // Connected, and the script loaded.
    stage::enqueue(&store, &stage::noops([jobs])?).await?;

    let cost = Cost::start(&redis).await?;
    let started = Instant::now();
    let running = work.into_iter().map(|share| {
        let store = store.clone();
        tokio::spawn(async move {
            for batch in &share {
                stage::enqueue(&store, batch).await?;
            }
            anyhow::Ok(())
        })
    });
    for done in try_join_all(running).await? {
        done?;
    }
    let rate = per_second(jobs, started);
    cost.print(&format!("enqueue, {batch} a call"), jobs, &redis).await?;
    let ready = store.counts(&Noop::QUEUE).await?.ready;
    anyhow::ensure!(ready == jobs as u64 + 1, "{ready} jobs are ready of {jobs} and one");
    Ok(rate)
}

async fn raw(jobs: usize, tasks: usize, batch: usize) -> Result<f64> {
    let redis = stage::redis(false)?;
    let mut raw = Raw::connect(&redis.url()).await?;
    let payload: Arc<[u8]> = Arc::from([b'x'; PAYLOAD]);
    raw.enqueue(jobs..jobs + 1, &payload).await?;

    let started = Instant::now();
    let cost = Cost::start(&redis).await?;
    let running = shares(jobs, tasks, batch).into_iter().map(|share| {
        let (mut raw, payload) = (raw.clone(), Arc::clone(&payload));
        tokio::spawn(async move {
            for ids in share {
                raw.enqueue(ids, &payload).await?;
            }
            anyhow::Ok(())
        })
    });
    for done in try_join_all(running).await? {
        done?;
    }
    let rate = per_second(jobs, started);
    cost.print(&format!("raw, {batch} a call"), jobs, &redis).await?;
    anyhow::ensure!(raw.ready().await? == jobs + 1, "the raw limit lost jobs");
    Ok(rate)
}
