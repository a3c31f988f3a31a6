//! What end-to-end tests stand on.
//!
//! A [`Stage`] has private servers, a worker in this process, and kinds whose handlers a test writes as closures. A [`Place`]
//! has private servers and runs the real program, role by role, as processes; a [`Site`] is the web that they call.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on panics")]

mod arranged;
mod place;
mod program;
mod resp;
mod restore;
mod role;
mod site;
mod work;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use windrow_devserver::{PgBouncer, PostgresOptions, PostgresServer, RedisOptions, RedisServer};
use windrow_queue::{
    Catalog, Handler, JobArgs, JobContext, JobResult, Kind, NewJob, Policy, QueueName, database,
    health::Health,
    journal,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{Config as StoreConfig, Store},
};
use windrow_worker::{Config as WorkerConfig, Deps, Registry};

pub use arranged::{cluster, move_queue, sentinels};
pub use place::{Ended, Place, QUEUES};
pub use program::program;
pub use role::Role;
pub use site::{MAPPING, Page, Site};
pub use work::TENANT;

/// Private servers for one test.
#[derive(Debug)]
pub struct Stage {
    /// Its Redis, with AOF.
    pub redis: RedisServer,
    /// A handle to it.
    pub store: Store,
    /// A fresh, migrated database.
    pub database: PgPool,
    /// The same past a pooler, for LISTEN.
    pub direct: Option<PgPool>,
    /// Its PostgreSQL, if it is not shared with the other tests of this process.
    pub postgres: Option<PostgresServer>,
    /// The pooler through which `database` leads, if there is one.
    pub pooler: Option<PgBouncer>,
}

impl Stage {
    /// Starts the servers.
    pub async fn new() -> Self {
        Self::with_lease(StoreConfig::default().lease).await
    }

    /// Starts the servers, with leases of another length.
    pub async fn with_lease(lease: Duration) -> Self {
        Self::build(lease, windrow_devserver::fresh_database().expect("Postgres starts"), None).await
    }

    /// Starts the servers, with a PostgreSQL that can be stopped.
    pub async fn with_postgres() -> Self {
        let postgres =
            PostgresServer::start(PostgresOptions { fast: true, ..Default::default() }).expect("Postgres starts");
        let url = postgres.create_database("windrow").expect("a database can be made");
        Self::build(StoreConfig::default().lease, url, Some(postgres)).await
    }

    /// Starts the servers, with a pgbouncer in transaction mode, which gives each transaction another connection.
    pub async fn behind_pgbouncer(listens: bool) -> Self {
        let mut stage = Self::with_postgres().await;
        let postgres = stage.postgres.as_ref().expect("it was just started");
        let pooler = pgbouncer(postgres);
        let config = database::Config {
            url: postgres.url_through(pooler.port(), "windrow"),
            direct_url: if listens { postgres.url("windrow") } else { String::new() },
            prepared: false,
            ..database::Config::default()
        };
        stage.database = database::pool(&config).unwrap();
        stage.direct = database::direct_pool(&config, 1).unwrap();
        stage.pooler = Some(pooler);
        stage
    }

    async fn build(lease: Duration, url: String, postgres: Option<PostgresServer>) -> Self {
        let redis = RedisServer::start(RedisOptions { aof: true, ..RedisOptions::default() }).expect("Redis starts");
        let store = Store::new(&StoreConfig { url: redis.url(), lease, ..StoreConfig::default() }).unwrap();
        let config = database::Config { url, ..database::Config::default() };
        let (database, direct) = (database::pool(&config).unwrap(), database::direct_pool(&config, 1).unwrap());
        database::migrate(&database).await.unwrap();
        Self { redis, store, database, direct, postgres, pooler: None }
    }

    /// Starts a worker in this process.
    pub fn worker(&self, handlers: Registry) -> Worker {
        self.worker_with(handlers, WorkerConfig { grace: Duration::from_secs(5), ..WorkerConfig::default() })
    }

    /// Starts a worker in this process, with settings.
    pub fn worker_with(&self, handlers: Registry, config: WorkerConfig) -> Worker {
        let registry = prometheus::Registry::new();
        let health = Health::default();
        let shutdown = Shutdown::new();
        let deps = Deps {
            store: self.store.clone(),
            database: self.database.clone(),
            handlers,
            metrics: QueueMetrics::new(&registry),
            health: health.clone(),
        };
        let task = tokio::spawn(windrow_worker::run(config, deps, shutdown.clone()));
        Worker { registry, health, shutdown, task }
    }

    /// Starts a scheduler in this process, without schedules of its own.
    pub fn scheduler(&self) -> Scheduler {
        self.scheduler_with(windrow_scheduler::Config::default())
    }

    /// The same with settings.
    pub fn scheduler_with(&self, config: windrow_scheduler::Config) -> Scheduler {
        let registry = prometheus::Registry::new();
        let health = Health::default();
        let shutdown = Shutdown::new();
        let deps = windrow_scheduler::Deps {
            store: self.store.clone(),
            database: self.database.clone(),
            direct: self.direct.clone(),
            catalog: Catalog::default().with::<Number>().with::<Other>(),
            schedules: None,
            queue_metrics: QueueMetrics::new(&registry),
            registry,
            health: health.clone(),
        };
        let task = tokio::spawn(windrow_scheduler::run(config, deps, shutdown.clone()));
        Scheduler { health, shutdown, task }
    }

    /// Enqueues fast jobs.
    pub async fn enqueue(&self, jobs: &[NewJob]) {
        for answer in self.store.enqueue(jobs).await.unwrap() {
            assert!(answer.unwrap().is_created());
        }
    }

    /// Enqueues journaled jobs and relays all that is due.
    pub async fn enqueue_journaled(&self, jobs: &[NewJob]) {
        let mut tx = self.database.begin().await.unwrap();
        journal::enqueue_in(&mut tx, jobs).await.unwrap();
        tx.commit().await.unwrap();
        self.relay().await;
    }

    /// Moves the whole outbox into Redis.
    pub async fn relay(&self) {
        let mut tx = self.database.begin().await.unwrap();
        let lanes = journal::lanes(&mut *tx, None, 1000, &[]).await.unwrap();
        for row in journal::take(&mut tx, &lanes, 10_000).await.unwrap() {
            let job = row.job().unwrap();
            self.store.relay(&job.queue, std::slice::from_ref(&job)).await.unwrap().remove(0).unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// Puts journaled jobs into Redis once more, as a reconciler does that finds them missing.
    pub async fn relay_again(&self, jobs: &[NewJob]) {
        for job in jobs {
            sqlx::query(
                "INSERT INTO job_outbox (band, relay_at, id, gen, queue, kind, run_at)
                 SELECT band, now(), id, gen, queue, kind, now() FROM job_journal WHERE id = $1",
            )
            .bind(job.id.0)
            .execute(&self.database)
            .await
            .unwrap();
        }
        self.relay().await;
    }

    /// Wipes Redis.
    pub async fn flush(&self) {
        resp::send(&self.redis.url(), "FLUSHALL").await;
    }

    /// Whether nothing is left to do: neither in Redis nor in the journal.
    pub async fn is_idle(&self) -> bool {
        let counts = self.store.counts(&Number::QUEUE).await.unwrap();
        self.count("SELECT count(*) FROM job_journal").await == 0
            && counts.ready + counts.scheduled + counts.running == 0
    }

    /// One number from the database.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.database).await.unwrap()
    }
}

/// A pgbouncer in transaction mode with few connections, which take turns: no two transactions of a client in a row meet the same
/// one, unless all others are busy.
#[must_use]
pub fn pgbouncer(postgres: &PostgresServer) -> PgBouncer {
    PgBouncer::start(postgres, 6, &[("server_round_robin", "1")]).expect("pgbouncer starts")
}

/// A worker that runs in this process.
#[derive(Debug)]
pub struct Worker {
    registry: prometheus::Registry,
    /// What its `/readyz` would say.
    pub health: Health,
    /// Ends it.
    pub shutdown: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Worker {
    /// Stops it softly and waits for its end.
    pub async fn stop(self) {
        self.shutdown.stop();
        tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("it ends").unwrap().unwrap();
    }

    /// The sum of a counter over all label sets that have this label value (or all, if it is empty).
    #[must_use]
    pub fn counted(&self, name: &str, label: &str) -> u64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let sum: f64 = metrics
            .filter(|metric| label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label))
            .map(|metric| metric.get_counter().get_value())
            .sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let sum = sum as u64;
        sum
    }
}

/// A scheduler that runs in this process.
#[derive(Debug)]
pub struct Scheduler {
    /// What its `/readyz` would say.
    pub health: Health,
    shutdown: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Scheduler {
    /// Stops it softly and waits for its end.
    pub async fn stop(self) {
        self.shutdown.stop();
        tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("it ends").unwrap().unwrap();
    }
}

/// Whether the long tests are asked for. Without `cargo xtask test --all` they say so and pass.
#[must_use]
pub fn long_ones() -> bool {
    let asked = std::env::var_os("WINDROW_TEST_ALL").is_some();
    if !asked {
        println!("a long one: run by `cargo xtask test --all` only");
    }
    asked
}

/// Waits until something holds, asking again every few milliseconds.
///
/// # Panics
/// After 30 s, with what was waited for.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    until_within(Duration::from_secs(30), what, &mut holds).await;
}

/// The same with a limit of its own.
pub async fn until_within<F: Future<Output = bool>>(limit: Duration, what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(limit, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(waited.is_ok(), "waited {limit:?} in vain until {what}");
}

/// Args of the kinds of tests: a number that the handler makes something of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Number {
    /// The number.
    pub n: i64,
}

/// A second type for a second kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Other {
    /// The number.
    pub n: i64,
}

/// Fails fast and is retried fast.
pub const POLICY: Policy = Policy::DEFAULT
    .with_max_attempts(3)
    .with_timeout(Duration::from_secs(20))
    .with_backoff(Duration::from_millis(20), Duration::from_millis(100));

impl JobArgs for Number {
    const KIND: Kind = Kind::from_static("test.number");
    const QUEUE: QueueName = QueueName::from_static("test");
    const POLICY: Policy = POLICY;
}

impl JobArgs for Other {
    const KIND: Kind = Kind::from_static("test.other");
    const QUEUE: QueueName = QueueName::from_static("other");
    const POLICY: Policy = POLICY.with_timeout(Duration::from_millis(200));
}

type Run<A> = dyn Fn(JobContext, A) -> BoxFuture<'static, JobResult> + Send + Sync;

/// A handler made of a closure.
pub struct Closure<A> {
    run: Arc<Run<A>>,
}

impl<A> std::fmt::Debug for Closure<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Closure")
    }
}

/// Makes a handler of a closure.
pub fn handler<A, F>(run: impl Fn(JobContext, A) -> F + Send + Sync + 'static) -> Closure<A>
where
    F: Future<Output = JobResult> + Send + 'static,
{
    Closure { run: Arc::new(move |ctx, args| Box::pin(run(ctx, args))) }
}

impl<A: JobArgs> Handler for Closure<A> {
    type Args = A;

    async fn run(&self, ctx: JobContext, args: A) -> JobResult {
        (self.run)(ctx, args).await
    }
}

/// Jobs with the numbers 0 to `count`.
#[must_use]
pub fn numbers(count: i64) -> Vec<NewJob> {
    (0..count).map(|n| NewJob::new(&Number { n }).unwrap()).collect()
}
