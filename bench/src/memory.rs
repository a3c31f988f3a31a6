//! How much of Redis' memory a queued job takes.

use anyhow::Result;
use serde::Serialize;
use windrow_queue::JobArgs;

use crate::{
    report::{self, Figure, Target, Unit},
    stage::{self, Noop, PAYLOAD},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many jobs are queued.
    #[arg(long, default_value_t = 1_000_000)]
    jobs: usize,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    bytes_per_job: f64,
    overhead_bytes_per_job: f64,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) async fn run(args: Args) -> Result<()> {
    let redis = stage::redis(false)?;
    let used = async || stage::field(&stage::info(&redis, "memory").await?, "used_memory");
    let empty = used().await?;
    let store = stage::store(redis.url())?;
    stage::fill(&store, args.jobs).await?;
    let ready = store.counts(&Noop::QUEUE).await?.ready;
    anyhow::ensure!(ready == args.jobs as u64, "{ready} jobs are ready of {}", args.jobs);
    drop(store);
    let bytes_per_job = (used().await? - empty) / args.jobs as f64;
    let figures = Figures { bytes_per_job, overhead_bytes_per_job: bytes_per_job - PAYLOAD as f64 };
    let figure = |name, value, target| Figure { name, unit: Unit::Bytes, value, raw: None, target };
    let table = [
        figure("a queued job", figures.bytes_per_job, Target::None),
        figure("beyond its 150 bytes of args", figures.overhead_bytes_per_job, Target::Below(250.0)),
    ];
    report::print(&table, &figures, args.json)
}
