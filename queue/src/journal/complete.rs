//! Completion of jobs that have no effects in Postgres: bulk deletes.

use std::collections::HashSet;

use sqlx::{PgPool, Row};

use super::JobTx;
use crate::{
    error::{Decision, JobError},
    id::{Generation, JobId},
};

/// Completes live jobs, up to a few hundred in one statement; returns those whose row was there. The others are over
/// already, or another transaction holds their row at this moment: ask for those again, one by one.
///
/// # Errors
/// When Postgres is away; nothing is completed then, or all is: asking again is safe.
pub async fn complete(
    pool: &PgPool,
    jobs: &[(JobId, Generation)],
) -> Result<HashSet<(JobId, Generation)>, sqlx::Error> {
    let rows = sqlx::query(
        "DELETE FROM job_journal WHERE id IN (
             SELECT j.id FROM job_journal j
             JOIN unnest($1::uuid[], $2::int[]) AS done (id, gen) ON j.id = done.id AND j.gen = done.gen
             WHERE j.state = 'live' ORDER BY j.id FOR UPDATE OF j SKIP LOCKED)
         RETURNING id, gen",
    )
    .bind(jobs.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
    .bind(jobs.iter().map(|(_, generation)| *generation).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(rows.iter().map(|row| (JobId(row.get(0)), row.get(1))).collect())
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
