//! `vacancy.fetch_all`: a fetch for every active source of every active tenant.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::{
    Handler, JobArgs, JobContext, JobError, Kind, NewJob, Outcome, Policy, QueueName, Tenant, handler::JobResult,
    journal,
};

use super::fetch_source::FetchSource;

/// Sources in one transaction.
const BATCH: i64 = 500;

/// Enqueues a fetch for every active source, unless one stands already; as a tenant's job, for that tenant's sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchAll {}

impl JobArgs for FetchAll {
    const KIND: Kind = Kind::from_static("vacancy.fetch_all");
    const QUEUE: QueueName = QueueName::from_static("fetch");
    const POLICY: Policy =
        Policy::DEFAULT.with_max_attempts(5).with_backoff(Duration::from_secs(2), Duration::from_secs(60));
    const OPERATORS_ONLY: bool = true;
}

/// Executes `vacancy.fetch_all`. Repeating it is harmless: a source has one fetch at a time.
#[derive(Debug)]
pub struct FetchAllHandler {
    database: PgPool,
}

#[derive(FromRow)]
struct Due {
    id: Uuid,
    tenant: String,
}

impl FetchAllHandler {
    /// With what it needs.
    #[must_use]
    pub const fn new(database: PgPool) -> Self {
        Self { database }
    }

    async fn batch(&self, ctx: &JobContext, after: Uuid) -> Result<(Vec<Due>, u64), JobError> {
        let mut tx = self.database.begin().await?;
        let due: Vec<Due> = sqlx::query_as(
            "SELECT s.id, s.tenant FROM source s JOIN tenant t ON t.id = s.tenant
             WHERE s.active AND t.active AND s.id > $1 AND ($3::text IS NULL OR s.tenant = $3) ORDER BY s.id LIMIT $2",
        )
        .bind(after)
        .bind(BATCH)
        .bind(ctx.tenant().map(Tenant::as_str))
        .fetch_all(&mut *tx)
        .await?;
        let jobs = due
            .iter()
            .map(|source| {
                let tenant = Tenant::new(&*source.tenant)?;
                Ok(FetchSource::job(&tenant, source.id)?.traceparent(ctx.traceparent().map(str::to_owned)))
            })
            .collect::<anyhow::Result<Vec<NewJob>>>()
            .map_err(|error| JobError::bury("invalid_tenant", error))?;
        let answers = journal::enqueue_in(&mut tx, &jobs).await?;
        tx.commit().await?;
        Ok((due, answers.iter().filter(|answer| answer.is_created()).count() as u64))
    }
}

impl Handler for FetchAllHandler {
    type Args = FetchAll;

    async fn run(&self, ctx: JobContext, _: FetchAll) -> JobResult {
        let (mut sources, mut enqueued) = (0, 0);
        let mut after = Uuid::nil();
        loop {
            let (due, created) = self.batch(&ctx, after).await?;
            sources += due.len();
            enqueued += created;
            let Some(last) = due.last() else { break };
            after = last.id;
        }
        tracing::info!(sources, enqueued, "fetches enqueued");
        Ok(Outcome::Done)
    }
}
