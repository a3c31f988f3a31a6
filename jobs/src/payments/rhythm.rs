//! On which days a recurring payment falls due: pure functions over the calendar, without clock or time zone.

use chrono::{Datelike, Days, Months, NaiveDate, Weekday};
use serde::{Deserialize, Serialize};

/// How often a payment falls due.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rhythm")]
pub enum Rhythm {
    /// Every day.
    Daily,
    /// Every week.
    Weekly {
        /// On this day of the week.
        weekday: Weekday,
    },
    /// Every month.
    Monthly {
        /// On this day of the month.
        day: MonthDay,
    },
}

/// A day of the month: 1 to 31, in shorter months their last day, or the last day as such. As a number -1 is the last day.
///
/// The day is counted from the number each time, never from the last due date: a payment of the 31st that fell on the 28th
/// of February is due on the 31st of March.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "i16", into = "i16")]
pub struct MonthDay(i16);

/// A day that no month has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} is no day of a month: use 1 to 31, or -1 for the last day")]
pub struct InvalidMonthDay(pub i16);

impl MonthDay {
    /// The last day of each month.
    pub const LAST: Self = Self(-1);

    fn in_month_of(self, date: NaiveDate) -> Option<NaiveDate> {
        let last = u32::from(date.num_days_in_month());
        date.with_day(u32::try_from(self.0).map_or(last, |day| day.min(last)))
    }
}

impl TryFrom<i16> for MonthDay {
    type Error = InvalidMonthDay;
    fn try_from(number: i16) -> Result<Self, InvalidMonthDay> {
        if number == -1 || (1..=31).contains(&number) { Ok(Self(number)) } else { Err(InvalidMonthDay(number)) }
    }
}

impl From<MonthDay> for i16 {
    fn from(day: MonthDay) -> Self {
        day.0
    }
}

impl Rhythm {
    /// The first day of this rhythm that is not before `date`. `None` only where the calendar ends.
    #[must_use]
    pub fn on_or_after(self, date: NaiveDate) -> Option<NaiveDate> {
        match self {
            Self::Daily => Some(date),
            Self::Weekly { weekday } => {
                let wait = (7 + weekday.num_days_from_monday() - date.weekday().num_days_from_monday()) % 7;
                date.checked_add_days(Days::new(u64::from(wait)))
            }
            Self::Monthly { day } => day
                .in_month_of(date)
                .filter(|due| *due >= date)
                .or_else(|| day.in_month_of(date.with_day(1)?.checked_add_months(Months::new(1))?)),
        }
    }
}

/// The due dates of one payment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DueDates {
    /// How often.
    pub rhythm: Rhythm,
    /// None before this day.
    pub start_on: NaiveDate,
    /// None after this day.
    pub end_on: Option<NaiveDate>,
}

impl DueDates {
    /// The first due date that is not before `date`.
    #[must_use]
    pub fn on_or_after(&self, date: NaiveDate) -> Option<NaiveDate> {
        self.rhythm.on_or_after(date.max(self.start_on)).filter(|due| self.end_on.is_none_or(|end| *due <= end))
    }

    /// The first due date after `date`.
    #[must_use]
    pub fn after(&self, date: NaiveDate) -> Option<NaiveDate> {
        self.on_or_after(date.succ_opt()?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn monthly(day: i16) -> Rhythm {
        Rhythm::Monthly { day: day.try_into().unwrap() }
    }

    fn take(rhythm: Rhythm, start: &str, count: usize) -> Vec<String> {
        let dates = DueDates { rhythm, start_on: date(start), end_on: None };
        std::iter::successors(dates.on_or_after(date(start)), |due| dates.after(*due))
            .take(count)
            .map(|due| due.to_string())
            .collect()
    }

    #[test]
    fn a_day_that_a_month_does_not_have_is_its_last_day() {
        let table: &[(i16, &str, &[&str])] = &[
            (31, "2024-01-15", &["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]),
            (31, "2023-01-31", &["2023-01-31", "2023-02-28", "2023-03-31"]),
            (30, "2023-02-01", &["2023-02-28", "2023-03-30", "2023-04-30"]),
            (29, "2024-02-29", &["2024-02-29", "2024-03-29"]),
            (29, "2023-02-28", &["2023-02-28", "2023-03-29"]),
            (-1, "2024-02-29", &["2024-02-29", "2024-03-31", "2024-04-30"]),
            (-1, "2100-02-01", &["2100-02-28", "2100-03-31"]),
            (1, "2024-12-02", &["2025-01-01", "2025-02-01"]),
            (15, "2024-12-15", &["2024-12-15", "2025-01-15"]),
        ];
        for (day, start, expected) in table {
            assert_eq!(take(monthly(*day), start, expected.len()), *expected, "day {day} from {start}");
        }
    }

    #[test]
    fn weekly_and_daily_cross_years_and_leap_days() {
        let friday = Rhythm::Weekly { weekday: Weekday::Fri };
        assert_eq!(take(friday, "2024-12-27", 3), ["2024-12-27", "2025-01-03", "2025-01-10"]);
        assert_eq!(take(friday, "2024-12-28", 1), ["2025-01-03"]);
        assert_eq!(take(Rhythm::Daily, "2024-02-28", 3), ["2024-02-28", "2024-02-29", "2024-03-01"]);
        assert_eq!(take(Rhythm::Daily, "2023-02-28", 2), ["2023-02-28", "2023-03-01"]);
    }

    #[test]
    fn the_last_day_counts_and_nothing_after_it() {
        let end_on = Some(date("2024-03-31"));
        let dates = DueDates { rhythm: monthly(31), start_on: date("2024-01-01"), end_on };
        assert_eq!(dates.on_or_after(date("1999-01-01")), Some(date("2024-01-31")));
        assert_eq!(dates.after(date("2024-02-29")), end_on);
        assert_eq!(dates.after(date("2024-03-31")), None);
    }

    #[test]
    fn the_end_of_the_calendar_is_an_end_and_no_panic() {
        for rhythm in [Rhythm::Daily, Rhythm::Weekly { weekday: Weekday::Mon }, monthly(31), monthly(-1)] {
            let dates = DueDates { rhythm, start_on: NaiveDate::MAX, end_on: None };
            assert!(dates.after(NaiveDate::MAX).is_none());
        }
    }

    #[test]
    fn a_month_day_outside_of_all_months_is_refused() {
        for bad in [0, -2, 32, i16::MIN, i16::MAX] {
            assert_eq!(MonthDay::try_from(bad), Err(InvalidMonthDay(bad)));
        }
        assert!(serde_json::from_str::<Rhythm>(r#"{"rhythm":"monthly","day":32}"#).is_err());
        assert_eq!(serde_json::from_str::<Rhythm>(r#"{"rhythm":"monthly","day":-1}"#).unwrap(), monthly(-1));
    }

    fn rhythms() -> impl Strategy<Value = Rhythm> {
        prop_oneof![
            Just(Rhythm::Daily),
            (0u8..7).prop_map(|n| Rhythm::Weekly { weekday: Weekday::try_from(n).unwrap() }),
            (1i16..=31).prop_map(monthly),
            Just(monthly(-1)),
        ]
    }

    /// What the rhythm means, said the slow way: is this very day one of its days?
    fn is_due(rhythm: Rhythm, day: NaiveDate) -> bool {
        match rhythm {
            Rhythm::Daily => true,
            Rhythm::Weekly { weekday } => day.weekday() == weekday,
            Rhythm::Monthly { day: wanted } => {
                let last = day.succ_opt().unwrap().month() != day.month();
                let (number, day) = (i16::from(wanted), i16::try_from(day.day()).unwrap());
                day == number || (last && (number == -1 || number > day))
            }
        }
    }

    proptest! {
        #[test]
        fn due_dates_increase_and_skip_no_day_of_the_rhythm(
            rhythm in rhythms(), start in 0i64..40_000, length in 0i64..900,
        ) {
            let start_on = NaiveDate::from_ymd_opt(1990, 1, 1).unwrap() + chrono::TimeDelta::days(start);
            let end_on = start_on + chrono::TimeDelta::days(length);
            let dates = DueDates { rhythm, start_on, end_on: Some(end_on) };
            let listed: Vec<_> = std::iter::successors(dates.on_or_after(start_on), |due| dates.after(*due)).collect();
            let expected: Vec<_> =
                start_on.iter_days().take_while(|day| *day <= end_on).filter(|day| is_due(rhythm, *day)).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
