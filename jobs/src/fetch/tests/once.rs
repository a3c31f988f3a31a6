//! Exactly once: every attempt run twice, every step failed once.

use std::time::Duration;

use windrow_queue::{Decision, Handler, Outcome};

use super::{BOARD, Bench, FetchSource, Site};
use crate::{
    scoring::ScoreVacancy,
    testing::{Fault, count, fail_once, fault_struck, standing},
};

#[tokio::test]
async fn the_same_attempt_run_twice_has_its_effects_once() {
    let bench = Bench::new().await;
    let site = Site::new(|_, _| BOARD).await;
    let source_id = bench.json_source(&site.url).await;
    let (ctx, _) = bench.attempt(source_id).await;
    let first = bench.handler.run(ctx.clone(), FetchSource { source_id }).await;
    let second = bench.handler.run(ctx, FetchSource { source_id }).await;
    assert!(matches!(first, Ok(Outcome::Committed(_))));
    assert_eq!(second.unwrap_err().decision(), Decision::Gone);
    assert_eq!(bench.counts().await, [3, 0, 1, 2]);
    assert_eq!(bench.the_source().await.totals.fetches, 1);
    assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 3);
}

#[tokio::test]
async fn two_workers_with_the_same_attempt_at_once_have_its_effects_once() {
    let bench = Bench::new().await;
    let site = Site::new(|_, _| BOARD).await;
    let source_id = bench.json_source(&site.url).await;
    let (ctx, _) = bench.attempt(source_id).await;
    let run = || bench.handler.run(ctx.clone(), FetchSource { source_id });
    let results = tokio::join!(run(), run(), run());
    let committed =
        [results.0, results.1, results.2].iter().filter(|result| matches!(result, Ok(Outcome::Committed(_)))).count();
    assert_eq!(committed, 1);
    assert_eq!(bench.counts().await, [3, 0, 1, 2]);
    assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 3);
}

#[tokio::test]
async fn a_fault_at_any_step_leaves_nothing_and_the_next_attempt_does_it_all() {
    let steps = [
        ("job_journal", "DELETE"),
        ("vacancy", "INSERT"),
        ("job_journal", "INSERT"),
        ("job_outbox", "INSERT"),
        ("source", "UPDATE"),
    ];
    for (table, event) in steps {
        for fault in [Fault::Refuse, Fault::Kill, Fault::RefuseCommit] {
            let bench = Bench::new().await;
            let site = Site::new(|_, _| BOARD).await;
            let source_id = bench.json_source(&site.url).await;
            let (ctx, _) = bench.attempt(source_id).await;
            fail_once(&bench.pool, table, event, fault).await;
            let error = bench.handler.run(ctx.clone(), FetchSource { source_id }).await.unwrap_err();
            let step = format!("{fault:?} at {event} on {table}: {error}");
            assert!(fault_struck(&bench.pool).await, "{step}");
            let expected = match fault {
                // The database's fault costs no attempt.
                Fault::Kill => matches!(error.decision(), Decision::Snooze(delay) if delay > Duration::ZERO),
                Fault::Refuse | Fault::RefuseCommit => error.decision() == Decision::Retry,
            };
            assert!(expected, "{step}");
            assert_eq!(bench.vacancies().await, 0, "{step}");
            assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 0, "{step}");
            assert_eq!(standing::<FetchSource>(&bench.pool).await.len(), 1, "{step}");

            bench.handler.run(ctx, FetchSource { source_id }).await.unwrap();
            assert_eq!(bench.counts().await, [3, 0, 1, 2], "{step}");
            assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 3, "{step}");
            assert_eq!(
                count(&bench.pool, "SELECT count(*) FROM job_outbox WHERE kind = 'vacancy.score'").await,
                3,
                "{step}"
            );
        }
    }
}

#[tokio::test]
async fn a_source_deleted_during_the_fetch_cancels_it() {
    let bench = Bench::new().await;
    let pool = bench.pool.clone();
    let router = axum::Router::new().fallback(move || async move {
        sqlx::query("DELETE FROM source").execute(&pool).await.unwrap();
        BOARD
    });
    let source_id = bench.json_source(&crate::testing::serve(router).await).await;
    let outcome = bench.run(source_id).await.unwrap();
    assert!(matches!(outcome, Outcome::Cancel(_)), "{outcome:?}");
    assert_eq!(bench.vacancies().await, 0);
    assert_eq!(standing::<FetchSource>(&bench.pool).await.len(), 1, "the worker closes it as cancelled");
}
