//! What is on record of jobs that will not run: one, pages of them, and groups by what they died of.
//!
//! A job that runs at most once is on record from its start on. While it may be running it is no dead job: only [`show_closed`]
//! shows it, and says so.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool, Row, postgres::PgRow};
use uuid::Uuid;

use super::CloseState;
use crate::{
    id::JobId,
    name::{Kind, QueueName, Tenant},
    vault::shown_value,
};

/// Rows that one look reads at most, whether they match or not.
const WINDOW: i64 = 5000;

/// The newest rows of a state, of which groups are made.
const GROUPED: i64 = 100_000;

/// A journaled job that will not run unless somebody says so.
#[derive(Debug, FromRow)]
pub struct Closed {
    /// The job.
    pub id: Uuid,
    /// `dead`, `cancelled` or `discarded`.
    pub state: String,
    /// Its queue.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// Whom it was to be done for.
    pub tenant: Option<String>,
    /// Why.
    pub reason: String,
    /// Since when.
    pub closed_at: DateTime<Utc>,
    /// What it is grouped by among the dead.
    pub fingerprint: Option<Vec<u8>>,
    /// It runs at most once, was started, and nothing was heard of it yet: it is dead only if that remains so.
    pub running: bool,
    /// The journal row as it stood, with `attempt` and `errors`. What is sealed of it shows its key's id only.
    #[sqlx(try_from = "StoredJob")]
    pub job: serde_json::Value,
}

/// A journal row as `job_closed` has it.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct StoredJob(serde_json::Value);

impl From<StoredJob> for serde_json::Value {
    fn from(StoredJob(mut job): StoredJob) -> Self {
        for place in ["/args", "/checkpoint", "/callback/payload"] {
            job.pointer_mut(place).map(shown_value);
        }
        job
    }
}

/// Where a page of closed jobs ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClosedCursor {
    /// `closed_at` of its last row.
    pub closed_at: DateTime<Utc>,
    /// `id` of its last row.
    pub id: Uuid,
}

/// A page of closed jobs in one state, newest first.
///
/// # Errors
/// When Postgres is away.
pub async fn list_closed(
    pool: &PgPool,
    state: CloseState,
    after: Option<ClosedCursor>,
    limit: i64,
) -> Result<Vec<Closed>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, state, queue, kind, tenant, reason, closed_at, fingerprint, false AS running, job FROM job_closed
         WHERE state = $1 AND ($2::timestamptz IS NULL OR (closed_at, id) < ($2, $3))
           AND (runs_until IS NULL OR runs_until <= now())
         ORDER BY closed_at DESC, id DESC LIMIT $4",
    )
    .bind(state.as_str())
    .bind(after.map(|cursor| cursor.closed_at))
    .bind(after.map(|cursor| cursor.id))
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// One closed job.
///
/// # Errors
/// When Postgres is away.
pub async fn show_closed(pool: &PgPool, id: JobId) -> Result<Option<Closed>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, state, queue, kind, tenant, reason, closed_at, fingerprint, (runs_until > now()) IS TRUE AS running,
                job
         FROM job_closed WHERE id = $1",
    )
    .bind(id.0)
    .fetch_optional(pool)
    .await
}

/// Which closed jobs are meant: those that fit all that is given.
#[derive(Clone, Debug)]
pub struct ClosedFilter {
    /// Dead or cancelled.
    pub state: CloseState,
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only of this queue.
    pub queue: Option<QueueName>,
    /// Only those that died of this.
    pub fingerprint: Option<[u8; 16]>,
    /// Closed at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Closed before this time.
    pub until: Option<DateTime<Utc>>,
}

impl ClosedFilter {
    /// All in this state.
    #[must_use]
    pub const fn all(state: CloseState) -> Self {
        Self { state, kind: None, tenant: None, queue: None, fingerprint: None, since: None, until: None }
    }
}

/// What one look found.
#[derive(Debug)]
pub struct ClosedPage {
    /// The jobs, newest first.
    pub jobs: Vec<Closed>,
    /// Where to go on; `None` when all were looked at. A page may be empty and have a next.
    pub next: Option<ClosedCursor>,
}

/// Looks at up to 5,000 rows and finds up to `limit` (at most 500) that the filter names.
///
/// # Errors
/// When Postgres is away.
pub async fn find_closed(
    pool: &PgPool,
    filter: &ClosedFilter,
    after: Option<ClosedCursor>,
    limit: usize,
) -> Result<ClosedPage, sqlx::Error> {
    let (rows, next) = look(pool, filter, after, limit, true).await?;
    Ok(ClosedPage { jobs: rows.iter().map(Closed::from_row).collect::<Result<_, _>>()?, next })
}

/// The same, without all that is on record of each.
pub(super) async fn find_closed_ids(
    pool: &PgPool,
    filter: &ClosedFilter,
    after: Option<ClosedCursor>,
    limit: usize,
) -> Result<(Vec<JobId>, Option<ClosedCursor>), sqlx::Error> {
    let (rows, next) = look(pool, filter, after, limit, false).await?;
    Ok((rows.iter().map(|row| row.try_get("id").map(JobId)).collect::<Result<_, _>>()?, next))
}

async fn look(
    pool: &PgPool,
    filter: &ClosedFilter,
    after: Option<ClosedCursor>,
    limit: usize,
    whole: bool,
) -> Result<(Vec<PgRow>, Option<ClosedCursor>), sqlx::Error> {
    let limit = limit.clamp(1, 500);
    // Window and matches in one statement: rows that went in between would move the end of a window that was looked for later.
    // What a row holds is fetched for the matches only.
    let mut rows = sqlx::query(
        "WITH seen AS MATERIALIZED (
             SELECT id, state, queue, kind, tenant, reason, closed_at, fingerprint, false AS running, runs_until
             FROM job_closed
             WHERE state = $1 AND ($2::timestamptz IS NULL OR (closed_at, id) < ($2, $3))
               AND closed_at >= coalesce($4, '-infinity') AND closed_at < coalesce($5, 'infinity')
             ORDER BY closed_at DESC, id DESC LIMIT $6
         ), found AS (
             SELECT * FROM seen
             WHERE ($7::text IS NULL OR kind = $7) AND ($8::text IS NULL OR tenant = $8)
               AND ($9::text IS NULL OR queue = $9) AND ($10::bytea IS NULL OR fingerprint = $10)
               AND (runs_until IS NULL OR runs_until <= now())
             ORDER BY closed_at DESC, id DESC LIMIT $11
         )
         SELECT window_end.*, found.*, CASE WHEN $12 THEN (SELECT job FROM job_closed c WHERE c.id = found.id) END AS job
         FROM (SELECT (SELECT count(*) FROM seen) AS looked_at, last.closed_at AS last_at, last.id AS last_id
               FROM (SELECT) AS one LEFT JOIN (SELECT closed_at, id FROM seen ORDER BY closed_at, id LIMIT 1) AS last
                   ON true) AS window_end
         LEFT JOIN found ON true ORDER BY found.closed_at DESC, found.id DESC",
    )
    .bind(filter.state.as_str())
    .bind(after.map(|cursor| cursor.closed_at))
    .bind(after.map(|cursor| cursor.id))
    .bind(filter.since)
    .bind(filter.until)
    .bind(WINDOW)
    .bind(filter.kind.as_ref().map(Kind::as_str))
    .bind(filter.tenant.as_ref().map(Tenant::as_str))
    .bind(filter.queue.as_ref().map(QueueName::as_str))
    .bind(filter.fingerprint.as_ref().map(<[u8; 16]>::as_slice))
    .bind(i64::try_from(limit).unwrap_or(500))
    .bind(whole)
    .fetch_all(pool)
    .await?;
    let cursor = |row: &PgRow, at, id| -> Result<ClosedCursor, sqlx::Error> {
        Ok(ClosedCursor { closed_at: row.try_get(at)?, id: row.try_get(id)? })
    };
    let full_window = match rows.first() {
        Some(row) if row.try_get::<i64, _>("looked_at")? == WINDOW => Some(cursor(row, "last_at", "last_id")?),
        _ => None,
    };
    // Without a match there is one row, of the window alone.
    rows.retain(|row| row.try_get::<Option<Uuid>, _>("id").is_ok_and(|id| id.is_some()));
    let next = match rows.last() {
        Some(last) if rows.len() == limit => Some(cursor(last, "closed_at", "id")?),
        _ => full_window,
    };
    Ok((rows, next))
}

/// Dead jobs that died of the same.
#[derive(Debug, FromRow)]
pub struct DeadGroup {
    /// What they have in common; 16 bytes.
    pub fingerprint: Vec<u8>,
    /// Their kind.
    pub kind: String,
    /// How many.
    pub jobs: i64,
    /// When the first of them died.
    pub first: DateTime<Utc>,
    /// When the last of them died.
    pub last: DateTime<Utc>,
    /// Why the last of them died.
    pub sample: String,
}

/// The largest groups of dead jobs, of one kind or tenant or of all. Counted are the newest 100,000 dead.
///
/// # Errors
/// When Postgres is away.
pub async fn dead_groups(
    pool: &PgPool,
    kind: Option<&Kind>,
    tenant: Option<&Tenant>,
    limit: i64,
) -> Result<Vec<DeadGroup>, sqlx::Error> {
    sqlx::query_as(
        "SELECT fingerprint, kind, count(*) AS jobs, min(closed_at) AS first, max(closed_at) AS last,
                (array_agg(reason ORDER BY closed_at DESC))[1] AS sample
         FROM (SELECT fingerprint, kind, tenant, closed_at, reason FROM job_closed
               WHERE state = 'dead' AND (runs_until IS NULL OR runs_until <= now())
               ORDER BY closed_at DESC LIMIT $1) AS dead
         WHERE fingerprint IS NOT NULL AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR tenant = $3)
         GROUP BY fingerprint, kind ORDER BY count(*) DESC, max(closed_at) DESC LIMIT $4",
    )
    .bind(GROUPED)
    .bind(kind.map(Kind::as_str))
    .bind(tenant.map(Tenant::as_str))
    .bind(limit)
    .fetch_all(pool)
    .await
}
