//! Exactly once: every attempt run twice, every step failed once.

use windrow_queue::{Decision, Handler, Outcome};

use super::{Bench, ScoreVacancy};
use crate::{
    fetch::VacancyStatus,
    testing::{Fault, fail_once, fault_struck, standing},
};

#[tokio::test]
async fn the_same_attempt_run_twice_or_at_once_leaves_one_row_of_history() {
    let bench = Bench::new().await;
    let vacancy_id = bench.vacancy(1).await;
    let (ctx, _) = bench.attempt(vacancy_id).await;
    let run = || bench.handler.run(ctx.clone(), ScoreVacancy { vacancy_id });
    let results = tokio::join!(run(), run(), run());
    let results = [results.0, results.1, results.2];
    assert_eq!(results.iter().filter(|result| matches!(result, Ok(Outcome::Committed(_)))).count(), 1);
    assert_eq!(run().await.unwrap_err().decision(), Decision::Gone);
    assert_eq!(bench.history(vacancy_id).await.len(), 1);
    assert_eq!(bench.metrics.scored.with_label_values(&["rules", "6"]).get(), 1);
}

#[tokio::test]
async fn the_database_itself_refuses_a_second_row_for_one_job() {
    let bench = Bench::new().await;
    let vacancy_id = bench.vacancy(1).await;
    bench.score(vacancy_id).await;
    let again = sqlx::query(
        "INSERT INTO scoring_history (vacancy_id, tenant, job_id, score, reason, scorer, profile_version)
         SELECT vacancy_id, tenant, job_id, score, reason, scorer, profile_version FROM scoring_history",
    )
    .execute(&bench.pool)
    .await
    .unwrap_err();
    assert!(again.as_database_error().unwrap().is_unique_violation(), "{again}");
}

#[tokio::test]
async fn a_fault_at_any_step_leaves_nothing_and_the_next_attempt_does_it_all() {
    for (table, event) in [("job_journal", "DELETE"), ("vacancy", "UPDATE"), ("scoring_history", "INSERT")] {
        for fault in [Fault::Refuse, Fault::Kill, Fault::RefuseCommit] {
            let bench = Bench::new().await;
            let vacancy_id = bench.vacancy(1).await;
            let (ctx, _) = bench.attempt(vacancy_id).await;
            fail_once(&bench.pool, table, event, fault).await;
            let error = bench.handler.run(ctx.clone(), ScoreVacancy { vacancy_id }).await.unwrap_err();
            let step = format!("{fault:?} at {event} on {table}: {error}");
            assert!(fault_struck(&bench.pool).await, "{step}");
            assert_eq!(matches!(error.decision(), Decision::Snooze(_)), matches!(fault, Fault::Kill), "{step}");
            assert!(bench.history(vacancy_id).await.is_empty(), "{step}");
            assert_eq!(bench.the_vacancy().await.status, VacancyStatus::Queued, "{step}");
            assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 1, "{step}");

            bench.handler.run(ctx, ScoreVacancy { vacancy_id }).await.unwrap();
            assert_eq!(bench.history(vacancy_id).await.len(), 1, "{step}");
            assert_eq!(bench.the_vacancy().await.status, VacancyStatus::Scored, "{step}");
            assert!(standing::<ScoreVacancy>(&bench.pool).await.is_empty(), "{step}");
        }
    }
}
