//! The outbox, as the relay reads it. A relay deletes due rows, puts their members into Redis, and commits: a crash in
//! between returns the rows, and Redis takes a member only once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    id::{Generation, JobId, Member},
    name::{InvalidName, Kind, QueueName, Tenant},
    policy::Band,
};

/// The channel on which enqueuers wake a relay that said it sleeps.
pub const OUTBOX_CHANNEL: &str = "windrow_outbox";

/// One job on its way into Redis.
#[derive(Clone, Debug, FromRow)]
pub struct OutboxRow {
    band: i16,
    id: Uuid,
    #[sqlx(rename = "gen")]
    generation: Generation,
    queue: String,
    tenant: Option<String>,
    kind: String,
    run_at: DateTime<Utc>,
}

/// What the relay puts into Redis.
#[derive(Clone, Debug)]
pub struct RelayJob {
    /// Id and generation.
    pub member: Member,
    /// Where it waits.
    pub queue: QueueName,
    /// Whom it is done for.
    pub tenant: Option<Tenant>,
    /// What it is.
    pub kind: Kind,
    /// Priority.
    pub band: Band,
    /// When it becomes ready.
    pub run_at: DateTime<Utc>,
}

impl OutboxRow {
    /// The queue as stored, to group rows by.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The job, with its names checked: a SQL producer may have written anything.
    ///
    /// # Errors
    /// The name that is not valid.
    pub fn job(&self) -> Result<RelayJob, InvalidName> {
        Ok(RelayJob {
            member: Member::journaled(JobId(self.id), self.generation),
            queue: QueueName::new(&*self.queue)?,
            tenant: self.tenant.as_deref().map(Tenant::new).transpose()?,
            kind: Kind::new(&*self.kind)?,
            band: u8::try_from(self.band).ok().and_then(Band::from_number).unwrap_or(Band::Low),
            run_at: self.run_at,
        })
    }
}

/// Takes up to `limit` due rows of one band out of the outbox, leaving out queues in back-off, within the relay's
/// transaction: they are back when it does not commit. Rows that another relay holds are skipped.
///
/// # Errors
/// When Postgres refuses.
pub async fn take_due(
    tx: &mut PgConnection,
    band: Band,
    limit: i64,
    without_queues: &[String],
) -> Result<Vec<OutboxRow>, sqlx::Error> {
    sqlx::query_as(
        "DELETE FROM job_outbox o USING (
             SELECT band, relay_at, seq FROM job_outbox
             WHERE band = $1 AND relay_at <= now() AND queue <> ALL ($3)
             ORDER BY band, relay_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED) AS due
         WHERE o.band = due.band AND o.relay_at = due.relay_at AND o.seq = due.seq
         RETURNING o.band, o.id, o.gen, o.queue, o.tenant, o.kind, o.run_at",
    )
    .bind(i16::from(band.number()))
    .bind(limit)
    .bind(without_queues)
    .fetch_all(tx)
    .await
}

/// Puts rows that Redis refused back into the outbox, to be tried again after `delay`.
///
/// # Errors
/// When Postgres refuses; the relay's transaction is aborted then, and the rows are back as they were.
pub async fn put_back(tx: &mut PgConnection, rows: &[OutboxRow], delay: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at)
         SELECT band, clock_timestamp() + make_interval(secs => $8), id, gen, queue, tenant, kind, run_at
         FROM unnest($1::smallint[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
              AS t (band, id, gen, queue, tenant, kind, run_at)",
    )
    .bind(rows.iter().map(|row| row.band).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.generation).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| &*row.queue).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.tenant.as_deref()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| &*row.kind).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.run_at).collect::<Vec<_>>())
    .bind(delay.as_secs_f64())
    .execute(tx)
    .await?;
    Ok(())
}

/// Says whether the relay sleeps. Enqueuers NOTIFY only when it does. With several relays the flag is a hint: polling is
/// the safety net.
///
/// # Errors
/// When Postgres is away.
pub async fn set_idle(pool: &PgPool, idle: bool) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE relay_flag SET idle = $1 WHERE idle <> $1").bind(idle).execute(pool).await?;
    Ok(())
}
