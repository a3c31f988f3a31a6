//! Final decisions other than completion: dead and cancelled.

use sqlx::{PgExecutor, types::Json};

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
    pub(super) const fn as_str(self) -> &'static str {
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
/// Of a job that runs at most once and was started, the row is there already: it gets its reason.
///
/// # Errors
/// When Postgres is away; nothing is decided then.
pub async fn close(
    database: impl PgExecutor<'_>,
    id: JobId,
    generation: Generation,
    closing: &Closing<'_>,
) -> Result<bool, sqlx::Error> {
    let closed: i64 = sqlx::query_scalar(
        "WITH gone AS (
             DELETE FROM job_journal WHERE id = $1 AND gen = $2 AND (state = 'live' OR $3 = 'cancelled') RETURNING *
         ), moved AS (
             INSERT INTO job_closed (id, gen, state, queue, kind, tenant, reason, fingerprint, batch_id, job)
             SELECT id, gen, $3, queue, kind, tenant, $4, $5, batch_id,
                    to_jsonb(gone) || jsonb_build_object('attempt', greatest(attempt, $7), 'errors',
                        coalesce(errors, '[]') || coalesce($6::jsonb, '[]'))
             FROM gone
             ON CONFLICT (id) DO UPDATE SET gen = excluded.gen, state = excluded.state, reason = excluded.reason,
                 fingerprint = excluded.fingerprint, closed_at = excluded.closed_at, batch_id = excluded.batch_id,
                 runs_until = NULL, job = excluded.job
             RETURNING id
         ), started AS (
             UPDATE job_closed SET state = $3, reason = $4, fingerprint = $5, closed_at = now(), runs_until = NULL,
                    job = job || jsonb_build_object('attempt', greatest((job->>'attempt')::int, $7), 'errors',
                        (job->'errors') || coalesce($6::jsonb, '[]'))
             WHERE id = $1 AND gen = $2 AND state = 'dead' AND runs_until IS NOT NULL
             RETURNING id
         )
         SELECT count(*) FROM (SELECT id FROM moved UNION ALL SELECT id FROM started) AS closed",
    )
    .bind(id.0)
    .bind(generation)
    .bind(closing.state.as_str())
    .bind(closing.reason)
    .bind(closing.fingerprint.as_slice())
    .bind(closing.error.map(Json))
    .bind(i32::try_from(closing.attempt).unwrap_or(i32::MAX))
    .fetch_one(database)
    .await?;
    Ok(closed > 0)
}
