//! What is measured about schedules, and how much of their record is kept.

use sqlx::PgPool;
use uuid::Uuid;
use windrow_queue::metrics::QueueMetrics;
use windrow_scheduler::{
    gauges::{self, Gauges},
    metrics::Metrics,
    pruner::{self, Pruner},
    service::Service,
};

use crate::support::{count, cron_with, database, declare, fire, neglect, redis};

fn hourly(name: &str, lines: &str) -> String {
    format!("[[schedule]]\nname = \"{name}\"\nkind = \"test.ping\"\nevery = \"1h\"\noverlap = \"allow\"\n{lines}\n")
}

async fn read(pool: &PgPool) -> Metrics {
    let registry = prometheus::Registry::new();
    let (metrics, queue_metrics) = (Metrics::new(&registry), QueueMetrics::new(&registry));
    let store = redis().await;
    let mut gauges =
        Gauges::new(gauges::Config::default(), pool.clone(), store, Vec::new(), queue_metrics, metrics.clone());
    gauges.run_once().await.unwrap();
    metrics
}

#[tokio::test]
async fn schedules_are_counted_by_state_and_the_next_one_due_and_how_late_it_is_are_known() {
    let pool = database().await;
    let metrics = read(&pool).await;
    assert_eq!((metrics.next_due.get(), metrics.overdue.get(), metrics.failing.get()), (0.0, 0, 0), "nothing at all");
    let file: String =
        ["a", "b", "c", "d", "e"].map(|name| hourly(name, "")).concat() + &hourly("off", "enabled = false");
    declare(&pool, &file).await;
    sqlx::raw_sql(
        "UPDATE schedule SET due_at = now() + interval '100 s';
         UPDATE schedule SET due_at = now() - interval '90 s' WHERE name IN ('b', 'c', 'd');
         UPDATE schedule SET paused = true WHERE name = 'b';
         UPDATE schedule SET error = 'x' WHERE name = 'c';
         UPDATE schedule SET fan_fire_at = now() WHERE name = 'd'",
    )
    .execute(&pool)
    .await
    .unwrap();
    let metrics = read(&pool).await;
    let state = |state: &str| metrics.schedules.with_label_values(&[state]).get();
    assert_eq!((state("active"), state("paused"), state("disabled"), state("error")), (3, 1, 1, 1));
    assert_eq!(metrics.overdue.get(), 0, "paused, in error or being fanned out is not late");
    let now = count(&pool, "SELECT extract(epoch FROM now())::bigint").await;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
    let ahead = metrics.next_due.get() - now as f64;
    assert!((60.0..=101.0).contains(&ahead), "{ahead}");
    sqlx::query("UPDATE schedule SET due_at = now() - interval '90 s' WHERE name = 'a'").execute(&pool).await.unwrap();
    assert!((90..100).contains(&read(&pool).await.overdue.get()));
}

/// The jobs of these fires, oldest first, by what becomes of them: `d`ead, `c`ompleted, or they `s`tand.
async fn end(pool: &PgPool, fates: &str) {
    let jobs: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM job_journal ORDER BY fire_at").fetch_all(pool).await.unwrap();
    assert_eq!(jobs.len(), fates.len());
    for (id, fate) in jobs.into_iter().zip(fates.chars()) {
        let statement = match fate {
            'd' => {
                "WITH gone AS (DELETE FROM job_journal WHERE id = $1 RETURNING *)
                 INSERT INTO job_closed (id, gen, state, queue, kind, tenant, reason, job)
                 SELECT id, gen, 'dead', queue, kind, tenant, 'x', to_jsonb(gone) FROM gone"
            }
            'c' => "DELETE FROM job_journal WHERE id = $1",
            _ => "SELECT $1",
        };
        sqlx::query(statement).bind(id).execute(pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_schedule_whose_jobs_keep_dying_is_seen_and_one_that_comes_through_now_and_then_is_not() {
    for (fates, failing) in [
        ("dd", 0),
        ("ddd", 1),
        ("cddd", 0),
        ("ccccddddd", 1),
        ("dddddddd", 1),
        ("dddsd", 1),
        ("ddcdd", 0),
        ("ddddddsss", 0),
        ("cccc", 0),
        ("ssss", 0),
    ] {
        let pool = database().await;
        declare(&pool, &hourly("a", "missed = { catch_up = 500 }")).await;
        neglect(&pool, 3600 * i32::try_from(fates.len()).unwrap()).await;
        fire(&pool).await;
        end(&pool, fates).await;
        assert_eq!(read(&pool).await.failing.get(), failing, "{fates}");
    }
}

#[tokio::test]
async fn one_tenant_of_many_whose_jobs_keep_dying_is_enough_and_follow_ups_are_not_looked_at() {
    let pool = database().await;
    sqlx::query("INSERT INTO tenant (id, name) VALUES ('t1', 'x'), ('t2', 'x')").execute(&pool).await.unwrap();
    declare(&pool, &hourly("a", "each_tenant = true\nmissed = { catch_up = 500 }")).await;
    neglect(&pool, 3 * 3600).await;
    while !fire(&pool).await.is_empty() {}
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 6);
    // Follow-ups of another kind die each time.
    sqlx::raw_sql(
        "INSERT INTO job_closed (id, gen, state, queue, kind, tenant, reason, job)
         SELECT gen_random_uuid(), 1, 'dead', queue, 'test.follow', tenant, 'x', to_jsonb(j) FROM job_journal j;
         DELETE FROM job_journal WHERE tenant = 't1'",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(read(&pool).await.failing.get(), 0);
    end(&pool, "ddd").await;
    assert_eq!(read(&pool).await.failing.get(), 1);
}

#[tokio::test]
async fn fires_are_counted_by_outcome_and_timed_to_their_commit() {
    let pool = database().await;
    declare(&pool, &hourly("a", "missed = { catch_up = 2 }")).await;
    neglect(&pool, 5 * 3600).await;
    // The commit takes its time, as it does on a slow disk.
    sqlx::raw_sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON schedule_fire DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.outcome = 'missed') EXECUTE FUNCTION slow()",
    )
    .execute(&pool)
    .await
    .unwrap();
    let metrics = Metrics::new(&prometheus::Registry::new());
    cron_with(&pool, metrics.clone()).run_once().await.unwrap();
    let fires = |outcome: &str| metrics.fires.with_label_values(&[outcome]).get();
    assert_eq!((fires("fired"), fires("missed"), fires("skipped")), (2, 3, 0));
    assert_eq!(metrics.lag.get_sample_count(), 2);
    let recorded = count(&pool, "SELECT sum(late_ms)::bigint FROM schedule_fire WHERE outcome = 'fired'").await;
    #[expect(clippy::cast_precision_loss, reason = "some hours")]
    let behind = metrics.lag.get_sample_sum() - recorded as f64 / 1000.0;
    assert!(behind > 0.55, "the commit is not in the lag: {behind}");
}

#[tokio::test]
async fn of_each_schedule_the_newest_fires_stay_on_record() {
    let pool = database().await;
    // Of three schedules 30, 5 and 40 fires; one of the old ones is still written to.
    sqlx::raw_sql(
        "INSERT INTO schedule_fire (schedule_id, fire_at, outcome)
         SELECT ('00000000-0000-0000-0000-00000000000' || s)::uuid, now() - make_interval(hours => n), 'fired'
         FROM (VALUES (1, 30), (2, 5), (3, 40)) AS schedules (s, fires), generate_series(1, fires) AS n;
         UPDATE schedule_fire SET outcome = 'queued' WHERE fire_at = (SELECT min(fire_at) FROM schedule_fire)",
    )
    .execute(&pool)
    .await
    .unwrap();
    let config = pruner::Config { max_fires: 10, ..pruner::Config::default() };
    let mut pruner = Pruner::new(config, pool.clone(), Metrics::new(&prometheus::Registry::new()));
    assert_eq!(pruner.run_once().await.unwrap().count("fires"), 49);
    assert!(pruner.run_once().await.unwrap().is_empty());
    let left: Vec<(i64, bool)> = sqlx::query_as(
        "SELECT count(*), bool_and(outcome = 'queued' OR fire_at > now() - interval '10.5 hours') FROM schedule_fire
         GROUP BY schedule_id ORDER BY schedule_id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(left, [(10, true), (5, true), (11, true)]);
}

#[tokio::test]
async fn the_pruner_comes_to_every_schedule_and_begins_again() {
    let pool = database().await;
    let fill = "INSERT INTO schedule_fire (schedule_id, fire_at, outcome)
                SELECT md5(s::text)::uuid, timestamptz '2030-01-01' - make_interval(hours => n), 'fired'
                FROM generate_series(1, 2300) AS s, generate_series(1, 11) AS n ON CONFLICT DO NOTHING";
    let config = pruner::Config { max_fires: 10, ..pruner::Config::default() };
    let mut pruner = Pruner::new(config, pool.clone(), Metrics::new(&prometheus::Registry::new()));
    for _ in 0..2 {
        sqlx::raw_sql(fill).execute(&pool).await.unwrap();
        let mut gone = 0;
        for _ in 0..10 {
            gone += pruner.run_once().await.unwrap().count("fires");
        }
        assert_eq!(gone, 2300);
        assert_eq!(count(&pool, "SELECT count(*) FROM schedule_fire").await, 23_000);
    }
}
