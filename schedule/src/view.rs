//! Schedules as people and programs see them, alone and in lists.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::{Catalog, Tenant, store::InvalidCursor};

use crate::{AdminError, columns, row::Row};

/// Whether a schedule fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    /// It does.
    Active,
    /// An operator paused it.
    Paused,
    /// Its definition says that it does not.
    Disabled,
    /// It cannot; it is tried again each minute.
    Error,
}

impl ScheduleState {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Error => "error",
        }
    }
}

/// A schedule as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct ScheduleView {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Whom its jobs are done for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// One job for every active tenant.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub each_tenant: bool,
    /// `config`: it follows `schedules.toml`; `api`: it was made over the API or the command line.
    pub origin: String,
    /// Whether it fires.
    pub state: ScheduleState,
    /// Why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The kind of its jobs.
    pub kind: String,
    /// Their args. Left out of lists, and where the kind is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Value>,
    /// Its cron expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// Its period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// The zone of the expression.
    pub time_zone: String,
    /// What its share of the jitter is taken of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<String>,
    /// When a job of it still stands: `allow`, `skip` or `queue_one`.
    pub overlap: String,
    /// When nobody noticed in time: `"skip"`, `"run_once"` or `{"catch_up": 5}`.
    pub missed: Value,
    /// Not due before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<DateTime<Utc>>,
    /// Not due after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<DateTime<Utc>>,
    /// Raised by every change.
    pub version: i32,
    /// When it is due next, jitter not counted. Absent: never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_fire_at: Option<DateTime<Utc>>,
    /// When a scheduler will look at it, jitter counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// Missed fire times that the next job will be told of.
    #[serde(skip_serializing_if = "is_zero")]
    pub missed_count: i32,
    /// The fire time that waits for the standing job to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_fire_at: Option<DateTime<Utc>>,
    /// The fire time that is being fanned out over the tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fanning_fire_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed, paused or resumed.
    pub updated_at: DateTime<Utc>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &i32) -> bool {
    *count == 0
}

#[derive(FromRow)]
pub(crate) struct ViewRow {
    #[sqlx(flatten)]
    pub(crate) row: Row,
    version: i32,
    fan_fire_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// The columns of a [`ViewRow`].
macro_rules! view_columns {
    () => {
        concat!(columns!(), ", version, fan_fire_at, created_at, updated_at")
    };
}

impl ViewRow {
    pub(crate) fn view(self, catalog: &Catalog) -> ScheduleView {
        let Self { row, version, fan_fire_at, created_at, updated_at } = self;
        let state = match (&row.error, row.enabled, row.paused) {
            (_, false, _) => ScheduleState::Disabled,
            (_, true, true) => ScheduleState::Paused,
            (Some(_), true, false) => ScheduleState::Error,
            (None, true, false) => ScheduleState::Active,
        };
        // Of a kind that this version does not know nobody can say whether its args are a secret.
        let is_open = catalog.get(&row.kind).is_ok_and(|info| !info.policy.encrypted);
        let period =
            |ms: i64| humantime::format_duration(std::time::Duration::from_millis(ms.unsigned_abs())).to_string();
        ScheduleView {
            id: row.id,
            name: row.name,
            tenant: row.tenant,
            each_tenant: row.each_tenant,
            origin: row.origin,
            state,
            error: row.error,
            kind: row.kind,
            args: is_open.then_some(row.args),
            cron: row.cron,
            every: row.every_s.map(|seconds| period(seconds.saturating_mul(1000))),
            time_zone: row.time_zone,
            jitter: (row.jitter_ms > 0).then(|| period(row.jitter_ms)),
            overlap: row.overlap,
            missed: if row.missed == "catch_up" { json!({ "catch_up": row.catch_up }) } else { json!(row.missed) },
            start: row.starts_at,
            end: row.ends_at,
            version,
            next_fire_at: row.next_fire_at,
            due_at: row.due_at,
            missed_count: row.missed_count,
            queued_fire_at: row.queued_fire_at,
            fanning_fire_at: fan_fire_at,
            created_at,
            updated_at,
        }
    }
}

impl ScheduleView {
    /// When it is due, in a few words: `*/15 * * * *`, or `every 15m`.
    #[must_use]
    pub fn rule(&self) -> String {
        match (&self.cron, &self.every) {
            (Some(cron), _) => cron.clone(),
            (None, Some(every)) => format!("every {every}"),
            (None, None) => String::new(),
        }
    }

    /// Whom it is for: a tenant, `*` for every active one, or nobody in particular.
    #[must_use]
    pub fn whose(&self) -> &str {
        if self.each_tenant { "*" } else { self.tenant.as_deref().unwrap_or_default() }
    }
}

pub(crate) const SHOW: &str =
    concat!("SELECT ", view_columns!(), " FROM schedule WHERE name = $1 AND tenant IS NOT DISTINCT FROM $2");

/// One schedule.
///
/// # Errors
/// When there is none of this name for this tenant, or Postgres is away.
pub async fn show(
    database: &PgPool,
    catalog: &Catalog,
    name: &str,
    tenant: Option<&Tenant>,
) -> Result<ScheduleView, AdminError> {
    let row: Option<ViewRow> =
        sqlx::query_as(SHOW).bind(name).bind(tenant.map(Tenant::as_str)).fetch_optional(database).await?;
    row.map(|row| row.view(catalog)).ok_or_else(|| unknown(name, tenant))
}

/// The row of this name and tenant.
pub(crate) async fn find(database: &PgPool, name: &str, tenant: Option<&Tenant>) -> Result<Row, AdminError> {
    let row: Option<Row> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM schedule WHERE name = $1 AND tenant IS NOT DISTINCT FROM $2"
    ))
    .bind(name)
    .bind(tenant.map(Tenant::as_str))
    .fetch_optional(database)
    .await?;
    row.ok_or_else(|| unknown(name, tenant))
}

pub(crate) fn unknown(name: &str, tenant: Option<&Tenant>) -> AdminError {
    // What was asked for may be of any length.
    AdminError::Unknown { name: name.chars().take(100).collect(), tenant: tenant.map(ToString::to_string) }
}

/// What is to be listed.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// In this state.
    pub state: Option<ScheduleState>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// How many, at most.
    pub limit: u16,
}

/// A page of schedules.
#[derive(Clone, Debug, Serialize)]
pub struct SchedulePage {
    /// The schedules without their args: those for nobody in particular by name, then those of each tenant by tenant and name.
    pub schedules: Vec<ScheduleView>,
    /// Where to go on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A statement for each state: the conditions are those of partial indexes, so that a page of what is rare does not walk past a
/// million others.
macro_rules! list_of {
    ($condition:literal) => {
        concat!(
            "SELECT * FROM (
                 (SELECT ",
            view_columns!(),
            " FROM schedule WHERE tenant IS NULL AND $3::text IS NULL AND $2 = '' AND name > $1 AND ",
            $condition,
            " ORDER BY name LIMIT $4)
                 UNION ALL
                 (SELECT ",
            view_columns!(),
            " FROM schedule WHERE (tenant, name) > ($2, CASE WHEN $2 = '' THEN '' ELSE $1 END)
                   AND ($3 IS NULL OR tenant = $3) AND ",
            $condition,
            " ORDER BY tenant, name LIMIT $4)
             ) AS listed ORDER BY tenant NULLS FIRST, name LIMIT $4"
        )
    };
}

/// A page of schedules.
///
/// # Errors
/// When the cursor is none of this list's, or Postgres is away.
pub async fn list(database: &PgPool, catalog: &Catalog, query: &ListQuery) -> Result<SchedulePage, AdminError> {
    let (after, tenant) = match &query.cursor {
        // A name is ASCII, so `~` sorts after all of them and is in none.
        Some(cursor) => cursor.split_once('~').filter(|(name, _)| !name.is_empty()).ok_or(InvalidCursor)?,
        None => ("", ""),
    };
    let statement = match query.state {
        None if query.tenant.is_some() => concat!(
            "SELECT ",
            view_columns!(),
            " FROM schedule WHERE tenant = $3 AND name > $1 AND $2::text IS NOT NULL ORDER BY name LIMIT $4"
        ),
        None => list_of!("true"),
        Some(ScheduleState::Active) => list_of!("enabled AND NOT paused AND error IS NULL"),
        Some(ScheduleState::Paused) => list_of!("(paused OR NOT enabled) AND enabled AND paused"),
        Some(ScheduleState::Disabled) => list_of!("(paused OR NOT enabled) AND NOT enabled"),
        Some(ScheduleState::Error) => list_of!("error IS NOT NULL AND enabled AND NOT paused"),
    };
    let rows: Vec<ViewRow> = sqlx::query_as(statement)
        .bind(after)
        .bind(tenant)
        .bind(query.tenant.as_ref().map(Tenant::as_str))
        .bind(i64::from(query.limit) + 1)
        .fetch_all(database)
        .await?;
    let mut schedules: Vec<ScheduleView> =
        rows.into_iter().map(|row| ScheduleView { args: None, ..row.view(catalog) }).collect();
    let more = schedules.len() > usize::from(query.limit);
    schedules.truncate(query.limit.into());
    let next = schedules
        .last()
        .filter(|_| more)
        .map(|last| format!("{}~{}", last.name, last.tenant.as_deref().unwrap_or_default()));
    Ok(SchedulePage { schedules, next })
}
