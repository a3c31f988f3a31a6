//! `vacancy.requeue_unscored`: the sweep that lets no vacancy stay without a score unseen.

use std::{collections::HashSet, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::{
    Handler, JobArgs, JobContext, JobError, Kind, NewJob, Outcome, Policy, QueueName, Tenant, handler::JobResult,
    journal,
};

use super::{config::Config, metrics::ScoringMetrics, score_vacancy::ScoreVacancy};

/// Vacancies in one transaction.
const BATCH: i64 = 500;

/// Enqueues a scoring job for each vacancy that is new, or queued for long with no job standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequeueUnscored {}

impl JobArgs for RequeueUnscored {
    const KIND: Kind = Kind::from_static("vacancy.requeue_unscored");
    const QUEUE: QueueName = QueueName::from_static("scoring");
    const POLICY: Policy =
        Policy::DEFAULT.with_max_attempts(5).with_backoff(Duration::from_secs(2), Duration::from_secs(60));
    const OPERATORS_ONLY: bool = true;
}

/// Executes `vacancy.requeue_unscored`. Repeating it is harmless: a vacancy has one scoring job at a time.
///
/// A vacancy for which [`Config::max_jobs`] jobs were made is left alone: its dead letters tell why, and redriving one
/// scores it. `windrow_scoring_given_up` counts them.
#[derive(Debug)]
pub struct RequeueUnscoredHandler {
    database: PgPool,
    config: Config,
    metrics: ScoringMetrics,
}

#[derive(FromRow)]
struct Unscored {
    id: Uuid,
    tenant: String,
}

/// What a batch came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    last: Option<Uuid>,
    enqueued: u64,
    standing: u64,
}

impl RequeueUnscoredHandler {
    /// With what it needs.
    #[must_use]
    pub const fn new(database: PgPool, config: Config, metrics: ScoringMetrics) -> Self {
        Self { database, config, metrics }
    }

    /// The jobs are enqueued before any vacancy is locked, as a scoring job's own transaction goes about it: it holds its job
    /// and then takes its vacancy. The other way round the two would wait for each other.
    async fn batch(&self, after: Uuid, tenant: Option<&Tenant>) -> Result<Batch, JobError> {
        let mut tx = self.database.begin().await?;
        let unscored: Vec<Unscored> = sqlx::query_as(
            "SELECT v.id, v.tenant FROM vacancy v JOIN tenant t ON t.id = v.tenant AND t.active
             WHERE v.status <> 'scored' AND v.id > $1 AND v.score_jobs < $2
               AND ($5::text IS NULL OR v.tenant = $5)
               AND (v.status = 'new' OR v.queued_at IS NULL
                    OR v.queued_at < now() - make_interval(secs => $3 * greatest(v.score_jobs, 1)))
             ORDER BY v.id LIMIT $4",
        )
        .bind(after)
        .bind(self.config.max_jobs)
        .bind(self.config.requeue_after.as_secs_f64())
        .bind(BATCH)
        .bind(tenant.map(Tenant::as_str))
        .fetch_all(&mut *tx)
        .await?;
        let Some(last) = unscored.last().map(|vacancy| vacancy.id) else { return Ok(Batch::default()) };
        let jobs = unscored
            .iter()
            .map(|vacancy| Ok(ScoreVacancy::job(&Tenant::new(&*vacancy.tenant)?, vacancy.id)?))
            .collect::<anyhow::Result<Vec<NewJob>>>()
            .map_err(|error| JobError::bury("invalid_tenant", error))?;
        let answers = journal::enqueue_in(&mut tx, &jobs).await?;
        let enqueued: Vec<Uuid> =
            unscored.iter().zip(&answers).filter(|(_, answer)| answer.is_created()).map(|(v, _)| v.id).collect();
        let queued: HashSet<Uuid> = sqlx::query_scalar(
            "UPDATE vacancy SET status = 'queued', queued_at = now(),
                    score_jobs = score_jobs + CASE WHEN id = ANY ($2) THEN 1 ELSE 0 END
             WHERE id = ANY ($1) AND status <> 'scored' RETURNING id",
        )
        .bind(unscored.iter().map(|vacancy| vacancy.id).collect::<Vec<_>>())
        .bind(&enqueued)
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .collect();
        if enqueued.iter().any(|id| !queued.contains(id)) {
            // One was scored, or deleted, in between, and would be scored once more for nothing. The next sweep finds the rest.
            tx.rollback().await?;
            return Ok(Batch { last: Some(last), ..Batch::default() });
        }
        tx.commit().await?;
        let enqueued = enqueued.len() as u64;
        Ok(Batch { last: Some(last), enqueued, standing: unscored.len() as u64 - enqueued })
    }

    async fn count_given_up(&self) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT count(*) FROM vacancy WHERE status <> 'scored' AND score_jobs >= $1
             AND queued_at < now() - make_interval(secs => $2)",
        )
        .bind(self.config.max_jobs)
        .bind(self.config.requeue_after.as_secs_f64())
        .fetch_one(&self.database)
        .await
    }
}

impl Handler for RequeueUnscoredHandler {
    type Args = RequeueUnscored;

    async fn run(&self, ctx: JobContext, _: RequeueUnscored) -> JobResult {
        let mut total = Batch::default();
        let mut after = Uuid::nil();
        loop {
            let batch = self.batch(after, ctx.tenant()).await?;
            self.metrics.requeued.with_label_values(&["enqueued"]).inc_by(batch.enqueued);
            self.metrics.requeued.with_label_values(&["standing"]).inc_by(batch.standing);
            total.enqueued += batch.enqueued;
            total.standing += batch.standing;
            let Some(last) = batch.last else { break };
            after = last;
        }
        let given_up = self.count_given_up().await?;
        self.metrics.given_up.set(given_up);
        if total.enqueued + total.standing > 0 || given_up > 0 {
            tracing::info!(enqueued = total.enqueued, standing = total.standing, given_up, "unscored vacancies swept");
        }
        Ok(Outcome::Done)
    }
}
