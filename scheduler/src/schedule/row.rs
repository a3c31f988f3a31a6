//! A schedule as a row.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;
use windrow_queue::Catalog;

use super::{
    definition::{Declared, DeclaredMissed, Definition, InvalidSchedule, Overlap, jitter_share},
    plan::{Missed, Plan, plan},
    timing::Rule,
};

/// The columns of a [`Row`].
macro_rules! schedule_columns {
    () => {
        "id, name, origin, kind, args, cron, every_s, time_zone, jitter_ms, overlap, missed, catch_up, starts_at, ends_at,
         tenant, each_tenant, enabled, paused, handled_until, next_fire_at, due_at, missed_count, queued_fire_at, error"
    };
}
pub(crate) use schedule_columns as columns;

/// Definition and state.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) origin: String,
    pub(crate) kind: String,
    pub(crate) args: serde_json::Value,
    pub(crate) cron: Option<String>,
    pub(crate) every_s: Option<i64>,
    pub(crate) time_zone: String,
    pub(crate) jitter_ms: i64,
    pub(crate) overlap: String,
    pub(crate) missed: String,
    pub(crate) catch_up: i32,
    pub(crate) starts_at: Option<DateTime<Utc>>,
    pub(crate) ends_at: Option<DateTime<Utc>>,
    pub(crate) tenant: Option<String>,
    pub(crate) each_tenant: bool,
    pub(crate) enabled: bool,
    pub(crate) paused: bool,
    pub(crate) handled_until: DateTime<Utc>,
    pub(crate) next_fire_at: Option<DateTime<Utc>>,
    pub(crate) due_at: Option<DateTime<Utc>>,
    pub(crate) missed_count: i32,
    pub(crate) queued_fire_at: Option<DateTime<Utc>>,
    pub(crate) error: Option<String>,
}

impl Row {
    /// The definition, checked again: it may have been written by another version, for kinds that this one does not know.
    pub(crate) fn definition(&self, catalog: &Catalog) -> Result<Definition, InvalidSchedule> {
        let refuse =
            |key, reason: &str| InvalidSchedule { schedule: self.name.clone(), key, reason: reason.to_owned() };
        let declared = Declared {
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
        };
        Definition::check(declared, catalog)
    }

    /// What is to be done about it at `now`.
    pub(crate) fn plan(&self, definition: &Definition, now: DateTime<Utc>) -> Plan {
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
