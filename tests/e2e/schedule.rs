//! Several scheduler processes, one set of schedules.

use windrow_tests::{Place, until};

const SCHEDULES: &str = r#"
generation = 1
[[schedule]]
name = "often"
kind = "payment.post_due"
every = "1s"
overlap = "allow"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_fire_each_time_once_and_one_that_is_killed_leaves_no_gap() {
    let mut place = Place::new().await;
    std::fs::write(place.path("schedules.toml"), SCHEDULES).unwrap();
    place.set("SCHEDULER__SCHEDULES", "schedules.toml");
    let (mut first, mut second) = tokio::join!(place.start("scheduler"), place.start("scheduler"));
    let worker = place.start("worker").await;
    until("some have fired", || async { place.count("SELECT count(*) FROM schedule_fire").await >= 3 }).await;
    first.kill().await;
    until("the other goes on", || async { place.count("SELECT count(*) FROM schedule_fire").await >= 7 }).await;
    let mut third = place.start("scheduler").await;
    until("both go on", || async { place.count("SELECT count(*) FROM schedule_fire").await >= 9 }).await;
    second.terminate();
    assert_eq!(second.ended().await.code(), Some(0));
    // Nothing fires any more from here on, but what has fired is still relayed.
    sqlx::query("UPDATE schedule SET paused = true").execute(&place.database).await.unwrap();
    until("every job of a fire is done", || async { place.is_idle().await }).await;
    let fired = place.count("SELECT count(*) FROM schedule_fire WHERE outcome = 'fired'").await;
    let jobs = place.count("SELECT count(DISTINCT job_id) FROM schedule_fire WHERE outcome = 'fired'").await;
    assert_eq!(fired, jobs);
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let expected = fired as f64;
    assert_eq!(worker.finished("complete").await, expected, "one job for each fire, and no other");
    let gaps = "SELECT count(*) FROM (SELECT fire_at - lag(coalesce(through, fire_at)) OVER (ORDER BY fire_at) AS step
                FROM schedule_fire) AS steps WHERE step <> interval '1 second'";
    assert_eq!(place.count(gaps).await, 0, "every fire time has its outcome");
    third.terminate();
    assert_eq!(third.ended().await.code(), Some(0));
}

const THREE: &str = r#"
generation = 1
[[schedule]]
name = "a"
kind = "payment.post_due"
every = "1s"
overlap = "allow"
missed = { catch_up = 20 }
[[schedule]]
name = "b"
kind = "payment.post_due"
cron = "*/2 * * * * *"
overlap = "allow"
[[schedule]]
name = "c"
kind = "payment.post_due"
every = "1s"
overlap = "skip"
missed = "skip"
"#;

/// Whoever records a fire waits for this lock.
const GATE: &str = "
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$;
CREATE TRIGGER gate AFTER INSERT ON schedule_fire FOR EACH STATEMENT EXECUTE FUNCTION gate()";

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_frozen_in_the_middle_of_its_fires_holds_nobody_up_and_fires_nothing_twice() {
    let mut place = Place::new().await;
    std::fs::write(place.path("schedules.toml"), THREE).unwrap();
    place.set("SCHEDULER__SCHEDULES", "schedules.toml");
    sqlx::raw_sql(GATE).execute(&place.database).await.unwrap();
    let mut gate = place.database.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(4711)").execute(&mut *gate).await.unwrap();

    // It has written its records and not committed when it is stopped; then Postgres waits for it, its rows locked.
    let frozen = place.start("scheduler").await;
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until("it is in the middle of its fires", || async { place.count(waits).await > 0 }).await;
    frozen.freeze();
    gate.rollback().await.unwrap();
    let others = tokio::join!(place.start("scheduler"), place.start("scheduler"));
    let fires = "SELECT coalesce(sum(times), 0)::bigint FROM schedule_fire";
    until("the others fire what it held", || async { place.count(fires).await >= 12 }).await;
    frozen.thaw();
    frozen.await_readiness(200, "").await;
    let before = place.count(fires).await;
    until("all three go on", || async { place.count(fires).await >= before + 6 }).await;
    sqlx::query("UPDATE schedule SET paused = true").execute(&place.database).await.unwrap();

    let gaps = "SELECT count(*) FROM (
                    SELECT f.fire_at - lag(coalesce(f.through, f.fire_at)) OVER (PARTITION BY s.id ORDER BY f.fire_at) AS step,
                           CASE WHEN s.name = 'b' THEN interval '2 s' ELSE interval '1 s' END AS period
                    FROM schedule_fire f JOIN schedule s ON s.id = f.schedule_id) AS steps
                WHERE step <> period";
    assert_eq!(place.count(gaps).await, 0, "every fire time has its outcome");
    let twice = "SELECT count(*) - count(DISTINCT (schedule_id, fire_at)) FROM job_journal";
    assert_eq!(place.count(twice).await, 0, "a fire time has two jobs");
    let alone = "SELECT count(*) FROM schedule_fire f FULL JOIN job_journal j ON j.id = f.job_id
                 WHERE (f.outcome = 'fired' AND j.id IS NULL) OR f.schedule_id IS NULL";
    assert_eq!(place.count(alone).await, 0, "nobody works here: each fire has its job, and each job its fire");
    drop(others);
}
