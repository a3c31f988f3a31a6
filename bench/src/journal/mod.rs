//! How many journaled jobs with one effect row each are committed a second, from the first enqueue to the last commit, with
//! fsync and synchronous_commit on: in batches, and one transaction a job. Everything that happens to a journaled job is
//! measured: it is enqueued in a transaction, relayed, claimed, checked against its row, executed, committed.
//!
//! pgbench executes nothing but the statements of the last step, one transaction a job, over as many connections.

mod effect;
mod pgbench;

use anyhow::Result;
use serde::Serialize;
use windrow_devserver::{PostgresOptions, PostgresServer};

use crate::report::{self, Figure, Target, Unit};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many jobs are committed in batches.
    #[arg(long, default_value_t = 60_000)]
    jobs: usize,
    /// How many are committed one transaction a job, and by pgbench.
    #[arg(long, default_value_t = 30_000)]
    single: usize,
    /// Connections to Postgres, of the worker and of pgbench.
    #[arg(long, default_value_t = 16)]
    connections: u32,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    committed_per_s: f64,
    committed_per_s_single: f64,
    pgbench_per_s: f64,
    lost: u64,
    duplicated: u64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let postgres = PostgresServer::start(PostgresOptions::default())?;
    let pgbench_per_s = pgbench::committed(&postgres, args.single, args.connections).await?;
    let single = effect::committed(&postgres, "single", effect::How::Single, args.single, args.connections).await?;
    let batched = effect::committed(&postgres, "batched", effect::How::Batched, args.jobs, args.connections).await?;
    let figures = Figures {
        committed_per_s: batched.per_s,
        committed_per_s_single: single.per_s,
        pgbench_per_s,
        lost: batched.lost + single.lost,
        duplicated: batched.duplicated + single.duplicated,
    };
    let figure = |name, value, raw, target| Figure { name, unit: Unit::PerSecond, value, raw, target };
    let table = [
        figure("committed, in batches", figures.committed_per_s, None, Target::AtLeast(5000.0)),
        figure("one transaction a job", figures.committed_per_s_single, Some(pgbench_per_s), Target::Share(0.5)),
    ];
    println!("lost {}, duplicated {} of {} jobs", figures.lost, figures.duplicated, args.jobs + args.single);
    report::print(&table, &figures, args.json)?;
    anyhow::ensure!(figures.lost + figures.duplicated == 0, "effects were lost or duplicated");
    Ok(())
}
