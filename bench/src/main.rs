//! Benchmarks, each beside its raw limit in the same run, with private servers that they start themselves.
//! `cargo run --release -p windrow-bench -- throughput|enqueue|latency|memory|idle|journal|schedules [--json]`.

mod cost;
mod enqueue;
mod idle;
mod journal;
mod latency;
mod memory;
mod raw;
mod report;
mod schedules;
mod stage;
mod throughput;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Windrow's benchmarks; each starts its own private servers")]
struct Cli {
    /// What to measure.
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// No-op jobs executed by one worker process, beside the plainest claim and acknowledge.
    Throughput(throughput::Args),
    /// Jobs enqueued, in batches and one at a time, beside the plainest enqueue.
    Enqueue(enqueue::Args),
    /// How long it takes from enqueue to the start of the handler, idle and under load.
    Latency(latency::Args),
    /// Bytes of Redis' memory that a queued job takes.
    Memory(memory::Args),
    /// What an idle worker process costs.
    Idle(idle::Args),
    /// Journaled jobs committed, in batches and one transaction a job, beside pgbench.
    Journal(journal::Args),
    /// Very many schedules, of which very many are due at the same instant: how late their jobs are.
    Schedules(schedules::Args),
    /// The process that `idle` measures.
    #[command(hide = true)]
    IdleWorker,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // As in production with log.level = "warn": no span is made that nobody reads.
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    match Cli::parse().what {
        What::Throughput(args) => throughput::run(args).await,
        What::Enqueue(args) => enqueue::run(args).await,
        What::Latency(args) => latency::run(args).await,
        What::Memory(args) => memory::run(args).await,
        What::Idle(args) => idle::run(args).await,
        What::Journal(args) => journal::run(args).await,
        What::Schedules(args) => schedules::run(args).await,
        What::IdleWorker => idle::worker().await,
    }
}
