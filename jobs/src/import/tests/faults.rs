//! Each step fails once, each step runs twice, and no row is lost or told twice.

use windrow_queue::Decision;

use super::*;
use crate::testing::{Fault, fail_once, fault_struck};

async fn assert_whole(desk: &Desk, id: JobId, good: &[i64], bad: &[u64], rows: i64) {
    let done = desk.progress(id).await;
    assert_eq!(done.state, ImportState::Done);
    assert_eq!(done.rows_read, rows);
    assert_eq!(desk.numbers().await, good);
    assert_eq!(done.inserted, good.len() as i64);
    assert_eq!(done.rejected, bad.len() as i64);
    assert_eq!(rejected(&done).into_iter().map(|(line, _)| line).collect::<Vec<_>>(), bad);
}

#[tokio::test]
async fn whatever_statement_fails_once_every_row_counts_once() {
    for (table, event) in [
        ("job_journal", "UPDATE"),
        ("import", "INSERT"),
        ("phone_number", "INSERT"),
        ("import", "UPDATE"),
        ("job_journal", "DELETE"),
    ] {
        for fault in [Fault::Refuse, Fault::Kill, Fault::RefuseCommit] {
            let desk = Desk::open().await;
            let (text, good, bad) = mixed(450);
            let file = desk.write("numbers.csv", text);
            let (ctx, id) = attempt(&desk.pool, Some(&desk.tenant), &file).await;
            fail_once(&desk.pool, table, event, fault).await;
            let error = desk.handler().run(ctx, file).await.unwrap_err();
            assert!(!matches!(error.decision(), Decision::Bury | Decision::Gone), "{table} {event} {fault:?}: {error}");
            assert!(fault_struck(&desk.pool).await, "{table} {event} {fault:?} was never met");
            desk.again(id).await.unwrap();
            assert_whole(&desk, id, &good, &bad, 450).await;
        }
    }
}

#[tokio::test]
async fn an_attempt_that_dies_after_any_batch_is_taken_up_where_it_stopped() {
    for batches in 1..=4 {
        let desk = Desk::open().await;
        let (text, good, bad) = mixed(450);
        let file = desk.write("numbers.csv", text);
        let (ctx, id) = attempt(&desk.pool, Some(&desk.tenant), &file).await;
        // Everything after so many batches fails, with rows of the next batch in the error file already.
        let sql = format!("ALTER TABLE import ADD CONSTRAINT stop CHECK (rows_read <= {})", batches * 100);
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&desk.pool).await.unwrap();
        desk.handler().run(ctx, file).await.unwrap_err();
        assert_eq!(desk.progress(id).await.rows_read, batches * 100);
        assert_eq!(desk.progress(id).await.state, ImportState::Running);
        sqlx::raw_sql("ALTER TABLE import DROP CONSTRAINT stop").execute(&desk.pool).await.unwrap();
        // Other batches than before: the pieces do not matter.
        let desk = Desk { config: Config { batch_rows: 130, ..desk.config.clone() }, ..desk };
        desk.again(id).await.unwrap();
        assert_whole(&desk, id, &good, &bad, 450).await;
    }
}

#[tokio::test]
async fn two_attempts_at_once_import_every_row_once() {
    let desk = Desk::open().await;
    let (text, good, bad) = mixed(1000);
    let file = desk.write("numbers.csv", text);
    let (ctx, id) = attempt(&desk.pool, Some(&desk.tenant), &file).await;
    let (zombie, _) = attempt_of::<ImportFile>(&desk.pool, id).await;
    let (handler, other) = (desk.handler(), desk.handler());
    let (first, second) = tokio::join!(handler.run(ctx.clone(), file.clone()), other.run(zombie, file.clone()));
    assert!(first.is_ok() || second.is_ok());
    let lost: Vec<_> = [first, second].into_iter().filter_map(Result::err).map(|error| error.class()).collect();
    assert!(lost == ["gone"] || lost == ["checkpoint_moved"], "{lost:?}");
    assert_whole(&desk, id, &good, &bad, 1000).await;
    // And once more, after the end.
    assert_eq!(desk.handler().run(ctx, file).await.unwrap_err().decision(), Decision::Gone);
    assert_whole(&desk, id, &good, &bad, 1000).await;
}

#[tokio::test]
async fn a_cancelled_attempt_stops_at_a_batch_and_is_taken_up_later() {
    let desk = Desk::open().await;
    let (text, good, bad) = mixed(450);
    let file = desk.write("numbers.csv", text);
    let (ctx, id) = attempt(&desk.pool, Some(&desk.tenant), &file).await;
    ctx.cancellation().cancel();
    let outcome = desk.handler().run(ctx, file).await.unwrap();
    assert!(matches!(outcome, Outcome::Snooze(delay) if delay.is_zero()));
    assert_eq!(standing::<ImportFile>(&desk.pool).await, [id]);
    assert_eq!(desk.progress(id).await.rows_read, 0);
    desk.again(id).await.unwrap();
    assert_whole(&desk, id, &good, &bad, 450).await;
}

/// An attempt that stops after its first batch.
async fn begun(desk: &Desk, text: &str) -> (ImportFile, JobId) {
    let file = desk.write("numbers.csv", text);
    let (ctx, id) = attempt(&desk.pool, Some(&desk.tenant), &file).await;
    sqlx::raw_sql("ALTER TABLE import ADD CONSTRAINT stop CHECK (rows_read <= 100)").execute(&desk.pool).await.unwrap();
    desk.handler().run(ctx, file.clone()).await.unwrap_err();
    sqlx::raw_sql("ALTER TABLE import DROP CONSTRAINT stop").execute(&desk.pool).await.unwrap();
    (file, id)
}

#[tokio::test]
async fn a_file_that_changed_between_two_attempts_is_buried_and_says_what_is_in() {
    let desk = Desk::open().await;
    let (text, ..) = mixed(450);
    begun(&desk, &text).await;
    let id = standing::<ImportFile>(&desk.pool).await[0];
    desk.write("numbers.csv", format!("{text}x;+4930123456\n"));
    let error = desk.again(id).await.unwrap_err();
    assert_eq!((error.decision(), error.class()), (Decision::Bury, "file_changed"));
    assert!(error.message().contains("rows up to line 102 are in"), "{}", error.message());
    assert_eq!(desk.progress(id).await.rows_read, 100);
}

#[tokio::test]
async fn what_an_attempt_that_lost_its_job_wrote_behind_the_end_is_cut_off() {
    let desk = Desk::open().await;
    let (text, good, bad) = mixed(450);
    let (_, id) = begun(&desk, &text).await;
    let path = desk.progress(id).await.error_file.unwrap();
    let mut content = std::fs::read(&path).unwrap();
    content.extend_from_slice("9999,letters,\"of a larger batch\",x\n".repeat(1000).as_bytes());
    std::fs::write(&path, content).unwrap();
    desk.again(id).await.unwrap();
    assert_whole(&desk, id, &good, &bad, 450).await;
}

#[tokio::test]
async fn an_error_file_that_was_removed_in_between_is_not_written_with_a_hole() {
    let desk = Desk::open().await;
    let (_, id) = begun(&desk, &mixed(450).0).await;
    std::fs::remove_file(desk.progress(id).await.error_file.unwrap()).unwrap();
    let error = desk.again(id).await.unwrap_err();
    assert_eq!((error.decision(), error.class()), (Decision::Bury, "error_file_lost"));
}

#[tokio::test]
async fn an_import_whose_job_is_dead_is_failed_and_one_that_was_cancelled_is_cancelled() {
    let desk = Desk::open().await;
    let (_, id) = begun(&desk, &mixed(450).0).await;
    sqlx::query(
        "WITH gone AS (DELETE FROM job_journal WHERE id = $1 RETURNING *)
         INSERT INTO job_closed (id, gen, state, queue, kind, tenant, reason, job)
         SELECT id, gen, 'dead', queue, kind, tenant, 'the disk is full', to_jsonb(gone) FROM gone",
    )
    .bind(id.0)
    .execute(&desk.pool)
    .await
    .unwrap();
    let dead = desk.progress(id).await;
    assert_eq!((dead.state, dead.error.as_deref()), (ImportState::Failed, Some("the disk is full")));
    sqlx::query("UPDATE job_closed SET state = 'cancelled'").execute(&desk.pool).await.unwrap();
    assert_eq!(desk.progress(id).await.state, ImportState::Cancelled);
}
