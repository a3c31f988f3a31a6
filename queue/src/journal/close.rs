//! Final decisions other than completion: dead, cancelled, discarded; and the way back, redrive.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    id::{Generation, JobId},
    store::AttemptError,
};

/// Why a job will not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseState {
    /// Out of attempts, or buried by its handler.
    Dead,
    /// Somebody asked for it, or the handler found it no longer wanted.
    Cancelled,
}

impl CloseState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// All that is recorded of such a decision.
#[derive(Clone, Copy, Debug)]
pub struct Closing<'a> {
    /// Dead or cancelled.
    pub state: CloseState,
    /// Why, for people. No secret.
    pub reason: &'a str,
    /// What it is grouped by among the dead ([`fingerprint`](crate::error::fingerprint)).
    pub fingerprint: [u8; 16],
    /// The last attempt's error.
    pub error: Option<&'a AttemptError>,
    /// Attempts that count.
    pub attempt: u32,
}

/// Moves a journal row to `job_closed` in one statement. False: the row was gone, somebody decided first.
///
/// # Errors
/// When Postgres is away; nothing is decided then.
pub async fn close(
    database: impl PgExecutor<'_>,
    id: JobId,
    generation: Generation,
    closing: &Closing<'_>,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "WITH gone AS (
             DELETE FROM job_journal WHERE id = $1 AND gen = $2 AND (state = 'live' OR $3 = 'cancelled') RETURNING *
         )
         INSERT INTO job_closed (id, gen, state, queue, kind, tenant, reason, fingerprint, job)
         SELECT id, gen, $3, queue, kind, tenant, $4, $5,
                to_jsonb(gone) || jsonb_build_object('attempt', greatest(attempt, $7), 'errors',
                    CASE WHEN $6::jsonb IS NULL THEN coalesce(errors, '[]')
                         ELSE coalesce(errors, '[]') || $6 END)
         FROM gone
         ON CONFLICT (id) DO UPDATE SET gen = excluded.gen, state = excluded.state, reason = excluded.reason,
             fingerprint = excluded.fingerprint, closed_at = excluded.closed_at, job = excluded.job",
    )
    .bind(id.0)
    .bind(generation)
    .bind(closing.state.as_str())
    .bind(closing.reason)
    .bind(closing.fingerprint.as_slice())
    .bind(closing.error.map(Json))
    .bind(i32::try_from(closing.attempt).unwrap_or(i32::MAX))
    .execute(database)
    .await?;
    Ok(moved.rows_affected() > 0)
}

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
    /// The journal row as it stood, with `attempt` and `errors`.
    pub job: serde_json::Value,
}

/// Where a page of closed jobs ended.
#[derive(Clone, Copy, Debug)]
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
        "SELECT id, state, queue, kind, tenant, reason, closed_at, job FROM job_closed
         WHERE state = $1 AND ($2::timestamptz IS NULL OR (closed_at, id) < ($2, $3))
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
    sqlx::query_as("SELECT id, state, queue, kind, tenant, reason, closed_at, job FROM job_closed WHERE id = $1")
        .bind(id.0)
        .fetch_optional(pool)
        .await
}

/// Brings a dead or cancelled job back: live, with a raised generation and fresh attempts, checkpoint and errors kept.
/// False: there is no such job, or another one with its unique key stands.
///
/// # Errors
/// When Postgres is away.
pub async fn redrive(pool: &PgPool, id: JobId) -> Result<bool, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let back = sqlx::query(
        "WITH closed AS (
             DELETE FROM job_closed WHERE id = $1 AND state IN ('dead', 'cancelled') RETURNING job
         ), journal AS (
             INSERT INTO job_journal
             SELECT (jsonb_populate_record(NULL::job_journal, job || jsonb_build_object(
                 'gen', (job->>'gen')::int + 1, 'state', 'live', 'attempt', 0, 'run_at', clock_timestamp(),
                 'park_deadline', NULL, 'callback', NULL))).*
             FROM closed
             ON CONFLICT DO NOTHING
             RETURNING id, gen, band, queue, tenant, kind, run_at
         ), outbox AS (
             INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at)
             SELECT band, now(), id, gen, queue, coalesce(tenant, ''), kind, run_at FROM journal
             RETURNING id
         )
         SELECT outbox.id, (SELECT count(pg_notify('windrow_outbox', '')) FROM relay_flag WHERE idle) FROM outbox",
    )
    .bind(id.0)
    .fetch_all(&mut *tx)
    .await?;
    if back.is_empty() {
        tx.rollback().await?;
        return Ok(false);
    }
    tx.commit().await?;
    Ok(true)
}

/// Marks a dead or cancelled job as discarded: it stays on record and can no longer be redriven.
///
/// # Errors
/// When Postgres is away.
pub async fn discard(pool: &PgPool, id: JobId) -> Result<bool, sqlx::Error> {
    let done =
        sqlx::query("UPDATE job_closed SET state = 'discarded' WHERE id = $1 AND state IN ('dead', 'cancelled')")
            .bind(id.0)
            .execute(pool)
            .await?;
    Ok(done.rows_affected() > 0)
}
