//! Pruner, vacuum, promoter, gauges.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::sync::Notify;
use windrow_queue::{Due, NewJob, QueueName, metrics::QueueMetrics, store::Store};
use windrow_scheduler::{
    gauges::{self, Gauges},
    metrics::Metrics,
    promoter::Promoter,
    pruner::{self, Pruner},
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
