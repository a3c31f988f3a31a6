//! The handler with the built-in rules.

use uuid::Uuid;
use windrow_queue::{Handler, Outcome};

use super::{Bench, ScoreVacancy};
use crate::{
    fetch::VacancyStatus,
    testing::{attempt, count, tenant},
};

#[tokio::test]
async fn a_queued_vacancy_becomes_scored_with_its_reason_and_history() {
    let bench = Bench::new().await;
    bench.profile(|_| {}).await;
    let id = bench.vacancy(1).await;
    let (ctx, job) = bench.attempt(id).await;
    bench.handler.run(ctx, ScoreVacancy { vacancy_id: id }).await.unwrap();
    let vacancy = bench.the_vacancy().await;
    assert_eq!((vacancy.status, vacancy.score), (VacancyStatus::Scored, Some(8)));
    let reason = "5 to start; +2 \"rust\" in the title; +1 published 1 day before it was seen; 8 in all";
    assert_eq!(vacancy.reason.as_deref(), Some(reason));
    let history = bench.history(id).await;
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].job_id, history[0].score, history[0].reason.as_str()), (job.0, 8, reason));
    assert_eq!((history[0].scorer.as_str(), history[0].profile_version), ("rules", 1));
    assert_eq!(bench.metrics.scored.with_label_values(&["rules", "8"]).get(), 1);
    assert_eq!(count(&bench.pool, "SELECT count(*) FROM job_journal").await, 0);
}

#[tokio::test]
async fn a_tenant_without_a_profile_is_scored_by_the_defaults() {
    let bench = Bench::new().await;
    let id = bench.vacancy(1).await;
    bench.score(id).await;
    assert_eq!(bench.the_vacancy().await.score, Some(6));
    assert_eq!(bench.history(id).await[0].profile_version, 0);
}

#[tokio::test]
async fn each_scoring_job_leaves_one_row_of_history() {
    let bench = Bench::new().await;
    let id = bench.vacancy(1).await;
    bench.score(id).await;
    bench.profile(|profile| profile.rules.keywords[0].weight = -3).await;
    bench.score(id).await;
    let scores: Vec<_> = bench.history(id).await.iter().map(|entry| entry.score).collect();
    assert_eq!(scores, [3, 6]);
    assert_eq!(bench.the_vacancy().await.score, Some(3));
}

#[tokio::test]
async fn a_vacancy_that_is_gone_or_anothers_is_cancelled_with_the_reason() {
    let bench = Bench::new().await;
    let id = bench.vacancy(1).await;
    let stranger = tenant(&bench.pool, "stranger").await;
    let (ctx, _) = attempt(&bench.pool, Some(&stranger), &ScoreVacancy { vacancy_id: id }).await;
    for outcome in
        [bench.handler.run(ctx, ScoreVacancy { vacancy_id: id }).await.unwrap(), bench.run(Uuid::nil()).await.unwrap()]
    {
        assert!(matches!(&outcome, Outcome::Cancel(reason) if reason.contains("does not exist")), "{outcome:?}");
    }
    assert_eq!(bench.the_vacancy().await.status, VacancyStatus::Queued);
}

#[tokio::test]
async fn no_tenant_reads_anothers_history() {
    let bench = Bench::new().await;
    let id = bench.vacancy(1).await;
    bench.score(id).await;
    let stranger = tenant(&bench.pool, "stranger").await;
    assert!(super::list_history(&bench.pool, &stranger, id).await.unwrap().is_empty());
}
