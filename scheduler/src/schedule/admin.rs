//! What operators do with schedules: look at them, pause, resume, trigger, read what became of their fires.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::{Catalog, Enqueued, NewJob, Tenant, journal};

use super::{
    definition::{InvalidSchedule, Tenants},
    row::{Row, columns},
};

/// Fire times that [`next`] lists at most.
pub const MAX_NEXT: usize = 1000;

/// A schedule as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// `config` or `api`.
    pub origin: String,
    /// The kind of its jobs.
    pub kind: String,
    /// Its cron expression or period.
    pub rule: String,
    /// The zone of the expression.
    pub time_zone: String,
    /// Whom it is for; `*` is every active tenant.
    pub tenant: Option<String>,
    /// `active`, `paused`, `disabled` or `error`.
    pub state: &'static str,
    /// When it is due next, jitter not counted.
    pub next_fire_at: Option<DateTime<Utc>>,
    /// When a scheduler will look at it, jitter counted.
    pub due_at: Option<DateTime<Utc>>,
    /// Why it cannot fire.
    pub error: Option<String>,
}

impl From<Row> for Listed {
    fn from(row: Row) -> Self {
        let state = match (&row.error, row.enabled, row.paused) {
            (_, false, _) => "disabled",
            (_, true, true) => "paused",
            (Some(_), true, false) => "error",
            (None, true, false) => "active",
        };
        let period = |seconds: i64| humantime(seconds);
        Self {
            id: row.id,
            rule: row.cron.or_else(|| row.every_s.map(period)).unwrap_or_default(),
            tenant: if row.each_tenant { Some("*".to_owned()) } else { row.tenant },
            name: row.name,
            origin: row.origin,
            kind: row.kind,
            time_zone: row.time_zone,
            state,
            next_fire_at: row.next_fire_at,
            due_at: row.due_at,
            error: row.error,
        }
    }
}

fn humantime(seconds: i64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let parts = [(hours, "h"), (minutes, "m"), (rest, "s")];
    let text: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    format!("every {}", text.join(" "))
}

/// What went wrong with an operator's request.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is none of this name, or several of different tenants.
    #[error("there is no schedule {0:?}; `windrow schedules list` shows those that exist")]
    Unknown(String),
    /// Its row cannot be read by this version.
    #[error(transparent)]
    Invalid(#[from] InvalidSchedule),
    /// Its job cannot be made.
    #[error("its job cannot be made: {0}")]
    Job(String),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// All schedules, by name.
///
/// # Errors
/// When Postgres is away.
pub async fn list(database: &PgPool, limit: i64) -> Result<Vec<Listed>, sqlx::Error> {
    let rows: Vec<Row> =
        sqlx::query_as(concat!("SELECT ", columns!(), " FROM schedule ORDER BY name, tenant NULLS FIRST LIMIT $1"))
            .bind(limit)
            .fetch_all(database)
            .await?;
    Ok(rows.into_iter().map(Listed::from).collect())
}

async fn find(database: &PgPool, name: &str, tenant: Option<&Tenant>) -> Result<Row, AdminError> {
    let row: Option<Row> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM schedule WHERE name = $1 AND tenant IS NOT DISTINCT FROM $2"
    ))
    .bind(name)
    .bind(tenant.map(Tenant::as_str))
    .fetch_optional(database)
    .await?;
    row.ok_or_else(|| AdminError::Unknown(name.to_owned()))
}

/// The coming fire times of a schedule, jitter not counted.
///
/// # Errors
/// When there is no such schedule, or Postgres is away.
pub async fn next(
    database: &PgPool,
    catalog: &Catalog,
    name: &str,
    tenant: Option<&Tenant>,
    times: usize,
) -> Result<Vec<DateTime<Utc>>, AdminError> {
    let row = find(database, name, tenant).await?;
    let definition = row.definition(catalog)?;
    Ok(definition.timing.fires_after(row.handled_until).take(times.min(MAX_NEXT)).collect())
}

/// Pauses a schedule, or lets it go on. What fell into the pause is not made up for.
///
/// # Errors
/// When there is no such schedule, or Postgres is away.
pub async fn set_paused(
    database: &PgPool,
    catalog: &Catalog,
    name: &str,
    tenant: Option<&Tenant>,
    paused: bool,
) -> Result<(), AdminError> {
    let row = find(database, name, tenant).await?;
    if paused {
        sqlx::query("UPDATE schedule SET paused = true, updated_at = now() WHERE id = $1")
            .bind(row.id)
            .execute(database)
            .await?;
        return Ok(());
    }
    let definition = row.definition(catalog)?;
    let mut tx = database.begin().await?;
    let (handled_until, paused, now): (DateTime<Utc>, bool, DateTime<Utc>) =
        sqlx::query_as("SELECT handled_until, paused, clock_timestamp() FROM schedule WHERE id = $1 FOR UPDATE")
            .bind(row.id)
            .fetch_one(&mut *tx)
            .await?;
    if paused {
        let from = handled_until.max(now);
        let next = definition.timing.next_after(from);
        let share = super::definition::jitter_share(row.id, definition.jitter);
        sqlx::query(
            "UPDATE schedule SET paused = false, handled_until = $2, next_fire_at = $3,
                 due_at = $3::timestamptz + make_interval(secs => $4), updated_at = now() WHERE id = $1",
        )
        .bind(row.id)
        .bind(from)
        .bind(next)
        .bind(share.as_secs_f64())
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Makes a schedule's job now, apart from its fire times. For every active tenant, if the schedule does.
///
/// # Errors
/// When there is no such schedule, its job cannot be made, or Postgres is away.
pub async fn trigger(
    database: &PgPool,
    catalog: &Catalog,
    name: &str,
    tenant: Option<&Tenant>,
) -> Result<Vec<Enqueued>, AdminError> {
    let row = find(database, name, tenant).await?;
    let definition = row.definition(catalog)?;
    let job_error = |error: &dyn std::fmt::Display| AdminError::Job(error.to_string());
    let info = catalog.get(definition.kind.as_str()).map_err(|error| job_error(&error))?;
    let args = serde_json::value::to_raw_value(&definition.args).map_err(|error| job_error(&error))?;
    let template = NewJob::of_kind(info, args).map_err(|error| job_error(&error))?;
    let mut tx = database.begin().await?;
    let tenants: Vec<Option<Tenant>> = match &definition.tenants {
        Tenants::None => vec![None],
        Tenants::One(tenant) => vec![Some(tenant.clone())],
        Tenants::Each => {
            let names: Vec<String> =
                sqlx::query_scalar("SELECT id FROM tenant WHERE active ORDER BY id").fetch_all(&mut *tx).await?;
            names
                .into_iter()
                .map(|name| Tenant::new(name).map(Some))
                .collect::<Result<_, _>>()
                .map_err(|error| job_error(&error))?
        }
    };
    let jobs: Vec<NewJob> = tenants
        .into_iter()
        .map(|tenant| {
            let mut job = NewJob { id: windrow_queue::JobId::new(), tenant, ..template.clone() };
            catalog.vault().seal(&mut job).map(|()| job)
        })
        .collect::<Result<_, _>>()
        .map_err(|error| job_error(&error))?;
    let enqueued = journal::enqueue_in(&mut tx, &jobs).await?;
    tx.commit().await?;
    Ok(enqueued)
}

/// What became of one fire time, or of several missed ones in a row.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct FireRecord {
    /// The fire time; of missed ones the first.
    pub fire_at: DateTime<Utc>,
    /// The last of the missed ones.
    pub through: Option<DateTime<Utc>>,
    /// How many fire times this record stands for.
    pub times: i32,
    /// `fired`, `missed`, `skipped`, `queued` or `fanning`.
    pub outcome: String,
    /// The job, if it made one.
    pub job_id: Option<Uuid>,
    /// How many jobs it made.
    pub jobs: i32,
    /// How late it was noticed, in milliseconds.
    pub late_ms: i64,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// The last fires of a schedule, newest first.
///
/// # Errors
/// When there is no such schedule, or Postgres is away.
pub async fn history(
    database: &PgPool,
    name: &str,
    tenant: Option<&Tenant>,
    limit: i64,
) -> Result<Vec<FireRecord>, AdminError> {
    let row = find(database, name, tenant).await?;
    let records = sqlx::query_as(
        "SELECT fire_at, through, times, outcome, job_id, jobs, late_ms, recorded_at FROM schedule_fire
         WHERE schedule_id = $1 ORDER BY fire_at DESC LIMIT $2",
    )
    .bind(row.id)
    .bind(limit)
    .fetch_all(database)
    .await?;
    Ok(records)
}
