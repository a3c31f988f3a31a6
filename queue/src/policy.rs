//! How a kind is executed: attempts, backoff, timeout, priority, and whether it must be journaled.

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// Priority bands, served 8:4:2:1, so that none starves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Band {
    /// Somebody is waiting for it.
    Critical = 0,
    /// Before the usual.
    High = 1,
    /// The usual.
    Normal = 2,
    /// Whenever there is room.
    Low = 3,
}

impl Band {
    /// All bands, most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The band with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its number in envelopes, lanes and tables: 0 to 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// Whether jobs of a kind may be fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Journaling {
    /// The producer chooses: straight into Redis, or through the journal.
    Optional,
    /// Always journaled: its effects must happen exactly once.
    Required,
}

/// What happens to a job whose worker was lost while it ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// It runs again: its effects may happen more than once, unless they are in its journal transaction.
    #[default]
    AtLeastOnce,
    /// It is dead: once its handler was started it is never started again. For calls to the outside that must not be made
    /// twice.
    AtMostOnce,
}

/// How the delay grows from attempt to attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// `base * 2^(attempt-1)`.
    #[default]
    Exponential,
    /// `base * attempt`.
    Linear,
    /// Always `base`.
    Constant,
}

impl Growth {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The delay between attempts: grows from `base` to at most `max`, with equal jitter (half fixed, half random), so that jobs
/// which failed together do not come back together.
///
/// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backoff {
    /// The shape.
    #[serde(default, skip_serializing_if = "Growth::is_default")]
    pub growth: Growth,
    /// Delay after the first attempt, before jitter.
    #[serde(with = "humantime_serde")]
    pub base: Duration,
    /// The longest delay.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
}

impl Backoff {
    /// The delay after the given failed attempt (1 is the first).
    pub fn delay(&self, attempt: u32, random: &mut impl Rng) -> Duration {
        let full = match self.growth {
            Growth::Exponential => self.base.saturating_mul(1 << attempt.saturating_sub(1).min(31)),
            Growth::Linear => self.base.saturating_mul(attempt.max(1)),
            Growth::Constant => self.base,
        };
        let full = full.min(self.max);
        let half = full / 2;
        half + half.mul_f64(random.random::<f64>())
    }
}

/// How jobs of a kind are executed. A job may override parts of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Attempts in all, the first included; after the last failure the job is dead.
    pub max_attempts: u16,
    /// Delay between attempts.
    pub backoff: Backoff,
    /// Longest run of one attempt; then the handler is cancelled and the attempt has failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Priority band.
    pub band: Band,
    /// Whether the kind must be journaled.
    pub journaling: Journaling,
    /// Crashes of a job that ran alone among suspects, until it is dead as a poison pill. `None`: `redis.rescue_limit`.
    pub rescue_limit: Option<u8>,
    /// What happens when its worker is lost.
    pub delivery: Delivery,
    /// Whether args are encrypted from the producer to the handler. Needs keys in the settings.
    pub encrypted: bool,
}

impl Policy {
    /// What a kind has that says nothing: 20 attempts over about a day, 5 minutes each, journaling up to the producer.
    pub const DEFAULT: Self = Self {
        max_attempts: 20,
        backoff: Backoff {
            growth: Growth::Exponential,
            base: Duration::from_secs(2),
            max: Duration::from_secs(3 * 3600),
        },
        timeout: Duration::from_secs(300),
        band: Band::Normal,
        journaling: Journaling::Optional,
        rescue_limit: None,
        delivery: Delivery::AtLeastOnce,
        encrypted: false,
    };

    /// The default with attempts of its own.
    #[must_use]
    pub const fn with_max_attempts(mut self, attempts: u16) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The default with a timeout of its own.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The default with a backoff of its own.
    #[must_use]
    pub const fn with_backoff(mut self, base: Duration, max: Duration) -> Self {
        self.backoff = Backoff { growth: Growth::Exponential, base, max };
        self
    }

    /// The default with another shape of backoff.
    #[must_use]
    pub const fn with_growth(mut self, growth: Growth) -> Self {
        self.backoff.growth = growth;
        self
    }

    /// The default with a rescue limit of its own.
    #[must_use]
    pub const fn with_rescue_limit(mut self, limit: u8) -> Self {
        self.rescue_limit = Some(limit);
        self
    }

    /// The default for a kind that must not be started twice.
    #[must_use]
    pub const fn at_most_once(mut self) -> Self {
        self.delivery = Delivery::AtMostOnce;
        self
    }

    /// The default for a kind whose args nobody else may read.
    #[must_use]
    pub const fn encrypted(mut self) -> Self {
        self.encrypted = true;
        self
    }

    /// The default in another band.
    #[must_use]
    pub const fn with_band(mut self, band: Band) -> Self {
        self.band = band;
        self
    }

    /// The default for a kind whose effects must happen exactly once.
    #[must_use]
    pub const fn journaled(mut self) -> Self {
        self.journaling = Journaling::Required;
        self
    }
}

/// What one job has different from its kind. Empty for nearly all jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyOverride {
    /// Attempts in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// Longest run of one attempt.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Delay between attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// Crashes among suspects, until it is dead as a poison pill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue_limit: Option<u8>,
    /// What happens when its worker is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Whether its final state can be asked for during an hour after it completed. Costs a key in Redis.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_result: bool,
}

impl PolicyOverride {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The kind's policy with what differs put in.
    #[must_use]
    pub fn apply(&self, mut policy: Policy) -> Policy {
        if let Some(attempts) = self.max_attempts {
            policy.max_attempts = attempts;
        }
        if let Some(timeout) = self.timeout {
            policy.timeout = timeout;
        }
        if let Some(backoff) = self.backoff {
            policy.backoff = backoff;
        }
        policy.rescue_limit = self.rescue_limit.or(policy.rescue_limit);
        policy.delivery = self.delivery.unwrap_or(policy.delivery);
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    #[test]
    fn backoff_grows_as_it_says_stays_under_its_cap_and_is_never_less_than_half() {
        let mut random = SmallRng::seed_from_u64(7);
        let shapes = [
            (Growth::Exponential, vec![(1, 2), (2, 4), (3, 8), (6, 60), (40, 60), (u32::MAX, 60)]),
            (Growth::Linear, vec![(1, 2), (2, 4), (3, 6), (30, 60), (u32::MAX, 60)]),
            (Growth::Constant, vec![(1, 2), (2, 2), (u32::MAX, 2)]),
        ];
        for (growth, expected) in shapes {
            let backoff = Backoff { growth, base: Duration::from_secs(2), max: Duration::from_secs(60) };
            for (attempt, full) in expected {
                for _ in 0..100 {
                    let delay = backoff.delay(attempt, &mut random).as_secs_f64();
                    let full = f64::from(full);
                    assert!((full / 2.0..=full).contains(&delay), "{growth:?}, attempt {attempt}: {delay}");
                }
            }
        }
    }

    #[test]
    fn an_override_changes_only_what_it_names() {
        let changed = PolicyOverride { max_attempts: Some(3), ..Default::default() };
        assert_eq!(changed.apply(Policy::DEFAULT), Policy::DEFAULT.with_max_attempts(3));
        assert!(PolicyOverride::default().is_empty());
    }
}
