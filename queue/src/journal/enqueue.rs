//! Transactional enqueue: the job stands if and only if the caller's transaction commits.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::{PgConnection, Row, types::Json};

use crate::{
    id::JobId,
    job::{Due, Enqueued, IDEMPOTENCY_PERIOD, NewJob},
};

/// Rows in one statement; more are sent in several.
const CHUNK: usize = 1000;

/// Enqueues jobs in the caller's transaction. Answers are in the order of `jobs`.
///
/// Jobs with a unique key are inserted in the order of their keys, so that two transactions never wait for each other in a
/// circle. Idempotency keys are not looked at here: see [`enqueue_idempotent`].
///
/// # Errors
/// When Postgres refuses a row; the caller's transaction is then aborted as a whole. Before anything is sent, when a job of an
/// encrypted kind was not sealed ([`VaultError::Unsealed`](crate::vault::VaultError::Unsealed), as `Encode`).
pub async fn enqueue_in(tx: &mut PgConnection, jobs: &[NewJob]) -> Result<Vec<Enqueued>, sqlx::Error> {
    jobs.iter().try_for_each(|job| stored_args(job).map(drop))?;
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|&i| jobs[i].unique.map(|unique| unique.digest.0));
    let mut answers: Vec<Enqueued> = jobs.iter().map(|job| Enqueued::Created(job.id)).collect();
    for chunk in order.chunks(CHUNK) {
        enqueue_chunk(&mut *tx, jobs, chunk, &mut answers).await?;
    }
    Ok(answers)
}

/// Enqueues one job under its idempotency key: the same key again, within [`IDEMPOTENCY_PERIOD`], is answered with the job
/// of the first, finished or not.
///
/// # Errors
/// When Postgres refuses it.
pub async fn enqueue_idempotent(tx: &mut PgConnection, job: &NewJob) -> Result<Enqueued, sqlx::Error> {
    stored_args(job)?;
    if let Some(digest) = job.idempotency {
        // An expired key counts as absent; a concurrent holder of the same key is waited for by the primary key.
        let claimed: Option<uuid::Uuid> = sqlx::query_scalar(
            "INSERT INTO job_idempotency AS known (digest, job_id, expires_at)
             VALUES ($1, $2, now() + make_interval(secs => $3))
             ON CONFLICT (digest) DO UPDATE SET job_id = excluded.job_id, expires_at = excluded.expires_at
             WHERE known.expires_at <= now()
             RETURNING job_id",
        )
        .bind(digest.0.as_slice())
        .bind(job.id.0)
        .bind(IDEMPOTENCY_PERIOD.as_secs_f64())
        .fetch_optional(&mut *tx)
        .await?;
        if claimed.is_none() {
            let first: uuid::Uuid = sqlx::query_scalar("SELECT job_id FROM job_idempotency WHERE digest = $1")
                .bind(digest.0.as_slice())
                .fetch_one(&mut *tx)
                .await?;
            return Ok(Enqueued::Exists(JobId(first)));
        }
    }
    let answer = enqueue_in(&mut *tx, std::slice::from_ref(job)).await?.remove(0);
    if let (Some(digest), Enqueued::Exists(id)) = (job.idempotency, answer) {
        // The unique key found another job: that one is the answer to this request from now on.
        sqlx::query("UPDATE job_idempotency SET job_id = $2 WHERE digest = $1")
            .bind(digest.0.as_slice())
            .bind(id.0)
            .execute(tx)
            .await?;
    }
    Ok(answer)
}

/// One statement: journal rows, their outbox rows, and a NOTIFY only if the relay sleeps. A job that becomes ready later
/// goes into Redis at once all the same, where it waits.
const INSERT: &str = "
WITH job AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::jsonb[], $7::jsonb[],
                         $8::timestamptz[], $9::float8[], $10::bytea[], $11::uuid[], $12::timestamptz[], $13::int[],
                         $14::text[])
        WITH ORDINALITY
        AS t (id, kind, queue, tenant, band, args, policy, run_at, delay_s, unique_key, schedule_id, fire_at, missed,
              traceparent, position)
), journal AS (
    INSERT INTO job_journal (id, kind, queue, tenant, band, args, policy, run_at, unique_key, schedule_id, fire_at,
                             missed, traceparent)
    SELECT id, kind, queue, tenant, band, args, policy,
           coalesce(run_at, clock_timestamp() + make_interval(secs => delay_s)), unique_key, schedule_id, fire_at, missed,
           traceparent
    FROM job ORDER BY position
    ON CONFLICT DO NOTHING
    RETURNING id, gen, band, queue, tenant, kind, run_at
), outbox AS (
    INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at)
    SELECT band, now(), id, gen, queue, coalesce(tenant, ''), kind, run_at FROM journal
    RETURNING id
), wake AS (
    SELECT pg_notify('windrow_outbox', '') FROM relay_flag WHERE idle AND EXISTS (SELECT FROM outbox)
)
SELECT outbox.id FROM outbox LEFT JOIN wake ON true";

async fn enqueue_chunk(
    tx: &mut PgConnection,
    jobs: &[NewJob],
    chunk: &[usize],
    answers: &mut [Enqueued],
) -> Result<(), sqlx::Error> {
    let column = |pick: fn(&NewJob) -> Option<DateTime<Utc>>| chunk.iter().map(|&i| pick(&jobs[i])).collect::<Vec<_>>();
    let text = |pick: fn(&NewJob) -> Option<&str>| chunk.iter().map(|&i| pick(&jobs[i])).collect::<Vec<_>>();
    let created = sqlx::query(INSERT)
        .bind(chunk.iter().map(|&i| jobs[i].id.0).collect::<Vec<_>>())
        .bind(text(|job| Some(job.kind.as_str())))
        .bind(text(|job| Some(job.queue.as_str())))
        .bind(text(|job| job.tenant.as_ref().map(|tenant| tenant.as_str())))
        .bind(chunk.iter().map(|&i| i16::from(jobs[i].band.number())).collect::<Vec<_>>())
        .bind(chunk.iter().map(|&i| stored_args(&jobs[i])).collect::<Result<Vec<_>, _>>()?)
        .bind(chunk.iter().map(|&i| (!jobs[i].policy.is_empty()).then_some(Json(jobs[i].policy))).collect::<Vec<_>>())
        .bind(column(|job| if let Due::At(at) = job.due { Some(at) } else { None }))
        .bind(chunk.iter().map(|&i| delay(&jobs[i]).as_secs_f64()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|&i| jobs[i].unique.map(|unique| unique.digest.0.to_vec())).collect::<Vec<_>>())
        .bind(chunk.iter().map(|&i| jobs[i].fire.map(|fire| fire.schedule_id)).collect::<Vec<_>>())
        .bind(column(|job| job.fire.map(|fire| fire.fire_at)))
        .bind(chunk.iter().map(|&i| jobs[i].fire.map_or(0, |fire| fire.missed)).collect::<Vec<_>>())
        .bind(text(|job| job.traceparent.as_deref()))
        .fetch_all(&mut *tx)
        .await?;
    if created.len() == chunk.len() {
        return Ok(());
    }
    let created: std::collections::HashSet<uuid::Uuid> = created.iter().map(|row| row.get(0)).collect();
    for &i in chunk.iter().filter(|&&i| !created.contains(&jobs[i].id.0)) {
        answers[i] = Enqueued::Exists(standing(&mut *tx, &jobs[i]).await?);
    }
    Ok(())
}

/// The args as a row may hold them.
fn stored_args(job: &NewJob) -> Result<Json<&RawValue>, sqlx::Error> {
    job.stored_args().map(Json).map_err(|error| sqlx::Error::Encode(error.into()))
}

const fn delay(job: &NewJob) -> Duration {
    match job.due {
        Due::In(delay) => delay,
        Due::Now | Due::At(_) => Duration::ZERO,
    }
}

/// The job that stands in the way of one that was not created. It may complete in between: then its own id is as good an
/// answer, since what it asked for has just happened.
async fn standing(tx: &mut PgConnection, job: &NewJob) -> Result<JobId, sqlx::Error> {
    let id: Option<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM job_journal WHERE unique_key = $1 OR id = $2")
        .bind(job.unique.map(|unique| unique.digest.0.to_vec()))
        .bind(job.id.0)
        .fetch_optional(tx)
        .await?;
    Ok(JobId(id.unwrap_or(job.id.0)))
}
