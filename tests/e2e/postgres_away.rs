//! Postgres stops and comes back while roles run.

use std::time::Duration;

use windrow_queue::{Due, Outcome, QueueName};
use windrow_tests::{Number, Page, Place, Site, Stage, TENANT, handler, numbers, until};
use windrow_worker::Registry;

const QUEUE: QueueName = QueueName::from_static("test");

#[tokio::test(flavor = "multi_thread")]
async fn jobs_in_mid_run_survive_a_restart_of_postgres_with_no_attempt_counted() {
    let (mut place, site) = tokio::join!(Place::with_postgres(), Site::start());
    place.set("DATABASE__ACQUIRE_TIMEOUT", "1s");
    place.set("PAYMENTS__BATCH", "2");
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 30)).await;
    place.payments(20).await;
    site.hold("/score");
    let (scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    let api = place.start("api").await;
    place.json(&["sources", "fetch", "--all"]).await;
    place.json(&["jobs", "enqueue", "payment.post_due"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;

    let postgres = place.postgres.as_ref().unwrap();
    postgres.stop().unwrap();
    for role in [&scheduler, &worker, &api] {
        role.await_readiness(503, r#""postgres":{"ok":false"#).await;
        assert_eq!(role.get("/healthz").await.0, 200, "it waits, it does not end");
    }
    site.release("/score");
    until("what could not be committed is put off", || async { worker.finished("snooze").await >= 8.0 }).await;
    postgres.restart().unwrap();
    for role in [&scheduler, &worker, &api] {
        role.await_readiness(200, "").await;
    }
    until("all is done", || async { place.is_idle().await }).await;
    assert_eq!((worker.finished("retry").await, worker.finished("dead").await), (0.0, 0.0), "no attempt was counted");
    let rescued = "windrow_jobs_rescued_total";
    assert_eq!(worker.metric(rescued, &[]).await + scheduler.metric(rescued, &[]).await, 0.0);
    place.assert_scored(30).await;
    place.assert_posted(80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgres_comes_back_and_every_effect_is_there_once() {
    let (mut place, site) = tokio::join!(Place::with_postgres(), Site::start());
    place.set("PAYMENTS__BATCH", "2");
    place.set("IMPORT__BATCH_ROWS", "500");
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 60)).await;
    site.put(
        "/score",
        Page::new("application/json", r#"{"score": 3, "reason": "slow"}"#).delay(Duration::from_millis(50)),
    );
    place.payments(60).await;
    place.numbers(10_000).await;
    let (_scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;
    place.json(&["import", "import/numbers.csv", "--project", "Spring"]).await;
    place.json(&["jobs", "enqueue", "payment.post_due"]).await;
    until("it is under way", || async { place.count("SELECT count(*) FROM scoring_history").await > 5 }).await;
    let postgres = place.postgres.as_ref().unwrap();
    postgres.kill().unwrap();
    postgres.restart().unwrap();
    until("all is done", || async {
        // This pool, too, has connections to a server that is no more.
        sqlx::query("SELECT 1").execute(&place.database).await.is_ok() && place.is_idle().await
    })
    .await;
    assert_eq!(worker.finished("dead").await, 0.0);
    place.assert_scored(60).await;
    place.assert_imported(10_000, 20_000).await;
    place.assert_posted(240).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Away {
    /// Connections are refused.
    Stopped,
    /// Connections stay open, and nothing answers.
    Frozen,
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_jobs_go_on_without_postgres_and_journaled_ones_wait_unclaimed() {
    fast_jobs_go_on(Away::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_jobs_go_on_beside_a_frozen_postgres() {
    fast_jobs_go_on(Away::Frozen).await;
}

async fn fast_jobs_go_on(away: Away) {
    let stage = Stage::with_postgres().await;
    let worker = stage.worker(Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) })));
    stage.enqueue(&numbers(5)).await;
    until("it works", || async { worker.counted("windrow_jobs_finished_total", "complete") == 5 }).await;
    let postgres = stage.postgres.as_ref().unwrap();
    // More than there are slots; in a lane of their own, as kinds that are journaled have it.
    let later: Vec<_> =
        numbers(40).into_iter().map(|job| job.tenant(TENANT).due(Due::In(Duration::from_millis(1500)))).collect();
    stage.enqueue_journaled(&later).await;
    match away {
        Away::Stopped => postgres.stop().unwrap(),
        Away::Frozen => postgres.pause().unwrap(),
    }
    until("they are due", || async { stage.store.counts(&QUEUE).await.unwrap().scheduled == 0 }).await;
    until("it says so", || async { !worker.health.is_ready() }).await;
    stage.enqueue(&numbers(100)).await;
    until("fast jobs are done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 105 }).await;
    match away {
        Away::Stopped => postgres.restart().unwrap(),
        Away::Frozen => postgres.resume().unwrap(),
    }
    until("journaled ones follow", || async { worker.counted("windrow_jobs_finished_total", "complete") == 145 }).await;
    assert_eq!(worker.counted("windrow_jobs_finished_total", "retry"), 0);
    worker.stop().await;
}
