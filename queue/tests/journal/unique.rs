//! R25: unique keys: how long they hold, and what a second job comes to.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use windrow_queue::{
    Delivery, Due, Enqueued, Member, NewJob, OnConflict, UniqueScope,
    journal::{self, start_check},
    policy::PolicyOverride,
};

use crate::support::{attempt, blocked, count, database, enqueue, note, patient};

const HOUR: Duration = Duration::from_secs(3600);

fn keyed(text: &str, scope: UniqueScope, on_conflict: OnConflict) -> NewJob {
    note(text).unique_for("key", scope, on_conflict)
}

fn later(text: &str, on_conflict: OnConflict) -> NewJob {
    keyed(text, UniqueScope::UntilFinal, on_conflict).due(Due::In(HOUR))
}

async fn one(pool: &PgPool, job: NewJob) -> Enqueued {
    enqueue(pool, &[job]).await.remove(0)
}

/// Generation, args and seconds until it is due, of the only row.
async fn row(pool: &PgPool) -> (i32, Value, i64) {
    sqlx::query_as(
        "SELECT gen, args, round(extract(epoch FROM run_at - clock_timestamp()) / 60)::bigint FROM job_journal",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn starts(pool: &PgPool, job: Enqueued, generation: i32) -> bool {
    !start_check(pool, &[Member::journaled(job.id(), generation)]).await.unwrap().is_empty()
}

#[tokio::test]
async fn a_waiting_job_takes_over_args_and_policy_and_its_old_member_is_a_ghost() {
    let pool = database().await;
    let first = one(&pool, later("a", OnConflict::Replace)).await;
    sqlx::query("UPDATE job_journal SET checkpoint = '5', attempt = 3").execute(&pool).await.unwrap();
    let mut second = keyed("b", UniqueScope::UntilFinal, OnConflict::Replace);
    second.policy = PolicyOverride { rescue_limit: Some(7), delivery: Some(Delivery::AtMostOnce), ..second.policy };
    assert_eq!(one(&pool, second.clone()).await, Enqueued::Replaced(first.id()));
    assert_eq!(row(&pool).await, (2, json!({"text": "b"}), 60), "its time is its own");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE checkpoint IS NULL AND attempt = 3").await, 1);
    let told = "SELECT count(*) FROM job_outbox WHERE gen = 2 AND rescue_limit = 7 AND at_most_once";
    assert_eq!(count(&pool, told).await, 1);
    assert!(!starts(&pool, first, 1).await && starts(&pool, first, 2).await);
    // The same request sent again.
    assert_eq!(one(&pool, second).await, Enqueued::Replaced(first.id()));
    assert_eq!(one(&pool, later("a", OnConflict::Ignore)).await, Enqueued::Exists(first.id()));
    assert_eq!(row(&pool).await.1, json!({"text": "b"}));
}

#[tokio::test]
async fn a_waiting_job_takes_over_a_time_and_keeps_its_args() {
    let pool = database().await;
    let job = later("a", OnConflict::Reschedule);
    let first = one(&pool, job.clone()).await;
    assert_eq!(one(&pool, job).await, Enqueued::Exists(first.id()), "the same request sent again is no other");
    let sooner = later("b", OnConflict::Reschedule).due(Due::In(HOUR / 2));
    assert_eq!(one(&pool, sooner).await, Enqueued::Rescheduled(first.id()));
    assert_eq!(row(&pool).await, (2, json!({"text": "a"}), 30));
    let now = later("c", OnConflict::Reschedule).due(Due::Now);
    assert_eq!(one(&pool, now.clone()).await, Enqueued::Rescheduled(first.id()));
    assert_eq!(row(&pool).await, (3, json!({"text": "a"}), 0));
    assert_eq!(one(&pool, now).await, Enqueued::Exists(first.id()), "its time has come");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 3);
}

#[tokio::test]
async fn a_job_whose_time_has_come_or_that_is_parked_or_a_member_of_a_batch_is_not_changed() {
    let pool = database().await;
    for (prepare, from) in [
        ("SELECT", OnConflict::Replace),
        ("SELECT", OnConflict::Reschedule),
        ("UPDATE job_journal SET state = 'parked', run_at = now() + interval '1 h'", OnConflict::Replace),
        ("UPDATE job_journal SET batch_id = id, run_at = now() + interval '1 h'", OnConflict::Replace),
    ] {
        let first = one(&pool, keyed("a", UniqueScope::UntilFinal, from)).await;
        sqlx::query(prepare).execute(&pool).await.unwrap();
        assert_eq!(one(&pool, later("b", from)).await, Enqueued::Exists(first.id()));
        let (generation, args, _) = row(&pool).await;
        assert_eq!((generation, args), (1, json!({"text": "a"})));
        sqlx::query("DELETE FROM job_journal").execute(&pool).await.unwrap();
    }
}

#[tokio::test]
async fn an_attempt_that_began_before_its_args_were_replaced_has_no_effects() {
    let pool = patient(&database().await).await;
    let first = one(&pool, later("a", OnConflict::Replace)).await;
    let attempt_of_a = attempt(&pool, first.id(), 1);
    one(&pool, later("b", OnConflict::Replace)).await;
    assert_eq!(attempt_of_a.begin().await.unwrap_err().class(), "gone");
    // And the other way round: a transaction that has the row is waited for, and nothing is replaced any more.
    let mut finishing = attempt(&pool, first.id(), 2).begin().await.unwrap();
    let replace = tokio::spawn({
        let pool = pool.clone();
        async move { one(&pool, later("c", OnConflict::Replace)).await }
    });
    blocked(&pool).await;
    sqlx::query("INSERT INTO effect VALUES ($1, 'b')").bind(first.id().0).execute(&mut *finishing).await.unwrap();
    finishing.commit().await.unwrap();
    let answer = replace.await.unwrap();
    assert!(answer.is_created() || answer == Enqueued::Exists(first.id()), "{answer:?}");
}

#[tokio::test]
async fn the_last_of_several_in_one_call_wins_and_every_one_is_answered() {
    let pool = database().await;
    let answers = enqueue(
        &pool,
        &[
            later("a", OnConflict::Replace),
            later("b", OnConflict::Replace),
            later("c", OnConflict::Reschedule).due(Due::In(HOUR / 2)),
            later("d", OnConflict::Replace),
            later("e", OnConflict::Ignore),
        ],
    )
    .await;
    let id = answers[0].id();
    let expected = [
        Enqueued::Created(id),
        Enqueued::Replaced(id),
        Enqueued::Rescheduled(id),
        Enqueued::Replaced(id),
        Enqueued::Exists(id),
    ];
    assert_eq!(answers, expected);
    assert_eq!(row(&pool).await, (2, json!({"text": "d"}), 30));
}

#[tokio::test]
async fn a_key_that_holds_while_queued_is_free_once_its_job_starts() {
    let pool = database().await;
    let queued = |text| keyed(text, UniqueScope::Queued, OnConflict::Ignore);
    let first = one(&pool, queued("a")).await;
    let other = enqueue(&pool, &[note("other").unique("other")]).await[0];
    assert_eq!(one(&pool, queued("b")).await, Enqueued::Exists(first.id()));
    let both = [Member::journaled(first.id(), 1), Member::journaled(other.id(), 1)];
    assert_eq!(start_check(&pool, &both).await.unwrap().len(), 2);
    let second = one(&pool, queued("b")).await;
    assert!(second.is_created(), "the first runs");
    assert_eq!(one(&pool, queued("c")).await, Enqueued::Exists(second.id()));
    assert!(
        !enqueue(&pool, &[note("again").unique("other")]).await[0].is_created(),
        "that one holds until it is final"
    );
    assert!(starts(&pool, first, 1).await, "a retry of the first");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE unique_key IS NOT NULL").await, 2);
}

#[tokio::test]
async fn a_job_that_is_replaced_while_it_starts_does_not_start() {
    let pool = patient(&database().await).await;
    let queued = |text| keyed(text, UniqueScope::Queued, OnConflict::Replace).due(Due::In(HOUR));
    let first = one(&pool, queued("a")).await;
    let mut tx = pool.begin().await.unwrap();
    let answers = journal::enqueue_in(&mut tx, &[queued("b")]).await.unwrap();
    assert_eq!(answers[0], Enqueued::Replaced(first.id()));
    let start = tokio::spawn({
        let pool = pool.clone();
        async move { starts(&pool, first, 1).await }
    });
    blocked(&pool).await;
    tx.commit().await.unwrap();
    assert!(!start.await.unwrap(), "what it would run is not what is wanted any more");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE unique_key IS NOT NULL").await, 1);
}

#[tokio::test]
async fn a_key_for_a_period_holds_whatever_becomes_of_its_job() {
    let pool = database().await;
    let hourly = |text, on_conflict| keyed(text, UniqueScope::Period(HOUR), on_conflict);
    let first = one(&pool, hourly("a", OnConflict::Ignore).due(Due::In(HOUR))).await;
    assert_eq!(one(&pool, hourly("b", OnConflict::Ignore)).await, Enqueued::Exists(first.id()));
    assert_eq!(one(&pool, hourly("c", OnConflict::Replace)).await, Enqueued::Replaced(first.id()));
    assert_eq!(row(&pool).await.1, json!({"text": "c"}));
    attempt(&pool, first.id(), 2).begin().await.unwrap().commit().await.unwrap();
    assert_eq!(one(&pool, hourly("d", OnConflict::Replace)).await, Enqueued::Exists(first.id()), "it completed");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);

    sqlx::query("UPDATE job_unique SET expires_at = now()").execute(&pool).await.unwrap();
    let both = [hourly("e", OnConflict::Ignore), hourly("f", OnConflict::Ignore)];
    let answers = enqueue(&pool, &both).await;
    assert_eq!(answers, [Enqueued::Created(both[0].id), Enqueued::Exists(both[0].id)]);
    sqlx::query("UPDATE job_unique SET expires_at = now()").execute(&pool).await.unwrap();
    assert!(one(&pool, hourly("g", OnConflict::Ignore)).await.is_created(), "over, though the one before stands");
    let mut dropped = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM job_unique").execute(&mut *dropped).await.unwrap();
    journal::enqueue_in(&mut dropped, &[hourly("h", OnConflict::Ignore)]).await.unwrap();
    dropped.rollback().await.unwrap();
    assert!(!one(&pool, hourly("i", OnConflict::Ignore)).await.is_created());
    let forever = keyed("j", UniqueScope::Period(Duration::MAX), OnConflict::Ignore);
    assert!(!one(&pool, forever).await.is_created(), "no period is too long to be written down");
}

#[tokio::test]
async fn producers_with_mixed_policies_in_any_order_neither_deadlock_nor_make_two() {
    let pool = patient(&database().await).await;
    let producers: Vec<_> = (0..6)
        .map(|producer: usize| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for round in 0..5 {
                    let mut jobs: Vec<_> = (0..40)
                        .map(|n| {
                            let key = (n * (producer * 7 + 3) + round) % 41;
                            let (scope, on_conflict) = match key % 4 {
                                0 => (UniqueScope::Period(HOUR), OnConflict::Replace),
                                1 => (UniqueScope::Queued, OnConflict::Reschedule),
                                2 => (UniqueScope::UntilFinal, OnConflict::Replace),
                                _ => (UniqueScope::UntilFinal, OnConflict::Ignore),
                            };
                            note("x").unique_for(&key.to_string(), scope, on_conflict).due(Due::In(HOUR))
                        })
                        .collect();
                    if producer.is_multiple_of(2) {
                        jobs.reverse();
                    }
                    let mut tx = pool.begin().await.unwrap();
                    journal::enqueue_in(&mut tx, &jobs).await.unwrap();
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 41);
}

#[tokio::test]
async fn five_hundred_that_stand_are_replaced_in_one_call() {
    let pool = database().await;
    let jobs = |text: &str| -> Vec<NewJob> {
        (0..500)
            .map(|n| {
                note(text).unique_for(&n.to_string(), UniqueScope::UntilFinal, OnConflict::Replace).due(Due::In(HOUR))
            })
            .collect()
    };
    let first = enqueue(&pool, &jobs("a")).await;
    let second = enqueue(&pool, &jobs("b")).await;
    let expected: Vec<_> = first.iter().map(|answer| Enqueued::Replaced(answer.id())).collect();
    assert_eq!(second, expected);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE args->>'text' = 'b' AND gen = 2").await, 500);
}
