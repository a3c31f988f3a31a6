//! A worker process that is killed in mid-run costs time and nothing else.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use windrow_tests::{Page, Place, Site, until, until_within};

/// A lease of 10 s and the tick that notices.
const AGAIN: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_killed_worker_run_again_within_12_seconds_and_every_effect_is_there_once() {
    let (mut place, site) = tokio::join!(Place::new(), Site::start());
    // Small steps, so that there is a middle to die in.
    place.set("IMPORT__BATCH_ROWS", "500");
    place.set("PAYMENTS__BATCH", "2");
    place.set("PAYMENTS__BATCHES_PER_JOB", "20");
    place.tenant(&site).await;
    for name in ["north", "south", "west"] {
        place.source(&site, name, Page::vacancies(name, 12).delay(Duration::from_millis(200))).await;
    }
    place.payments(60).await;
    place.numbers(20_000).await;

    // Whoever waits for a lock of this test does so until it is killed.
    sqlx::raw_sql(
        "DO $$ BEGIN
             EXECUTE format('ALTER ROLE %I IN DATABASE %I SET lock_timeout = ''60s''', current_user, current_database());
         END $$",
    )
    .execute(&place.database)
    .await
    .unwrap();

    site.hold("/score");
    let (_scheduler, mut doomed) = tokio::join!(place.start("scheduler"), place.start("worker"));
    place.json(&["sources", "fetch", "--all"]).await;
    until("all its slots for scoring are taken", || async { site.requests("/score").len() == 8 }).await;
    // As soon as each is under way, nothing more of it is committed: its next statement waits for a lock, in the middle of
    // its transaction.
    let mut locks = place.database.begin().await.unwrap();
    place.json(&["jobs", "enqueue", "payment.post_due"]).await;
    until("postings are under way", || async { place.count("SELECT count(*) FROM payment_run").await > 3 }).await;
    sqlx::query("LOCK TABLE payment_run IN SHARE MODE").execute(&mut *locks).await.unwrap();
    place.json(&["import", "import/numbers.csv", "--project", "Spring"]).await;
    let rows = "SELECT coalesce(sum(rows_read), 0)::bigint FROM import";
    until("the import is under way", || async { place.count(rows).await > 1000 }).await;
    sqlx::query("LOCK TABLE phone_number IN SHARE MODE").execute(&mut *locks).await.unwrap();
    until("both are in the middle of a transaction", || async {
        place
            .count(
                "SELECT count(DISTINCT relation) FROM pg_locks WHERE NOT granted AND relation IN
             ('phone_number'::regclass, 'payment_run'::regclass) AND database =
             (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            .await
            == 2
    })
    .await;
    let lost: BTreeSet<String> = site.requests("/score").into_iter().collect();
    doomed.kill().await;
    let killed_at = Instant::now();
    locks.rollback().await.unwrap();
    assert!(place.count("SELECT count(*) FROM phone_number").await < 20_000, "the import was over already");
    assert!(place.count("SELECT count(*) FROM payment_run").await < 240, "the postings were over already");

    site.release("/score");
    let worker = place.start("worker").await;
    until_within(AGAIN.saturating_sub(killed_at.elapsed()), "its jobs run again", || async {
        let again = site.requests("/score");
        lost.iter().all(|key| again.iter().filter(|other| *other == key).count() == 2)
    })
    .await;
    until("all is done", || async { place.is_idle().await }).await;
    assert_eq!(worker.finished("retry").await, 0.0, "no attempt failed");
    place.assert_scored(36).await;
    place.assert_imported(20_000, 40_000).await;
    place.assert_posted(240).await;
}
