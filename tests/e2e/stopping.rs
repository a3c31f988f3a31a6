//! Roles that are told to stop.

use std::time::Duration;

use windrow_tests::{Page, Place, Site, until, until_within};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_gives_back_what_does_not_finish_in_time_with_no_attempt_counted() {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("WORKER__GRACE", "1s");
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 20)).await;
    site.hold("/score");
    let (mut scheduler, mut worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;
    until("everything is relayed", || async { place.count("SELECT count(*) FROM job_outbox").await == 0 }).await;
    worker.terminate();
    let ended = worker.ended_within(Duration::from_secs(10)).await.expect("it ends within its grace");
    assert_eq!(ended.code(), Some(0));
    let counts = place.counts().await;
    assert_eq!((counts.ready, counts.running, counts.sessions), (20, 0, 0), "{counts:?}");
    for id in
        sqlx::query_scalar::<_, String>("SELECT id::text FROM job_journal").fetch_all(&place.database).await.unwrap()
    {
        let status = place.json(&["jobs", "status", &id]).await;
        assert_eq!((&status["state"], &status["attempt"]), (&"ready".into(), &0.into()), "{status}");
    }
    site.release("/score");
    let mut second = place.start("worker").await;
    until("all is done", || async { place.is_idle().await }).await;
    assert_eq!(second.metric("windrow_jobs_rescued_total", &[]).await, 0.0);
    place.assert_scored(20).await;
    for role in [&mut scheduler, &mut second] {
        role.terminate();
        assert_eq!(role.ended().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_what_runs_finish() {
    let (place, site) = tokio::join!(Place::new(), Site::start());
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 20)).await;
    site.hold("/score");
    let (_scheduler, mut worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;
    worker.terminate();
    worker.await_log("nothing more is claimed").await;
    // Longer than a handler has that is told to stop: it must not be told before the grace is over.
    assert!(worker.ended_within(Duration::from_secs(3)).await.is_none(), "its grace is 25 s");
    site.release("/score");
    assert_eq!(worker.ended_within(Duration::from_secs(15)).await.expect("it ends").code(), Some(0));
    // Slots that got free after the signal stayed free.
    assert_eq!((site.requests("/score").len(), place.count("SELECT count(*) FROM scoring_history").await), (8, 8));
    let _second = place.start("worker").await;
    until("all is done", || async { place.is_idle().await }).await;
    assert_eq!(site.requests("/score").len(), 20, "nothing ran twice");
    place.assert_scored(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_a_worker_at_once_and_its_lease_gives_its_jobs_back() {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("REDIS__LEASE", "3s");
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 8)).await;
    site.hold("/score");
    let (_scheduler, mut worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;
    worker.terminate();
    assert!(worker.ended_within(Duration::from_secs(1)).await.is_none(), "its grace is 25 s");
    worker.terminate();
    let ended = worker.ended_within(Duration::from_secs(1)).await.expect("it ends at once");
    assert_eq!(ended.code(), Some(130));
    site.release("/score");
    let second = place.start("worker").await;
    until_within(Duration::from_secs(10), "all is done", || async { place.is_idle().await }).await;
    assert_eq!(second.finished("retry").await, 0.0);
    place.assert_scored(8).await;
}
