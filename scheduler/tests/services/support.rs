//! A database and queues of its own for every test, and kinds to schedule.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use windrow_queue::{
    Catalog, JobArgs, Kind, NewJob, Policy, QueueName, database, journal,
    store::{self, Store},
};
use windrow_schedule::{Reconciled, Schedules};
use windrow_scheduler::{
    cron::{self, Cron},
    metrics::Metrics,
    service::{Done, Service},
};

const TEMPLATE: &str = "scheduler_template";

/// The address of a fresh, migrated database.
pub(crate) async fn database_url() -> String {
    static MIGRATED: OnceLock<()> = OnceLock::new();
    tokio::task::spawn_blocking(|| {
        MIGRATED.get_or_init(|| {
            let url = windrow_devserver::shared_postgres().unwrap().create_database(TEMPLATE).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let pool = PgPool::connect(&url).await.unwrap();
                database::migrate(&pool).await.unwrap();
                pool.close().await;
            });
        });
        windrow_devserver::fresh_database_from(TEMPLATE).unwrap()
    })
    .await
    .unwrap()
}

pub(crate) async fn database() -> PgPool {
    PgPoolOptions::new().max_connections(10).connect(&database_url().await).await.unwrap()
}

/// Where this process's Redis is.
pub(crate) async fn redis_url() -> String {
    tokio::task::spawn_blocking(|| windrow_devserver::shared_redis().unwrap().url()).await.unwrap()
}

/// A handle to this process's Redis.
pub(crate) async fn redis() -> Store {
    let url = redis_url().await;
    Store::new(&store::Config { url, ..store::Config::default() }).unwrap()
}

/// A queue that no other test has.
pub(crate) fn queue() -> QueueName {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    QueueName::new(format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed))).unwrap()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ping {
    #[serde(default)]
    pub(crate) text: String,
}

impl JobArgs for Ping {
    const KIND: Kind = Kind::from_static("test.ping");
    const QUEUE: QueueName = QueueName::from_static("test");
    const POLICY: Policy = Policy::DEFAULT.journaled();
}

pub(crate) fn catalog() -> Catalog {
    Catalog::default().with::<Ping>()
}

/// Puts a file in force.
pub(crate) async fn declare(pool: &PgPool, text: &str) -> Reconciled {
    let schedules = Schedules::parse("schedules.toml", text, &catalog()).unwrap();
    windrow_schedule::reconcile(pool, &schedules, &catalog()).await.unwrap()
}

/// Moves every schedule's clock back, as if nobody had looked at it for so long.
pub(crate) async fn neglect(pool: &PgPool, seconds: i32) {
    sqlx::query(
        "UPDATE schedule SET handled_until = handled_until - make_interval(secs => $1),
             due_at = now() - interval '1 ms'",
    )
    .bind(f64::from(seconds))
    .execute(pool)
    .await
    .unwrap();
}

pub(crate) fn cron(pool: &PgPool) -> Cron {
    cron_with(pool, Metrics::new(&prometheus::Registry::new()))
}

pub(crate) fn cron_with(pool: &PgPool, metrics: Metrics) -> Cron {
    Cron::new(cron::Config::default(), pool.clone(), catalog(), metrics)
}

/// Fires what is due, once.
pub(crate) async fn fire(pool: &PgPool) -> Done {
    let mut cron = cron(pool);
    tokio::time::timeout(Duration::from_secs(20), cron.run_once()).await.expect("no pass waits for another").unwrap()
}

/// A journaled job on this queue.
pub(crate) fn job(queue: &QueueName) -> NewJob {
    let mut job = NewJob::new(&Ping { text: String::new() }).unwrap();
    job.queue = queue.clone();
    job
}

/// Enqueues and commits.
pub(crate) async fn enqueue(pool: &PgPool, jobs: &[NewJob]) {
    let mut tx = pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, jobs).await.unwrap();
    tx.commit().await.unwrap();
}

pub(crate) async fn count(pool: &PgPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

/// Fire records by time: outcome and how many fire times it stands for.
pub(crate) async fn outcomes(pool: &PgPool) -> Vec<(String, i32)> {
    sqlx::query_as("SELECT outcome, times FROM schedule_fire ORDER BY fire_at").fetch_all(pool).await.unwrap()
}

/// Waits until it holds; fails after 20 s.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
