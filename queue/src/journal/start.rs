//! The row check at start: one SELECT for a batch of claimed members. A job without a live row is over and must not run.
//!
//! A job whose unique key holds while it is queued gives the key up here, in one statement more for those of the batch that
//! have one.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::{FromRow, PgPool, Row, types::Json};
use uuid::Uuid;

use crate::{
    id::{Generation, JobId, Member},
    policy::PolicyOverride,
    store::CalledBack,
};

/// What a wait for a callback came to, as rows hold it: `{"payload": …}` or `"timed_out"`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wait {
    Payload(Box<RawValue>),
    TimedOut,
}

/// What a worker needs to run a journaled job. The args never were in Redis.
#[derive(Debug, FromRow)]
pub struct StartRow {
    id: Uuid,
    #[sqlx(rename = "gen")]
    generation: Generation,
    /// Args as JSON.
    pub args: Json<Box<RawValue>>,
    /// What differs from the kind's policy.
    pub policy: Option<Json<PolicyOverride>>,
    /// Attempts that were mirrored; Redis may know of more.
    pub attempt: i32,
    /// What an earlier attempt left.
    pub checkpoint: Option<serde_json::Value>,
    /// The schedule that made it.
    pub schedule_id: Option<Uuid>,
    /// When that schedule's fire was due.
    pub fire_at: Option<DateTime<Utc>>,
    /// Fire times missed before this one.
    pub missed: i32,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// When it was accepted.
    pub enqueued_at: DateTime<Utc>,
    /// When it became ready.
    pub run_at: DateTime<Utc>,
    /// Whether its handler may be started once only: then [`start_at_most_once`](super::start_at_most_once) comes before it.
    pub at_most_once: bool,
    /// The batch that it follows.
    pub follows: Option<Uuid>,
    callback: Option<Json<Wait>>,
    holds_key: bool,
}

impl StartRow {
    /// What its wait for a callback came to, if it was parked; the next attempts find it, too, until it parks again.
    pub fn take_callback(&mut self) -> Option<CalledBack> {
        Some(match self.callback.take()?.0 {
            Wait::Payload(payload) => CalledBack::Payload(payload),
            Wait::TimedOut => CalledBack::TimedOut,
        })
    }
}

/// The live rows of these members. A member that is not in the answer is over.
///
/// # Errors
/// When Postgres is away: nothing is known then, and nothing may be acknowledged.
pub async fn start_check(pool: &PgPool, members: &[Member]) -> Result<HashMap<Member, StartRow>, sqlx::Error> {
    let journaled = || members.iter().filter_map(|member| Some((member.id.0, member.generation?)));
    let rows: Vec<StartRow> = sqlx::query_as(
        "SELECT j.id, j.gen, j.args, j.policy, j.attempt, j.checkpoint, j.schedule_id, j.fire_at, j.missed, j.traceparent,
                j.enqueued_at, j.run_at, j.at_most_once, j.follows, j.callback,
                j.unique_queued AND j.unique_key IS NOT NULL AS holds_key
         FROM unnest($1::uuid[], $2::int[]) AS claimed (id, gen)
         JOIN job_journal j ON j.id = claimed.id AND j.gen = claimed.gen AND j.state = 'live'",
    )
    .bind(journaled().map(|(id, _)| id).collect::<Vec<_>>())
    .bind(journaled().map(|(_, generation)| generation).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let holders: Vec<&StartRow> = rows.iter().filter(|row| row.holds_key).collect();
    let freed = if holders.is_empty() { HashSet::new() } else { free_keys(pool, &holders).await? };
    let rows = rows.into_iter().map(|row| (Member::journaled(JobId(row.id), row.generation), row));
    Ok(rows.filter(|(member, row)| !row.holds_key || freed.contains(member)).collect())
}

/// Gives up the keys of jobs that start now; returns those that did. The others were decided, or taken over by another job of
/// their key, since they were read.
async fn free_keys(pool: &PgPool, rows: &[&StartRow]) -> Result<HashSet<Member>, sqlx::Error> {
    let freed = sqlx::query(
        "UPDATE job_journal SET unique_key = NULL WHERE id IN (
             SELECT j.id FROM unnest($1::uuid[], $2::int[]) AS started (id, gen)
             JOIN job_journal j ON j.id = started.id AND j.gen = started.gen AND j.state = 'live'
             ORDER BY j.id FOR UPDATE OF j)
         RETURNING id, gen",
    )
    .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.generation).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(freed.iter().map(|row| Member::journaled(JobId(row.get(0)), row.get(1))).collect())
}
