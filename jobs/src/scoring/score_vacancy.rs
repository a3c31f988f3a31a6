//! `vacancy.score`: one vacancy gets its score.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool, types::Json};
use uuid::Uuid;
use windrow_queue::{
    Handler, JobArgs, JobContext, JobError, Kind, NewJob, Outcome, Policy, QueueName, Tenant, handler::JobResult,
    job::InvalidJob,
};

use super::{
    Subject, Verdict,
    config::Config,
    metrics::ScoringMetrics,
    profile::{Rules, Scorer},
    rules,
    webhook::{self, RefusedAnswer},
};
use crate::outward::Client;

/// Scores one vacancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreVacancy {
    /// The vacancy.
    pub vacancy_id: Uuid,
}

impl JobArgs for ScoreVacancy {
    const KIND: Kind = Kind::from_static("vacancy.score");
    const QUEUE: QueueName = QueueName::from_static("scoring");
    const REQUIRED: &'static [&'static str] = &["vacancy_id"];
    /// Eight attempts over about half an hour: long enough for a webhook to be restarted.
    const POLICY: Policy = Policy::DEFAULT
        .with_max_attempts(8)
        .with_backoff(Duration::from_secs(5), Duration::from_secs(600))
        .with_timeout(Duration::from_secs(120))
        .journaled();
}

impl ScoreVacancy {
    /// The job for a vacancy; one at a time.
    ///
    /// # Errors
    /// Never in practice: the args are small.
    pub fn job(tenant: &Tenant, vacancy_id: Uuid) -> Result<NewJob, InvalidJob> {
        Ok(NewJob::new(&Self { vacancy_id })?.tenant(tenant.clone()).unique(&vacancy_id.to_string()))
    }
}

/// Executes `vacancy.score`.
#[derive(Debug)]
pub struct ScoreVacancyHandler {
    database: PgPool,
    client: Client,
    config: Config,
    metrics: ScoringMetrics,
}

/// A vacancy with its tenant's profile.
#[derive(FromRow)]
struct Row {
    tenant: String,
    url: String,
    title: String,
    description: String,
    company: Option<String>,
    location: Option<String>,
    salary_min: Option<Decimal>,
    salary_max: Option<Decimal>,
    tags: Vec<String>,
    published_at: Option<DateTime<Utc>>,
    first_seen_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    scorer: Option<Scorer>,
    rules: Option<Json<Rules>>,
    webhook_url: Option<String>,
    version: Option<i32>,
}

impl ScoreVacancyHandler {
    /// With what it needs.
    #[must_use]
    pub const fn new(database: PgPool, client: Client, config: Config, metrics: ScoringMetrics) -> Self {
        Self { database, client, config, metrics }
    }

    /// With the job's tenant given, the vacancy must be that tenant's.
    async fn load(&self, id: Uuid, tenant: Option<&Tenant>) -> Result<Option<Row>, sqlx::Error> {
        sqlx::query_as(
            "SELECT v.tenant, v.url, v.title, v.description, v.company, v.location, v.salary_min, v.salary_max, v.tags,
                    v.published_at, v.first_seen_at, v.updated_at, p.scorer, p.rules, p.webhook_url, p.version
             FROM vacancy v LEFT JOIN scoring_profile p ON p.tenant = v.tenant
             WHERE v.id = $1 AND ($2::text IS NULL OR v.tenant = $2)",
        )
        .bind(id)
        .bind(tenant.map(Tenant::as_str))
        .fetch_optional(&self.database)
        .await
    }

    async fn verdict(&self, ctx: &JobContext, row: &Row, subject: &Subject) -> Result<Verdict, JobError> {
        let defaults = Rules::default();
        let rules = row.rules.as_ref().map_or(&defaults, |rules| &rules.0);
        match (row.scorer.unwrap_or_default(), &row.webhook_url) {
            (Scorer::Webhook, Some(url)) => {
                let verdict = webhook::score(&self.client, &self.config, ctx, url, &row.tenant, subject, rules).await;
                if let Err(error) = &verdict
                    && RefusedAnswer::CLASSES.contains(&error.class())
                {
                    self.metrics.refused.with_label_values(&[error.class()]).inc();
                }
                verdict
            }
            // The table refuses a webhook scorer without a URL.
            _ => Ok(rules::score(subject, rules)),
        }
    }
}

/// Records the score. False: the vacancy is gone.
///
/// Content that changed while it was judged makes the score one of yesterday's: it is kept, and the vacancy is new again.
async fn record(
    tx: &mut windrow_queue::journal::JobTx,
    job: Uuid,
    vacancy: Uuid,
    row: &Row,
    verdict: &Verdict,
) -> Result<bool, sqlx::Error> {
    let updated = sqlx::query(
        "UPDATE vacancy SET score = $2, reason = $3, status = CASE WHEN updated_at = $4 THEN 'scored' ELSE 'new' END
         WHERE id = $1",
    )
    .bind(vacancy)
    .bind(verdict.score)
    .bind(&verdict.reason)
    .bind(row.updated_at)
    .execute(&mut **tx)
    .await?;
    if updated.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO scoring_history (vacancy_id, tenant, job_id, score, reason, scorer, profile_version)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(vacancy)
    .bind(&row.tenant)
    .bind(job)
    .bind(verdict.score)
    .bind(&verdict.reason)
    .bind(row.scorer.unwrap_or_default())
    .bind(row.version.unwrap_or(0))
    .execute(&mut **tx)
    .await?;
    Ok(true)
}

impl Handler for ScoreVacancyHandler {
    type Args = ScoreVacancy;

    async fn run(&self, ctx: JobContext, ScoreVacancy { vacancy_id }: ScoreVacancy) -> JobResult {
        let gone = || Ok(Outcome::Cancel(format!("vacancy {vacancy_id} does not exist")));
        let Some(mut row) = self.load(vacancy_id, ctx.tenant()).await? else { return gone() };
        let subject = row.subject(vacancy_id);
        let verdict = self.verdict(&ctx, &row, &subject).await?;

        let mut tx = ctx.begin().await?;
        if !record(&mut tx, ctx.id().0, vacancy_id, &row, &verdict).await? {
            return gone();
        }
        let committed = tx.commit().await?;

        let scorer = row.scorer.unwrap_or_default();
        self.metrics.scored.with_label_values(&[scorer.as_str(), &verdict.score.to_string()]).inc();
        Ok(committed.into())
    }
}

impl Row {
    /// Takes the vacancy's part out of the row.
    fn subject(&mut self, id: Uuid) -> Subject {
        use std::mem::take;
        Subject {
            id,
            url: take(&mut self.url),
            title: take(&mut self.title),
            description: take(&mut self.description),
            company: self.company.take(),
            location: self.location.take(),
            salary_min: self.salary_min,
            salary_max: self.salary_max,
            tags: take(&mut self.tags),
            published_at: self.published_at,
            first_seen_at: self.first_seen_at,
        }
    }
}
