//! R18, R20: final decisions in Postgres, and the way back.

use std::time::Duration;

use chrono::DateTime;
use serde_json::json;
use windrow_queue::{
    Decision, JobId, Member,
    journal::{self, CloseState, Closing},
    store::AttemptError,
};

use crate::support::{attempt, count, database, enqueue, note};

fn closing(state: CloseState) -> Closing<'static> {
    Closing { state, reason: "because", fingerprint: [7; 16], error: None, attempt: 3 }
}

async fn bury(pool: &sqlx::PgPool, id: JobId, generation: i32) -> bool {
    journal::close(pool, id, generation, &closing(CloseState::Dead)).await.unwrap()
}

#[tokio::test]
async fn a_job_is_closed_once_and_only_in_the_generation_that_was_judged() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    assert!(!bury(&pool, id, 2).await, "another generation");
    assert!(bury(&pool, id, 1).await);
    assert!(!bury(&pool, id, 1).await, "closed before");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);
    let closed = journal::show_closed(&pool, id).await.unwrap().unwrap();
    assert_eq!((closed.state.as_str(), closed.reason.as_str()), ("dead", "because"));
    assert_eq!((&closed.job["args"], &closed.job["attempt"]), (&json!({"text": "a"}), &json!(3)));
    let finished = attempt(&pool, id, 1).begin().await.unwrap_err();
    assert_eq!(finished.decision(), Decision::Gone, "a dead job has no effects any more");
}

#[tokio::test]
async fn a_completed_job_is_not_buried() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    attempt(&pool, id, 1).begin().await.unwrap().commit().await.unwrap();
    assert!(!bury(&pool, id, 1).await);
    assert!(journal::show_closed(&pool, id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_redriven_job_is_live_in_a_new_generation_that_its_old_attempts_cannot_touch() {
    let pool = database().await;
    let mut job = note("a").unique("key");
    job.traceparent = Some("00-trace".to_owned());
    let id = enqueue(&pool, &[job]).await[0].id();
    sqlx::query("UPDATE job_journal SET checkpoint = '5', attempt = 9").execute(&pool).await.unwrap();
    bury(&pool, id, 1).await;
    sqlx::query("DELETE FROM job_outbox").execute(&pool).await.unwrap();

    assert!(journal::redrive(&pool, id).await.unwrap());
    assert!(!journal::redrive(&pool, id).await.unwrap(), "it is dead no longer");
    assert!(journal::show_closed(&pool, id).await.unwrap().is_none());
    let (generation, attempts, checkpoint, trace): (i32, i32, serde_json::Value, String) =
        sqlx::query_as("SELECT gen, attempt, checkpoint, traceparent FROM job_journal").fetch_one(&pool).await.unwrap();
    assert_eq!((generation, attempts, checkpoint, trace.as_str()), (2, 0, json!(5), "00-trace"));
    assert_eq!(count(&pool, "SELECT gen::bigint FROM job_outbox").await, 2);

    let zombie = attempt(&pool, id, 1);
    assert_eq!(zombie.begin().await.unwrap_err().decision(), Decision::Gone);
    assert_eq!(zombie.step(Some(&5), &6).await.unwrap_err().decision(), Decision::Gone);
    assert!(!bury(&pool, id, 1).await);
    journal::mirror(&pool, Member::journaled(id, 1), Some(4), Duration::from_secs(60), None).await.unwrap();
    assert_eq!(count(&pool, "SELECT attempt::bigint FROM job_journal").await, 0);
    attempt(&pool, id, 2).begin().await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn a_job_whose_unique_key_is_taken_stays_dead() {
    let pool = database().await;
    let first = enqueue(&pool, &[note("a").unique("key")]).await[0].id();
    bury(&pool, first, 1).await;
    let second = enqueue(&pool, &[note("b").unique("key")]).await[0];
    assert!(second.is_created());
    assert!(!journal::redrive(&pool, first).await.unwrap());
    assert!(journal::show_closed(&pool, first).await.unwrap().is_some(), "it is still on record");
}

#[tokio::test]
async fn a_discarded_job_stays_on_record_and_cannot_be_redriven() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    assert!(!journal::discard(&pool, id).await.unwrap(), "it is not dead");
    bury(&pool, id, 1).await;
    assert!(journal::discard(&pool, id).await.unwrap());
    assert!(!journal::redrive(&pool, id).await.unwrap());
    assert_eq!(journal::show_closed(&pool, id).await.unwrap().unwrap().state, "discarded");
}

#[tokio::test]
async fn a_retry_is_mirrored_with_the_last_ten_errors_and_never_backwards() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    let member = Member::journaled(id, 1);
    for number in 1..=12 {
        let error = AttemptError {
            attempt: number,
            class: "test".to_owned(),
            message: "failed".to_owned(),
            at: DateTime::UNIX_EPOCH,
            ran: Duration::from_millis(5),
        };
        journal::mirror(&pool, member, Some(number), Duration::from_secs(60), Some(&error)).await.unwrap();
    }
    journal::mirror(&pool, member, Some(2), Duration::ZERO, None).await.unwrap();
    let (attempt, errors): (i32, serde_json::Value) =
        sqlx::query_as("SELECT attempt, errors FROM job_journal").fetch_one(&pool).await.unwrap();
    assert_eq!(attempt, 12);
    let kept: Vec<_> = errors.as_array().unwrap().iter().map(|error| error["attempt"].as_i64().unwrap()).collect();
    assert_eq!(kept, (3..=12).collect::<Vec<_>>());
    let due = count(&pool, "SELECT extract(epoch FROM run_at - clock_timestamp())::bigint FROM job_journal").await;
    assert!((50..=60).contains(&due), "{due}");
}
