//! What somebody declares, and what it means once it is checked.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use windrow_queue::{Catalog, Kind, Tenant, name::InvalidName};

use super::{
    plan::{MAX_CATCH_UP, Missed},
    timing::{Rule, Timing},
    wall::Expression,
};

/// The shortest `every`.
const MIN_EVERY: Duration = Duration::from_secs(1);
/// The longest `every`, and the longest jitter is a day.
const MAX_EVERY: Duration = Duration::from_secs(366 * 24 * 3600);
const MAX_JITTER: Duration = Duration::from_secs(24 * 3600);

/// What happens when a schedule is due while a job that it made, or a follow-up of one, still stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Another job beside it.
    Allow,
    /// No job; the fire time is recorded as skipped.
    #[default]
    Skip,
    /// One job as soon as nothing stands any more; further fire times until then are skipped.
    QueueOne,
}

/// Whom the jobs are done for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tenants {
    /// Nobody in particular.
    None,
    /// This one.
    One(Tenant),
    /// One job for every active tenant.
    Each,
}

/// A schedule as it is written in a file or sent to the API. Every key is optional here, so that the check can say which one
/// is missing.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Declared {
    /// Its name, unique for a tenant.
    pub name: String,
    /// The kind of its jobs.
    pub kind: String,
    /// Their args; an empty object when left out.
    pub args: Option<serde_json::Value>,
    /// A cron expression. This or `every`.
    pub cron: Option<String>,
    /// A period like `15m`. This or `cron`.
    #[serde(with = "humantime_serde")]
    pub every: Option<Duration>,
    /// The IANA zone in which `cron` is read; UTC when left out.
    pub time_zone: Option<String>,
    /// Fires are put off by a share of this, the same for each fire of a schedule.
    #[serde(with = "humantime_serde")]
    pub jitter: Option<Duration>,
    /// When a job of it still stands.
    pub overlap: Overlap,
    /// When nobody noticed in time.
    pub missed: DeclaredMissed,
    /// Not due before this.
    pub start: Option<DateTime<Utc>>,
    /// Not due after this.
    pub end: Option<DateTime<Utc>>,
    /// Whom its jobs are done for.
    pub tenant: Option<String>,
    /// One job for every active tenant.
    pub each_tenant: bool,
    /// Whether it fires.
    pub enabled: Option<bool>,
}

/// How `missed` is written: `"skip"`, `"run_once"` or `{ catch_up = 5 }`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclaredMissed {
    /// Recorded only.
    Skip,
    /// One job for all.
    #[default]
    RunOnce,
    /// The last so many have a job each.
    CatchUp(u16),
}

/// A schedule that was checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// The kind of its jobs.
    pub kind: Kind,
    /// Their args.
    pub args: serde_json::Value,
    /// When it is due.
    pub timing: Timing,
    /// What its share is taken of.
    pub jitter: Duration,
    /// When a job of it still stands.
    pub overlap: Overlap,
    /// When nobody noticed in time.
    pub missed: Missed,
    /// Whom its jobs are done for.
    pub tenants: Tenants,
    /// Whether it fires.
    pub enabled: bool,
}

/// A schedule that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schedule {schedule:?}: {key}: {reason}")]
pub struct InvalidSchedule {
    /// Its name, as far as it has one.
    pub schedule: String,
    /// The key that is wrong.
    pub key: &'static str,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl Definition {
    /// Checks a declaration against the kinds that exist.
    ///
    /// # Errors
    /// The first key that is wrong.
    pub fn check(declared: Declared, catalog: &Catalog) -> Result<Self, InvalidSchedule> {
        let schedule = declared.name.clone();
        let refuse = |key: &'static str, reason: String| InvalidSchedule { schedule: schedule.clone(), key, reason };
        check_name(&declared.name).map_err(|reason| refuse("name", reason))?;

        if declared.kind.is_empty() {
            return Err(refuse("kind", "is missing: which kind of job is it to make?".into()));
        }
        let info = catalog.get(&declared.kind).map_err(|error| refuse("kind", error.to_string()))?;
        let args = declared.args.unwrap_or_else(|| serde_json::Value::Object(serde_json::Map::new()));
        let raw = serde_json::value::to_raw_value(&args).map_err(|error| refuse("args", error.to_string()))?;
        info.check_args(&raw).map_err(|error| refuse("args", format!("do not fit {}: {error}", info.kind)))?;

        let zone = declared.time_zone.as_deref().unwrap_or("UTC");
        let zone: Tz = zone.parse().map_err(|_| {
            refuse("time_zone", format!("{zone:?} is no IANA time zone: give one like \"Europe/Berlin\""))
        })?;
        let rule = match (declared.cron, declared.every) {
            (Some(cron), None) => {
                Rule::Cron(Box::new(Expression::parse(&cron).map_err(|reason| refuse("cron", reason))?))
            }
            (None, Some(every)) if every < MIN_EVERY || every > MAX_EVERY || every.subsec_nanos() > 0 => {
                return Err(refuse("every", "must be whole seconds, at least 1s and at most 366 days".into()));
            }
            (None, Some(every)) => Rule::Every(every),
            (Some(_), Some(_)) => return Err(refuse("every", "stands beside cron: give one of the two".into())),
            (None, None) => return Err(refuse("cron", "is missing: give cron or every".into())),
        };
        if let (Some(start), Some(end)) = (declared.start, declared.end)
            && start > end
        {
            return Err(refuse("end", "is before start".into()));
        }
        let jitter = declared.jitter.unwrap_or_default();
        if jitter > MAX_JITTER {
            return Err(refuse("jitter", "is more than 24h".into()));
        }
        let missed = match declared.missed {
            DeclaredMissed::Skip => Missed::Skip,
            DeclaredMissed::RunOnce => Missed::RunOnce,
            DeclaredMissed::CatchUp(most) if (1..=MAX_CATCH_UP).contains(&most) => Missed::CatchUp(most),
            DeclaredMissed::CatchUp(_) => {
                return Err(refuse("missed", format!("catch_up must be 1 to {MAX_CATCH_UP}")));
            }
        };
        let tenants = match (declared.tenant, declared.each_tenant) {
            (Some(_), true) => return Err(refuse("each_tenant", "stands beside tenant: give one of the two".into())),
            (Some(tenant), false) => {
                Tenants::One(Tenant::new(tenant).map_err(|error: InvalidName| refuse("tenant", error.to_string()))?)
            }
            (None, true) => Tenants::Each,
            (None, false) => Tenants::None,
        };
        Ok(Self {
            name: declared.name,
            kind: info.kind.clone(),
            args,
            timing: Timing { rule, zone, start: declared.start, end: declared.end },
            jitter,
            overlap: declared.overlap,
            missed,
            tenants,
            enabled: declared.enabled.unwrap_or(true),
        })
    }

    /// The tenant, if it is for a single one.
    #[must_use]
    pub const fn tenant(&self) -> Option<&Tenant> {
        match &self.tenants {
            Tenants::One(tenant) => Some(tenant),
            Tenants::None | Tenants::Each => None,
        }
    }

    /// The id of a schedule that is declared in a file: the same wherever the file is read, so that one that is taken out and
    /// put back finds the record of its fires.
    #[must_use]
    pub fn config_id(&self) -> Uuid {
        let mut hash = Sha256::new();
        for part in ["windrow schedule", self.tenant().map_or("", Tenant::as_str), &self.name] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

/// A schedule's share of its jitter: spread by id, and the same for each of its fires.
pub(crate) fn jitter_share(id: Uuid, jitter: Duration) -> Duration {
    let (_, spread) = id.as_u64_pair();
    let most = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
    // The upper bits of this half are the UUID's variant; the rest is random.
    Duration::from_millis((spread & (u64::MAX >> 2)) % most.saturating_add(1))
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=100).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if fits {
        return Ok(());
    }
    Err("must have 1 to 100 letters, digits, '_', '-' or '.', beginning with a letter or digit".to_owned())
}
