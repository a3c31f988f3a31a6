//! The whole role: started, fed, broken, stopped.

use std::time::Duration;

use windrow_queue::{
    database,
    health::Health,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{self, Store},
};
use windrow_schedule::Schedules;
use windrow_scheduler::{Config, Deps, listen_pool, run};

use crate::support::{catalog, count, database_url, enqueue, job, queue, redis, until};

async fn deps(url: &str, store: Store, schedules: Option<&str>, health: &Health) -> Deps {
    let config = database::Config { url: url.to_owned(), ..database::Config::default() };
    let registry = prometheus::Registry::new();
    Deps {
        store,
        database: database::pool(&config).unwrap(),
        direct: listen_pool(&config).unwrap(),
        catalog: catalog(),
        schedules: schedules.map(|text| Schedules::parse("schedules.toml", text, &catalog()).unwrap()),
        queue_metrics: QueueMetrics::new(&registry),
        registry,
        health: health.clone(),
    }
}

#[tokio::test]
async fn schedules_fire_and_their_jobs_reach_redis_until_it_is_stopped() {
    let (url, store) = (database_url().await, redis().await);
    let health = Health::default();
    let shutdown = Shutdown::new();
    let file = "[[schedule]]\nname = \"a\"\nkind = \"test.ping\"\nevery = \"1s\"\noverlap = \"allow\"\n";
    let deps = deps(&url, store.clone(), Some(file), &health).await;
    let pool = deps.database.clone();
    let role = tokio::spawn(run(Config::default(), deps, shutdown.clone()));
    let fired = "SELECT count(*) FROM schedule_fire WHERE outcome = 'fired'";
    until("three fires", async || health.is_ready() && count(&pool, fired).await >= 3).await;
    until("all is relayed", async || count(&pool, "SELECT count(*) FROM job_outbox").await == 0).await;
    let worst = count(&pool, "SELECT max(late_ms) FROM schedule_fire WHERE outcome = 'fired'").await;
    assert!(worst < 1000, "a fire was {worst} ms late");
    shutdown.stop();
    tokio::time::timeout(Duration::from_secs(10), role).await.expect("it ends when it is told to").unwrap().unwrap();
}

#[tokio::test]
async fn a_job_is_in_redis_soon_after_its_commit_and_again_when_the_listener_was_cut() {
    let (url, store) = (database_url().await, redis().await);
    let health = Health::default();
    let shutdown = Shutdown::new();
    let deps = deps(&url, store.clone(), None, &health).await;
    let pool = deps.database.clone();
    let role = tokio::spawn(run(Config::default(), deps, shutdown.clone()));
    until("it is ready", async || health.is_ready()).await;
    let listening =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'";
    until("it listens", async || count(&pool, listening).await == 1).await;

    let queue = queue();
    let mut waits = Vec::new();
    for _ in 0..30 {
        let before = store.counts(&queue).await.unwrap().ready;
        enqueue(&pool, &[job(&queue)]).await;
        let committed = tokio::time::Instant::now();
        while store.counts(&queue).await.unwrap().ready == before {
            assert!(committed.elapsed() < Duration::from_secs(5), "not relayed");
        }
        waits.push(committed.elapsed());
    }
    waits.sort();
    println!("commit to Redis: median {:?}, slowest {:?}", waits[15], waits[29]);
    assert!(waits[15] < Duration::from_millis(200), "it was not woken: median {:?}", waits[15]);

    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'")
        .execute(&pool)
        .await
        .unwrap();
    enqueue(&pool, &[job(&queue)]).await;
    until("polling finds it", async || store.counts(&queue).await.unwrap().ready == 31).await;
    until("it listens again", async || count(&pool, listening).await == 1).await;
    shutdown.stop();
    tokio::time::timeout(Duration::from_secs(10), role).await.expect("it ends when it is told to").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_away_are_waited_for_and_said_so() {
    let (postgres, server) = tokio::task::spawn_blocking(|| {
        let postgres = windrow_devserver::PostgresServer::start(windrow_devserver::PostgresOptions {
            fast: true,
            ..windrow_devserver::PostgresOptions::default()
        })
        .unwrap();
        let server = windrow_devserver::RedisServer::start(windrow_devserver::RedisOptions::default()).unwrap();
        (postgres, server)
    })
    .await
    .unwrap();
    let url = postgres.create_database("away").unwrap();
    let store = Store::new(&store::Config { url: server.url(), ..store::Config::default() }).unwrap();
    let health = Health::default();
    let shutdown = Shutdown::new();
    let file = "[[schedule]]\nname = \"a\"\nkind = \"test.ping\"\nevery = \"1s\"\noverlap = \"allow\"\n";
    let deps = deps(&url, store.clone(), Some(file), &health).await;
    let pool = deps.database.clone();
    let role = tokio::spawn(run(Config::default(), deps, shutdown.clone()));
    until("it says that the schema is missing", async || {
        health
            .report()
            .get("schedules")
            .is_some_and(|reason| reason.as_deref().is_some_and(|text| text.contains("schedule")))
    })
    .await;
    database::migrate(&pool).await.unwrap();
    until("it is ready", async || health.is_ready()).await;

    tokio::task::block_in_place(|| {
        postgres.kill().unwrap();
        server.kill().unwrap();
    });
    until("it says that they are away", async || !health.is_ready()).await;
    tokio::task::block_in_place(|| {
        server.restart().unwrap();
        postgres.restart().unwrap();
    });
    until("it is ready again", async || health.is_ready()).await;
    let fired = "SELECT count(*) FROM schedule_fire WHERE outcome = 'fired'";
    let before = count(&pool, fired).await;
    until("it fires again", async || count(&pool, fired).await > before).await;
    shutdown.stop();
    tokio::time::timeout(Duration::from_secs(10), role).await.expect("it ends when it is told to").unwrap().unwrap();
}
