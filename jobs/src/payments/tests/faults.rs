//! Each step fails once, and each step runs twice.

use super::*;
use crate::testing::{Fault, fail_once, fault_struck};

const SMALL: Config = Config { batch: 40, batches_per_job: 3, catch_up: 31 };

#[tokio::test]
async fn whatever_statement_fails_once_everything_is_posted_once() {
    for (table, event) in [
        ("job_journal", "UPDATE"),
        ("payment_run", "INSERT"),
        ("ledger_transaction", "INSERT"),
        ("ledger_entry", "INSERT"),
        ("account", "UPDATE"),
        ("recurring_payment", "UPDATE"),
        ("job_journal", "DELETE"),
    ] {
        for fault in [Fault::Refuse, Fault::Kill, Fault::RefuseCommit] {
            let books = Books::open().await;
            books.due_today(150).await;
            books.daily(3).await;
            fail_once(&books.pool, table, event, fault).await;
            attempt(&books.pool, None, &PostDue {}).await;
            let mut attempts = 0;
            while let Some(id) = standing::<PostDue>(&books.pool).await.first() {
                attempts += 1;
                assert!(attempts < 20, "{table} {event} {fault:?}: no end");
                // A failed attempt is made again, as the worker would.
                drop(books.run(&SMALL, *id).await);
            }
            assert!(fault_struck(&books.pool).await, "{table} {event} {fault:?} was never met");
            books.sweep(&SMALL).await;
            assert_eq!(books.posted().await, 154, "{table} {event} {fault:?}");
            assert_eq!(count(&books.pool, "SELECT count(*) FROM ledger_transaction").await, 154);
            assert_eq!(count(&books.pool, "SELECT count(*) FROM recurring_payment WHERE state = 'failed'").await, 0);
            books.assert_sound().await;
        }
    }
}

#[tokio::test]
async fn a_job_that_runs_twice_posts_once_whether_one_after_the_other_or_at_once() {
    let books = Books::open().await;
    books.due_today(200).await;
    let (ctx, id) = attempt(&books.pool, None, &PostDue {}).await;
    let (zombie, _) = attempt_of::<PostDue>(&books.pool, id).await;
    let (handler, other) = (books.handler(&SMALL), books.handler(&SMALL));
    let (first, second) = tokio::join!(handler.run(ctx.clone(), PostDue {}), other.run(zombie, PostDue {}));
    assert!(first.is_ok() || second.is_ok());
    let lost = [first, second].into_iter().filter_map(Result::err).map(|error| error.class()).collect::<Vec<_>>();
    assert!(lost == ["gone"] || lost == ["checkpoint_moved"], "{lost:?}");
    let again = books.handler(&SMALL).run(ctx, PostDue {}).await.unwrap_err();
    assert_eq!(again.decision(), windrow_queue::Decision::Gone);
    books.sweep(&SMALL).await;
    assert_eq!(books.posted().await, 200);
    books.assert_sound().await;
}

#[tokio::test]
async fn a_cancelled_attempt_stops_between_two_transactions_and_loses_nothing() {
    let books = Books::open().await;
    books.due_today(100).await;
    let (ctx, id) = attempt(&books.pool, None, &PostDue {}).await;
    ctx.cancellation().cancel();
    let outcome = books.handler(&SMALL).run(ctx, PostDue {}).await.unwrap();
    assert!(matches!(outcome, windrow_queue::Outcome::Snooze(delay) if delay.is_zero()));
    assert_eq!(standing::<PostDue>(&books.pool).await, [id]);
    books.sweep(&SMALL).await;
    assert_eq!(books.posted().await, 100);
}
