//! Benchmarks, each beside its raw limit in the same run. `cargo run --release -p windrow-bench -- throughput [--json]`.

mod raw;
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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // As in production with log.level = "warn": no span is made that nobody reads.
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    match Cli::parse().what {
        What::Throughput(args) => throughput::run(args).await,
    }
}
