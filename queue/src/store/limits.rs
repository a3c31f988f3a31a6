//! How many jobs may run at once, and how many may start in a while: per queue, kind and tenant, over all workers.
//!
//! A job that a limit holds back waits in Redis and holds no slot; jobs of other lanes pass it. Limits hold in one queue. A scope
//! of one tenant goes before that of each tenant.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use redis::Value;

use super::{
    Store, StoreError,
    keys::Keys,
    script::{LIMIT, LIMITS, RELOOK},
    session::bytes,
};
use crate::name::{InvalidName, Kind, QueueName, Tenant};

/// Scopes of one queue that may have limits or be paused.
pub const MAX_LIMITS: usize = 10_000;
/// The highest concurrency, count and burst.
const MOST: u32 = 1_000_000;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Ticks that a change of a limit waits for; what is left is done by others' ticks.
const MOST_TICKS: usize = 100;
/// How the scripts write that there is none.
const NO_CONCURRENCY: u32 = u32::MAX;

/// What a limit or a pause is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// All jobs of the queue.
    Queue,
    /// Those of a kind.
    Kind(Kind),
    /// Those of a tenant.
    Tenant(Tenant),
    /// Those of each tenant: every tenant without a limit of its own has this one, for itself.
    EachTenant,
    /// Those of a kind and a tenant.
    KindTenant(Kind, Tenant),
    /// Those of a kind, for each tenant.
    KindEachTenant(Kind),
}

/// A text that names no scope.
#[derive(Debug, thiserror::Error)]
pub enum InvalidScope {
    /// It is none of the forms.
    #[error(
        "{0:?} is no scope: use queue, kind=K, tenant=T, tenant=*, kind=K,tenant=T or kind=K,tenant=* (* is each tenant, for itself)"
    )]
    Form(String),
    /// A name in it is not valid.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl Scope {
    /// Its field in `lim`.
    fn key(&self) -> String {
        match self {
            Self::Queue => "q".into(),
            Self::Kind(kind) => format!("k\x1f{kind}"),
            Self::Tenant(tenant) => format!("t\x1f{tenant}"),
            Self::EachTenant => "t\x1f*".into(),
            Self::KindTenant(kind, tenant) => format!("b\x1f{kind}\x1f{tenant}"),
            Self::KindEachTenant(kind) => format!("b\x1f{kind}\x1f*"),
        }
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let key = std::str::from_utf8(key).ok()?;
        let mut parts = key.split('\x1f');
        let scope = match (parts.next()?, parts.next(), parts.next()) {
            ("q", None, None) => Self::Queue,
            ("k", Some(kind), None) => Self::Kind(Kind::new(kind).ok()?),
            ("t", Some("*"), None) => Self::EachTenant,
            ("t", Some(tenant), None) => Self::Tenant(Tenant::new(tenant).ok()?),
            ("b", Some(kind), Some("*")) => Self::KindEachTenant(Kind::new(kind).ok()?),
            ("b", Some(kind), Some(tenant)) => Self::KindTenant(Kind::new(kind).ok()?, Tenant::new(tenant).ok()?),
            _ => return None,
        };
        parts.next().is_none().then_some(scope)
    }

    /// What the ids begin with that a scope of each tenant is about.
    fn each_tenants_ids(&self) -> Option<String> {
        match self {
            Self::EachTenant => Some("t\x1f".into()),
            Self::KindEachTenant(kind) => Some(format!("b\x1f{kind}\x1f")),
            _ => None,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue => f.write_str("queue"),
            Self::Kind(kind) => write!(f, "kind={kind}"),
            Self::Tenant(tenant) => write!(f, "tenant={tenant}"),
            Self::EachTenant => f.write_str("tenant=*"),
            Self::KindTenant(kind, tenant) => write!(f, "kind={kind},tenant={tenant}"),
            Self::KindEachTenant(kind) => write!(f, "kind={kind},tenant=*"),
        }
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let form = || InvalidScope::Form(text.chars().take(200).collect());
        if text == "queue" {
            return Ok(Self::Queue);
        }
        let (mut kind, mut tenant) = (None, None);
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(form)?;
            let before = match name {
                "kind" => kind.replace(value),
                "tenant" => tenant.replace(value),
                _ => return Err(form()),
            };
            if before.is_some() {
                return Err(form());
            }
        }
        Ok(match (kind, tenant) {
            (Some(kind), None) => Self::Kind(Kind::new(kind)?),
            (Some(kind), Some("*")) => Self::KindEachTenant(Kind::new(kind)?),
            (Some(kind), Some(tenant)) => Self::KindTenant(Kind::new(kind)?, Tenant::new(tenant)?),
            (None, Some("*")) => Self::EachTenant,
            (None, Some(tenant)) => Self::Tenant(Tenant::new(tenant)?),
            (None, None) => return Err(form()),
        })
    }
}

/// How many jobs may start in a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// So many.
    pub count: u32,
    /// In so much time. They are spread evenly over it.
    pub per: Duration,
    /// So many may start at once after a quiet time; `None`: as many as a second's share, one at least.
    pub burst: Option<u32>,
}

impl Rate {
    /// The time between two starts, rounded up: never more than `count` in `per`.
    fn interval_us(&self) -> u64 {
        u64::try_from(self.per.as_micros().div_ceil(u128::from(self.count.max(1)))).unwrap_or(u64::MAX).max(1)
    }

    /// The burst in force.
    #[must_use]
    pub fn effective_burst(&self) -> u32 {
        let a_second = u128::from(self.count) * 1000 / self.per.as_millis().max(1);
        self.burst.unwrap_or_else(|| u32::try_from(a_second).unwrap_or(MOST)).clamp(1, MOST)
    }
}

/// What limits a scope; one without either limits nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    /// Jobs that may run at once.
    pub concurrency: Option<u32>,
    /// Jobs that may start in a while.
    pub rate: Option<Rate>,
}

impl Limit {
    /// Whether it can be set.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] with what is wrong.
    pub fn validate(&self) -> Result<(), StoreError> {
        let refuse = |reason: String| Err(StoreError::Invalid(reason));
        let among = |number: u32| (1..=MOST).contains(&number);
        if self.concurrency.is_none() && self.rate.is_none() {
            return refuse("a limit has a concurrency or a rate; to take one away, clear it".into());
        }
        if let Some(concurrency) = self.concurrency.filter(|&concurrency| !among(concurrency)) {
            return refuse(format!(
                "a concurrency of {concurrency} is not possible: give 1 to {MOST}; to let nothing run, pause it"
            ));
        }
        let Some(rate) = self.rate else { return Ok(()) };
        if !among(rate.count) {
            return refuse(format!("a rate of {} jobs is not possible: give 1 to {MOST}", rate.count));
        }
        if !(SHORTEST..=LONGEST).contains(&rate.per) {
            return refuse(format!(
                "a rate per {:?} is not possible: give a time from 1 second to 1 day, and a count for it",
                rate.per
            ));
        }
        match rate.burst.filter(|&burst| !among(burst)) {
            Some(burst) => refuse(format!("a burst of {burst} is not possible: give 1 to {MOST}")),
            None => Ok(()),
        }
    }

    /// As the scripts read it, and behind that what only this program reads: count4 per_ms4 burst4 (0: none given).
    fn encode(&self) -> Vec<u8> {
        let (interval, burst) = self.rate.map_or((0, 0), |rate| (rate.interval_us(), rate.effective_burst()));
        let mut spec = self.concurrency.unwrap_or(NO_CONCURRENCY).to_be_bytes().to_vec();
        spec.extend_from_slice(&interval.to_be_bytes()[2..]);
        spec.extend_from_slice(&burst.to_be_bytes());
        if let Some(rate) = self.rate {
            let per_ms = u32::try_from(rate.per.as_millis()).unwrap_or(u32::MAX);
            for number in [rate.count, per_ms, rate.burst.unwrap_or(0)] {
                spec.extend_from_slice(&number.to_be_bytes());
            }
        }
        spec
    }

    fn decode(spec: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(spec.get(at..at + 4)?.try_into().ok()?));
        let concurrency = Some(number(0)?).filter(|&concurrency| concurrency != NO_CONCURRENCY);
        number(10)?;
        let rate = match number(14) {
            Some(count) => Some(Rate {
                count,
                per: Duration::from_millis(number(18)?.into()),
                burst: Some(number(22)?).filter(|&burst| burst > 0),
            }),
            None => None,
        };
        Some(Self { concurrency, rate })
    }
}

/// A limit or a pause, and what it does now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitState {
    /// What it is about.
    pub scope: Scope,
    /// What limits it; nothing if it is only paused.
    pub limit: Limit,
    /// Whether its jobs are held back altogether.
    pub paused: bool,
    /// Running jobs that count to its concurrency; 0 for a scope of each tenant, which counts every tenant apart.
    pub running: u64,
    /// Lanes that wait for it; 0 for a scope of each tenant and for a paused queue, whose lanes stay where they are.
    pub waiting_lanes: u64,
}

impl Store {
    /// Holds back the jobs of a scope. Those that run go on. Answers whether it was not paused before.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when [`MAX_LIMITS`] scopes are limited or paused already; or when Redis is away: asking again
    /// is safe.
    pub async fn pause(&self, queue: &QueueName, scope: &Scope) -> Result<bool, StoreError> {
        self.change_limit(queue, scope, "p", &[]).await
    }

    /// Lets the jobs of a scope run again. Answers whether it was paused.
    ///
    /// # Errors
    /// When Redis is away: asking again is safe.
    pub async fn resume(&self, queue: &QueueName, scope: &Scope) -> Result<bool, StoreError> {
        self.change_limit(queue, scope, "r", &[]).await
    }

    /// Sets the limit of a scope in place of the one before. Jobs that run count from now on; those above a lower limit go on.
    /// Answers whether it was another before.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the limit is out of range, or [`MAX_LIMITS`] scopes are limited already; or when Redis is
    /// away: asking again is safe.
    pub async fn set_limit(&self, queue: &QueueName, scope: &Scope, limit: &Limit) -> Result<bool, StoreError> {
        limit.validate()?;
        self.change_limit(queue, scope, "s", &limit.encode()).await
    }

    /// Takes the limit of a scope away; a pause stays. Answers whether there was one.
    ///
    /// # Errors
    /// When Redis is away: asking again is safe.
    pub async fn clear_limit(&self, queue: &QueueName, scope: &Scope) -> Result<bool, StoreError> {
        self.change_limit(queue, scope, "c", &[]).await
    }

    async fn change_limit(
        &self,
        queue: &QueueName,
        scope: &Scope,
        what: &str,
        limit: &[u8],
    ) -> Result<bool, StoreError> {
        let keys = Keys::new(queue);
        let mut call = LIMIT.call(&keys, None, self.clock());
        call.arg(scope.key()).arg(what).arg(limit).arg(MAX_LIMITS);
        let answer: String = self.link().run(&LIMIT, &call).await?;
        let changed = match &*answer {
            "ok" => true,
            "same" => false,
            "full" => {
                return Err(StoreError::Invalid(format!(
                    "queue {queue} has limits on {MAX_LIMITS} scopes already: clear some, or use one for each tenant (tenant=*)"
                )));
            }
            _ => return Err(StoreError::Unreadable("an answer to limit")),
        };
        // Also when it was so already: an earlier call may have come this far only.
        if let Some(head) = scope.each_tenants_ids() {
            let mut cursor = String::from("0");
            loop {
                let mut call = RELOOK.call(&keys, None, self.clock());
                call.arg(&head).arg(&cursor);
                cursor = self.link().run(&RELOOK, &call).await?;
                if cursor == "0" {
                    break;
                }
            }
        }
        // Somebody ticks within a second anyway: what may run now, and the count of what runs, need not wait for that.
        for _ in 0..MOST_TICKS {
            if !self.tick(queue).await?.more {
                break;
            }
        }
        Ok(changed)
    }

    /// All limits and pauses of a queue.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn limits(&self, queue: &QueueName) -> Result<Vec<LimitState>, StoreError> {
        let unreadable = || StoreError::Unreadable("the limits of a queue");
        let keys = Keys::new(queue);
        // A field that moves while pages are read may be on two of them.
        let mut states = BTreeMap::new();
        let mut cursor = String::from("0");
        loop {
            let mut call = LIMITS.call(&keys, None, self.clock());
            call.arg(&cursor);
            let (next, paused, page): (String, i64, Vec<Value>) = self.link().run(&LIMITS, &call).await?;
            for row in page.chunks_exact(4) {
                let [scope, spec, Value::Int(running), Value::Int(waiting_lanes)] = row else {
                    return Err(unreadable());
                };
                let scope = bytes(scope).and_then(Scope::from_key).ok_or_else(unreadable)?;
                let (flags, limit) = bytes(spec).and_then(<[u8]>::split_first).ok_or_else(unreadable)?;
                let state = LimitState {
                    scope: scope.clone(),
                    limit: Limit::decode(limit).ok_or_else(unreadable)?,
                    paused: flags & 1 == 1,
                    running: u64::try_from(*running).unwrap_or(0),
                    waiting_lanes: u64::try_from(*waiting_lanes).unwrap_or(0),
                };
                states.insert(scope, state);
            }
            if paused == 1 {
                let nothing = || LimitState {
                    scope: Scope::Queue,
                    limit: Limit::default(),
                    paused: true,
                    running: 0,
                    waiting_lanes: 0,
                };
                states.entry(Scope::Queue).or_insert_with(nothing).paused = true;
            }
            if next == "0" {
                return Ok(states.into_values().collect());
            }
            cursor = next;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn scopes_survive_the_way_through_text_and_redis() {
        for text in ["queue", "kind=a.b", "tenant=t", "tenant=*", "kind=a.b,tenant=t", "kind=a.b,tenant=*"] {
            let scope: Scope = text.parse().unwrap();
            assert_eq!(scope.to_string(), text);
            assert_eq!(Scope::from_key(scope.key().as_bytes()), Some(scope));
        }
        assert_eq!("tenant=t,kind=k".parse::<Scope>().unwrap().to_string(), "kind=k,tenant=t");
        for bad in ["", "q", "kind", "kind=", "kind=*", "tenant=a,tenant=b", "queue=x", "kind=a,queue", "band=1"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
        }
        assert_eq!(Scope::from_key(b"b\x1fk\x1ft\x1fx"), None);
    }

    #[test]
    fn limits_survive_the_way_through_redis() {
        let rate = |count, seconds, burst| Rate { count, per: Duration::from_secs(seconds), burst };
        for limit in [
            Limit { concurrency: Some(5), rate: None },
            Limit { concurrency: None, rate: Some(rate(3, 1, None)) },
            Limit { concurrency: Some(MOST), rate: Some(rate(MOST, 86_400, Some(7))) },
        ] {
            limit.validate().unwrap();
            assert_eq!(Limit::decode(&limit.encode()), Some(limit));
        }
        assert_eq!(Limit::decode(&[0; 5]), None);
    }

    #[test]
    fn an_interval_never_lets_more_through_than_the_count() {
        let rate = |count, ms| Rate { count, per: Duration::from_millis(ms), burst: None };
        assert_eq!(rate(3, 1000).interval_us(), 333_334);
        assert_eq!((rate(1, 86_400_000).interval_us(), rate(1, 86_400_000).effective_burst()), (86_400_000_000, 1));
        assert_eq!((rate(50, 1000).effective_burst(), rate(50, 2000).effective_burst()), (50, 25));
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_reason() {
        let rate = |count, per, burst| Limit { concurrency: None, rate: Some(Rate { count, per, burst }) };
        let second = Duration::from_secs(1);
        for (bad, says) in [
            (Limit::default(), "clear it"),
            (Limit { concurrency: Some(0), rate: None }, "pause"),
            (Limit { concurrency: Some(MOST + 1), rate: None }, "1000001"),
            (rate(0, second, None), "rate of 0"),
            (rate(1, Duration::from_millis(999), None), "1 second"),
            (rate(1, LONGEST + second, None), "1 day"),
            (rate(1, second, Some(0)), "burst of 0"),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
