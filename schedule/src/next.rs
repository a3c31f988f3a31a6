//! The coming fire times of a schedule, with the changes of its zone's clock marked.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use windrow_queue::{Catalog, Tenant};

use crate::{
    AdminError,
    definition::jitter_share,
    view::find,
    wall::{first_change, offset_at},
};

/// Fire times that [`next`] lists at most.
pub const MAX_NEXT: u16 = 1000;

/// A change of the zone's clock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OffsetChange {
    /// When the clock is changed.
    pub at: DateTime<Utc>,
    /// Its distance from UTC before, like `+01:00`.
    pub from: String,
    /// And after.
    pub to: String,
}

/// A coming fire time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NextFire {
    /// When it is due, jitter not counted.
    pub fire_at: DateTime<Utc>,
    /// The same on the clock of the schedule's zone, with its distance from UTC.
    pub local: String,
    /// When a scheduler will look at it, jitter counted.
    pub due_at: DateTime<Utc>,
    /// The zone's clock has another distance from UTC than at the fire time before (at the first one: than now).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_change: Option<OffsetChange>,
}

/// The coming fire times of a schedule, at most [`MAX_NEXT`]. Of one that does not fire now: those it would have from now on.
///
/// # Errors
/// When there is no such schedule, or Postgres is away.
pub async fn next(
    database: &PgPool,
    catalog: &Catalog,
    name: &str,
    tenant: Option<&Tenant>,
    times: u16,
) -> Result<Vec<NextFire>, AdminError> {
    let row = find(database, name, tenant).await?;
    let definition = row.definition(catalog)?;
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(database).await?;
    let fires_now = row.enabled && !row.paused;
    let from = if fires_now { row.handled_until } else { row.handled_until.max(now) };
    let share = jitter_share(row.id, definition.jitter);
    let (zone, mut before) = (definition.timing.zone, now.min(from));
    let fires = definition.timing.fires_after(from).take(times.min(MAX_NEXT).into());
    Ok(fires
        .map(|fire_at| {
            let offset_change = (offset_at(zone, before) != offset_at(zone, fire_at))
                .then(|| {
                    // There may be several; the last one made the clock what it is.
                    std::iter::successors(first_change(zone, before, fire_at), |at| first_change(zone, *at, fire_at))
                        .last()
                })
                .flatten()
                .map(|at| OffsetChange {
                    at,
                    from: before.with_timezone(&zone).format("%:z").to_string(),
                    to: fire_at.with_timezone(&zone).format("%:z").to_string(),
                });
            before = fire_at;
            let local = fire_at.with_timezone(&zone).format("%Y-%m-%dT%H:%M:%S%:z").to_string();
            NextFire { fire_at, local, due_at: fire_at + share, offset_change }
        })
        .collect())
}
