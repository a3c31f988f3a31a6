//! Jobs from outside, over HTTP, also while Redis is away.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use windrow_tests::{Place, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_twice_is_one_job() {
    let place = Place::new().await;
    let (api, worker) = tokio::join!(place.start("api"), place.start("worker"));
    let _scheduler = place.start("scheduler").await;
    for kind in ["payment.post_due", "vacancy.requeue_unscored"] {
        let job = json!({"kind": kind});
        let key = format!("idempotency-key: {kind}\r\n");
        let (first, again) = tokio::join!(api.post("/api/v1/jobs", &key, &job), api.post("/api/v1/jobs", &key, &job));
        let mut codes = [first.0, again.0];
        codes.sort_unstable();
        assert_eq!(codes, [200, 201], "{first:?} {again:?}");
        assert_eq!(first.2["id"], again.2["id"]);
        until("it is done", || async { place.is_idle().await }).await;
        let kind = format!("kind=\"{kind}\"");
        assert_eq!(worker.metric("windrow_jobs_finished_total", &["outcome=\"complete\"", &kind]).await, 1.0);
        let (late, _, answer) = api.post("/api/v1/jobs", &key, &job).await;
        assert_eq!((late, &answer["id"]), (200, &first.2["id"]), "also when it is over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_fast_jobs_are_refused_at_once_and_journaled_ones_are_taken_and_run_later() {
    let place = Place::new().await;
    let (api, worker) = tokio::join!(place.start("api"), place.start("worker"));
    let _scheduler = place.start("scheduler").await;
    place.redis.stop().unwrap();
    let asked = Instant::now();
    let (code, head, problem) = api.post("/api/v1/jobs", "", &json!({"kind": "vacancy.fetch_all"})).await;
    assert_eq!(code, 503, "{problem}");
    assert!(head.contains("retry-after: ") && head.contains("application/problem+json"), "{head}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let (code, _, accepted) = api.post("/api/v1/jobs", "", &json!({"kind": "payment.post_due"})).await;
    assert_eq!(code, 201, "{accepted}");
    assert_eq!(worker.finished("complete").await, 0.0);
    place.redis.restart().unwrap();
    until("it is done", || async { worker.finished("complete").await == 1.0 }).await;
    until("nothing is left", || async { place.is_idle().await }).await;
}
