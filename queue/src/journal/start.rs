//! The row check at start: one SELECT for a batch of claimed members. A job without a live row is over and must not run.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::{FromRow, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    id::{Generation, JobId, Member},
    policy::PolicyOverride,
};

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
}

/// The live rows of these members. A member that is not in the answer is over.
///
/// # Errors
/// When Postgres is away: nothing is known then, and nothing may be acknowledged.
pub async fn start_check(pool: &PgPool, members: &[Member]) -> Result<HashMap<Member, StartRow>, sqlx::Error> {
    let journaled = || members.iter().filter_map(|member| Some((member.id.0, member.generation?)));
    let rows: Vec<StartRow> = sqlx::query_as(
        "SELECT j.id, j.gen, j.args, j.policy, j.attempt, j.checkpoint, j.schedule_id, j.fire_at, j.missed, j.traceparent,
                j.enqueued_at, j.run_at
         FROM unnest($1::uuid[], $2::int[]) AS claimed (id, gen)
         JOIN job_journal j ON j.id = claimed.id AND j.gen = claimed.gen AND j.state = 'live'",
    )
    .bind(journaled().map(|(id, _)| id).collect::<Vec<_>>())
    .bind(journaled().map(|(_, generation)| generation).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (Member::journaled(JobId(row.id), row.generation), row)).collect())
}
