//! R18, R22, R25: enqueue in the caller's transaction.

use std::{collections::HashSet, time::Duration};

use sqlx::postgres::PgListener;
use windrow_queue::{
    Due, Enqueued, Tenant,
    journal::{self, EnqueueError, IdempotencyConflict, OUTBOX_CHANNEL},
};

use crate::support::{attempt, count, database, enqueue, note, patient};

#[tokio::test]
async fn a_job_stands_if_and_only_if_the_callers_transaction_commits() {
    let pool = database().await;
    let mut tx = pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, &[note("a")]).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 0);
    enqueue(&pool, &[note("a")]).await;
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 1);
}

#[tokio::test]
async fn thousands_of_jobs_are_answered_in_their_order() {
    let pool = database().await;
    let mut jobs: Vec<_> = (0..2500).map(|number| note(&number.to_string())).collect();
    for (number, job) in jobs.iter_mut().enumerate() {
        // Every tenth shares its key with the one nine before it.
        *job = job.clone().unique(&(if number % 10 == 9 { number - 9 } else { number }).to_string());
    }
    let answers = enqueue(&pool, &jobs).await;
    for (number, answer) in answers.iter().enumerate() {
        if number % 10 == 9 {
            assert_eq!(*answer, Enqueued::Exists(answers[number - 9].id()), "job {number}");
        } else {
            assert!(answer.is_created(), "job {number}");
        }
    }
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 2250);
    assert_eq!(count(&pool, "SELECT count(DISTINCT id) FROM job_outbox").await, 2250);
}

#[tokio::test]
async fn a_unique_key_is_free_again_when_its_job_completes_and_is_scoped_by_tenant() {
    let pool = patient(&database().await).await;
    let first = enqueue(&pool, &[note("a").unique("k")]).await[0];
    assert_eq!(enqueue(&pool, &[note("b").unique("k")]).await[0], Enqueued::Exists(first.id()));
    let other = note("c").tenant(Tenant::new("acme").unwrap()).unique("k");
    assert!(enqueue(&pool, &[other]).await[0].is_created());
    let tx = attempt(&pool, first.id(), 1).begin().await.unwrap();
    tx.commit().await.unwrap();
    assert!(enqueue(&pool, &[note("d").unique("k")]).await[0].is_created());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_with_the_same_unique_keys_in_any_order_never_deadlock() {
    let pool = patient(&database().await).await;
    let mut created = 0;
    for round in 0..10 {
        // All transactions are open before the first of them enqueues, so that they really meet.
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(pool.begin().await.unwrap());
        }
        let producers = open.into_iter().enumerate().map(|(producer, mut tx)| {
            let mut jobs: Vec<_> = (0..800).map(|key| note("x").unique(&format!("{round}.{key}"))).collect();
            if producer % 2 == 1 {
                jobs.reverse();
            }
            tokio::spawn(async move {
                let answers = journal::enqueue_in(&mut tx, &jobs).await.unwrap();
                tx.commit().await.unwrap();
                answers.iter().filter(|answer| answer.is_created()).count()
            })
        });
        for producer in producers.collect::<Vec<_>>() {
            created += producer.await.unwrap();
        }
    }
    assert_eq!(created, 8000);
}

#[tokio::test]
async fn a_delay_counts_from_when_postgres_took_the_job() {
    let pool = database().await;
    enqueue(&pool, &[note("a").due(Due::In(Duration::from_secs(3600)))]).await;
    let seconds = count(&pool, "SELECT extract(epoch FROM run_at - clock_timestamp())::bigint FROM job_journal").await;
    assert!((3590..=3600).contains(&seconds), "{seconds}");
    // It goes into Redis at once all the same, and waits there.
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox WHERE relay_at <= now()").await, 1);
}

#[tokio::test]
async fn enqueuers_notify_only_while_the_relay_sleeps() {
    let pool = database().await;
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen(OUTBOX_CHANNEL).await.unwrap();
    let notified = async |listener: &mut PgListener| {
        // A marker of our own comes behind whatever the enqueuer sent.
        sqlx::query("SELECT pg_notify($1, 'marker')").bind(OUTBOX_CHANNEL).execute(&pool).await.unwrap();
        let mut heard = 0;
        while listener.recv().await.unwrap().payload() != "marker" {
            heard += 1;
        }
        heard
    };
    journal::set_idle(&pool, false).await.unwrap();
    enqueue(&pool, &[note("a"), note("b")]).await;
    assert_eq!(notified(&mut listener).await, 0);
    journal::set_idle(&pool, true).await.unwrap();
    enqueue(&pool, &[note("c"), note("d")]).await;
    assert_eq!(notified(&mut listener).await, 1);
}

#[tokio::test]
async fn the_same_request_twice_is_answered_with_the_first_job_even_after_it_completed() {
    let pool = database().await;
    let ask = async |text: &str| {
        let mut tx = pool.begin().await.unwrap();
        let answer = journal::enqueue_idempotent(&mut tx, &note(text).idempotent("request-1")).await;
        tx.commit().await.unwrap();
        answer
    };
    let expire = "UPDATE job_idempotency SET expires_at = now() - interval '1 s'";
    let first = ask("a").await.unwrap();
    assert!(first.is_created());
    assert_eq!(ask("a").await.unwrap(), Enqueued::Exists(first.id()));
    let other = ask("b").await.unwrap_err();
    assert!(matches!(other, EnqueueError::Conflict(IdempotencyConflict { first: id }) if id == first.id()), "{other}");
    sqlx::query(expire).execute(&pool).await.unwrap();
    assert_eq!(ask("a").await.unwrap(), Enqueued::Exists(first.id()), "its job stands, however long");
    attempt(&pool, first.id(), 1).begin().await.unwrap().commit().await.unwrap();
    sqlx::query("UPDATE job_idempotency SET expires_at = now() + interval '1 h'").execute(&pool).await.unwrap();
    assert_eq!(ask("a").await.unwrap(), Enqueued::Exists(first.id()));
    assert!(ask("b").await.is_err());
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);

    sqlx::query(expire).execute(&pool).await.unwrap();
    assert!(ask("b").await.unwrap().is_created(), "an expired key counts as absent");
    sqlx::query("UPDATE job_idempotency SET request = NULL").execute(&pool).await.unwrap();
    assert!(!ask("c").await.unwrap().is_created(), "a key of before requests were recorded decides alone");
}

#[tokio::test]
async fn the_same_request_at_the_same_time_makes_one_job() {
    let pool = patient(&database().await).await;
    let requests: Vec<_> = (0..8)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut tx = pool.begin().await.unwrap();
                let mut job = note("a").idempotent("request");
                job.traceparent = Some(number.to_string());
                let answer = journal::enqueue_idempotent(&mut tx, &job).await.unwrap();
                tx.commit().await.unwrap();
                answer.id()
            })
        })
        .collect();
    let mut ids = HashSet::new();
    for request in requests {
        ids.insert(request.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1);
}
