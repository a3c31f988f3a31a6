//! How late jobs are when very many schedules stand and very many of them fall due at the same instant: from the due time to
//! the commit of the job, as Postgres has it. Two schedulers race for them, with fsync on, and relay the jobs into Redis.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use windrow_devserver::{PostgresOptions, PostgresServer};
use windrow_queue::{
    Catalog, JobArgs, Kind, QueueName, database, health::Health, metrics::QueueMetrics, shutdown::Shutdown,
    store::Store,
};
use windrow_scheduler::{Config as SchedulerConfig, Deps as SchedulerDeps, listen_pool};

use crate::{
    report::{self, Figure, Target, Unit},
    stage::{self, PATIENCE},
};

/// Time for the schedulers to start and come to rest, before anything is due, in seconds.
const LEAD: f64 = 8.0;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many schedules stand.
    #[arg(long, default_value_t = 1_000_000)]
    schedules: u32,
    /// How many of them are due at the same instant.
    #[arg(long, default_value_t = 10_000)]
    due: u32,
    /// How many schedulers race for them.
    #[arg(long, default_value_t = 2)]
    schedulers: usize,
    /// One JSON object on the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    schedules: i64,
    due: i64,
    fired: i64,
    duplicates: i64,
    missed: i64,
    lag_p99_ms: f64,
}

#[derive(Serialize, Deserialize)]
struct Tick {
    n: u32,
}

impl JobArgs for Tick {
    const KIND: Kind = Kind::from_static("bench.tick");
    const QUEUE: QueueName = QueueName::from_static("bench");
}

/// Daily schedules in three zones, spread over a day that begins in an hour, as they stand when they have fired before.
const SCHEDULES: &str = "
INSERT INTO schedule (id, name, origin, kind, args, cron, time_zone, handled_until, next_fire_at, due_at)
SELECT gen_random_uuid(), 's' || n, 'api', 'bench.tick', jsonb_build_object('n', n),
       to_char(at AT TIME ZONE zone, 'SS MI HH24 * * *'), zone, at - interval '1 hour', at, at
FROM (SELECT n, (ARRAY['UTC', 'Europe/Berlin', 'America/New_York'])[1 + n % 3] AS zone,
             date_trunc('second', now()) + make_interval(secs => 3600 + n % 80000) AS at
      FROM generate_series(1, $1) AS n) AS schedules";

/// A few of them, spread among the others, are due at one instant soon.
const DUE: &str = "
UPDATE schedule SET cron = to_char(at AT TIME ZONE time_zone, 'SS MI HH24 * * *'), handled_until = at - interval '1 hour',
       next_fire_at = at, due_at = at
FROM (SELECT date_trunc('second', now()) + make_interval(secs => $1) AS at) AS soon
WHERE (args->>'n')::int % $2 = 0 AND (args->>'n')::int / $2 <= $3
RETURNING at";

pub(crate) async fn run(args: Args) -> Result<()> {
    anyhow::ensure!((1..=args.schedules).contains(&args.due), "--due must be 1 to the number of schedules");
    // The time of each commit, by the clock that fires go by; and as much memory as a database of this size is given.
    let settings = [("track_commit_timestamp", "on"), ("shared_buffers", "512MB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let postgres = PostgresServer::start(PostgresOptions { settings, ..PostgresOptions::default() })?;
    let config = database::Config { url: postgres.create_database("schedules")?, ..database::Config::default() };
    let database = database::pool(&config)?;
    database::migrate(&database).await?;
    let redis = stage::redis(true)?;

    let loading = Instant::now();
    load(&database, args.schedules).await?;
    let loaded = loading.elapsed();
    let due_at = appoint(&database, &args).await?;
    let shutdown = Shutdown::new();
    let schedulers = (0..args.schedulers)
        .map(|_| start(stage::store(redis.url())?, &config, &shutdown))
        .collect::<Result<Vec<_>>>()?;
    await_fires(&database, due_at, args.due).await?;
    shutdown.stop();
    for scheduler in schedulers {
        scheduler.await??;
    }

    let (figures, [p50, max]) = figures(&database, due_at, args.due).await?;
    println!("{} schedules loaded in {:.1} s", figures.schedules, loaded.as_secs_f64());
    println!(
        "due {}, fired {}, duplicates {}, missed {}",
        figures.due, figures.fired, figures.duplicates, figures.missed
    );
    let figure = |name, value, target| Figure { name, unit: Unit::Milliseconds, value, raw: None, target };
    let table = [
        figure("from due to committed, median", p50, Target::None),
        figure("99 of 100", figures.lag_p99_ms, Target::Below(1000.0)),
        figure("the last", max, Target::None),
    ];
    report::print(&table, &figures, args.json)?;
    anyhow::ensure!(figures.duplicates + figures.missed == 0, "fires were lost or doubled");
    Ok(())
}

/// Puts the schedules there. Indexes are made over all rows at once, which is quicker, and the same in the end.
async fn load(database: &PgPool, schedules: u32) -> Result<()> {
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'schedule' AND indexdef NOT LIKE '%UNIQUE%'",
    )
    .fetch_all(database)
    .await?;
    for (name, _) in &indexes {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP INDEX {name}"))).execute(database).await?;
    }
    sqlx::query(SCHEDULES).bind(i64::from(schedules)).execute(database).await?;
    for (_, definition) in indexes {
        sqlx::raw_sql(sqlx::AssertSqlSafe(definition)).execute(database).await?;
    }
    sqlx::raw_sql("VACUUM ANALYZE schedule").execute(database).await?;
    Ok(())
}

/// Has so many of them due at one instant, and says when.
async fn appoint(database: &PgPool, args: &Args) -> Result<DateTime<Utc>> {
    let step = args.schedules / args.due;
    let appointed: Vec<DateTime<Utc>> = sqlx::query_scalar(DUE)
        .bind(LEAD)
        .bind(i32::try_from(step)?)
        .bind(i32::try_from(args.due)?)
        .fetch_all(database)
        .await?;
    anyhow::ensure!(appointed.len() == args.due as usize, "{} schedules are due", appointed.len());
    // What was written so far is no part of the measurement.
    sqlx::raw_sql("CHECKPOINT").execute(database).await?;
    appointed.first().copied().context("no schedule is due")
}

fn start(store: Store, config: &database::Config, shutdown: &Shutdown) -> Result<JoinHandle<Result<()>>> {
    let registry = prometheus::Registry::new();
    let deps = SchedulerDeps {
        store,
        database: database::pool(config)?,
        direct: listen_pool(config)?,
        catalog: Catalog::default().with::<Tick>(),
        schedules: None,
        queue_metrics: QueueMetrics::new(&registry),
        registry,
        health: Health::default(),
    };
    Ok(tokio::spawn(windrow_scheduler::run(SchedulerConfig::default(), deps, shutdown.clone())))
}

/// Waits until as many fires are recorded.
async fn await_fires(database: &PgPool, due_at: DateTime<Utc>, due: u32) -> Result<()> {
    let started = Instant::now();
    loop {
        let fires: i64 = sqlx::query_scalar("SELECT count(*) FROM schedule_fire WHERE fire_at = $1")
            .bind(due_at)
            .fetch_one(database)
            .await?;
        if fires >= i64::from(due) {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "{fires} of {due} schedules fired");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The figures, and the median and the largest lag.
async fn figures(database: &PgPool, due_at: DateTime<Utc>, due: u32) -> Result<(Figures, [f64; 2])> {
    // Records of fires and jobs are written by one transaction: the commit of the one is that of the other.
    let (fired, late): (i64, Vec<f64>) = sqlx::query_as(
        "SELECT count(*), percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
             ORDER BY 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - fire_at)::float8)
         FROM schedule_fire WHERE fire_at = $1 AND outcome = 'fired'",
    )
    .bind(due_at)
    .fetch_one(database)
    .await?;
    let (jobs, distinct, schedules): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT (schedule_id, fire_at)), (SELECT count(*) FROM schedule) FROM job_journal",
    )
    .fetch_one(database)
    .await?;
    let [p50, p99, max] = late[..] else { anyhow::bail!("three percentiles were asked for") };
    let due = i64::from(due);
    let figures = Figures {
        schedules,
        due,
        fired,
        duplicates: jobs - distinct,
        missed: (due - distinct).max(due - fired),
        lag_p99_ms: (p99 * 10.0).round() / 10.0,
    };
    Ok((figures, [p50, max]))
}
