//! A worker process that stands still (a stopped virtual machine, a swapping host) and goes on when its jobs are others'.

use std::time::Duration;

use windrow_tests::{Page, Place, Site, long_ones, until, until_within};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_past_its_lease_finishes_nothing_that_it_lost_and_then_works_again() {
    frozen_past("3s", Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_past_the_usual_lease_finishes_nothing_that_it_lost_and_then_works_again() {
    if long_ones() {
        frozen_past("10s", Duration::from_secs(12)).await;
    }
}

async fn frozen_past(lease: &str, limit: Duration) {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("REDIS__LEASE", lease);
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 8)).await;

    site.hold("/score");
    let (scheduler, frozen) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;
    frozen.freeze();
    // Its answers are in its sockets when it wakes: it could go on at once.
    site.release("/score");
    let worker = place.start("worker").await;
    until_within(limit, "another has run its jobs", || async {
        place.count("SELECT count(*) FROM scoring_history").await == 8
    })
    .await;
    let rescued = scheduler.metric("windrow_jobs_rescued_total", &[]).await
        + worker.metric("windrow_jobs_rescued_total", &[]).await;
    assert_eq!(rescued, 8.0);

    frozen.thaw();
    until("it has learnt that it lost them", || async { frozen.metric("windrow_leases_lost_total", &[]).await == 8.0 })
        .await;
    assert_eq!(frozen.metric("windrow_scoring_scored_total", &[]).await, 0.0, "it scored what it had lost");
    place.assert_scored(8).await;

    frozen.await_readiness(200, "").await;
    drop(worker);
    place.source(&site, "south", Page::vacancies("south", 8)).await;
    place.json(&["sources", "fetch", "south"]).await;
    until("it works again", || async { place.count("SELECT count(*) FROM scoring_history").await == 16 }).await;
    until("all is done", || async { place.is_idle().await }).await;
    place.assert_scored(16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_between_its_delete_and_its_commit_does_not_keep_the_job_from_others() {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    place.set("REDIS__LEASE", "3s");
    place.tenant(&site).await;
    place.source(&site, "north", Page::vacancies("north", 1)).await;
    let (_scheduler, frozen) = tokio::join!(place.start("scheduler"), place.start("worker"));

    // Its transaction, in which its row is deleted already, waits here for the record of the score.
    let mut lock = place.database.begin().await.unwrap();
    sqlx::query("LOCK TABLE scoring_history IN SHARE MODE").execute(&mut *lock).await.unwrap();
    place.json(&["sources", "fetch", "--all"]).await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'scoring_history'::regclass";
    until("the record of the score waits", || async { place.count(waits).await == 1 }).await;
    frozen.freeze();
    lock.rollback().await.unwrap();
    until("its transaction is idle", || async {
        place.count("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'").await == 1
    })
    .await;

    let worker = place.start("worker").await;
    // The lease, and what a transaction may be idle: the longer of the two, 8 s.
    until_within(Duration::from_secs(20), "another has finished it", || async {
        place.count("SELECT count(*) FROM scoring_history").await == 1
    })
    .await;
    frozen.thaw();
    until("it has learnt that it lost it", || async { frozen.metric("windrow_leases_lost_total", &[]).await == 1.0 })
        .await;
    until("all is done", || async { place.is_idle().await }).await;
    place.assert_scored(1).await;
    assert_eq!(worker.finished("retry").await, 0.0, "a lock that is held counts no attempt");
}
