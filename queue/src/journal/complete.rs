//! Completion of jobs that have no effects in Postgres: bulk deletes.

use std::collections::HashSet;

use sqlx::{PgConnection, PgExecutor, PgPool, Row};

use super::JobTx;
use crate::{
    error::{Decision, JobError},
    id::{Generation, JobId, Member},
};

/// Live rows of these jobs, deleted, but for those that another transaction holds at this moment.
const DELETE: &str = "DELETE FROM job_journal WHERE id IN (
     SELECT j.id FROM job_journal j
     JOIN unnest($1::uuid[], $2::int[]) AS done (id, gen) ON j.id = done.id AND j.gen = done.gen
     WHERE j.state = 'live' ORDER BY j.id FOR UPDATE OF j SKIP LOCKED)
 RETURNING id, gen, schedule_id, fire_at";

/// Completes live jobs, up to a few hundred in one statement; returns those whose row was there. The others are over
/// already, or another transaction holds their row at this moment, or they run at most once: ask for those again, one by one.
///
/// # Errors
/// When Postgres is away; nothing is completed then, or all is: asking again is safe.
pub async fn complete(
    pool: &PgPool,
    jobs: &[(JobId, Generation)],
) -> Result<HashSet<(JobId, Generation)>, sqlx::Error> {
    let rows = delete(pool, jobs.iter().copied()).await?;
    Ok(rows.iter().map(|row| (JobId(row.get(0)), row.get(1))).collect())
}

/// The same in a transaction that holds the effects of all of them; [`BatchTx`](super::BatchTx) does it for handlers. Begin the
/// transaction with it, and write no effects of jobs that it does not return.
///
/// # Errors
/// When Postgres refuses.
pub async fn complete_in(tx: &mut PgConnection, members: &[Member]) -> Result<HashSet<Member>, sqlx::Error> {
    let rows = delete(tx, members.iter().filter_map(|member| Some((member.id, member.generation?)))).await?;
    Ok(rows.iter().map(|row| Member::journaled(JobId(row.get(0)), row.get(1))).collect())
}

pub(super) async fn delete(
    database: impl PgExecutor<'_>,
    jobs: impl Iterator<Item = (JobId, Generation)>,
) -> Result<Vec<sqlx::postgres::PgRow>, sqlx::Error> {
    let (ids, generations): (Vec<_>, Vec<_>) = jobs.map(|(id, generation)| (id.0, generation)).unzip();
    sqlx::query(DELETE).bind(ids).bind(generations).fetch_all(database).await
}

/// Completes one job, waiting for whoever holds its row. False: it is over already.
///
/// # Errors
/// When Postgres is away or the row stays locked.
pub async fn complete_one(pool: &PgPool, id: JobId, generation: Generation) -> Result<bool, JobError> {
    let tx = match JobTx::begin(pool, id, generation).await {
        Ok(tx) => tx,
        Err(error) if error.decision() == Decision::Gone => return Ok(false),
        Err(error) => return Err(error),
    };
    tx.commit().await.map(|_| true)
}
