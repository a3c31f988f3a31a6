//! Where a job is, asked by its id alone: Redis knows fast jobs and what is in work, Postgres what is journaled or closed.

use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::{
    BatchId, Catalog, JobId, QueueName, Tenant,
    id::{Generation, Member},
    journal::{Closed, Standing},
    store::{AttemptError, DeadJob, HeldBy, JobState, JobStatus, Listed, Progress, Store, StoreError},
};

/// A job as clients see it. What is not known, or does not hold in its state, is left out.
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
    /// Why a ready job is not claimed now, and by which limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HeldBy>,
    /// Since when it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_since: Option<DateTime<Utc>>,
    /// The session that runs it; `windrow workers` lists them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How far it says it has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// It runs, and was told to stop.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Until when a parked job waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub park_deadline: Option<DateTime<Utc>>,
    /// The batch of which it is a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    /// When it was closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<DateTime<Utc>>,
    /// Why it is dead or cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What dead jobs are grouped by, 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The last attempts' errors, oldest first. Lists leave them out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<AttemptError>,
}

impl JobView {
    /// A job of which only the place is known.
    pub(crate) fn new(id: JobId, queue: impl Into<String>, state: &str, journaled: bool) -> Self {
        Self {
            id,
            kind: None,
            queue: queue.into(),
            tenant: None,
            state: state.to_owned(),
            journaled,
            attempt: 0,
            enqueued_at: None,
            ready_at: None,
            held_by: None,
            running_since: None,
            session: None,
            progress: None,
            stopping: false,
            park_deadline: None,
            batch: None,
            closed_at: None,
            reason: None,
            fingerprint: None,
            errors: Vec::new(),
        }
    }

    /// A job on record among the closed ones.
    pub(crate) fn closed(closed: Closed) -> Self {
        let text = |name: &str| closed.job[name].as_str();
        Self {
            attempt: u32::try_from(closed.job["attempt"].as_i64().unwrap_or(0)).unwrap_or(0),
            enqueued_at: text("enqueued_at").and_then(|text| text.parse().ok()),
            batch: text("batch_id").and_then(|text| text.parse().ok()).map(BatchId),
            errors: errors(Some(&closed.job["errors"])),
            kind: Some(closed.kind),
            tenant: closed.tenant,
            closed_at: Some(closed.closed_at),
            // Of one that runs at most once, and is running, nothing bad is known yet.
            reason: (!closed.running).then_some(closed.reason),
            fingerprint: closed.fingerprint.as_deref().filter(|_| !closed.running).map(hex),
            ..Self::new(JobId(closed.id), closed.queue, if closed.running { "running" } else { &closed.state }, true)
        }
    }

    /// A job in a list of Redis.
    pub(crate) fn listed(queue: &QueueName, job: Listed) -> Self {
        let is = |state| job.state == state;
        Self {
            kind: Some(job.kind.into()),
            tenant: job.tenant.map(String::from),
            attempt: job.attempt,
            enqueued_at: job.enqueued_at,
            ready_at: job.at.filter(|_| is(JobState::Scheduled) || is(JobState::Ready)),
            held_by: job.held_by,
            running_since: job.at.filter(|_| is(JobState::Running)),
            session: job.session,
            progress: job.progress,
            stopping: job.stopping,
            park_deadline: job.at.filter(|_| is(JobState::Parked)),
            batch: job.batch,
            ..Self::new(job.id, queue.as_str(), word(job.state), job.journaled)
        }
    }

    /// A dead fast job in a list.
    pub(crate) fn dead(queue: &QueueName, job: DeadJob) -> Self {
        Self {
            fingerprint: Some(hex(&job.fingerprint())),
            kind: Some(job.kind.into()),
            tenant: job.tenant.map(String::from),
            attempt: job.attempt,
            enqueued_at: job.enqueued_at,
            batch: job.batch,
            closed_at: job.died_at,
            reason: job.error.map(|error| format!("{}: {}", error.class, error.message)),
            ..Self::new(job.id, queue.as_str(), "dead", false)
        }
    }

    /// A journaled job that waits for a callback.
    pub(crate) fn parked(job: Standing) -> Self {
        Self {
            kind: Some(job.kind),
            tenant: job.tenant,
            attempt: u32::try_from(job.attempt).unwrap_or(0),
            enqueued_at: Some(job.enqueued_at),
            park_deadline: job.park_deadline,
            ..Self::new(JobId(job.id), job.queue, "parked", true)
        }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing into a string cannot fail");
        text
    })
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
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Postgres failed.
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
}

/// A fingerprint as it is shown: 32 hexadecimal digits. `None`: it is none.
#[must_use]
pub fn unhex16(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
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
        return Ok(Some(JobView::closed(closed)));
    }
    // Its generation went with its row; what is kept of it stands under the first one.
    Ok(in_any(store, &queues, Member::journaled(id, 1)).await?.map(|(queue, status)| view(id, queue, true, status)))
}

/// Where a journaled job is that still has to happen. `None`: it is over.
///
/// # Errors
/// When a store is away.
pub(crate) async fn standing_state(store: &Store, database: &PgPool, id: JobId) -> Result<Option<String>, FindError> {
    let Some(row) = live(database, id).await? else { return Ok(None) };
    let status = match QueueName::new(&*row.queue) {
        Ok(queue) => store.status(&queue, Member::journaled(id, row.generation)).await?,
        Err(_) => None,
    };
    Ok(Some(row.view(id, status).state))
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
        kind: status.kind.map(String::from),
        tenant: status.tenant.map(String::from),
        attempt: status.attempt,
        enqueued_at: status.enqueued_at,
        ready_at: status.ready_at,
        held_by: status.held_by,
        running_since: status.running_since,
        session: status.session,
        progress: status.progress,
        stopping: status.stopping,
        park_deadline: status.park_deadline,
        batch: status.batch,
        closed_at: status.died_at,
        reason,
        errors: status.errors,
        ..JobView::new(id, queue, word(status.state), journaled)
    }
}

const fn word(state: JobState) -> &'static str {
    match state {
        JobState::Scheduled => "scheduled",
        JobState::Ready => "ready",
        JobState::Running => "running",
        JobState::Parked => "parked",
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
    park_deadline: Option<DateTime<Utc>>,
    batch_id: Option<Uuid>,
    enqueued_at: DateTime<Utc>,
    errors: Option<serde_json::Value>,
}

async fn live(database: &PgPool, id: JobId) -> Result<Option<LiveRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT gen, state, kind, queue, tenant, attempt, run_at, run_at <= now() AS is_due, park_deadline, batch_id,
                enqueued_at, errors
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
        let queue = QueueName::new(&*self.queue).ok();
        let seen = queue.zip(status).map(|(queue, status)| view(id, queue, true, status));
        let (of_redis, errors) = match seen {
            Some(mut seen) => {
                let errors = std::mem::take(&mut seen.errors);
                (seen, errors)
            }
            None => (JobView::new(id, &*self.queue, state, true), Vec::new()),
        };
        JobView {
            state: state.to_owned(),
            kind: Some(self.kind),
            tenant: self.tenant,
            attempt: of_redis.attempt.max(mirrored),
            enqueued_at: Some(self.enqueued_at),
            ready_at: of_redis.ready_at.or_else(|| (self.state == "live").then_some(self.run_at)),
            park_deadline: self.park_deadline.filter(|_| self.state == "parked"),
            batch: self.batch_id.map(BatchId),
            closed_at: None,
            reason: None,
            errors: if errors.len() >= known.len() { errors } else { known },
            ..of_redis
        }
    }
}

/// Whether a caller bound to a tenant may see the job.
pub(crate) fn is_visible(view: &JobView, tenant: Option<&Tenant>) -> bool {
    tenant.is_none_or(|tenant| view.tenant.as_deref() == Some(tenant.as_str()))
}
