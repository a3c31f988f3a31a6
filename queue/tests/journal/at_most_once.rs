//! R24: a job that runs at most once is decided before its handler starts.

use std::time::Duration;

use sqlx::PgPool;
use windrow_queue::{
    Decision, Delivery, JobId, Member, NewJob,
    error::fingerprint,
    journal::{self, CloseState, Closing, STARTED, STARTED_CLASS},
    policy::PolicyOverride,
};

use crate::support::{attempt, count, database, enqueue, note, write_effect};

const MINUTE: Duration = Duration::from_secs(60);

fn once() -> NewJob {
    let mut job = note("a");
    job.policy = PolicyOverride { delivery: Some(Delivery::AtMostOnce), ..PolicyOverride::default() };
    job
}

async fn start(pool: &PgPool, id: JobId, generation: i32) -> bool {
    let member = Member::journaled(id, generation);
    let started = journal::start_at_most_once(pool, &[(member, MINUTE)]).await.unwrap();
    assert!(started.is_empty() || started == [member].into());
    !started.is_empty()
}

#[tokio::test]
async fn it_starts_once_whoever_asks() {
    let pool = database().await;
    let id = enqueue(&pool, &[once()]).await[0].id();
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox WHERE at_most_once").await, 1);
    assert!(!start(&pool, id, 2).await, "another generation");
    sqlx::query("UPDATE job_journal SET state = 'parked'").execute(&pool).await.unwrap();
    assert!(!start(&pool, id, 1).await, "it is not live");
    sqlx::query("UPDATE job_journal SET state = 'live'").execute(&pool).await.unwrap();
    let both = tokio::join!(start(&pool, id, 1), start(&pool, id, 1));
    assert_ne!(both.0, both.1);
    assert!(!start(&pool, id, 1).await);
    assert!(journal::start_check(&pool, &[Member::journaled(id, 1)]).await.unwrap().is_empty());
    let closed = journal::show_closed(&pool, id).await.unwrap().unwrap();
    assert_eq!((closed.state.as_str(), closed.reason.as_str(), closed.running), ("dead", STARTED, true));
    assert_eq!(closed.fingerprint.unwrap(), fingerprint(&once().kind, STARTED_CLASS, STARTED));
    assert!(closed.job.get("runs_s").is_none(), "the row as it stood, and nothing else");
}

#[tokio::test]
async fn its_completion_takes_the_record_away_together_with_its_effects() {
    let pool = database().await;
    let id = enqueue(&pool, &[once()]).await[0].id();
    start(&pool, id, 1).await;
    let mut dropped = attempt(&pool, id, 1).begin().await.unwrap();
    write_effect(&mut dropped, id).await;
    drop(dropped);
    assert!(journal::complete(&pool, &[(id, 1)]).await.unwrap().is_empty());
    assert_eq!(attempt(&pool, id, 2).begin().await.unwrap_err().decision(), Decision::Gone, "another generation");
    let mut tx = attempt(&pool, id, 1).begin().await.unwrap();
    write_effect(&mut tx, id).await;
    tx.commit().await.unwrap();
    assert!(!journal::complete_one(&pool, id, 1).await.unwrap(), "once");
    assert_eq!(count(&pool, "SELECT count(*) FROM effect").await, 1);
    assert!(journal::show_closed(&pool, id).await.unwrap().is_none());

    let id = enqueue(&pool, &[once()]).await[0].id();
    start(&pool, id, 1).await;
    assert!(journal::complete_one(&pool, id, 1).await.unwrap());
    assert!(journal::show_closed(&pool, id).await.unwrap().is_none());
}

#[tokio::test]
async fn its_failure_rewrites_the_reason_and_is_final() {
    let pool = database().await;
    let id = enqueue(&pool, &[once()]).await[0].id();
    start(&pool, id, 1).await;
    let closing = Closing { state: CloseState::Dead, reason: "refused", fingerprint: [7; 16], error: None, attempt: 1 };
    assert!(!journal::close(&pool, id, 2, &closing).await.unwrap(), "another generation");
    assert!(journal::close(&pool, id, 1, &closing).await.unwrap());
    assert!(!journal::close(&pool, id, 1, &Closing { reason: "late", ..closing }).await.unwrap(), "decided");
    let closed = journal::show_closed(&pool, id).await.unwrap().unwrap();
    assert_eq!((closed.reason.as_str(), closed.running, &closed.job["attempt"]), ("refused", false, &1.into()));
    let zombie = attempt(&pool, id, 1).begin().await.unwrap_err();
    assert_eq!(zombie.decision(), Decision::Gone, "its worker was taken for lost");
}

#[tokio::test]
async fn while_it_may_be_running_nobody_lists_or_redrives_it() {
    let pool = database().await;
    let id = enqueue(&pool, &[once()]).await[0].id();
    start(&pool, id, 1).await;
    let listed = async || journal::list_closed(&pool, CloseState::Dead, None, 10).await.unwrap().len();
    assert_eq!(listed().await, 0);
    assert!(!journal::redrive(&pool, id).await.unwrap());
    assert!(!journal::discard(&pool, id).await.unwrap());
    assert!(journal::dead_groups(&pool, None, None, 10).await.unwrap().is_empty());
    sqlx::query("UPDATE job_closed SET runs_until = now()").execute(&pool).await.unwrap();
    assert_eq!(listed().await, 1, "nothing was heard of it");
    assert_eq!(journal::dead_groups(&pool, None, None, 10).await.unwrap().len(), 1);
    assert!(journal::redrive(&pool, id).await.unwrap(), "an operator may want it once more");
    assert!(start(&pool, id, 2).await);
}

#[tokio::test]
async fn it_has_no_steps_and_does_not_park() {
    let pool = database().await;
    let id = enqueue(&pool, &[once()]).await[0].id();
    start(&pool, id, 1).await;
    let error = attempt(&pool, id, 1).step(None::<&u32>, &1).await.unwrap_err();
    assert_eq!((error.decision(), error.class()), (Decision::Bury, "at_most_once_step"));
    let token = windrow_queue::store::TokenDigest([1; 16]);
    assert!(!journal::expect_callback(&pool, id, 1, token, MINUTE).await.unwrap());
    assert_eq!(journal::park(&pool, id, 1, MINUTE, 0).await.unwrap(), journal::Parked::Gone);
}

#[tokio::test]
async fn one_that_was_claimed_and_never_started_runs_in_a_new_generation() {
    let pool = database().await;
    let ids: Vec<_> = enqueue(&pool, &[once(), once(), note("b")]).await.iter().map(|job| job.id()).collect();
    start(&pool, ids[0], 1).await;
    let lost: Vec<_> = ids.iter().map(|id| Member::journaled(*id, 1)).collect();
    assert_eq!(journal::restart_unstarted(&pool, &lost).await.unwrap(), [lost[1]].into());
    assert!(journal::restart_unstarted(&pool, &lost).await.unwrap().is_empty(), "once");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox WHERE gen = 2 AND at_most_once").await, 1);
    assert!(!start(&pool, ids[1], 1).await && start(&pool, ids[1], 2).await);
}

#[tokio::test]
async fn five_hundred_start_in_one_call() {
    let pool = database().await;
    let jobs: Vec<_> = (0..500).map(|_| once()).collect();
    enqueue(&pool, &jobs).await;
    let members: Vec<_> = jobs.iter().map(|job| (Member::journaled(job.id, 1), MINUTE)).collect();
    assert_eq!(journal::start_at_most_once(&pool, &members).await.unwrap().len(), 500);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_closed WHERE runs_until > now()").await, 500);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);
}
