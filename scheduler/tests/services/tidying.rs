//! Reconciler, pruner, vacuum, promoter, gauges.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::sync::Notify;
use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    Due, Member, NewJob, QueueName,
    metrics::QueueMetrics,
    store::{self, Store},
};
use windrow_scheduler::{
    gauges::{self, Gauges},
    metrics::Metrics,
    promoter::Promoter,
    pruner::{self, Pruner},
    reconciler::{self, Reconciler},
    relay::{self, Relay},
    service::{Pace, Service},
    vacuum::{self, Vacuum},
};

use crate::support::{Ping, count, database, enqueue, job, queue, redis, until};

pub(crate) fn metrics() -> Metrics {
    Metrics::new(&prometheus::Registry::new())
}

pub(crate) async fn relay_all(pool: &PgPool, store: &Store) {
    let config = relay::Config::default();
    let mut relay = Relay::new(config, pool.clone(), store.clone(), metrics(), Arc::new(Notify::new()));
    while relay.run_once().await.unwrap().pace == Pace::Again {}
}

#[tokio::test]
async fn journaled_jobs_that_redis_lost_are_put_back_and_those_it_has_are_not() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let (kept, lost, waiting) = (job(&queue), job(&queue), job(&queue));
    let config = reconciler::Config { period: Duration::ZERO, ..reconciler::Config::default() };
    let mut reconciler = Reconciler::new(config, pool.clone(), store.clone(), vec![queue.clone()], metrics());
    reconciler.run_once().await.unwrap(); // it has not seen this Redis before
    enqueue(&pool, std::slice::from_ref(&kept)).await;
    relay_all(&pool, &store).await;
    enqueue(&pool, std::slice::from_ref(&lost)).await;
    sqlx::query("DELETE FROM job_outbox").execute(&pool).await.unwrap();
    enqueue(&pool, std::slice::from_ref(&waiting)).await;

    assert_eq!(reconciler.run_once().await.unwrap().count("put back"), 0, "none is due for long");
    sqlx::query("UPDATE job_journal SET run_at = now() - interval '2 min', enqueued_at = now() - interval '2 min'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(reconciler.run_once().await.unwrap().count("put back"), 1);
    assert_eq!(reconciler.run_once().await.unwrap().count("put back"), 0, "it is on its way now");
    relay_all(&pool, &store).await;
    assert_eq!(store.counts(&queue).await.unwrap().ready, 3);
    assert!(store.status(&queue, Member::journaled(lost.id, 1)).await.unwrap().is_some());
}

#[tokio::test]
async fn what_a_restarted_redis_lost_is_put_back_at_once() {
    let pool = database().await;
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default()).unwrap()).await.unwrap();
    let store = Store::new(&store::Config { url: server.url(), ..store::Config::default() }).unwrap();
    let queue = queue();
    let reconcile = async || {
        let config = reconciler::Config::default();
        let mut reconciler = Reconciler::new(config, pool.clone(), store.clone(), vec![queue.clone()], metrics());
        let mut put_back = 0;
        loop {
            let done = reconciler.run_once().await.unwrap();
            put_back += done.count("put back");
            if done.pace != Pace::Again {
                return put_back;
            }
        }
    };
    assert_eq!(reconcile().await, 0);
    let mut jobs: Vec<_> = (0..1200).map(|_| job(&queue)).collect();
    jobs.push(job(&queue).due(Due::In(Duration::from_secs(3600))));
    enqueue(&pool, &jobs).await;
    relay_all(&pool, &store).await;
    assert_eq!(reconcile().await, 0, "Redis has them");

    let server = tokio::task::spawn_blocking(move || {
        server.kill().unwrap();
        server.restart().unwrap(); // without an append-only file: with nothing
        server
    })
    .await
    .unwrap();
    until("Redis answers", async || store.ping().await.is_ok()).await;
    assert_eq!(reconcile().await, 1201);
    assert_eq!(reconcile().await, 0, "once");
    relay_all(&pool, &store).await;
    let counts = store.counts(&queue).await.unwrap();
    assert_eq!((counts.ready, counts.scheduled), (1200, 1));
    drop(server);
}

#[tokio::test]
async fn records_are_pruned_by_age_and_the_dead_are_kept_longest() {
    let pool = database().await;
    sqlx::raw_sql(
        "INSERT INTO job_idempotency SELECT decode(md5(n::text), 'hex'), gen_random_uuid(), now() - interval '2 h' FROM generate_series(1, 1500) n;
         INSERT INTO job_idempotency VALUES ('\\x00', gen_random_uuid(), now());
         INSERT INTO job_closed (id, gen, state, queue, kind, reason, closed_at, job)
         SELECT gen_random_uuid(), 1, state, 'q', 'k', 'r', now() - interval '40 days', '{}'
         FROM unnest(ARRAY['dead', 'cancelled', 'discarded']) state;
         INSERT INTO schedule_fire (schedule_id, fire_at, outcome, recorded_at)
         VALUES (gen_random_uuid(), now(), 'fired', now() - interval '40 days'), (gen_random_uuid(), now(), 'fired', now())",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut pruner = Pruner::new(pruner::Config::default(), pool.clone(), metrics());
    let first = pruner.run_once().await.unwrap();
    assert_eq!((first.count("idempotency keys"), first.count("closed jobs"), first.count("fires")), (1000, 2, 1));
    let second = pruner.run_once().await.unwrap();
    assert_eq!(second.count("idempotency keys"), 500);
    assert!(pruner.run_once().await.unwrap().is_empty());
    assert_eq!(count(&pool, "SELECT count(*) FROM job_idempotency").await, 1, "the slack keeps it");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_closed WHERE state = 'dead'").await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule_fire").await, 1);
}

#[tokio::test]
async fn dead_rows_of_the_hot_tables_are_vacuumed() {
    let pool = database().await;
    let queue = queue();
    enqueue(&pool, &(0..3000).map(|_| job(&queue)).collect::<Vec<_>>()).await;
    sqlx::raw_sql("DELETE FROM job_outbox; SELECT pg_stat_force_next_flush()").execute(&pool).await.unwrap();
    let dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'job_outbox'";
    until("Postgres counts the dead rows", async || count(&pool, dead).await >= 1000).await;
    let mut vacuum = Vacuum::new(vacuum::Config::default(), pool.clone());
    vacuum.run_once().await.unwrap();
    until("the dead rows are gone", async || count(&pool, dead).await == 0).await;
}

#[tokio::test]
async fn what_is_due_is_promoted_and_a_drained_queue_reports_zero() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let mut fast = NewJob::new(&Ping { text: String::new() }).unwrap().due(Due::In(Duration::from_millis(50)));
    fast.queue = queue.clone();
    store.enqueue(&[fast]).await.unwrap()[0].as_ref().unwrap();
    assert_eq!(store.counts(&queue).await.unwrap().scheduled, 1);
    let queues: Vec<QueueName> = vec![queue.clone()];
    let queue_metrics = QueueMetrics::new(&prometheus::Registry::new());
    let mut promoter = Promoter::new(pool.clone(), store.clone(), queues.clone(), queue_metrics, metrics());
    until("the job is ready", async || {
        promoter.run_once().await.unwrap();
        store.counts(&queue).await.unwrap().ready == 1
    })
    .await;

    let registry = prometheus::Registry::new();
    let queue_metrics = QueueMetrics::new(&registry);
    let mut gauges =
        Gauges::new(gauges::Config::default(), pool.clone(), store.clone(), queues, queue_metrics.clone(), metrics());
    gauges.run_once().await.unwrap();
    let depth = |state: &str| queue_metrics.depth.with_label_values(&[queue.as_str(), state]).get();
    assert_eq!((depth("ready"), depth("scheduled"), depth("running"), depth("dead")), (1, 0, 0, 0));
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(text.contains(&format!("windrow_queue_depth{{queue=\"{queue}\",state=\"dead\"}} 0")), "{text}");
}
