//! `windrow-chaos`: Windrow's processes over real servers, faults by a seed, and a judgement by the evidence.
//!
//! ```text
//! plan      what is done when, drawn from the seed                     nodes: role (a process), kinds, handler
//! inject    does it: to nodes, to the proxies before the servers, to the servers
//! producer  asks for work meanwhile, and writes down what it was told (book) and what stands (sent)
//! outside   calls back what parked, and redrives what is dead
//! run       waits until everything is done; evidence reads what is left; check judges; report says
//! ```
//!
//! `cargo xtask chaos` runs it; `cargo xtask test` runs it for some seconds.
#![allow(clippy::large_futures, reason = "a run is one future on the heap of its task")]

mod book;
mod check;
mod clock;
mod evidence;
mod handler;
mod history;
mod inject;
mod kinds;
mod node;
mod outside;
mod plan;
mod producer;
mod proxy;
mod report;
mod role;
mod run;
mod sent;
mod stage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rand::RngExt;

/// Faults by a seed against Windrow's processes on private servers, and a judgement of what came of it.
#[derive(Debug, Parser)]
#[command(name = "windrow-chaos")]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How long faults come.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,
    /// What is done and when is drawn from it; without one it is chosen, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// The result as JSON, one line on standard output.
    #[arg(long)]
    json: bool,
    /// Keeps the logs of the processes, as a run that fails does, and names the slowest jobs.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One of the processes of a run; nobody calls this by hand.
    #[command(hide = true)]
    Node,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        Some(Command::Node) => role::run().await.map(|()| true),
        None => {
            let seed = args.seed.unwrap_or_else(|| u64::from(rand::rng().random::<u32>()));
            run::run(run::Asked { seconds: args.seconds, seed, json: args.json, keep: args.keep }).await
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("windrow-chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}
