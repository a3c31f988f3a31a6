//! What an idle worker costs: a process of its own, with Redis and Postgres, and nothing to do.
//!
//! By default this executable starts itself again as a worker of one queue. With `--program` it is the given `windrow`
//! executable, with all its kinds and queues.

use std::{
    io::Read,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::process::{Child, Command};
use windrow_devserver::{PostgresOptions, PostgresServer, RedisServer};
use windrow_queue::{JobArgs, database};
use windrow_worker::Registry;

use crate::{
    report::{self, Figure, Target, Unit},
    stage::{self, Noop, OnStart, Worker},
};

/// Where the worker's process finds its stores. Not arguments: those show passwords to everybody on the machine.
const REDIS_URL: &str = "WINDROW_REDIS_URL";
const DATABASE_URL: &str = "WINDROW_DATABASE_URL";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// For how many seconds the commands are counted.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// How many seconds the worker has had nothing to do before.
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// A `windrow` executable to measure instead.
    #[arg(long)]
    program: Option<PathBuf>,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    rss_mb: f64,
    redis_commands_per_s: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let redis = stage::redis(false)?;
    let postgres = PostgresServer::start(PostgresOptions { fast: true, ..PostgresOptions::default() })?;
    let url = postgres.create_database("idle")?;
    database::migrate(&database::pool(&database::Config { url: url.clone(), ..database::Config::default() })?).await?;
    let mut process = start(args.program, &redis, &url)?;
    let pid = process.id().context("the worker's process ended")?;
    until_served(&redis, &mut process).await?;

    tokio::time::sleep(Duration::from_secs(args.warm_up)).await;
    let (before, started) = (Commands::of(&redis).await?, Instant::now());
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let (after, elapsed) = (Commands::of(&redis).await?, started.elapsed().as_secs_f64());
    let rss_mb = rss_megabytes(pid)?;
    anyhow::ensure!(process.try_wait()?.is_none(), "the worker's process ended");
    process.kill().await?;

    let figures = Figures { rss_mb, redis_commands_per_s: (after.sent - before.sent) / elapsed };
    let inside = (after.all - before.all) / elapsed;
    let figure = |name, unit, value, target| Figure { name, unit, value, raw: None, target };
    let table = [
        figure("resident memory", Unit::Megabytes, figures.rss_mb, Target::Below(30.0)),
        figure("commands to Redis", Unit::PerSecond, figures.redis_commands_per_s, Target::Below(10.0)),
        figure("with those inside scripts", Unit::PerSecond, inside, Target::None),
    ];
    report::print(&table, &figures, args.json)
}

fn start(program: Option<PathBuf>, redis: &RedisServer, database: &str) -> Result<Child> {
    let mut command = match program {
        Some(program) => {
            let mut command = Command::new(program);
            command.arg("worker").env("WINDROW_WORKER__LISTEN", "127.0.0.1:0").env("WINDROW_LOG__LEVEL", "warn");
            command
        }
        None => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("idle-worker");
            command
        }
    };
    // The pipe is never written to: it ends when this process does, however that happens.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    Ok(command.env(REDIS_URL, redis.url()).env(DATABASE_URL, database).spawn()?)
}

/// Waits until the process has a session with Redis.
async fn until_served(redis: &RedisServer, process: &mut Child) -> Result<()> {
    let started = Instant::now();
    while !stage::info(redis, "commandstats").await?.contains("cmdstat_blpop:") {
        anyhow::ensure!(process.try_wait()?.is_none(), "the worker's process ended");
        anyhow::ensure!(started.elapsed() < Duration::from_secs(30), "the worker does not wait for work");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Commands that Redis has executed, without those of this measurement.
struct Commands {
    /// What clients sent.
    sent: f64,
    /// With what scripts called.
    all: f64,
}

impl Commands {
    async fn of(redis: &RedisServer) -> Result<Self> {
        // What a connection that asks for this says, when it is made.
        const OWN: [&str; 6] = ["info", "auth", "hello", "select", "client|setinfo", "client"];
        // What a worker sends by itself; all else that a script calls is counted under its own name too.
        const SENT: [&str; 8] = ["eval", "evalsha", "blpop", "ping", "script|load", "fcall", "subscribe", "lpush"];
        let (mut sent, mut all) = (0.0, 0.0);
        for line in stage::info(redis, "commandstats").await?.lines() {
            let Some((name, calls)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(":calls=")) else {
                continue;
            };
            let calls: f64 = calls.split(',').next().unwrap_or_default().parse()?;
            if !OWN.contains(&name) {
                all += calls;
                sent += if SENT.contains(&name) { calls } else { 0.0 };
            }
        }
        Ok(Self { sent, all })
    }
}

fn rss_megabytes(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(kilobytes.context("no VmRSS")?.parse::<f64>()? * 1024.0 / 1e6)
}

/// The process that is measured. It ends with the one that started it.
pub(crate) async fn worker() -> Result<()> {
    let variable = |name| std::env::var(name).with_context(|| format!("{name} is not set: `idle` starts this"));
    let store = stage::store(variable(REDIS_URL)?)?;
    let database = database::pool(&database::Config { url: variable(DATABASE_URL)?, ..database::Config::default() })?;
    let handlers = Registry::new().with(OnStart(|_| {}));
    let worker = Worker::start(&store, database, handlers, Noop::QUEUE, 8);
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await??;
    worker.stop().await
}
