//! Transactional enqueue: the job stands if and only if the caller's transaction commits.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::{PgConnection, Row, types::Json};
use uuid::Uuid;

use super::{sql::to_outbox, unique};
use crate::{
    id::JobId,
    job::{Due, Enqueued, NewJob, UniqueScope},
    policy::Delivery,
};

/// Rows in one statement; more are sent in several.
const CHUNK: usize = 1000;

/// How often a job is sent again whose unique key was held when it was sent and free when the holder was looked for.
const ROUNDS: usize = 3;

/// Beyond any use, and far below what Postgres can add to a time.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Enqueues jobs in the caller's transaction. Answers are in the order of `jobs`.
///
/// Keys are taken in the order of their digests, those for a period first, so that two transactions never wait for each other
/// in a circle. Idempotency keys are not looked at here: see [`enqueue_idempotent`](super::enqueue_idempotent). A job whose
/// unique key is taken is no member of its batch: the job that stands is what it was.
///
/// # Errors
/// When Postgres refuses a row; the caller's transaction is then aborted as a whole. A batch that takes no members is told
/// apart by [`is_batch_closed`](super::is_batch_closed). Before anything is sent, when a job of an encrypted kind was not sealed
/// ([`VaultError::Unsealed`](crate::vault::VaultError::Unsealed), as `Encode`).
pub async fn enqueue_in(tx: &mut PgConnection, jobs: &[NewJob]) -> Result<Vec<Enqueued>, sqlx::Error> {
    jobs.iter().try_for_each(|job| stored_args(job).map(drop))?;
    let mut pending: Vec<usize> = (0..jobs.len()).collect();
    pending.sort_by_key(|&i| {
        jobs[i].unique.map(|unique| (!matches!(unique.scope, UniqueScope::Period(_)), unique.digest.0))
    });
    let mut answers: Vec<Enqueued> = jobs.iter().map(|job| Enqueued::Created(job.id)).collect();
    for _ in 0..ROUNDS {
        let mut taken = Vec::new();
        for chunk in pending.chunks(CHUNK) {
            taken.extend(insert(&mut *tx, jobs, chunk).await?);
        }
        pending.clear();
        for chunk in taken.chunks(CHUNK) {
            pending.extend(unique::resolve(&mut *tx, jobs, chunk, &mut answers).await?);
        }
        if pending.is_empty() {
            return Ok(answers);
        }
    }
    // Whoever held the key is over each time: what was asked for has just happened, more than once.
    for i in pending {
        answers[i] = Enqueued::Exists(jobs[i].id);
    }
    Ok(answers)
}

/// One statement: keys for a period, journal rows, their outbox rows, how many each batch got, and a NOTIFY only if the relay
/// sleeps. A job that becomes ready later goes into Redis at once all the same, where it waits.
///
/// A key for a period is not the row's: it outlives it. An expired one counts as absent.
const INSERT: &str = concat!(
    "WITH job AS MATERIALIZED (
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::jsonb[], $7::jsonb[],
                              $8::timestamptz[], $9::float8[], $10::bytea[], $11::uuid[], $12::timestamptz[], $13::int[],
                              $14::text[], $15::smallint[], $16::bool[], $17::bool[], $18::float8[], $19::uuid[],
                              $20::uuid[])
             WITH ORDINALITY
             AS t (id, kind, queue, tenant, band, args, policy, run_at, delay_s, unique_key, schedule_id, fire_at, missed,
                   traceparent, rescue_limit, at_most_once, unique_queued, period_s, batch_id, follows, position)
     ), period AS (
         INSERT INTO job_unique AS known (digest, job_id, expires_at)
         SELECT DISTINCT ON (unique_key) unique_key, id, now() + make_interval(secs => period_s)
         FROM job WHERE period_s IS NOT NULL ORDER BY unique_key, position
         ON CONFLICT (digest) DO UPDATE SET job_id = excluded.job_id, expires_at = excluded.expires_at
             WHERE known.expires_at <= now()
         RETURNING job_id
     ), journal AS (
         INSERT INTO job_journal (id, kind, queue, tenant, band, args, policy, run_at, unique_key, schedule_id, fire_at,
                                  missed, traceparent, rescue_limit, at_most_once, unique_queued, batch_id, follows)
         SELECT id, kind, queue, tenant, band, args, policy,
                coalesce(run_at, clock_timestamp() + make_interval(secs => delay_s)),
                CASE WHEN period_s IS NULL THEN unique_key END, schedule_id, fire_at, missed, traceparent, rescue_limit,
                at_most_once, unique_queued, batch_id, follows
         FROM job WHERE period_s IS NULL OR id IN (SELECT job_id FROM period)
         ORDER BY position
         ON CONFLICT DO NOTHING
         RETURNING id, gen, band, queue, tenant, kind, run_at, rescue_limit, at_most_once, batch_id
     ), part AS (
         INSERT INTO job_batch_part (batch_id, members)
         SELECT batch_id, count(*) FROM journal WHERE batch_id IS NOT NULL GROUP BY batch_id ORDER BY batch_id
     ), ",
    to_outbox!("journal"),
    " SELECT outbox.id FROM outbox LEFT JOIN wake ON true"
);

/// Inserts a chunk; returns the jobs that were not created, because another stands with their key or id.
async fn insert(tx: &mut PgConnection, jobs: &[NewJob], chunk: &[usize]) -> Result<Vec<usize>, sqlx::Error> {
    let column = |pick: fn(&NewJob) -> Option<DateTime<Utc>>| chunk.iter().map(|&i| pick(&jobs[i])).collect::<Vec<_>>();
    let text = |pick: fn(&NewJob) -> Option<&str>| chunk.iter().map(|&i| pick(&jobs[i])).collect::<Vec<_>>();
    let id = |pick: fn(&NewJob) -> Option<Uuid>| chunk.iter().map(|&i| pick(&jobs[i])).collect::<Vec<_>>();
    let period = |job: &NewJob| match job.unique?.scope {
        UniqueScope::Period(period) => Some(period.min(LONGEST).as_secs_f64()),
        UniqueScope::Queued | UniqueScope::UntilFinal => None,
    };
    let args = chunk.iter().map(|&i| stored_args(&jobs[i])).collect::<Result<Vec<_>, _>>()?;
    let created = sqlx::query(INSERT)
        .bind(chunk.iter().map(|&i| jobs[i].id.0).collect::<Vec<_>>())
        .bind(text(|job| Some(job.kind.as_str())))
        .bind(text(|job| Some(job.queue.as_str())))
        .bind(text(|job| job.tenant.as_ref().map(|tenant| tenant.as_str())))
        .bind(chunk.iter().map(|&i| i16::from(jobs[i].band.number())).collect::<Vec<_>>())
        .bind(args)
        .bind(chunk.iter().map(|&i| (!jobs[i].policy.is_empty()).then_some(Json(jobs[i].policy))).collect::<Vec<_>>())
        .bind(column(at))
        .bind(chunk.iter().map(|&i| delay_s(&jobs[i])).collect::<Vec<_>>())
        .bind(chunk.iter().map(|&i| jobs[i].unique.map(|unique| unique.digest.0.to_vec())).collect::<Vec<_>>())
        .bind(id(|job| job.fire.map(|fire| fire.schedule_id)))
        .bind(column(|job| job.fire.map(|fire| fire.fire_at)))
        .bind(chunk.iter().map(|&i| jobs[i].fire.map_or(0, |fire| fire.missed)).collect::<Vec<_>>())
        .bind(text(|job| job.traceparent.as_deref()))
        .bind(chunk.iter().map(|&i| rescue_limit(&jobs[i])).collect::<Vec<_>>())
        .bind(chunk.iter().map(|&i| at_most_once(&jobs[i])).collect::<Vec<_>>())
        .bind(chunk.iter().map(|&i| while_queued(&jobs[i])).collect::<Vec<_>>())
        .bind(chunk.iter().map(|&i| period(&jobs[i])).collect::<Vec<_>>())
        .bind(id(|job| job.batch.map(|batch| batch.0)))
        .bind(id(|job| job.follows.map(|batch| batch.0)))
        .fetch_all(&mut *tx)
        .await?;
    if created.len() == chunk.len() {
        return Ok(Vec::new());
    }
    let created: HashSet<JobId> = created.iter().map(|row| JobId(row.get(0))).collect();
    Ok(chunk.iter().copied().filter(|&i| !created.contains(&jobs[i].id)).collect())
}

/// The args as a row may hold them.
pub(super) fn stored_args(job: &NewJob) -> Result<Json<&RawValue>, sqlx::Error> {
    job.stored_args().map(Json).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(super) fn at(job: &NewJob) -> Option<DateTime<Utc>> {
    if let Due::At(at) = job.due { Some(at) } else { None }
}

pub(super) fn delay_s(job: &NewJob) -> f64 {
    match job.due {
        Due::In(delay) => delay.min(LONGEST).as_secs_f64(),
        Due::Now | Due::At(_) => 0.0,
    }
}

/// 255 is not to be had: Redis holds the limit and 1 in a byte.
pub(super) fn rescue_limit(job: &NewJob) -> Option<i16> {
    job.effective_policy().rescue_limit.map(|limit| i16::from(limit.min(254)))
}

pub(super) fn at_most_once(job: &NewJob) -> bool {
    job.effective_policy().delivery == Delivery::AtMostOnce
}

fn while_queued(job: &NewJob) -> bool {
    job.unique.is_some_and(|unique| unique.scope == UniqueScope::Queued)
}
