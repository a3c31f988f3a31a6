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
