//! R18, R22: the outbox in lanes.

use std::time::Duration;

use windrow_queue::{
    Band, NewJob, QueueName, Tenant,
    journal::{self, OutboxLane},
};

use crate::support::{count, database, enqueue, note};

fn job(band: Band, queue: &str, tenant: Option<&str>) -> NewJob {
    let mut job = note("x");
    job.band = band;
    job.queue = QueueName::new(queue).unwrap();
    job.tenant = tenant.map(|tenant| Tenant::new(tenant).unwrap());
    job
}

fn names(lanes: &[OutboxLane]) -> Vec<(i16, &str)> {
    lanes.iter().map(|lane| (lane.band(), lane.queue())).collect()
}

#[tokio::test]
async fn lanes_are_found_most_urgent_first_and_without_the_queues_in_back_off() {
    let pool = database().await;
    enqueue(
        &pool,
        &[
            job(Band::Normal, "b", Some("x")),
            job(Band::Normal, "b", Some("y")),
            job(Band::Normal, "a", None),
            job(Band::Critical, "c", None),
            job(Band::Normal, "b", Some("x")),
            job(Band::Low, "a", None),
        ],
    )
    .await;
    let lanes = journal::lanes(&pool, None, 100, &[]).await.unwrap();
    assert_eq!(names(&lanes), [(0, "c"), (2, "a"), (2, "b"), (2, "b"), (3, "a")]);
    let without = journal::lanes(&pool, None, 100, &["b".to_owned(), "c".to_owned()]).await.unwrap();
    assert_eq!(names(&without), [(2, "a"), (3, "a")]);
    let first = journal::lanes(&pool, None, 2, &[]).await.unwrap();
    let rest = journal::lanes(&pool, first.last(), 100, &[]).await.unwrap();
    assert_eq!(names(&rest), [(2, "b"), (2, "b"), (3, "a")]);
}

#[tokio::test]
async fn every_lane_gives_its_share_however_many_rows_another_has() {
    let pool = database().await;
    let mut jobs: Vec<_> = (0..1000).map(|_| job(Band::Normal, "q", Some("big"))).collect();
    jobs.extend((0..3).map(|_| job(Band::Normal, "q", Some("small"))));
    enqueue(&pool, &jobs).await;
    let lanes = journal::lanes(&pool, None, 100, &[]).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let rows = journal::take(&mut tx, &lanes, 10).await.unwrap();
    let of = |tenant: &str| {
        rows.iter().filter(|row| row.job().unwrap().tenant.is_some_and(|name| name.as_str() == tenant)).count()
    };
    assert_eq!((of("big"), of("small")), (10, 3));
    let ids: Vec<_> = rows.iter().map(|row| row.key().0).collect();
    let expected: Vec<_> = jobs[..10].iter().chain(&jobs[1000..]).map(|job| job.id).collect();
    assert_eq!(ids, expected, "oldest first");
    tx.commit().await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 990);
}

#[tokio::test]
async fn rows_that_a_relay_holds_are_skipped_and_are_back_when_it_dies() {
    let pool = database().await;
    enqueue(&pool, &(0..20).map(|_| note("x")).collect::<Vec<_>>()).await;
    let lanes = journal::lanes(&pool, None, 100, &[]).await.unwrap();
    let (mut one, mut two) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    assert_eq!(journal::take(&mut one, &lanes, 15).await.unwrap().len(), 15);
    assert_eq!(journal::take(&mut two, &lanes, 15).await.unwrap().len(), 5);
    // What the server does when a relay's connection ends; dropping it here would not wait for that.
    one.rollback().await.unwrap();
    two.commit().await.unwrap();
    let mut three = pool.begin().await.unwrap();
    assert_eq!(journal::take(&mut three, &lanes, 500).await.unwrap().len(), 15);
}

#[tokio::test]
async fn refused_rows_come_back_later_and_late_commits_are_found_by_the_next_look() {
    let pool = database().await;
    enqueue(&pool, &[note("a"), note("b")]).await;
    let mut lanes = journal::lanes(&pool, None, 100, &[]).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let rows = journal::take(&mut tx, &lanes, 500).await.unwrap();
    journal::put_back(&mut tx, &[&rows[0]], Duration::from_secs(60)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(journal::lanes(&pool, None, 100, &[]).await.unwrap().is_empty(), "nothing is due");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 1);

    // A transaction that began before the last row was taken commits after it. The known lane passes its rows over; the
    // next look does not.
    assert!(lanes[0].took(&rows[1]));
    enqueue(&pool, &[note("late")]).await;
    sqlx::query("UPDATE job_outbox SET relay_at = now() - interval '3 s' WHERE relay_at < now()")
        .execute(&pool)
        .await
        .unwrap();
    let mut tx = pool.begin().await.unwrap();
    assert!(journal::take(&mut tx, &lanes, 500).await.unwrap().is_empty());
    let lanes = journal::lanes(&pool, None, 100, &[]).await.unwrap();
    assert_eq!(journal::take(&mut tx, &lanes, 500).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_name_that_redis_cannot_have_is_an_error_and_no_panic() {
    let pool = database().await;
    enqueue(&pool, &[note("a")]).await;
    sqlx::query("UPDATE job_outbox SET queue = 'no}such{queue'").execute(&pool).await.unwrap();
    let lanes = journal::lanes(&pool, None, 100, &[]).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let rows = journal::take(&mut tx, &lanes, 500).await.unwrap();
    assert!(rows[0].job().unwrap_err().to_string().contains("no}such{queue"));
}
