//! When a schedule is due: a pure function of its rule and the last fire time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::wall::Expression;

/// What repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Wall clock times in the schedule's zone.
    Cron(Box<Expression>),
    /// Every so many seconds, counted from the schedule's start, or else from 1970: a restart does not shift them.
    Every(Duration),
}

/// When a schedule is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// What repeats.
    pub rule: Rule,
    /// The zone in which a cron expression is read.
    pub zone: Tz,
    /// Not due before this.
    pub start: Option<DateTime<Utc>>,
    /// Not due after this.
    pub end: Option<DateTime<Utc>>,
}

impl Timing {
    /// The first fire time after `after`; the same whichever instant it is asked at. None when there is no further one.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // A start is a possible fire time itself, so the search begins just before it.
        let after = self.start.map_or(after, |start| after.max(start - TimeDelta::microseconds(1)));
        let next = match &self.rule {
            Rule::Cron(expression) => expression.next_after(self.zone, after)?,
            Rule::Every(period) => {
                let anchor = self.start.unwrap_or(DateTime::UNIX_EPOCH);
                let period = TimeDelta::from_std(*period).ok()?;
                let (period_us, since_us) = (period.num_microseconds()?, (after - anchor).num_microseconds()?);
                let times = since_us.checked_div_euclid(period_us)?.checked_add(1)?;
                anchor.checked_add_signed(TimeDelta::microseconds(times.checked_mul(period_us)?))?
            }
        };
        // croner and `every` count in whole steps; a start with a fraction of a second may lie behind the step found.
        if self.start.is_some_and(|start| next < start) {
            return self.next_after(next);
        }
        self.end.is_none_or(|end| next <= end).then_some(next)
    }

    /// Fire times after `after`, in order.
    pub fn fires_after(&self, after: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last))
    }
}
