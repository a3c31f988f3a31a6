//! The outbox, as the relay reads it. A relay deletes due rows, puts their members into Redis, and commits: a crash in
//! between returns the rows, and Redis takes a member only once.
//!
//! Rows stand in lanes: band, queue and tenant, each in order of age. [`lanes`] finds those that have due rows, one index
//! probe each, however many rows stand in them; [`take`] takes from several lanes at once. So a relay can serve tenants in
//! turn and leave out a queue in back-off without reading what it leaves out.
//!
//! A lane carries the time from which on it has rows, so that index entries of rows which were taken but not yet vacuumed are
//! not walked by every [`take`]. Rows carry the time at which their transaction began and appear when it commits: one that
//! appears behind that bound is found by the next [`lanes`], which has none.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

use crate::{
    id::{Generation, JobId, Member},
    job::Due,
    name::{InvalidName, Kind, QueueName, Tenant},
    policy::Band,
};

/// The channel on which enqueuers wake a relay that said it sleeps.
pub const OUTBOX_CHANNEL: &str = "windrow_outbox";

/// Rows of one band, queue and tenant.
#[derive(Clone, PartialEq, Eq, Debug, FromRow)]
pub struct OutboxLane {
    band: i16,
    queue: String,
    tenant: String,
    /// No row that is known of is older.
    #[sqlx(rename = "relay_at")]
    from: DateTime<Utc>,
}

impl OutboxLane {
    /// Its priority: 0 is the most urgent.
    #[must_use]
    pub const fn band(&self) -> i16 {
        self.band
    }

    /// The queue as stored.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Since when its oldest row waits.
    #[must_use]
    pub const fn oldest(&self) -> DateTime<Utc> {
        self.from
    }

    /// Moves the lane's bound on to a row that was taken, if it was taken from this lane; true when it was.
    pub fn took(&mut self, row: &OutboxRow) -> bool {
        let mine = self.band == row.band && self.queue == row.queue && self.tenant == row.tenant;
        if mine {
            self.from = self.from.max(row.relay_at);
        }
        mine
    }
}

/// One job on its way into Redis.
#[derive(Clone, Debug, FromRow)]
pub struct OutboxRow {
    band: i16,
    id: Uuid,
    #[sqlx(rename = "gen")]
    generation: Generation,
    queue: String,
    tenant: String,
    kind: String,
    run_at: DateTime<Utc>,
    relay_at: DateTime<Utc>,
    seq: i64,
    rescue_limit: Option<i16>,
    at_most_once: bool,
    waited_s: f64,
    due_in_s: f64,
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
    /// When it becomes ready: told as a delay by Postgres' clock, which Redis' need not agree with.
    pub due: Due,
    /// Crashes among the suspects, until it is dead as a poison pill; at most 254. `None`: the limit of its queue.
    pub rescue_limit: Option<u8>,
    /// Whether it is dead when its worker is lost.
    pub at_most_once: bool,
}

impl OutboxRow {
    /// The queue as stored, to group rows by.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The job's id and generation.
    #[must_use]
    pub const fn key(&self) -> (JobId, Generation) {
        (JobId(self.id), self.generation)
    }

    /// How long it waited to be relayed, by Postgres' clock.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::try_from_secs_f64(self.waited_s).unwrap_or_default()
    }

    /// The job, with its names checked: a SQL producer may have written anything.
    ///
    /// # Errors
    /// The name that is not valid.
    pub fn job(&self) -> Result<RelayJob, InvalidName> {
        Ok(RelayJob {
            member: Member::journaled(JobId(self.id), self.generation),
            queue: QueueName::new(&*self.queue)?,
            tenant: (!self.tenant.is_empty()).then(|| Tenant::new(&*self.tenant)).transpose()?,
            kind: Kind::new(&*self.kind)?,
            band: u8::try_from(self.band).ok().and_then(Band::from_number).unwrap_or(Band::Low),
            due: match Duration::try_from_secs_f64(self.due_in_s) {
                Ok(delay) if !delay.is_zero() => Due::In(delay),
                _ => Due::Now,
            },
            rescue_limit: self.rescue_limit.and_then(|limit| u8::try_from(limit).ok()).map(|limit| limit.min(254)),
            at_most_once: self.at_most_once,
        })
    }
}

/// Up to `limit` lanes that have due rows, most urgent first, beginning behind `after`, without those of queues in back-off.
///
/// # Errors
/// When Postgres refuses.
pub async fn lanes(
    database: impl PgExecutor<'_>,
    after: Option<&OutboxLane>,
    limit: i64,
    without_queues: &[String],
) -> Result<Vec<OutboxLane>, sqlx::Error> {
    // From lane to lane by one probe each. Behind a queue in back-off it goes on with the next queue: no text sorts after
    // the last code point.
    sqlx::query_as(
        "WITH RECURSIVE lane AS (
             SELECT $1::smallint AS band, $2 COLLATE \"C\" AS queue, $3 COLLATE \"C\" AS tenant,
                    'infinity'::timestamptz AS relay_at
             UNION ALL
             SELECT next.band, next.queue, next.tenant, next.relay_at
             FROM lane, LATERAL (
                 SELECT o.band, o.queue, o.tenant, o.relay_at FROM job_outbox o
                 WHERE (o.band, o.queue, o.tenant) > (lane.band, lane.queue,
                       CASE WHEN lane.queue = ANY ($5) THEN U&'\\+10FFFF' ELSE lane.tenant END)
                 ORDER BY o.band, o.queue, o.tenant, o.relay_at LIMIT 1) AS next
         )
         SELECT band, queue, tenant, relay_at FROM lane WHERE relay_at <= now() AND queue <> ALL ($5) LIMIT $4",
    )
    .bind(after.map_or(-1, |lane| lane.band))
    .bind(after.map_or("", |lane| &lane.queue))
    .bind(after.map_or("", |lane| &lane.tenant))
    .bind(limit)
    .bind(without_queues)
    .fetch_all(database)
    .await
}

/// Takes up to `each` due rows, oldest first, out of each of these lanes, within the relay's transaction: they are back when
/// it does not commit. Rows that another relay holds are skipped.
///
/// # Errors
/// When Postgres refuses.
pub async fn take(tx: &mut PgConnection, lanes: &[OutboxLane], each: i64) -> Result<Vec<OutboxRow>, sqlx::Error> {
    // By ctid, which names a locked row for as long as it is locked, and which no statistics can talk the planner out of.
    let mut rows: Vec<OutboxRow> = sqlx::query_as(
        "WITH due AS MATERIALIZED (
             SELECT o.row FROM unnest($1::smallint[], $2::text[], $3::text[], $4::timestamptz[])
                               AS lane (band, queue, tenant, since),
             LATERAL (
                 SELECT o.ctid AS row FROM job_outbox o
                 WHERE o.band = lane.band AND o.queue = lane.queue AND o.tenant = lane.tenant
                   AND o.relay_at >= lane.since AND o.relay_at <= now()
                 ORDER BY o.relay_at, o.seq LIMIT $5 FOR UPDATE SKIP LOCKED) AS o
         )
         DELETE FROM job_outbox WHERE ctid = ANY (ARRAY (SELECT row FROM due))
         RETURNING band, id, gen, queue, tenant, kind, run_at, relay_at, seq, rescue_limit, at_most_once,
                   extract(epoch FROM clock_timestamp() - relay_at)::float8 AS waited_s,
                   greatest(extract(epoch FROM run_at - clock_timestamp()), 0)::float8 AS due_in_s",
    )
    .bind(lanes.iter().map(|lane| lane.band).collect::<Vec<_>>())
    .bind(lanes.iter().map(|lane| &*lane.queue).collect::<Vec<_>>())
    .bind(lanes.iter().map(|lane| &*lane.tenant).collect::<Vec<_>>())
    .bind(lanes.iter().map(|lane| lane.from).collect::<Vec<_>>())
    .bind(each)
    .fetch_all(tx)
    .await?;
    rows.sort_unstable_by_key(|row| (row.relay_at, row.seq));
    Ok(rows)
}

/// Puts rows that Redis refused back into the outbox, to be tried again after `delay`.
///
/// # Errors
/// When Postgres refuses; the relay's transaction is aborted then, and the rows are back as they were.
pub async fn put_back(tx: &mut PgConnection, rows: &[&OutboxRow], delay: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at, rescue_limit, at_most_once)
         SELECT band, clock_timestamp() + make_interval(secs => $10), id, gen, queue, tenant, kind, run_at, rescue_limit,
                at_most_once
         FROM unnest($1::smallint[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                     $8::smallint[], $9::bool[])
              AS t (band, id, gen, queue, tenant, kind, run_at, rescue_limit, at_most_once)",
    )
    .bind(rows.iter().map(|row| row.band).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.generation).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| &*row.queue).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| &*row.tenant).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| &*row.kind).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.run_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.rescue_limit).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.at_most_once).collect::<Vec<_>>())
    .bind(delay.as_secs_f64())
    .execute(tx)
    .await?;
    Ok(())
}

/// Says whether the relay sleeps. Enqueuers NOTIFY only when it does: a NOTIFY in every transaction would make all commits
/// of the database wait for each other. With several relays the flag is a hint: polling is the safety net.
///
/// # Errors
/// When Postgres is away.
pub async fn set_idle(database: impl PgExecutor<'_>, idle: bool) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE relay_flag SET idle = $1 WHERE idle <> $1").bind(idle).execute(database).await?;
    Ok(())
}
