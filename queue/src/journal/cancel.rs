//! Cancelling journaled jobs: decided here, then told to Redis, so that what waits there is taken out and what runs is stopped.
//! A job that runs has lost its row: whatever its attempt still does in its transaction is rolled back.

use std::collections::HashMap;

use sqlx::{PgPool, Row};

use super::standing::{StandingCursor, StandingFilter, find_standing};
use crate::{
    error::is_transient,
    id::{JobId, Member},
};

/// Jobs in one statement.
const CHUNK: usize = 500;

/// What became of one job that was to be cancelled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cancelled {
    /// It will not run, and nothing that a running attempt does counts. Tell Redis:
    /// [`Store::cancel`](crate::store::Store::cancel).
    Done {
        /// Its member.
        member: Member,
        /// Its queue, as stored: one that a producer in SQL wrote may not be a name.
        queue: String,
    },
    /// It completed, died or was cancelled before.
    AlreadyFinal,
    /// Another transaction holds its row: it is being decided at this moment. Ask again.
    Busy,
    /// The journal does not know it. A journaled job that completed leaves no trace.
    Unknown,
}

/// Live, parked and queued jobs become closed ones. `$1` ids, `$2` reason.
macro_rules! cancel {
    ($lock:literal) => {
        concat!(
            "WITH picked AS (
                 SELECT id FROM job_journal WHERE id = ANY ($1) ORDER BY id ",
            $lock,
            "), gone AS (
                 DELETE FROM job_journal j USING picked WHERE j.id = picked.id RETURNING j.*
             )
             INSERT INTO job_closed (id, gen, state, queue, kind, tenant, reason, batch_id, job)
             SELECT id, gen, 'cancelled', queue, kind, tenant, $2, batch_id, to_jsonb(gone) FROM gone
             ON CONFLICT (id) DO UPDATE SET gen = excluded.gen, state = excluded.state, reason = excluded.reason,
                 fingerprint = NULL, closed_at = excluded.closed_at, batch_id = excluded.batch_id, runs_until = NULL,
                 job = excluded.job
             RETURNING id, gen, queue"
        )
    };
}

/// Cancels jobs by id; answers are in their order. Jobs that run at most once and have started are stopped, too.
///
/// # Errors
/// When Postgres is away: some may be cancelled. Asking again is safe, and answers `AlreadyFinal` for those that were.
pub async fn cancel(pool: &PgPool, ids: &[JobId], reason: &str) -> Result<Vec<Cancelled>, sqlx::Error> {
    let mut answers = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(CHUNK) {
        let decided = cancel_chunk(pool, chunk, reason, true).await?;
        answers.extend(chunk.iter().map(|id| decided.get(id).cloned().unwrap_or(Cancelled::Unknown)));
    }
    Ok(answers)
}

/// `waits`: for rows that somebody holds; not any more once one was waited for in vain, or a call could take minutes.
async fn cancel_chunk(
    pool: &PgPool,
    ids: &[JobId],
    reason: &str,
    mut waits: bool,
) -> Result<HashMap<JobId, Cancelled>, sqlx::Error> {
    let keys = |ids: &[JobId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let mut decided = HashMap::with_capacity(ids.len());
    let rows = sqlx::query(cancel!("FOR UPDATE SKIP LOCKED")).bind(keys(ids)).bind(reason).fetch_all(pool).await?;
    decided.extend(rows.iter().map(done));
    let rest = |decided: &HashMap<JobId, Cancelled>| {
        ids.iter().copied().filter(|id| !decided.contains_key(id)).collect::<Vec<_>>()
    };
    let open = rest(&decided);
    if open.is_empty() {
        return Ok(decided);
    }
    let started = sqlx::query(
        "UPDATE job_closed SET state = 'cancelled', reason = $2, fingerprint = NULL, closed_at = now(), runs_until = NULL
         WHERE id = ANY ($1) AND state = 'dead' AND runs_until > now() RETURNING id, gen, queue",
    )
    .bind(keys(&open))
    .bind(reason)
    .fetch_all(pool)
    .await?;
    decided.extend(started.iter().map(done));
    // Held by somebody at that moment.
    let held = sqlx::query("SELECT id FROM job_journal WHERE id = ANY ($1)").bind(keys(&open)).fetch_all(pool).await?;
    for id in held.iter().map(|row| JobId(row.get(0))) {
        if !waits {
            decided.insert(id, Cancelled::Busy);
            continue;
        }
        let row = sqlx::query(cancel!("FOR UPDATE")).bind(vec![id.0]).bind(reason).fetch_optional(pool).await;
        let answer = match row {
            Ok(Some(row)) => done(&row).1,
            Ok(None) => Cancelled::AlreadyFinal,
            Err(error) if is_transient(&error) && error.as_database_error().is_some() => {
                waits = false;
                Cancelled::Busy
            }
            Err(error) => return Err(error),
        };
        decided.insert(id, answer);
    }
    let closed = sqlx::query("SELECT id FROM job_closed WHERE id = ANY ($1)")
        .bind(keys(&rest(&decided)))
        .fetch_all(pool)
        .await?;
    decided.extend(closed.iter().map(|row| (JobId(row.get(0)), Cancelled::AlreadyFinal)));
    Ok(decided)
}

fn done(row: &sqlx::postgres::PgRow) -> (JobId, Cancelled) {
    let id = JobId(row.get(0));
    (id, Cancelled::Done { member: Member::journaled(id, row.get(1)), queue: row.get(2) })
}

/// One step of a cancellation by filter.
#[derive(Debug)]
pub struct CancelStep {
    /// Jobs that the filter names, among those looked at.
    pub matched: u64,
    /// Those that are cancelled now, with their queues: tell Redis. Empty in a dry run.
    pub cancelled: Vec<(String, Member)>,
    /// Those that another transaction decides at this moment.
    pub busy: u64,
    /// Where to go on; `None` when all were looked at.
    pub next: Option<StandingCursor>,
}

/// Cancels the jobs that a filter names, up to 500 a call: call it until there is no `next`, as fast or slow as is wanted. A
/// dry run counts only. Jobs that run at most once and have started are not among them.
///
/// # Errors
/// When Postgres is away: some may be cancelled; go on from the same place.
pub async fn cancel_where(
    pool: &PgPool,
    filter: &StandingFilter,
    after: Option<StandingCursor>,
    reason: &str,
    dry_run: bool,
) -> Result<CancelStep, sqlx::Error> {
    let page = find_standing(pool, filter, after, CHUNK).await?;
    let matched = u64::try_from(page.jobs.len()).unwrap_or(u64::MAX);
    let mut step = CancelStep { matched, cancelled: Vec::new(), busy: 0, next: page.next };
    if dry_run || page.jobs.is_empty() {
        return Ok(step);
    }
    let ids: Vec<JobId> = page.jobs.iter().map(|job| JobId(job.id)).collect();
    for answer in cancel_chunk(pool, &ids, reason, false).await?.into_values() {
        match answer {
            Cancelled::Done { member, queue } => step.cancelled.push((queue, member)),
            Cancelled::Busy => step.busy += 1,
            Cancelled::AlreadyFinal | Cancelled::Unknown => {}
        }
    }
    Ok(step)
}
