//! What became of a schedule's fire times and triggers.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::{Tenant, store::InvalidCursor};

use crate::{AdminError, view::find};

/// What became of one fire time, of several missed ones in a row, or of a trigger.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct FireRecord {
    /// The fire time; of missed ones the first; of a trigger, when it was asked for.
    pub fire_at: DateTime<Utc>,
    /// The last of the missed ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<DateTime<Utc>>,
    /// How many fire times this record stands for.
    pub times: i32,
    /// `fired`, `missed`, `skipped`, `queued`, `fanning`; or `triggered`, `triggering`.
    pub outcome: String,
    /// The job, if it made one and only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<Uuid>,
    /// How many jobs it made.
    pub jobs: i32,
    /// How long after it was due it was recorded, in milliseconds.
    pub late_ms: i64,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// Who triggered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// Where its job is, as far as Postgres knows.
    #[sqlx(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_state: Option<FireState>,
}

/// Where the job of a fire is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FireState {
    /// It still has to happen: scheduled, ready or running, which Redis knows.
    Live,
    /// It waits for a callback.
    Parked,
    /// It was done; or it was cancelled, discarded or dead, so long ago that this is pruned.
    Completed,
    /// It is dead.
    Dead,
    /// It was cancelled.
    Cancelled,
    /// It was dead, and an operator discarded it.
    Discarded,
    /// More exactly, from Redis: `scheduled`, `ready` or `running`.
    #[serde(untagged)]
    Exactly(String),
}

impl FireState {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Live => "live",
            Self::Parked => "parked",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Discarded => "discarded",
            Self::Exactly(state) => state,
        }
    }
}

/// A page of records.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// Newest first.
    pub fires: Vec<FireRecord>,
    /// Where to go on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The last fires and triggers of a schedule, newest first.
///
/// # Errors
/// When there is no such schedule, the cursor is none of its, or Postgres is away.
pub async fn history(
    database: &PgPool,
    name: &str,
    tenant: Option<&Tenant>,
    cursor: Option<&str>,
    limit: u16,
) -> Result<History, AdminError> {
    let row = find(database, name, tenant).await?;
    let (before, rank) = cursor.map(position).transpose()?.unwrap_or((DateTime::<Utc>::MAX_UTC, 0));
    let before = cursor.is_some().then_some(before);
    let mut fires: Vec<FireRecord> = sqlx::query_as(
        "SELECT * FROM (
             (SELECT fire_at, through, times, outcome, job_id, jobs, late_ms, recorded_at, NULL AS caller, 0 AS rank
              FROM schedule_fire
              WHERE schedule_id = $1 AND fire_at <= coalesce($2, 'infinity') AND ($2 IS NULL OR (fire_at, 0) < ($2, $3))
              ORDER BY fire_at DESC LIMIT $4)
             UNION ALL
             (SELECT triggered_at, NULL, 1, CASE WHEN fan_after IS NULL THEN 'triggered' ELSE 'triggering' END, job_id, jobs,
                     0, triggered_at, caller, 1
              FROM schedule_trigger
              WHERE schedule_id = $1 AND triggered_at <= coalesce($2, 'infinity')
                AND ($2 IS NULL OR (triggered_at, 1) < ($2, $3))
              ORDER BY triggered_at DESC LIMIT $4)
         ) AS records ORDER BY fire_at DESC, rank DESC LIMIT $4",
    )
    .bind(row.id)
    .bind(before)
    .bind(rank)
    .bind(i64::from(limit) + 1)
    .fetch_all(database)
    .await?;
    let more = fires.len() > usize::from(limit);
    fires.truncate(limit.into());
    let next = fires.last().filter(|_| more).map(|last| {
        let rank = u8::from(last.outcome.starts_with("trigger"));
        format!("{}.{rank}", last.fire_at.timestamp_micros())
    });
    add_states(database, &mut fires).await?;
    Ok(History { fires, next })
}

fn position(cursor: &str) -> Result<(DateTime<Utc>, i32), InvalidCursor> {
    let (micros, rank) = cursor.split_once('.').ok_or(InvalidCursor)?;
    let at = micros.parse().ok().and_then(DateTime::from_timestamp_micros).ok_or(InvalidCursor)?;
    // What Postgres has no room for is no time of a record.
    let known = (DateTime::UNIX_EPOCH..DateTime::<Utc>::MAX_UTC).contains(&at) && at.timestamp() < 7_258_118_400;
    let rank = rank.parse().ok().filter(|rank| (0..=1).contains(rank)).ok_or(InvalidCursor)?;
    if known { Ok((at, rank)) } else { Err(InvalidCursor) }
}

/// A journaled job has its row until it is over; then it is among the closed ones, or was done.
async fn add_states(database: &PgPool, fires: &mut [FireRecord]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = fires.iter().filter_map(|fire| fire.job_id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let known: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT id, state FROM job_journal WHERE id = ANY($1)
         UNION ALL
         SELECT id, CASE WHEN runs_until > now() THEN 'live' ELSE state END FROM job_closed WHERE id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(database)
    .await?;
    let known: HashMap<Uuid, String> = known.into_iter().collect();
    for fire in fires {
        fire.job_state = fire.job_id.map(|id| match known.get(&id).map(String::as_str) {
            None => FireState::Completed,
            Some("live") => FireState::Live,
            Some("parked") => FireState::Parked,
            Some("dead") => FireState::Dead,
            Some("cancelled") => FireState::Cancelled,
            Some("discarded") => FireState::Discarded,
            Some(other) => FireState::Exactly(other.to_owned()),
        });
    }
    Ok(())
}
