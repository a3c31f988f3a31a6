//! A schedule as a row.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;
use windrow_queue::{Catalog, Tenant};

use super::{
    definition::{Declared, DeclaredMissed, Definition, InvalidSchedule, Overlap, Tenants, jitter_share},
    plan::{Missed, Plan, plan},
    timing::Rule,
};

/// The columns of a [`Row`], as a literal for `concat!`.
#[macro_export]
macro_rules! columns {
    () => {
        "id, name, origin, kind, args, cron, every_s, time_zone, jitter_ms, overlap, missed, catch_up, starts_at, ends_at,
         tenant, each_tenant, enabled, paused, handled_until, next_fire_at, due_at, missed_count, queued_fire_at, error"
    };
}

/// Definition and state, as Postgres has them.
#[derive(Clone, Debug, FromRow)]
pub struct Row {
    /// Its id.
    pub id: Uuid,
    /// Its name, unique for a tenant.
    pub name: String,
    /// `config` or `api`.
    pub origin: String,
    /// The kind of its jobs.
    pub kind: String,
    /// Their args.
    pub args: serde_json::Value,
    /// Its cron expression; this or `every_s`.
    pub cron: Option<String>,
    /// Its period in seconds.
    pub every_s: Option<i64>,
    /// The IANA zone in which `cron` is read.
    pub time_zone: String,
    /// What its share of the jitter is taken of, in milliseconds.
    pub jitter_ms: i64,
    /// `allow`, `skip` or `queue_one`.
    pub overlap: String,
    /// `skip`, `run_once` or `catch_up`.
    pub missed: String,
    /// How many it catches up.
    pub catch_up: i32,
    /// Not due before this.
    pub starts_at: Option<DateTime<Utc>>,
    /// Not due after this.
    pub ends_at: Option<DateTime<Utc>>,
    /// Whom its jobs are done for.
    pub tenant: Option<String>,
    /// One job for every active tenant.
    pub each_tenant: bool,
    /// The declaration's word.
    pub enabled: bool,
    /// The operator's word.
    pub paused: bool,
    /// Every fire time up to here has its outcome.
    pub handled_until: DateTime<Utc>,
    /// The first fire time after it.
    pub next_fire_at: Option<DateTime<Utc>>,
    /// When a scheduler has to look.
    pub due_at: Option<DateTime<Utc>>,
    /// Missed fire times that no job was told of yet.
    pub missed_count: i32,
    /// The fire time that waits for the standing job to end.
    pub queued_fire_at: Option<DateTime<Utc>>,
    /// Why it cannot fire.
    pub error: Option<String>,
}

impl Row {
    /// The definition, checked again: it may have been written by another version, for kinds that this one does not know.
    ///
    /// # Errors
    /// What this version cannot make sense of.
    pub fn definition(&self, catalog: &Catalog) -> Result<Definition, InvalidSchedule> {
        Definition::check(self.declared()?, catalog)
    }

    /// The definition as somebody would declare it.
    ///
    /// # Errors
    /// When another version wrote what this one has no word for.
    pub(crate) fn declared(&self) -> Result<Declared, InvalidSchedule> {
        let refuse = |key: &'static str, reason: &str| InvalidSchedule {
            schedule: self.name.clone(),
            key: key.into(),
            reason: reason.to_owned(),
        };
        Ok(Declared {
            name: self.name.clone(),
            kind: self.kind.clone(),
            args: Some(self.args.clone()),
            cron: self.cron.clone(),
            every: self.every_s.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
            time_zone: Some(self.time_zone.clone()),
            jitter: Some(Duration::from_millis(self.jitter_ms.unsigned_abs())),
            overlap: overlap_from(&self.overlap).ok_or_else(|| refuse("overlap", "is not known to this version"))?,
            missed: match self.missed.as_str() {
                "skip" => DeclaredMissed::Skip,
                "run_once" => DeclaredMissed::RunOnce,
                "catch_up" => DeclaredMissed::CatchUp(u16::try_from(self.catch_up).unwrap_or(u16::MAX)),
                _ => return Err(refuse("missed", "is not known to this version")),
            },
            start: self.starts_at,
            end: self.ends_at,
            tenant: self.tenant.clone(),
            each_tenant: self.each_tenant,
            enabled: Some(self.enabled),
        })
    }

    /// What is to be done about it at `now`.
    #[must_use]
    pub fn plan(&self, definition: &Definition, now: DateTime<Utc>) -> Plan {
        let share = jitter_share(self.id, definition.jitter);
        plan(&definition.timing, definition.missed, share, self.handled_until, self.missed_count, now)
    }
}

/// A definition's columns, for writing.
pub(crate) struct Written<'a> {
    pub(crate) cron: Option<&'a str>,
    pub(crate) every_s: Option<i64>,
    pub(crate) time_zone: &'static str,
    pub(crate) jitter_ms: i64,
    pub(crate) overlap: &'static str,
    pub(crate) missed: &'static str,
    pub(crate) catch_up: i32,
}

impl<'a> Written<'a> {
    pub(crate) fn of(definition: &'a Definition) -> Self {
        let (cron, every_s) = match &definition.timing.rule {
            Rule::Cron(expression) => (Some(expression.text()), None),
            Rule::Every(period) => (None, i64::try_from(period.as_secs()).ok()),
        };
        let (missed, catch_up) = match definition.missed {
            Missed::Skip => ("skip", 0),
            Missed::RunOnce => ("run_once", 0),
            Missed::CatchUp(most) => ("catch_up", i32::from(most)),
        };
        let overlap = match definition.overlap {
            Overlap::Allow => "allow",
            Overlap::Skip => "skip",
            Overlap::QueueOne => "queue_one",
        };
        Self {
            cron,
            every_s,
            time_zone: definition.timing.zone.name(),
            jitter_ms: i64::try_from(definition.jitter.as_millis()).unwrap_or(i64::MAX),
            overlap,
            missed,
            catch_up,
        }
    }
}

fn overlap_from(text: &str) -> Option<Overlap> {
    match text {
        "allow" => Some(Overlap::Allow),
        "skip" => Some(Overlap::Skip),
        "queue_one" => Some(Overlap::QueueOne),
        _ => None,
    }
}

/// Inserts the definition or replaces the one of the same id; its next fire time is the first after `from`. False: another row
/// has its name.
pub(crate) async fn put(
    tx: &mut PgConnection,
    id: Uuid,
    origin: &'static str,
    definition: &Definition,
    from: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let written = Written::of(definition);
    let timing = &definition.timing;
    let next = timing.next_after(from);
    let share = TimeDelta::from_std(jitter_share(id, definition.jitter)).unwrap_or(TimeDelta::zero());
    let rows = sqlx::query(
        "INSERT INTO schedule AS s (id, name, origin, kind, args, cron, every_s, time_zone, jitter_ms, overlap, missed,
             catch_up, starts_at, ends_at, tenant, each_tenant, enabled, handled_until, next_fire_at, due_at)
         SELECT $1, $2, $20, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19
         WHERE NOT EXISTS (
             SELECT FROM schedule other WHERE other.name = $2 AND other.tenant IS NOT DISTINCT FROM $14 AND other.id <> $1)
         ON CONFLICT (id) DO UPDATE SET version = s.version + 1, kind = excluded.kind, args = excluded.args,
             cron = excluded.cron, every_s = excluded.every_s, time_zone = excluded.time_zone,
             jitter_ms = excluded.jitter_ms, overlap = excluded.overlap, missed = excluded.missed,
             catch_up = excluded.catch_up, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
             each_tenant = excluded.each_tenant, enabled = excluded.enabled, handled_until = excluded.handled_until,
             next_fire_at = excluded.next_fire_at, due_at = excluded.due_at, missed_count = 0, error = NULL,
             updated_at = now()",
    )
    .bind(id)
    .bind(&definition.name)
    .bind(definition.kind.as_str())
    .bind(&definition.args)
    .bind(written.cron)
    .bind(written.every_s)
    .bind(written.time_zone)
    .bind(written.jitter_ms)
    .bind(written.overlap)
    .bind(written.missed)
    .bind(written.catch_up)
    .bind(timing.start)
    .bind(timing.end)
    .bind(definition.tenant().map(Tenant::as_str))
    .bind(definition.tenants == Tenants::Each)
    .bind(definition.enabled)
    .bind(from)
    .bind(next)
    .bind(next.map(|next| next + share))
    .bind(origin)
    .execute(tx)
    .await?;
    Ok(rows.rows_affected() > 0)
}
