//! `vacancy.fetch_source`: one source, from its URL to stored vacancies with their scoring jobs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Semaphore;
use uuid::Uuid;
use windrow_queue::{
    Decision, Enqueued, Handler, JobArgs, JobContext, JobError, Kind, NewJob, Outcome, Policy, QueueName, Tenant,
    handler::JobResult, job::InvalidJob, journal,
};

use super::{
    config::Config,
    download::{Download, Downloader},
    metrics::FetchMetrics,
    source::{Source, load_active},
    store,
};
use crate::outward::Client;

/// Fetches one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchSource {
    /// The source.
    pub source_id: Uuid,
}

impl JobArgs for FetchSource {
    const KIND: Kind = Kind::from_static("vacancy.fetch_source");
    const QUEUE: QueueName = QueueName::from_static("fetch");
    const REQUIRED: &'static [&'static str] = &["source_id"];
    /// Few attempts within a minute or so: the next scheduled fetch tries anew, and a source that stays broken is to be
    /// seen.
    const POLICY: Policy = Policy::DEFAULT
        .with_max_attempts(5)
        .with_backoff(Duration::from_secs(2), Duration::from_secs(300))
        .with_timeout(Duration::from_secs(120))
        .journaled();
}

impl FetchSource {
    /// The job for a source; one at a time.
    ///
    /// # Errors
    /// Never in practice: the args are small.
    pub fn job(tenant: &Tenant, source_id: Uuid) -> Result<NewJob, InvalidJob> {
        Ok(NewJob::new(&Self { source_id })?.tenant(tenant.clone()).unique(&source_id.to_string()))
    }
}

/// Asks for a source to be fetched now, in the caller's transaction. A fetch that stands already is the answer.
///
/// # Errors
/// When Postgres refuses.
pub async fn request_fetch(
    tx: &mut PgConnection,
    tenant: &Tenant,
    source_id: Uuid,
    traceparent: Option<String>,
) -> Result<Enqueued, sqlx::Error> {
    let job = FetchSource::job(tenant, source_id).map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(journal::enqueue_in(tx, &[job.traceparent(traceparent)]).await?.remove(0))
}

/// Executes `vacancy.fetch_source`.
#[derive(Debug)]
pub struct FetchSourceHandler {
    database: PgPool,
    downloader: Downloader,
}

impl FetchSourceHandler {
    /// With what it needs.
    #[must_use]
    pub fn new(database: PgPool, client: Client, config: Config, metrics: FetchMetrics) -> Self {
        let parse_slots = Semaphore::new(config.parse_slots.clamp(1, 1000));
        Self { database, downloader: Downloader { client, config, metrics, parse_slots } }
    }

    async fn fetch(&self, ctx: &JobContext, source: &Source) -> JobResult {
        let Downloader { config, metrics, .. } = &self.downloader;
        let timer = metrics.duration.start_timer();
        let download = self.downloader.download(source).await.map_err(|error| error.into_job_error(&source.name));
        timer.observe_duration();
        let download = download?;
        let is_not_modified = matches!(download, Download::NotModified);
        let is_cut = matches!(&download, Download::Fetched(fetched) if fetched.is_cut);

        let mut tx = ctx.begin().await?;
        let Some(counts) = store::store(&mut tx, source, download, ctx.traceparent(), config.rescore_changed).await?
        else {
            return Ok(Outcome::Cancel(format!("source {} was deleted", source.id)));
        };
        let committed = tx.commit().await?;

        metrics.sources.with_label_values(&[if is_not_modified { "not_modified" } else { "fetched" }]).inc();
        metrics.count(&counts);
        if is_cut {
            metrics.cut.inc();
            tracing::warn!(source_id = %source.id, source = source.name, "the source has more than the limits allow; the rest was left");
        }
        tracing::info!(
            source_id = %source.id, source = source.name, not_modified = is_not_modified, inserted = counts.inserted,
            updated = counts.updated, duplicate = counts.duplicate, skipped = counts.skipped, "fetched"
        );
        Ok(committed.into())
    }

    /// Notes the failure at the source, where its owner looks. The job's own record does not depend on it.
    async fn note(&self, source: &Source, error: &JobError) {
        self.downloader.metrics.errors.with_label_values(&[error.class()]).inc();
        let text: String = error.to_string().replace('\0', "").chars().take(1000).collect();
        let noted = sqlx::query(
            "UPDATE source SET last_error = $2, last_error_at = now(), failures = failures + 1 WHERE id = $1",
        )
        .bind(source.id)
        .bind(text)
        .execute(&self.database)
        .await;
        if let Err(error) = noted {
            tracing::warn!(source_id = %source.id, %error, "the failed fetch could not be noted at its source");
        }
    }
}

impl Handler for FetchSourceHandler {
    type Args = FetchSource;

    async fn run(&self, ctx: JobContext, args: FetchSource) -> JobResult {
        let Some(source) = load_active(&self.database, args.source_id, ctx.tenant()).await? else {
            return Ok(Outcome::Cancel(format!(
                "source {} does not exist, or it or its tenant is not active",
                args.source_id
            )));
        };
        let result = self.fetch(&ctx, &source).await;
        if let Err(error) = &result
            && !matches!(error.decision(), Decision::Snooze(_) | Decision::Gone)
        {
            self.note(&source, error).await;
        }
        result
    }
}
