//! Scoring against a real database and webhooks that misbehave.

mod once;
mod requeue;
mod scoring;
mod webhook;

use prometheus::Registry;
use sqlx::PgPool;
use uuid::Uuid;
use windrow_queue::{Handler, JobContext, JobId, Outcome, Tenant, handler::JobResult};

use super::{
    Config, HistoryEntry, Keyword, Profile, Rules, ScoreVacancy, ScoreVacancyHandler, ScoringMetrics, list_history,
    put_profile,
};
use crate::{
    fetch::{Vacancy, VacancyFilter, list_vacancies},
    outward::{self, Client},
    testing,
};

/// A database with a tenant, and a handler with its metrics.
struct Bench {
    pool: PgPool,
    tenant: Tenant,
    metrics: ScoringMetrics,
    handler: ScoreVacancyHandler,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let pool = testing::database().await;
        let tenant = testing::tenant(&pool, "acme").await;
        let metrics = ScoringMetrics::new(&Registry::new());
        let allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
        let client = Client::new(&outward::Config { allow_networks, ..outward::Config::default() }).unwrap();
        let handler = ScoreVacancyHandler::new(pool.clone(), client, config, metrics.clone());
        Self { pool, tenant, metrics, handler }
    }

    /// A queued vacancy, as a fetch leaves it.
    async fn vacancy(&self, number: u32) -> Uuid {
        sqlx::query_scalar(
            "INSERT INTO vacancy (tenant, url, title, description, published_at, first_seen_at, status, score_jobs, queued_at)
             VALUES ($1, $2, 'Rust Engineer', '<p>Postgres</p>', '2024-12-03', '2024-12-04', 'queued', 1, now()) RETURNING id",
        )
        .bind(self.tenant.as_str())
        .bind(format!("https://board.example.org/jobs/{number}"))
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    async fn profile(&self, change: impl FnOnce(&mut Profile)) {
        let keywords = vec![Keyword { term: "rust".to_owned(), weight: 2 }];
        let mut profile = Profile { rules: Rules { keywords, ..Rules::default() }, ..Profile::default() };
        change(&mut profile);
        put_profile(&self.pool, &self.tenant, &profile).await.unwrap();
    }

    async fn attempt(&self, vacancy_id: Uuid) -> (JobContext, JobId) {
        testing::attempt(&self.pool, Some(&self.tenant), &ScoreVacancy { vacancy_id }).await
    }

    async fn run(&self, vacancy_id: Uuid) -> JobResult {
        let (ctx, _) = self.attempt(vacancy_id).await;
        self.handler.run(ctx, ScoreVacancy { vacancy_id }).await
    }

    async fn score(&self, vacancy_id: Uuid) {
        let outcome = self.run(vacancy_id).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }

    async fn the_vacancy(&self) -> Vacancy {
        list_vacancies(&self.pool, &self.tenant, VacancyFilter::default(), None, 1).await.unwrap().remove(0)
    }

    async fn history(&self, vacancy_id: Uuid) -> Vec<HistoryEntry> {
        list_history(&self.pool, &self.tenant, vacancy_id).await.unwrap()
    }
}
