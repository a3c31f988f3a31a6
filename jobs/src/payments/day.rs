//! When a calendar day begins somewhere.

use chrono::{DateTime, MappedLocalTime, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// The first instant of a day in a time zone.
///
/// Midnight where there is one; the earlier of two where clocks go back over it; and where clocks skip midnight (Beirut,
/// Havana, São Paulo) or the whole day (Apia, 30 December 2011), the instant at which they do.
#[must_use]
pub fn begin_of_day(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    match zone.from_local_datetime(&midnight) {
        MappedLocalTime::Single(instant) => instant.to_utc(),
        MappedLocalTime::Ambiguous(one, other) => one.min(other).to_utc(),
        MappedLocalTime::None => end_of_gap(day, zone),
    }
}

/// The instant at which local time jumps over the beginning of `day`: searched for by halves between an instant that is
/// surely before it and one that is surely not, since no zone is more than 15 hours off UTC, nor skips more than a day.
fn end_of_gap(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let middle = day.and_time(NaiveTime::MIN).and_utc();
    let is_before = |instant: DateTime<Utc>| instant.with_timezone(&zone).date_naive() < day;
    let (mut before, mut after) = (middle - TimeDelta::hours(40), middle + TimeDelta::hours(40));
    while after - before > TimeDelta::seconds(1) {
        let half = before + TimeDelta::seconds((after - before).num_seconds() / 2);
        if is_before(half) { before = half } else { after = half }
    }
    after
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_day_begins_at_its_first_instant_whatever_the_clocks_do() {
        let table = [
            // Clocks change at another hour: the day begins at midnight, 23 or 25 hours before the next.
            ("America/New_York", "2024-03-10", "2024-03-10T05:00:00Z"),
            ("America/New_York", "2024-03-11", "2024-03-11T04:00:00Z"),
            ("America/New_York", "2024-11-03", "2024-11-03T04:00:00Z"),
            ("America/New_York", "2024-11-04", "2024-11-04T05:00:00Z"),
            ("Europe/Berlin", "2024-03-31", "2024-03-30T23:00:00Z"),
            ("Europe/Berlin", "2024-04-01", "2024-03-31T22:00:00Z"),
            ("Europe/Berlin", "2024-10-28", "2024-10-27T23:00:00Z"),
            // Half an hour of daylight saving.
            ("Australia/Lord_Howe", "2024-04-07", "2024-04-06T13:00:00Z"),
            ("Australia/Lord_Howe", "2024-04-08", "2024-04-07T13:30:00Z"),
            // Midnight does not exist.
            ("Asia/Beirut", "2021-03-28", "2021-03-27T22:00:00Z"),
            ("America/Havana", "2024-03-10", "2024-03-10T05:00:00Z"),
            ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z"),
            // Midnight comes twice: the first counts.
            ("America/Havana", "2024-11-03", "2024-11-03T04:00:00Z"),
            // Clocks go back over midnight into the day before: midnight proper comes once.
            ("America/Sao_Paulo", "2018-02-18", "2018-02-18T03:00:00Z"),
            // The day does not exist: the instant at which it was skipped, which begins the next day as well.
            ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z"),
            ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00Z"),
            ("Pacific/Apia", "2011-12-29", "2011-12-29T10:00:00Z"),
            ("UTC", "2024-02-29", "2024-02-29T00:00:00Z"),
        ];
        for (zone, day, expected) in table {
            let begin = begin_of_day(day.parse().unwrap(), zone.parse().unwrap());
            assert_eq!(begin, expected.parse::<DateTime<Utc>>().unwrap(), "{zone} {day}");
        }
    }

    proptest! {
        #[test]
        fn days_begin_one_after_the_other_and_nothing_before_the_beginning_is_of_the_day(
            zone in 0..chrono_tz::TZ_VARIANTS.len(), offset in 0i64..36_000,
        ) {
            let zone = chrono_tz::TZ_VARIANTS[zone];
            let day = NaiveDate::from_ymd_opt(1960, 1, 1).unwrap() + TimeDelta::days(offset);
            let begin = begin_of_day(day, zone);
            prop_assert!(begin.with_timezone(&zone).date_naive() >= day);
            prop_assert!((begin - TimeDelta::seconds(1)).with_timezone(&zone).date_naive() < day);
            // Equal only where a whole day was skipped.
            let next = begin_of_day(day.succ_opt().unwrap(), zone);
            prop_assert!(next > begin || begin.with_timezone(&zone).date_naive() > day);
        }
    }
}
