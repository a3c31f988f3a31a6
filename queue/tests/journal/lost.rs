//! R21: what Redis ought to have, and ought not to.

use std::time::Duration;

use uuid::Uuid;
use windrow_queue::{Delivery, Due, Member, NewJob, QueueName, journal, policy::PolicyOverride};

use crate::support::{count, database, enqueue, note};

#[tokio::test]
async fn live_rows_of_some_queues_are_read_in_bounded_looks() {
    let pool = database().await;
    let other = |mut job: NewJob| {
        job.queue = QueueName::from_static("other");
        job
    };
    let mut jobs: Vec<NewJob> = (0..25).map(|n| note(&n.to_string())).collect();
    jobs[3] = jobs[3].clone().due(Due::In(Duration::from_secs(3600)));
    let parked = jobs[4].id;
    jobs.extend((0..25).map(|_| other(note("x"))));
    enqueue(&pool, &jobs).await;
    sqlx::query("UPDATE job_journal SET state = 'parked' WHERE id = $1").bind(parked.0).execute(&pool).await.unwrap();

    let (mut found, mut after, mut looks) = (Vec::new(), Some(Uuid::nil()), 0);
    while let Some(from) = after {
        let page = journal::live_page(&pool, from, 10, &["test"]).await.unwrap();
        assert!(page.rows.len() <= 10);
        found.extend(page.rows.iter().map(|row| row.job().unwrap()));
        (after, looks) = (page.next, looks + 1);
    }
    // The last page was full: whether more follow is seen by one look more.
    assert_eq!(looks, 6, "whatever the looks find, they end after ten rows");
    let ids: Vec<_> = found.iter().map(|job| job.member).collect();
    let expected: Vec<_> =
        jobs[..25].iter().filter(|job| job.id != parked).map(|job| Member::journaled(job.id, 1)).collect();
    assert_eq!(ids, expected);
    assert!(found.iter().all(|job| (job.due == Due::Now) != (job.member.id == jobs[3].id)));
    let both = journal::live_page(&pool, Uuid::nil(), 1000, &["test", "other"]).await.unwrap();
    assert_eq!((both.rows.len(), both.next), (49, None));
}

#[tokio::test]
async fn members_without_a_row_of_their_generation_are_told_from_those_that_may_run() {
    let pool = database().await;
    let (live, gone, parked) = (note("live"), note("gone"), note("parked"));
    let once = PolicyOverride { delivery: Some(Delivery::AtMostOnce), ..PolicyOverride::default() };
    let started = NewJob { policy: once, ..note("started") };
    enqueue(&pool, &[live.clone(), parked.clone(), started.clone()]).await;
    sqlx::query("UPDATE job_journal SET state = 'parked' WHERE id = $1")
        .bind(parked.id.0)
        .execute(&pool)
        .await
        .unwrap();
    let member = |job: &NewJob| Member::journaled(job.id, 1);
    let minute = Duration::from_secs(60);
    assert_eq!(journal::start_at_most_once(&pool, &[(member(&started), minute)]).await.unwrap().len(), 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 2);

    let ahead = Member::journaled(live.id, 2);
    let all = [member(&live), ahead, member(&gone), member(&parked), member(&started)];
    let mut without = journal::without_row(&pool, &all).await.unwrap();
    without.sort_by_key(|member| all.iter().position(|other| other == member));
    assert_eq!(without, [ahead, member(&gone), member(&parked)]);
}
