//! Journaled jobs that each write one row.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use windrow_devserver::PostgresServer;
use windrow_queue::{
    BatchHandler, BatchJob, Batched, Handler, JobArgs, JobContext, JobError, JobResult, Kind, NewJob, QueueName,
    Tenant, database,
    health::Health,
    journal::{self, BatchTx},
    metrics::QueueMetrics,
    shutdown::Shutdown,
};
use windrow_scheduler::{Config as SchedulerConfig, Deps as SchedulerDeps};
use windrow_worker::Registry;

use crate::stage::{self, PATIENCE, TENANTS, Tally, Worker, per_second};

/// One row for each effect. Nothing in it keeps an effect from being there twice: that is what is looked for.
pub(super) const TABLE: &str = "CREATE TABLE bench_effect (n bigint NOT NULL)";
/// Jobs in one transaction of the producer.
const BATCH: usize = 500;
/// Jobs that run at a time.
const SLOTS: usize = 400;

/// In what transaction an effect is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// One of its own.
    Single,
    /// That of all jobs which run at the same time.
    Batched,
}

/// What came of it.
pub(super) struct Committed {
    pub(super) per_s: f64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
}

#[derive(Serialize, Deserialize)]
struct Effect {
    n: usize,
    pad: String,
}

impl JobArgs for Effect {
    const KIND: Kind = Kind::from_static("bench.effect");
    const QUEUE: QueueName = QueueName::from_static("bench");
}

struct Single {
    tally: Tally,
}

impl Handler for Single {
    type Args = Effect;

    async fn run(&self, ctx: JobContext, args: Effect) -> JobResult {
        let mut tx = ctx.begin().await?;
        let n = i64::try_from(args.n).unwrap_or(i64::MAX);
        sqlx::query("INSERT INTO bench_effect (n) VALUES ($1)").bind(n).execute(&mut *tx).await?;
        let committed = tx.commit().await?;
        self.tally.ran(args.n);
        Ok(committed.into())
    }
}

struct Batch {
    tally: Tally,
}

impl BatchHandler for Batch {
    type Args = Effect;

    async fn run_batch(&self, jobs: &[BatchJob<Effect>], tx: &mut BatchTx) -> Result<(), JobError> {
        let numbers: Vec<i64> = jobs.iter().map(|job| i64::try_from(job.args.n).unwrap_or(i64::MAX)).collect();
        sqlx::query("INSERT INTO bench_effect (n) SELECT unnest($1::bigint[])")
            .bind(numbers)
            .execute(&mut **tx)
            .await?;
        for job in jobs {
            self.tally.ran(job.args.n);
        }
        Ok(())
    }
}

/// Commits the jobs in a database of their own.
pub(super) async fn committed(
    postgres: &PostgresServer,
    name: &str,
    how: How,
    jobs: usize,
    connections: u32,
) -> Result<Committed> {
    let url = postgres.create_database(name)?;
    let pool = |max_connections| {
        database::pool(&database::Config { url: url.clone(), max_connections, ..database::Config::default() })
    };
    let database = pool(connections)?;
    database::migrate(&database).await?;
    sqlx::raw_sql(TABLE).execute(&database).await?;
    let redis = stage::redis(true)?;
    let store = stage::store(redis.url())?;

    let tally = Tally::of(jobs);
    let handlers = match how {
        How::Single => Registry::new().with(Single { tally: tally.clone() }),
        How::Batched => Registry::new().with(Batched::new(Batch { tally: tally.clone() })),
    };
    let shutdown = Shutdown::new();
    let scheduler = scheduler(&store, pool(4)?, Some(pool(1)?), &handlers, &shutdown);
    let worker = Worker::start(&store, database.clone(), handlers, Effect::QUEUE, SLOTS);
    let work = effects(jobs)?;

    let started = Instant::now();
    let producer = tokio::spawn(enqueue(pool(1)?, work));
    tally.all().await?;
    // A batch has run before it is committed.
    while effects_of(&database).await?.0 < i64::try_from(jobs)? {
        anyhow::ensure!(started.elapsed() < PATIENCE, "the last effects are not committed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let per_s = per_second(jobs, started);
    producer.await??;
    worker.stop().await?;
    shutdown.stop();
    scheduler.await??;

    let (effects, distinct, rows): (i64, i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT n), (SELECT count(*) FROM job_journal) FROM bench_effect")
            .fetch_one(&database)
            .await?;
    anyhow::ensure!(rows == 0, "{rows} jobs are still in the journal");
    let (effects, distinct) = (u64::try_from(effects)?, u64::try_from(distinct)?);
    Ok(Committed { per_s, lost: (jobs as u64).saturating_sub(distinct), duplicated: effects - distinct })
}

/// Effects, how many of them are different, and rows in the journal.
async fn effects_of(database: &PgPool) -> Result<(i64, i64, i64)> {
    let counts = "SELECT count(*), count(DISTINCT n), (SELECT count(*) FROM job_journal) FROM bench_effect";
    Ok(sqlx::query_as(counts).fetch_one(database).await?)
}

fn effects(jobs: usize) -> Result<Vec<NewJob>> {
    let job = |n: usize| {
        let tenant = Tenant::new(format!("tenant-{}", n % TENANTS)).context("a tenant's name")?;
        Ok(NewJob::new(&Effect { n, pad: "x".repeat(132) })?.tenant(tenant))
    };
    (0..jobs).map(job).collect()
}

async fn enqueue(pool: PgPool, jobs: Vec<NewJob>) -> Result<()> {
    for batch in jobs.chunks(BATCH) {
        let mut tx = pool.begin().await?;
        journal::enqueue_in(&mut tx, batch).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn scheduler(
    store: &windrow_queue::store::Store,
    database: PgPool,
    direct: Option<PgPool>,
    handlers: &Registry,
    shutdown: &Shutdown,
) -> JoinHandle<Result<()>> {
    let registry = prometheus::Registry::new();
    let deps = SchedulerDeps {
        store: store.clone(),
        database,
        direct,
        catalog: handlers.catalog(),
        schedules: None,
        queue_metrics: QueueMetrics::new(&registry),
        registry,
        health: Health::default(),
    };
    tokio::spawn(windrow_scheduler::run(SchedulerConfig::default(), deps, shutdown.clone()))
}
