//! R17, R19, R20, R28: effects and completion in one transaction, exactly once.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use windrow_queue::{
    Decision, Fire, Member,
    journal::{self, start_check},
};

use crate::support::{LosesCommit, attempt, connect, count, database, database_url, enqueue, note, write_effect};

#[tokio::test]
async fn of_two_workers_that_run_one_job_only_one_has_its_effects() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    let race = |_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut tx = attempt(&pool, id, 1).begin().await?;
            write_effect(&mut tx, id).await;
            tx.commit().await
        })
    };
    let mut committed = 0;
    for racer in (0..4).map(race).collect::<Vec<_>>() {
        match racer.await.unwrap() {
            Ok(done) => {
                assert_eq!(done.id(), id);
                committed += 1;
            }
            Err(error) => assert_eq!(error.decision(), Decision::Gone, "{error}"),
        }
    }
    assert_eq!(committed, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM effect").await, 1);
}

#[tokio::test]
async fn a_worker_stopped_inside_its_transaction_loses_the_row_and_the_next_one_has_the_effects() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    let mut zombie = attempt(&pool, id, 1).begin().await.unwrap();
    write_effect(&mut zombie, id).await;
    // The role's setting, shortened: a process under SIGSTOP says nothing for longer than this.
    sqlx::query("SET idle_in_transaction_session_timeout = '300ms'").execute(&mut *zombie).await.unwrap();

    // Until it is thrown out, others wait for a lock and are told to come back: no attempt counts.
    let done = loop {
        match attempt(&pool, id, 1).begin().await {
            Ok(mut tx) => {
                write_effect(&mut tx, id).await;
                break tx.commit().await;
            }
            Err(error) => assert!(matches!(error.decision(), Decision::Snooze(_)), "{error}"),
        }
    };
    assert!(done.is_ok());
    let late = zombie.commit().await.unwrap_err();
    assert!(matches!(late.decision(), Decision::Snooze(_) | Decision::Gone), "{late}");
    assert_eq!(count(&pool, "SELECT count(*) FROM effect").await, 1);
}

#[tokio::test]
async fn a_dropped_transaction_leaves_the_job_as_it_was() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    let mut tx = attempt(&pool, id, 1).begin().await.unwrap();
    write_effect(&mut tx, id).await;
    tx.enqueue(&[note("follow-up")]).await.unwrap();
    drop(tx);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM effect").await, 0);
}

#[tokio::test]
async fn an_error_that_the_handler_overlooks_is_no_commit() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    let mut tx = attempt(&pool, id, 1).begin().await.unwrap();
    write_effect(&mut tx, id).await;
    assert!(sqlx::query("SELECT 1 / 0").execute(&mut *tx).await.is_err());
    // Postgres answers this COMMIT with ROLLBACK, and without an error.
    tx.commit().await.unwrap_err();
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1, "the job still has to happen");
    assert_eq!(count(&pool, "SELECT count(*) FROM effect").await, 0);
}

#[tokio::test]
async fn a_deferred_constraint_that_fails_is_no_commit() {
    let pool = database().await;
    sqlx::raw_sql("ALTER TABLE effect ADD CONSTRAINT once UNIQUE (job) DEFERRABLE INITIALLY DEFERRED")
        .execute(&pool)
        .await
        .unwrap();
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    let mut tx = attempt(&pool, id, 1).begin().await.unwrap();
    write_effect(&mut tx, id).await;
    write_effect(&mut tx, id).await;
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.decision(), Decision::Retry, "{error}");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_if_the_row_is_gone() {
    let url = database_url().await;
    let direct = connect(&url).await;
    let server = windrow_devserver::shared_postgres().unwrap();
    let proxy = LosesCommit::start(server.port()).await;
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let pool = connect(&server.url_through(proxy.port, name)).await;
    let id = enqueue(&direct, &[note("a")]).await[0].id();
    let mut tx = attempt(&pool, id, 1).begin().await.unwrap();
    write_effect(&mut tx, id).await;
    proxy.armed.store(true, Ordering::SeqCst);
    let committed = tx.commit().await.unwrap();
    assert_eq!(committed.id(), id);
    assert!(!proxy.armed.load(Ordering::SeqCst), "the proxy saw the COMMIT");
    assert_eq!(count(&direct, "SELECT count(*) FROM effect").await, 1);
    assert_eq!(count(&direct, "SELECT count(*) FROM job_journal").await, 0);
}

#[tokio::test]
async fn a_step_advances_only_from_the_checkpoint_it_read() {
    let pool = database().await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    let worker = attempt(&pool, id, 1);
    let step = worker.step(None, &1_u32).await.unwrap();
    step.commit().await.unwrap();
    // A second attempt that began from the same place.
    let late = worker.step(None::<&u32>, &1).await.unwrap_err();
    assert_eq!((late.decision(), late.class()), (Decision::Retry, "checkpoint_moved"));
    worker.step(Some(&1_u32), &2).await.unwrap().commit().await.unwrap();

    // The effects of a step and its checkpoint stand or fall together.
    let mut tx = worker.step(Some(&2_u32), &3).await.unwrap();
    write_effect(&mut tx, id).await;
    assert!(sqlx::query("SELECT 1 / 0").execute(&mut *tx).await.is_err());
    tx.commit().await.unwrap_err();
    assert_eq!(count(&pool, "SELECT count(*) FROM effect").await, 0);
    assert_eq!(count(&pool, "SELECT checkpoint::bigint FROM job_journal").await, 2);

    worker.begin().await.unwrap().commit().await.unwrap();
    let gone = worker.step(Some(&2_u32), &3).await.unwrap_err();
    assert_eq!(gone.decision(), Decision::Gone);
}

#[tokio::test]
async fn the_start_check_knows_live_rows_of_the_same_generation_only() {
    let pool = database().await;
    let answers = enqueue(&pool, &[note("live"), note("gone")]).await;
    let (live, gone) = (answers[0].id(), answers[1].id());
    attempt(&pool, gone, 1).begin().await.unwrap().commit().await.unwrap();
    let members =
        [Member::journaled(live, 1), Member::journaled(live, 2), Member::journaled(gone, 1), Member::fast(live)];
    let found = start_check(&pool, &members).await.unwrap();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [members[0]]);
    assert_eq!(found[&members[0]].args.get(), r#"{"text": "live"}"#);
}

#[tokio::test]
async fn bulk_completion_leaves_out_what_another_transaction_holds() {
    let pool = database().await;
    let ids: Vec<_> =
        enqueue(&pool, &[note("a"), note("b"), note("c"), note("parked")]).await.iter().map(|job| job.id()).collect();
    journal::park(&pool, ids[3], 1, std::time::Duration::from_secs(60), 0).await.unwrap();
    let held = attempt(&pool, ids[1], 1).begin().await.unwrap();
    let all: Vec<_> = ids.iter().map(|id| (*id, 1)).chain([(ids[0], 2)]).collect();
    let done = journal::complete(&pool, &all).await.unwrap();
    assert_eq!(done, [(ids[0], 1), (ids[2], 1)].into());
    drop(held);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 2);
}

#[tokio::test]
async fn follow_ups_of_a_schedules_job_count_as_the_schedules() {
    let pool = database().await;
    let fire = Fire { schedule_id: Uuid::from_u128(7), fire_at: DateTime::<Utc>::UNIX_EPOCH, missed: 3 };
    let mut job = note("a");
    job.fire = Some(fire);
    let id = enqueue(&pool, &[job]).await[0].id();
    let mut tx = attempt(&pool, id, 1).begin().await.unwrap();
    tx.enqueue(&[note("child")]).await.unwrap();
    tx.commit().await.unwrap();
    let (schedule, fire_at, missed): (Uuid, DateTime<Utc>, i32) =
        sqlx::query_as("SELECT schedule_id, fire_at, missed FROM job_journal").fetch_one(&pool).await.unwrap();
    assert_eq!((schedule, fire_at, missed), (fire.schedule_id, fire.fire_at, 0));
}
