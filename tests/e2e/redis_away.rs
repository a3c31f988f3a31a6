//! Redis stops, is killed, or forgets everything, while roles run.

use std::time::Duration;

use tokio::time::Instant;
use windrow_tests::{Page, Place, Role, Site, long_ones, until, until_within};

async fn rescued(roles: &[&Role]) -> f64 {
    let mut sum = 0.0;
    for role in roles {
        sum += role.metric("windrow_jobs_rescued_total", &[]).await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_redis_longer_than_the_lease_is_waited_out_and_nothing_is_rescued() {
    // Longer than the lease, and than the gap after which a tick gives everybody a new lease; and the lease longer than the
    // worker is frozen, on a machine however busy.
    outage("6s", Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_redis_of_30_seconds_is_waited_out_and_nothing_is_rescued() {
    if long_ones() {
        outage("10s", Duration::from_secs(30)).await;
    }
}

async fn outage(lease: &str, length: Duration) {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("REDIS__LEASE", lease);
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 30)).await;
    site.hold("/score");
    let (scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    let api = place.start("api").await;
    place.json(&["sources", "fetch", "--all"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;

    place.redis.stop().unwrap();
    let stopped = Instant::now();
    for role in [&scheduler, &worker, &api] {
        role.await_readiness(503, r#""redis":{"ok":false"#).await;
        assert_eq!(role.get("/healthz").await.0, 200, "it waits, it does not end");
    }
    // Handlers go on: what they come to is committed now and told to Redis when it is back.
    site.release("/score");
    until("what ran is committed", || async { place.count("SELECT count(*) FROM scoring_history").await == 8 }).await;
    until_within(2 * length, "the outage was long enough", || async { stopped.elapsed() > length }).await;
    assert_eq!(site.requests("/score").len(), 8);

    // When Redis is back the worker is not heard of at once: who ticks first must not take its jobs away.
    worker.freeze();
    place.redis.restart().unwrap();
    let restarted = Instant::now();
    scheduler.await_readiness(200, "").await;
    until("somebody has ticked", || async { restarted.elapsed() > Duration::from_millis(1200) }).await;
    worker.thaw();
    until("all is done", || async { place.is_idle().await }).await;
    worker.await_readiness(200, "").await;
    assert_eq!(rescued(&[&scheduler, &worker]).await, 0.0, "nothing was lost");
    assert_eq!(worker.metric("windrow_leases_lost_total", &[]).await, 0.0);
    assert_eq!(site.requests("/score").len(), 30, "nothing ran twice");
    place.assert_scored(30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_comes_back_without_its_last_moments_and_every_effect_is_there_once() {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("REDIS__LEASE", "3s");
    place.set("PAYMENTS__BATCH", "2");
    place.set("SCHEDULER__RECONCILER__PERIOD", "1s");
    place.set("SCHEDULER__RECONCILER__AGE", "2s");
    place.tenant(&site).await;
    for name in ["north", "south"] {
        place.source(&site, name, Page::vacancies(name, 40)).await;
    }
    place.payments(30).await;
    let (_scheduler, _worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    site.put(
        "/score",
        Page::new("application/json", r#"{"score": 3, "reason": "slow"}"#).delay(Duration::from_millis(50)),
    );
    place.json(&["sources", "fetch", "--all"]).await;
    place.json(&["jobs", "enqueue", "payment.post_due"]).await;
    for scored in [10, 40] {
        until("some are scored", || async { place.count("SELECT count(*) FROM scoring_history").await >= scored })
            .await;
        place.redis.kill().unwrap();
        place.redis.restart().unwrap();
    }
    until("all is done", || async { place.is_idle().await }).await;
    place.assert_scored(80).await;
    place.assert_posted(120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_breaks_nobody_and_the_journal_brings_its_jobs_back() {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("SCHEDULER__RECONCILER__PERIOD", "1s");
    place.set("SCHEDULER__RECONCILER__AGE", "2s");
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 30)).await;
    site.hold("/score");
    let (scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;
    until("everything is relayed", || async { place.count("SELECT count(*) FROM job_outbox").await == 0 }).await;

    place.flush().await;
    // 8 that ran and 22 that waited are gone from Redis, and their sessions with them. New work goes on.
    place.source(&site, "south", Page::vacancies("south", 4)).await;
    place.json(&["sources", "fetch", "south", "--wait"]).await;
    site.release("/score");
    until("the journal is empty", || async { place.is_idle().await }).await;
    assert_eq!(worker.finished("retry").await, 0.0, "no attempt failed");
    for role in [&scheduler, &worker] {
        role.await_readiness(200, "").await;
    }
    place.assert_scored(34).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_waited_out_and_nothing_is_rescued() {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("REDIS__LEASE", "2s");
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 30)).await;
    site.hold("/score");
    let (scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    let api = place.start("api").await;
    place.json(&["sources", "fetch", "--all"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;
    place.redis.pause().unwrap();
    let paused = Instant::now();
    for role in [&scheduler, &worker, &api] {
        role.await_readiness(503, r#""redis":{"ok":false"#).await;
        assert_eq!(role.get("/healthz").await.0, 200, "it waits, it does not end");
    }
    let asked = Instant::now();
    let (code, _, problem) = api.post("/api/v1/jobs", "", &serde_json::json!({"kind": "vacancy.fetch_all"})).await;
    assert_eq!(code, 503, "{problem}");
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    site.release("/score");
    until("what ran is committed", || async { place.count("SELECT count(*) FROM scoring_history").await == 8 }).await;
    until("the outage was long enough", || async { paused.elapsed() > Duration::from_secs(6) }).await;
    place.redis.resume().unwrap();
    until("all is done", || async { place.is_idle().await }).await;
    for role in [&scheduler, &worker, &api] {
        role.await_readiness(200, "").await;
    }
    assert_eq!(rescued(&[&scheduler, &worker]).await, 0.0, "nothing was lost");
    assert_eq!(site.requests("/score").len(), 30, "nothing ran twice");
    place.assert_scored(30).await;
}
