//! From the wall clock to instants: when a cron expression is due in a time zone whose clock is changed twice a year.
//!
//! croner says which *wall clock* times match an expression. Which instants those are is decided here, by the rules of Vixie
//! cron (cron(8), "special considerations exist when the clock is changed by less than 3 hours"):
//!
//! - A **fixed-time** expression (neither seconds, minutes nor hours begin with `*`) runs once for each wall clock time that
//!   it names. A time that the spring change leaves out runs at the first instant after the gap, several of them together
//!   once; a time that comes twice in autumn runs at its first coming.
//! - A **wildcard** expression goes by real time: it runs at each instant whose wall clock matches, so not in the gap, and in
//!   both halves of the repeated hour.
//! - A clock that jumps ahead by three hours or more was corrected: the times in between never were. (Apia had no 30 December
//!   2011; a daily job has no run that day, and none is missing.)
//!
//! croner's own answers for instants are not used: it takes a list of hours (`0 2,14 * * *`) for a wildcard, and searches a
//! gap for two hours at most. `docs/decisions/0001-croner-not-cron.md` has the evidence.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Year},
};

/// A jump of the clock from which on it is a correction and no time change.
const CORRECTION: i32 = 3 * 3600;

/// How far from its own reading the clock of any zone may be from UTC, with room to spare.
const MAX_OFFSET: TimeDelta = TimeDelta::hours(30);

/// Two changes of one clock are further apart than this.
const PROBE: TimeDelta = TimeDelta::hours(12);

/// An expression that names no time in this century or the next never will.
const LAST_YEAR: i32 = 2199;

/// A cron expression, read on the wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    text: String,
    cron: Cron,
    fixed: bool,
}

impl Expression {
    /// Reads five fields (minute, hour, day, month, weekday), six (seconds first), or one of `@yearly`, `@annually`,
    /// `@monthly`, `@weekly`, `@daily`, `@midnight`, `@hourly`. Names of months and weekdays, `L`, `#` and `W` are known.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() > 200 {
            return Err("is longer than 200 characters".to_owned());
        }
        let fields = match text.to_ascii_lowercase().as_str() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            name if name.starts_with('@') => {
                return Err(format!("{text:?} is not known: use @yearly, @monthly, @weekly, @daily or @hourly"));
            }
            _ => text,
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        if !(5..=6).contains(&parts.len()) {
            return Err(format!(
                "{text:?} has {} fields: give five (minute hour day month weekday), or six with seconds first",
                parts.len()
            ));
        }
        let cron = CronParser::builder()
            .year(Year::Disallowed)
            .build()
            .parse(fields)
            .map_err(|error| format!("{text:?} is not a cron expression: {error}"))?;
        let time_fields = if parts.len() == 5 { &parts[..2] } else { &parts[..3] };
        let fixed = !time_fields.iter().any(|field| field.starts_with(['*', '?']));
        let expression = Self { text: text.to_owned(), cron, fixed };
        // Anything that comes comes within eight years (29 February around a year like 2100) times seven weekdays.
        let from = DateTime::UNIX_EPOCH.naive_utc();
        if expression.next_wall(from).is_none() {
            return Err(format!("{text:?} names no date that ever comes"));
        }
        Ok(expression)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first instant after `after` at which it is due in this zone.
    #[must_use]
    pub fn next_after(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.with_nanosecond(0)?;
        if self.fixed { self.next_fixed(zone, after) } else { self.next_wildcard(zone, after) }
    }

    /// The first wall clock time after this one that matches.
    fn next_wall(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        use chrono::Datelike;
        if after.year() > LAST_YEAR {
            return None;
        }
        let next = self.cron.find_next_occurrence(&after, false).ok()?.with_nanosecond(0)?;
        (next > after && next.year() <= LAST_YEAR).then_some(next)
    }

    fn next_fixed(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Wall clock times up to the present one are over: those in a gap came at its end, those that repeat came first.
        let mut wall = wall_at(zone, after);
        loop {
            wall = self.next_wall(wall)?;
            if let Some(instant) = first_instant(zone, wall)
                && instant > after
            {
                return Some(instant);
            }
        }
    }

    fn next_wildcard(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Within a stretch of one offset, instants and wall clock run alike. `from` is the last instant that is over.
        let mut from = after;
        let mut wall = wall_at(zone, from);
        loop {
            let candidate = (self.next_wall(wall)? - offset_at(zone, from)).and_utc();
            let Some(change) = first_change(zone, from, candidate) else { return Some(candidate) };
            // The clock is changed before that wall clock time comes: look again from the change, itself included.
            from = change;
            wall = wall_at(zone, change) - TimeDelta::seconds(1);
        }
    }
}

pub(crate) fn offset_at(zone: Tz, instant: DateTime<Utc>) -> TimeDelta {
    TimeDelta::seconds(i64::from(zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc()))
}

fn wall_at(zone: Tz, instant: DateTime<Utc>) -> NaiveDateTime {
    instant.naive_utc() + offset_at(zone, instant)
}

/// The instant at which a fixed-time job runs for this wall clock time; none if a correction of the clock left it out.
fn first_instant(zone: Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    if let Some(instant) = zone.from_local_datetime(&wall).earliest() {
        return Some(instant.to_utc());
    }
    let guess = wall.and_utc();
    let end = bisect(guess - MAX_OFFSET, guess + MAX_OFFSET, |instant| wall_at(zone, instant) > wall);
    let jump = offset_at(zone, end) - offset_at(zone, end - TimeDelta::seconds(1));
    (jump < TimeDelta::seconds(CORRECTION.into())).then_some(end)
}

/// The first instant in `(from, until]` with another offset than the one before it.
pub(crate) fn first_change(zone: Tz, from: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let offset = offset_at(zone, from);
    let mut low = from;
    while low < until {
        let high = (low + PROBE).min(until);
        if offset_at(zone, high) != offset {
            return Some(bisect(low, high, |instant| offset_at(zone, instant) != offset));
        }
        low = high;
    }
    None
}

/// The first second in `(low, high]` for which `holds`, which it does not at `low`, does at `high`, and turns once between.
fn bisect(mut low: DateTime<Utc>, mut high: DateTime<Utc>, holds: impl Fn(DateTime<Utc>) -> bool) -> DateTime<Utc> {
    while high - low > TimeDelta::seconds(1) {
        let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}
