//! Where a job is, asked by its id alone: Redis knows fast jobs and what is in work, Postgres what is journaled or closed.

use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use windrow_queue::{
    Catalog, JobId, QueueName, Tenant,
    id::{Generation, Member},
    store::{AttemptError, JobState, JobStatus, Store, StoreError},
};

/// A job as clients see it.
#[derive(Debug, Serialize)]
pub struct JobView {
    /// The job.
    pub id: JobId,
    /// What it is.
    pub kind: Option<String>,
    /// Where it waits.
    pub queue: String,
    /// Whom it is done for.
    pub tenant: Option<String>,
    /// `scheduled`, `ready`, `running`, `parked`, `dead`, `completed`, `cancelled` or `discarded`.
    pub state: String,
    /// Whether it is in the journal.
    pub journaled: bool,
    /// Attempts that count.
    pub attempt: u32,
    /// When it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When it is due, or became ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<DateTime<Utc>>,
    /// When it was closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<DateTime<Utc>>,
    /// Why it is dead or cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last attempts' errors, oldest first.
    pub errors: Vec<AttemptError>,
}

impl JobView {
    /// Whether nothing more will happen to it by itself.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(&*self.state, "dead" | "completed" | "cancelled" | "discarded")
    }

    /// Whether it was done.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.state == "completed"
    }
}

/// Why a job could not be looked for.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Redis failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Postgres failed.
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
}

/// Looks for a job in all queues of the catalog. `None`: there never was one, or it is over and its result was not kept.
///
/// # Errors
/// When a store that may know it is away.
pub async fn find(
    store: &Store,
    database: &PgPool,
    catalog: &Catalog,
    id: JobId,
) -> Result<Option<JobView>, FindError> {
    let queues = catalog.queues();
    if let Some((queue, status)) = in_any(store, &queues, Member::fast(id)).await? {
        return Ok(Some(view(id, queue, false, status)));
    }
    if let Some(row) = live(database, id).await? {
        // A queue that this program knows no kind of may still be somebody's.
        let status = match QueueName::new(&*row.queue) {
            Ok(queue) => store.status(&queue, Member::journaled(id, row.generation)).await?,
            Err(_) => None,
        };
        return Ok(Some(row.view(id, status)));
    }
    if let Some(closed) = windrow_queue::journal::show_closed(database, id).await? {
        return Ok(Some(JobView {
            id,
            kind: Some(closed.kind),
            queue: closed.queue,
            tenant: closed.tenant,
            state: closed.state,
            journaled: true,
            attempt: u32::try_from(closed.job["attempt"].as_i64().unwrap_or(0)).unwrap_or(0),
            enqueued_at: closed.job["enqueued_at"].as_str().and_then(|text| text.parse().ok()),
            ready_at: None,
            closed_at: Some(closed.closed_at),
            reason: Some(closed.reason),
            errors: errors(Some(&closed.job["errors"])),
        }));
    }
    // A job that finished under a raised generation is not found; its generation went with its row.
    Ok(in_any(store, &queues, Member::journaled(id, 1)).await?.map(|(queue, status)| view(id, queue, true, status)))
}

async fn in_any(
    store: &Store,
    queues: &[QueueName],
    member: Member,
) -> Result<Option<(QueueName, JobStatus)>, StoreError> {
    let found = try_join_all(queues.iter().map(|queue| store.status(queue, member))).await?;
    Ok(queues.iter().cloned().zip(found).find_map(|(queue, status)| Some((queue, status?))))
}

fn view(id: JobId, queue: QueueName, journaled: bool, status: JobStatus) -> JobView {
    let reason = match (&status.result, status.errors.last()) {
        (Some(result), _) => Some(result.as_str().map_or_else(|| result.to_string(), str::to_owned)),
        (None, Some(error)) if status.state == JobState::Dead => Some(format!("{}: {}", error.class, error.message)),
        _ => None,
    };
    JobView {
        id,
        kind: status.kind.map(String::from),
        queue: queue.into(),
        tenant: status.tenant.map(String::from),
        state: word(status.state).to_owned(),
        journaled,
        attempt: status.attempt,
        enqueued_at: status.enqueued_at,
        ready_at: status.ready_at,
        closed_at: None,
        reason,
        errors: status.errors,
    }
}

const fn word(state: JobState) -> &'static str {
    match state {
        JobState::Scheduled => "scheduled",
        JobState::Ready => "ready",
        JobState::Running => "running",
        JobState::Dead => "dead",
        JobState::Completed => "completed",
        JobState::Cancelled => "cancelled",
    }
}

fn errors(recorded: Option<&serde_json::Value>) -> Vec<AttemptError> {
    // Rows that another version wrote may look otherwise; what does not read is left out, the rest is shown.
    let entries = recorded.and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(|entry| serde_json::from_value(entry.clone()).ok()).collect()
}

#[derive(FromRow)]
struct LiveRow {
    #[sqlx(rename = "gen")]
    generation: Generation,
    state: String,
    kind: String,
    queue: String,
    tenant: Option<String>,
    attempt: i32,
    run_at: DateTime<Utc>,
    is_due: bool,
    enqueued_at: DateTime<Utc>,
    errors: Option<serde_json::Value>,
}

async fn live(database: &PgPool, id: JobId) -> Result<Option<LiveRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT gen, state, kind, queue, tenant, attempt, run_at, run_at <= now() AS is_due, enqueued_at, errors
         FROM job_journal WHERE id = $1",
    )
    .bind(id.0)
    .fetch_optional(database)
    .await
}

impl LiveRow {
    /// Redis says where a live job is; one that it does not know yet is on its way.
    fn view(self, id: JobId, status: Option<JobStatus>) -> JobView {
        let in_redis = status.as_ref().map(|status| word(status.state));
        // The row stands, so what Redis calls dead is poison that is being moved: still live here.
        let state = match (&*self.state, in_redis) {
            ("live", Some(word)) => word,
            ("live", None) if self.is_due => "ready",
            ("live", None) => "scheduled",
            (other, _) => other,
        };
        let mirrored = u32::try_from(self.attempt).unwrap_or(0);
        let known = errors(self.errors.as_ref());
        JobView {
            id,
            kind: Some(self.kind),
            queue: self.queue,
            tenant: self.tenant,
            state: state.to_owned(),
            journaled: true,
            attempt: status.as_ref().map_or(mirrored, |status| status.attempt.max(mirrored)),
            enqueued_at: Some(self.enqueued_at),
            ready_at: status.as_ref().and_then(|status| status.ready_at).or(Some(self.run_at)),
            closed_at: None,
            reason: None,
            errors: match status {
                Some(status) if status.errors.len() >= known.len() => status.errors,
                _ => known,
            },
        }
    }
}

/// Whether a caller bound to a tenant may see the job.
pub(crate) fn is_visible(view: &JobView, tenant: Option<&Tenant>) -> bool {
    tenant.is_none_or(|tenant| view.tenant.as_deref() == Some(tenant.as_str()))
}
