//! Batches: a set of journaled jobs with a follow-up that is enqueued once, when all of them are final.
//!
//! ```text
//! open_batch_in -> row of job_batch               takes members: NewJob::batch, in enqueue_in
//! seal_batch_in -> sealed                         waits for transactions that add members; no more after it
//! fire_batches  -> follow-up: live + outbox row   sealed, not fired, and no member stands
//! ```
//!
//! Nothing counts members down: whoever fires looks whether a row of the batch stands, live or parked. Two last members that
//! complete at once would each see the other; whoever looks after both sees neither. The batch's row is locked while it fires, and
//! remembers that it did, and what had become of its members. A member that is redriven later changes none of that.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Row, types::Json};
use uuid::Uuid;

use super::{
    enqueue::{at_most_once, rescue_limit, stored_args},
    sql::to_outbox,
};
use crate::{
    id::JobId,
    job::{BatchId, Due},
    name::Tenant,
    store::{BatchStatus, NewBatch},
};

/// Why a batch was not opened.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The follow-up cannot be one.
    #[error("the follow-up of a batch runs once, when its members are final: it cannot have {0}")]
    FollowUp(&'static str),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Whether Postgres refused members because their batch was sealed before, or never opened. The transaction is aborted.
#[must_use]
pub fn is_batch_closed(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.constraint()) == Some("job_batch_is_open")
}

/// Opens a batch in the caller's transaction. The same id again changes nothing. Answers with the follow-up that stands.
///
/// # Errors
/// When the follow-up has a key, a batch or a time of its own, or Postgres refuses.
pub async fn open_batch_in(tx: &mut PgConnection, batch: &NewBatch) -> Result<JobId, BatchError> {
    let job = &batch.follow_up;
    for (is_there, what) in [
        (job.unique.is_some(), "a unique key"),
        (job.idempotency.is_some(), "an idempotency key"),
        (job.batch.is_some(), "a batch of its own"),
        (job.due != Due::Now, "a time of its own"),
    ] {
        if is_there {
            return Err(BatchError::FollowUp(what));
        }
    }
    sqlx::query(
        "INSERT INTO job_batch (id, follow_up) VALUES ($1, jsonb_strip_nulls(jsonb_build_object(
             'id', $2::uuid, 'kind', $3::text, 'queue', $4::text, 'tenant', $5::text, 'band', $6::smallint,
             'policy', $7::jsonb, 'rescue_limit', $8::smallint, 'at_most_once', $9::bool, 'traceparent', $10::text,
             'schedule_id', $11::uuid, 'fire_at', $12::timestamptz)) || jsonb_build_object('args', $13::jsonb))
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(batch.id.0)
    .bind(job.id.0)
    .bind(job.kind.as_str())
    .bind(job.queue.as_str())
    .bind(job.tenant.as_ref().map(|tenant| tenant.as_str()))
    .bind(i16::from(job.band.number()))
    .bind((!job.policy.is_empty()).then_some(Json(job.policy)))
    .bind(rescue_limit(job))
    .bind(at_most_once(job))
    .bind(job.traceparent.as_deref())
    .bind(job.fire.map(|fire| fire.schedule_id))
    .bind(job.fire.map(|fire| fire.fire_at))
    .bind(stored_args(job)?)
    .execute(&mut *tx)
    .await?;
    let stands: Uuid = sqlx::query_scalar("SELECT (follow_up->>'id')::uuid FROM job_batch WHERE id = $1")
        .bind(batch.id.0)
        .fetch_one(tx)
        .await?;
    Ok(JobId(stands))
}

/// Seals a batch in the caller's transaction: it takes no more members, and its follow-up runs when those it has are final. Again
/// changes nothing. False: there is no such batch.
///
/// # Errors
/// When Postgres refuses, or members are being added for longer than it waits for a lock.
pub async fn seal_batch_in(tx: &mut PgConnection, id: BatchId) -> Result<bool, sqlx::Error> {
    let sealed = sqlx::query("UPDATE job_batch SET sealed_at = coalesce(sealed_at, clock_timestamp()) WHERE id = $1")
        .bind(id.0)
        .execute(tx)
        .await?;
    Ok(sealed.rows_affected() > 0)
}

/// Columns about the members of batch `b`, as they are at this moment. A job that runs at most once and was started stands as
/// long as it may be running.
macro_rules! members {
    () => {
        "coalesce((SELECT sum(members) FROM job_batch_part p WHERE p.batch_id = b.id), 0)::bigint AS members,
         (SELECT count(*) FROM job_journal j WHERE j.batch_id = b.id) AS standing,
         (SELECT count(*) FROM job_closed c WHERE c.batch_id = b.id AND runs_until > now()) AS running,
         (SELECT count(*) FROM job_closed c WHERE c.batch_id = b.id AND c.state <> 'cancelled'
              AND (runs_until IS NULL OR runs_until <= now())) AS dead,
         (SELECT count(*) FROM job_closed c WHERE c.batch_id = b.id AND c.state = 'cancelled') AS cancelled"
    };
}

/// How far a batch is; after it fired, how far it was then. What was discarded counts as dead.
///
/// # Errors
/// When Postgres is away.
pub async fn batch(pool: &PgPool, id: BatchId) -> Result<Option<BatchStatus>, sqlx::Error> {
    let row = sqlx::query(concat!(
        "SELECT (follow_up->>'id')::uuid AS follow_up, follow_up->>'tenant' AS tenant, sealed_at IS NOT NULL AS sealed,
                fired_at,
                coalesce(b.members, now.members) AS members,
                coalesce(b.completed, now.members - now.standing - now.running - now.dead - now.cancelled) AS completed,
                coalesce(b.dead, now.dead) AS dead, coalesce(b.cancelled, now.cancelled) AS cancelled
         FROM job_batch b CROSS JOIN LATERAL (SELECT ",
        members!(),
        " WHERE b.fired_at IS NULL UNION ALL SELECT 0, 0, 0, 0, 0 WHERE b.fired_at IS NOT NULL) AS now WHERE b.id = $1"
    ))
    .bind(id.0)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let count = |column| row.try_get::<i64, _>(column).map(|count| u64::try_from(count).unwrap_or(0));
    Ok(Some(BatchStatus {
        members: count("members")?,
        completed: count("completed")?,
        dead: count("dead")?,
        cancelled: count("cancelled")?,
        sealed: row.try_get("sealed")?,
        fired_at: row.try_get::<Option<DateTime<Utc>>, _>("fired_at")?,
        follow_up: JobId(row.try_get("follow_up")?),
        tenant: row.try_get::<Option<String>, _>("tenant")?.and_then(|tenant| Tenant::new(tenant).ok()),
    }))
}

/// What one look at batches did.
#[derive(Debug)]
pub struct Fired {
    /// Follow-ups that were enqueued.
    pub fired: u64,
    /// Where to go on; `None` when all batches were looked at.
    pub next: Option<BatchId>,
}

/// The batches that are over, of those in `$1`: locked, fired, their follow-ups enqueued, in one statement.
const FIRE: &str = concat!(
    "WITH over AS (
         SELECT b.id, b.follow_up, ",
    members!(),
    " FROM job_batch b
         WHERE b.id = ANY ($1) AND b.sealed_at IS NOT NULL AND b.fired_at IS NULL
           AND NOT EXISTS (SELECT FROM job_journal j WHERE j.batch_id = b.id)
           AND NOT EXISTS (SELECT FROM job_closed c WHERE c.batch_id = b.id AND c.runs_until > now())
         ORDER BY b.id FOR UPDATE OF b SKIP LOCKED
     ), fired AS (
         UPDATE job_batch b SET fired_at = clock_timestamp(), members = over.members, dead = over.dead,
                cancelled = over.cancelled, completed = over.members - over.dead - over.cancelled
         FROM over WHERE b.id = over.id AND b.fired_at IS NULL RETURNING b.id
     ), journal AS (
         INSERT INTO job_journal (id, kind, queue, tenant, band, args, policy, rescue_limit, at_most_once, traceparent,
                                  schedule_id, fire_at, follows, run_at)
         SELECT job.id, job.kind, job.queue, job.tenant, job.band, job.args, job.policy, job.rescue_limit,
                job.at_most_once, job.traceparent, job.schedule_id, job.fire_at, over.id, clock_timestamp()
         FROM over JOIN fired USING (id), jsonb_populate_record(NULL::job_journal, over.follow_up) AS job
         ON CONFLICT DO NOTHING
         RETURNING id, gen, band, queue, tenant, kind, run_at, rescue_limit, at_most_once
     ), ",
    to_outbox!("journal"),
    " SELECT fired.id FROM fired LEFT JOIN wake ON true"
);

/// Looks at up to `limit` batches that are sealed and have not fired, behind `after`, and fires those that are over. Any number of
/// schedulers may do it at once: a batch fires once.
///
/// # Errors
/// When Postgres is away; none of these fired then.
pub async fn fire_batches(pool: &PgPool, after: Option<BatchId>, limit: i64) -> Result<Fired, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT b.id, NOT EXISTS (SELECT FROM job_journal j WHERE j.batch_id = b.id) AS over
         FROM job_batch b WHERE b.sealed_at IS NOT NULL AND b.fired_at IS NULL AND b.id > $1 ORDER BY b.id LIMIT $2",
    )
    .bind(after.map_or(Uuid::nil(), |batch| batch.0))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let full = i64::try_from(rows.len()).is_ok_and(|rows| rows == limit);
    let next = rows.last().filter(|_| full).map(|row| BatchId(row.get(0)));
    let over: Vec<Uuid> = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    if over.is_empty() {
        return Ok(Fired { fired: 0, next });
    }
    let fired = sqlx::query(FIRE).bind(over).fetch_all(pool).await?;
    Ok(Fired { fired: u64::try_from(fired.len()).unwrap_or(u64::MAX), next })
}
