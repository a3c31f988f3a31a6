//! What somebody declares, and what it means once it is checked.

use std::{borrow::Cow, time::Duration};

use chrono::{DateTime, Datelike, SubsecRound, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use windrow_queue::{Catalog, Fire, Kind, NewJob, Tenant, name::InvalidName};

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
/// In which a start and an end may be.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2199;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<serde_json::Value>,
    /// A cron expression. This or `every`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// A period like `15m`. This or `cron`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    /// The IANA zone in which `cron` is read; UTC when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Fires are put off by a share of this, the same for each fire of a schedule.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    /// When a job of it still stands.
    pub overlap: Overlap,
    /// When nobody noticed in time.
    pub missed: DeclaredMissed,
    /// Not due before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<DateTime<Utc>>,
    /// Not due after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<DateTime<Utc>>,
    /// Whom its jobs are done for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// One job for every active tenant.
    pub each_tenant: bool,
    /// Whether it fires.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    pub key: Cow<'static, str>,
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
        let refuse =
            |key: &'static str, reason: String| InvalidSchedule { schedule: schedule.clone(), key: key.into(), reason };
        check_name(&declared.name).map_err(|reason| refuse("name", reason))?;

        if declared.kind.is_empty() {
            return Err(refuse("kind", "is missing: which kind of job is it to make?".into()));
        }
        let info = catalog.get(&declared.kind).map_err(|error| refuse("kind", error.to_string()))?;
        let args = declared.args.unwrap_or_else(|| serde_json::Value::Object(serde_json::Map::new()));
        let raw = to_raw_value(&args).map_err(|error| refuse("args", error.to_string()))?;
        if !args.is_object() {
            return Err(refuse("args", format!("of {} are an object with named fields", info.kind)));
        }
        info.check_args(&raw).map_err(|error| refuse("args", format!("do not fit {}: {error}", info.kind)))?;
        // What no job can be made of is refused here, and not at each fire time.
        NewJob::of_kind(info, raw).map_err(|error| refuse("args", error.to_string()))?;

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
        for (key, time) in [("start", declared.start), ("end", declared.end)] {
            if time.is_some_and(|time| !YEARS.contains(&time.year())) {
                return Err(refuse(key, format!("must be from {} to {}", YEARS.start(), YEARS.end())));
            }
        }
        // As finely as Postgres keeps them: what was written and what is read back are the same.
        let (start, end) = (declared.start.map(to_micros), declared.end.map(to_micros));
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            return Err(refuse("end", "is before start".into()));
        }
        let jitter = declared.jitter.unwrap_or_default();
        let jitter = Duration::new(jitter.as_secs(), jitter.subsec_millis() * 1_000_000);
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
            timing: Timing { rule, zone, start, end },
            jitter,
            overlap: declared.overlap,
            missed,
            tenants,
            enabled: declared.enabled.unwrap_or(true),
        })
    }

    /// A job of it, sealed if its kind is encrypted.
    ///
    /// # Errors
    /// When this program cannot make it: the kind is unknown, or its key is missing.
    pub fn job(&self, catalog: &Catalog, tenant: Option<&Tenant>, fire: Fire) -> Result<NewJob, InvalidSchedule> {
        let refuse =
            |key: &'static str, reason| InvalidSchedule { schedule: self.name.clone(), key: key.into(), reason };
        let info = catalog.get(self.kind.as_str()).map_err(|error| refuse("kind", error.to_string()))?;
        let args = to_raw_value(&self.args).map_err(|error| refuse("args", error.to_string()))?;
        let mut job = NewJob::of_kind(info, args).map_err(|error| refuse("args", error.to_string()))?;
        job.tenant = tenant.cloned();
        job.fire = Some(fire);
        catalog.vault().seal(&mut job).map_err(|error| refuse("args", error.to_string()))?;
        Ok(job)
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
        self.derived_id("windrow schedule")
    }

    /// The id of a schedule that is made over the API or the command line: never that of a declared one, and again the same
    /// when it is removed and made anew.
    #[must_use]
    pub fn api_id(&self) -> Uuid {
        self.derived_id("windrow schedule, not of a file")
    }

    fn derived_id(&self, origin: &str) -> Uuid {
        let mut hash = Sha256::new();
        for part in [origin, self.tenant().map_or("", Tenant::as_str), &self.name] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

/// A schedule's share of its jitter: spread by id, and the same for each of its fires.
#[must_use]
pub fn jitter_share(id: Uuid, jitter: Duration) -> Duration {
    let (_, spread) = id.as_u64_pair();
    let most = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
    // The upper bits of this half are the UUID's variant; the rest is random.
    Duration::from_millis((spread & (u64::MAX >> 2)) % most.saturating_add(1))
}

fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
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
