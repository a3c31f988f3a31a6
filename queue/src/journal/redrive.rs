//! The way back from `job_closed`, and giving up for good; one job, or all that a filter names.

use std::collections::HashSet;

use sqlx::{PgPool, Row};

use super::{
    closed::{ClosedCursor, ClosedFilter, find_closed_ids},
    sql::to_outbox,
};
use crate::id::JobId;

/// Jobs in one step.
const STEP: usize = 500;

/// `$1` ids. Rows of before a column was added have nothing for it.
const REDRIVE: &str = concat!(
    "WITH picked AS (
         SELECT id, job FROM job_closed
         WHERE id = ANY ($1) AND state IN ('dead', 'cancelled') AND (runs_until IS NULL OR runs_until <= now())
         ORDER BY id FOR UPDATE
     ), journal AS (
         INSERT INTO job_journal
         SELECT back.* FROM picked, jsonb_populate_record(NULL::job_journal,
             '{\"at_most_once\": false, \"unique_queued\": false}' || job || jsonb_build_object(
                 'gen', (job->>'gen')::int + 1, 'state', 'live', 'attempt', 0, 'run_at', clock_timestamp(),
                 'park_deadline', NULL, 'callback', nullif(job->'callback', '\"timed_out\"'))) AS back
         ORDER BY back.unique_key, back.id
         ON CONFLICT DO NOTHING
         RETURNING id, gen, band, queue, tenant, kind, run_at, rescue_limit, at_most_once
     ), reopened AS (
         DELETE FROM job_closed WHERE id IN (SELECT id FROM journal)
     ), ",
    to_outbox!("journal"),
    " SELECT outbox.id FROM outbox LEFT JOIN wake ON true"
);

/// Brings dead or cancelled jobs back, up to 500: live, with a raised generation and fresh attempts. Checkpoint, errors and what a
/// callback brought are kept; a wait that nobody ended is begun anew.
/// Returns those that are back; the others are no such jobs, or another one with their unique key stands.
///
/// # Errors
/// When Postgres is away; none is back then.
pub async fn redrive_all(pool: &PgPool, ids: &[JobId]) -> Result<HashSet<JobId>, sqlx::Error> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let back = sqlx::query(REDRIVE).bind(ids).fetch_all(pool).await?;
    Ok(back.iter().map(|row| JobId(row.get(0))).collect())
}

/// Brings one back. False: there is no such job, or another one with its unique key stands.
///
/// # Errors
/// When Postgres is away.
pub async fn redrive(pool: &PgPool, id: JobId) -> Result<bool, sqlx::Error> {
    Ok(!redrive_all(pool, &[id]).await?.is_empty())
}

/// Marks dead or cancelled jobs as discarded, up to 500: they stay on record and can no longer be redriven. Returns those that
/// were marked.
///
/// # Errors
/// When Postgres is away.
pub async fn discard_all(pool: &PgPool, ids: &[JobId]) -> Result<HashSet<JobId>, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE job_closed SET state = 'discarded' WHERE id IN (
             SELECT id FROM job_closed
             WHERE id = ANY ($1) AND state IN ('dead', 'cancelled') AND (runs_until IS NULL OR runs_until <= now())
             ORDER BY id FOR UPDATE)
         RETURNING id",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(done.iter().map(|row| JobId(row.get(0))).collect())
}

/// Discards one. False: there is no such job.
///
/// # Errors
/// When Postgres is away.
pub async fn discard(pool: &PgPool, id: JobId) -> Result<bool, sqlx::Error> {
    Ok(!discard_all(pool, &[id]).await?.is_empty())
}

/// What is to be done with closed jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClosedAction {
    /// Nothing: a dry run.
    Count,
    /// Back to work.
    Redrive,
    /// Given up for good.
    Discard,
}

/// What one step did.
#[derive(Debug)]
pub struct ClosedStep {
    /// Jobs that the filter names, among those looked at.
    pub matched: u64,
    /// Those to which it was done. The others changed in between, or (redrive) another job with their unique key stands.
    pub done: u64,
    /// Where to go on; `None` when all were looked at.
    pub next: Option<ClosedCursor>,
}

/// Does it to the closed jobs that a filter names, newest first, up to 500 a call: call it until there is no `next`, as fast or
/// slow as is wanted. Jobs that are redriven and die again meanwhile are not met again.
///
/// # Errors
/// When Postgres is away: go on from the same place.
pub async fn act_on_closed(
    pool: &PgPool,
    filter: &ClosedFilter,
    action: ClosedAction,
    after: Option<ClosedCursor>,
) -> Result<ClosedStep, sqlx::Error> {
    let (ids, next) = find_closed_ids(pool, filter, after, STEP).await?;
    let done = match action {
        ClosedAction::Count => HashSet::new(),
        _ if ids.is_empty() => HashSet::new(),
        ClosedAction::Redrive => redrive_all(pool, &ids).await?,
        ClosedAction::Discard => discard_all(pool, &ids).await?,
    };
    let count = |length| u64::try_from(length).unwrap_or(u64::MAX);
    Ok(ClosedStep { matched: count(ids.len()), done: count(done.len()), next })
}
