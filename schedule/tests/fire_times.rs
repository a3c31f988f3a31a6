//! When schedules are due: tables of both time changes in four zones, month ends and leap days; properties; and two oracles.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use croner::Cron;
use proptest::prelude::*;
use windrow_schedule::{Expression, Rule, Timing};

fn cron(expression: &str, zone: &str) -> Timing {
    let rule = Rule::Cron(Box::new(Expression::parse(expression).unwrap()));
    Timing { rule, zone: zone.parse().unwrap(), start: None, end: None }
}

fn utc(text: &str) -> DateTime<Utc> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap().and_utc()
}

/// Fire times from an instant on, as local time with its offset.
fn fires(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let timing = cron(expression, zone);
    timing
        .fires_after(utc(from) - TimeDelta::seconds(1))
        .take(count)
        .map(|fire| fire.with_timezone(&timing.zone).format("%Y-%m-%d %H:%M %:z").to_string())
        .collect()
}

/// Expression, zone, instant (UTC) to begin at, fire times.
type Case = (&'static str, &'static str, &'static str, &'static [&'static str]);

fn check(cases: &[Case]) {
    for (expression, zone, from, expected) in cases {
        assert_eq!(
            fires(expression, zone, from, expected.len()),
            *expected,
            "{expression:?} in {zone} from {from} UTC"
        );
    }
}

#[test]
fn new_york() {
    check(&[
        // 2025-03-09 02:00 EST becomes 03:00 EDT.
        (
            "30 2 * * *",
            "America/New_York",
            "2025-03-08 05:00:00",
            &["2025-03-08 02:30 -05:00", "2025-03-09 03:00 -04:00", "2025-03-10 02:30 -04:00"],
        ),
        (
            "0,15,45 2 * * *",
            "America/New_York",
            "2025-03-09 05:00:00",
            &["2025-03-09 03:00 -04:00", "2025-03-10 02:00 -04:00", "2025-03-10 02:15 -04:00"],
        ),
        (
            "0 2,3 * * *",
            "America/New_York",
            "2025-03-09 05:00:00",
            &["2025-03-09 03:00 -04:00", "2025-03-10 02:00 -04:00", "2025-03-10 03:00 -04:00"],
        ),
        (
            "0 * * * *",
            "America/New_York",
            "2025-03-09 06:00:00",
            &["2025-03-09 01:00 -05:00", "2025-03-09 03:00 -04:00", "2025-03-09 04:00 -04:00"],
        ),
        (
            "*/30 2 * * *",
            "America/New_York",
            "2025-03-09 05:00:00",
            &["2025-03-10 02:00 -04:00", "2025-03-10 02:30 -04:00"],
        ),
        (
            "0 */2 * * *",
            "America/New_York",
            "2025-03-09 05:00:00",
            &["2025-03-09 00:00 -05:00", "2025-03-09 04:00 -04:00", "2025-03-09 06:00 -04:00"],
        ),
        // 2025-11-02 02:00 EDT becomes 01:00 EST.
        (
            "30 1 * * *",
            "America/New_York",
            "2025-11-02 04:00:00",
            &["2025-11-02 01:30 -04:00", "2025-11-03 01:30 -05:00"],
        ),
        (
            "30 1,2 * * *",
            "America/New_York",
            "2025-11-02 04:00:00",
            &["2025-11-02 01:30 -04:00", "2025-11-02 02:30 -05:00", "2025-11-03 01:30 -05:00"],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2025-11-02 06:15:00", // in the second 01:00 hour
            &["2025-11-03 01:30 -05:00"],
        ),
        (
            "*/30 1 * * *",
            "America/New_York",
            "2025-11-02 04:00:00",
            &[
                "2025-11-02 01:00 -04:00",
                "2025-11-02 01:30 -04:00",
                "2025-11-02 01:00 -05:00",
                "2025-11-02 01:30 -05:00",
                "2025-11-03 01:00 -05:00",
            ],
        ),
        (
            "0 * * * *",
            "America/New_York",
            "2025-11-02 04:00:00",
            &[
                "2025-11-02 00:00 -04:00",
                "2025-11-02 01:00 -04:00",
                "2025-11-02 01:00 -05:00",
                "2025-11-02 02:00 -05:00",
            ],
        ),
    ]);
}

#[test]
fn berlin() {
    check(&[
        // 2025-03-30 02:00 CET becomes 03:00 CEST.
        ("30 2 * * *", "Europe/Berlin", "2025-03-29 23:00:00", &["2025-03-30 03:00 +02:00", "2025-03-31 02:30 +02:00"]),
        (
            "*/20 * * * *",
            "Europe/Berlin",
            "2025-03-30 00:20:00",
            &["2025-03-30 01:20 +01:00", "2025-03-30 01:40 +01:00", "2025-03-30 03:00 +02:00"],
        ),
        // 2025-10-26 03:00 CEST becomes 02:00 CET.
        ("30 2 * * *", "Europe/Berlin", "2025-10-25 22:00:00", &["2025-10-26 02:30 +02:00", "2025-10-27 02:30 +01:00"]),
        ("30 2 * * 7", "Europe/Berlin", "2025-10-25 22:00:00", &["2025-10-26 02:30 +02:00", "2025-11-02 02:30 +01:00"]),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2025-10-25 22:00:00",
            &[
                "2025-10-26 02:00 +02:00",
                "2025-10-26 02:30 +02:00",
                "2025-10-26 02:00 +01:00",
                "2025-10-26 02:30 +01:00",
            ],
        ),
        (
            "0 9 * * MON-FRI",
            "Europe/Berlin",
            "2025-03-28 00:00:00",
            &["2025-03-28 09:00 +01:00", "2025-03-31 09:00 +02:00"],
        ),
    ]);
}

#[test]
fn lord_howe_changes_by_half_an_hour() {
    check(&[
        // 2025-10-05 02:00 +10:30 becomes 02:30 +11:00.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2025-10-03 15:30:00",
            &["2025-10-04 02:15 +10:30", "2025-10-05 02:30 +11:00", "2025-10-06 02:15 +11:00"],
        ),
        (
            "0,10,20,40 2 * * *",
            "Australia/Lord_Howe",
            "2025-10-04 14:00:00",
            &["2025-10-05 02:30 +11:00", "2025-10-05 02:40 +11:00", "2025-10-06 02:00 +11:00"],
        ),
        (
            "*/15 * * * *",
            "Australia/Lord_Howe",
            "2025-10-04 15:00:00",
            &["2025-10-05 01:30 +10:30", "2025-10-05 01:45 +10:30", "2025-10-05 02:30 +11:00"],
        ),
        // 2025-04-06 02:00 +11:00 becomes 01:30 +10:30.
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2025-04-05 13:00:00",
            &["2025-04-06 01:45 +11:00", "2025-04-07 01:45 +10:30"],
        ),
        (
            "*/15 1 * * *",
            "Australia/Lord_Howe",
            "2025-04-05 14:15:00",
            &[
                "2025-04-06 01:15 +11:00",
                "2025-04-06 01:30 +11:00",
                "2025-04-06 01:45 +11:00",
                "2025-04-06 01:30 +10:30",
                "2025-04-06 01:45 +10:30",
                "2025-04-07 01:00 +10:30",
            ],
        ),
    ]);
}

#[test]
fn apia_had_no_30_december_2011() {
    check(&[
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29 10:00:00",
            &["2011-12-29 12:00 -10:00", "2011-12-31 12:00 +14:00", "2012-01-01 12:00 +14:00"],
        ),
        ("0 12 30 12 *", "Pacific/Apia", "2011-06-01 00:00:00", &["2012-12-30 12:00 +14:00"]),
        (
            "0 */12 * * *",
            "Pacific/Apia",
            "2011-12-29 10:00:00",
            &["2011-12-29 00:00 -10:00", "2011-12-29 12:00 -10:00", "2011-12-31 00:00 +14:00"],
        ),
        // 2012-04-01 04:00 +14 becomes 03:00 +13; 2012-09-30 03:00 +13 becomes 04:00 +14.
        ("30 3 * * *", "Pacific/Apia", "2012-03-31 11:00:00", &["2012-04-01 03:30 +14:00", "2012-04-02 03:30 +13:00"]),
        ("30 3 * * *", "Pacific/Apia", "2012-09-29 12:00:00", &["2012-09-30 04:00 +14:00", "2012-10-01 03:30 +14:00"]),
    ]);
}

#[test]
fn midnight_that_does_not_exist_runs_at_the_first_instant_of_the_day() {
    // São Paulo 2018-11-04 00:00 -03 becomes 01:00 -02. And Morocco, whose Ramadan takes the summer time back for a month.
    check(&[
        ("@daily", "America/Sao_Paulo", "2018-11-03 12:00:00", &["2018-11-04 01:00 -02:00", "2018-11-05 00:00 -02:00"]),
        (
            "30 2 * * *",
            "Africa/Casablanca",
            "2025-02-23 00:30:00",
            &["2025-02-23 02:30 +01:00", "2025-02-24 02:30 +00:00"],
        ),
        ("30 2 6 4 *", "Africa/Casablanca", "2025-01-01 00:00:00", &["2025-04-06 03:00 +01:00"]),
    ]);
}

#[test]
fn month_ends_and_leap_days() {
    check(&[
        (
            "0 6 31 * *",
            "UTC",
            "2025-01-01 00:00:00",
            &["2025-01-31 06:00 +00:00", "2025-03-31 06:00 +00:00", "2025-05-31 06:00 +00:00"],
        ),
        (
            "0 6 L * *",
            "UTC",
            "2024-01-31 07:00:00",
            &["2024-02-29 06:00 +00:00", "2024-03-31 06:00 +00:00", "2024-04-30 06:00 +00:00"],
        ),
        ("0 6 L 2 *", "UTC", "2025-01-01 00:00:00", &["2025-02-28 06:00 +00:00", "2026-02-28 06:00 +00:00"]),
        ("0 0 29 2 *", "UTC", "2095-01-01 00:00:00", &["2096-02-29 00:00 +00:00", "2104-02-29 00:00 +00:00"]),
        ("0 9 * * 5L", "UTC", "2025-01-01 00:00:00", &["2025-01-31 09:00 +00:00", "2025-02-28 09:00 +00:00"]),
        ("0 9 * * 2#2", "UTC", "2025-01-01 00:00:00", &["2025-01-14 09:00 +00:00", "2025-02-11 09:00 +00:00"]),
        // The 15th of March 2025 is a Saturday, the 15th of June a Sunday.
        ("0 9 15W 3,6 *", "UTC", "2025-01-01 00:00:00", &["2025-03-14 09:00 +00:00", "2025-06-16 09:00 +00:00"]),
        // Day of month or day of week, as in Vixie cron, when both are given.
        (
            "0 0 13 * 5",
            "UTC",
            "2025-06-06 12:00:00",
            &["2025-06-13 00:00 +00:00", "2025-06-20 00:00 +00:00", "2025-06-27 00:00 +00:00"],
        ),
        ("0 0 * * 0", "UTC", "2025-06-02 00:00:00", &["2025-06-08 00:00 +00:00"]),
        ("0 0 * * 7", "UTC", "2025-06-02 00:00:00", &["2025-06-08 00:00 +00:00"]),
        ("@yearly", "UTC", "2025-01-01 00:00:01", &["2026-01-01 00:00 +00:00"]),
    ]);
    let seconds = cron("*/20 * * * * *", "UTC");
    let first = seconds.next_after(utc("2025-01-01 00:00:20")).unwrap();
    assert_eq!(first, utc("2025-01-01 00:00:40"));
}

#[test]
fn what_is_no_schedule_is_refused_with_a_reason() {
    for (bad, reason) in [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * * *", "7 fields"),
        ("60 * * * *", "60"),
        ("0 0 30 2 *", "no date that ever comes"),
        ("@reboot", "@daily"),
        ("0 0 * * FOO", "not a cron expression"),
    ] {
        let error = Expression::parse(bad).unwrap_err();
        assert!(error.contains(reason), "{bad:?}: {error}");
    }
}

#[test]
fn every_counts_from_its_start_and_ends_at_its_end() {
    let every = |seconds, start: Option<&str>, end: Option<&str>| Timing {
        rule: Rule::Every(std::time::Duration::from_secs(seconds)),
        zone: Tz::UTC,
        start: start.map(utc),
        end: end.map(utc),
    };
    let times = |timing: Timing, from| timing.fires_after(utc(from)).take(3).collect::<Vec<_>>();
    assert_eq!(
        times(every(900, None, None), "2025-01-01 00:07:00"),
        [utc("2025-01-01 00:15:00"), utc("2025-01-01 00:30:00"), utc("2025-01-01 00:45:00")]
    );
    assert_eq!(
        times(every(900, Some("2025-01-01 00:01:00"), Some("2025-01-01 00:16:00")), "2024-01-01 00:00:00"),
        [utc("2025-01-01 00:01:00"), utc("2025-01-01 00:16:00")]
    );
    let mut daily = cron("0 0 * * *", "UTC");
    daily.start = Some(utc("2025-01-01 00:00:00"));
    daily.end = Some(utc("2025-01-02 00:00:00"));
    assert_eq!(times(daily, "2020-01-01 00:00:00"), [utc("2025-01-01 00:00:00"), utc("2025-01-02 00:00:00")]);
}

#[test]
fn fire_times_are_those_that_another_program_found() {
    let minute = |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").unwrap().and_utc();
    let mut rows = 0;
    for row in include_str!("fire_times.txt").lines().filter(|line| !line.starts_with('#')) {
        let [expression, zone, from, until, expected] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        let (from, until) = (minute(from), minute(until));
        let expected: Vec<_> = expected.split_whitespace().map(minute).collect();
        let timing = cron(expression, zone);
        let found = timing.fires_after(from - TimeDelta::seconds(1)).take_while(|fire| *fire <= until);
        assert_eq!(found.collect::<Vec<_>>(), expected, "{expression:?} in {zone} from {from}");
        rows += 1;
    }
    assert!(rows > 200, "{rows}");
}

const ZONES: [&str; 8] = [
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "UTC",
];

/// Instants around time changes of the zones above, and any others.
fn instants() -> impl Strategy<Value = DateTime<Utc>> {
    let near = prop::sample::select(vec![
        "2025-03-09 07:00:00", // New York
        "2025-11-02 06:00:00",
        "2025-03-30 01:00:00", // Berlin
        "2025-10-26 01:00:00",
        "2025-10-04 15:30:00", // Lord Howe
        "2025-04-05 15:00:00",
        "2011-12-30 10:00:00", // Apia
        "2012-03-31 14:00:00",
        "2025-04-06 02:00:00", // Casablanca
        "2018-11-04 03:00:00", // São Paulo
        "2024-02-28 23:00:00",
    ]);
    prop_oneof![
        (near, -100_000_i64..100_000).prop_map(|(near, by)| utc(near) + TimeDelta::seconds(by)),
        (1_262_304_000_i64..2_208_988_800).prop_map(|second| DateTime::from_timestamp(second, 0).unwrap()),
    ]
}

fn field(least: u32, most: u32) -> impl Strategy<Value = String> {
    let value = least..=most;
    prop_oneof![
        3 => Just("*".to_owned()),
        2 => (2_u32..=20).prop_map(|step| format!("*/{step}")),
        3 => value.clone().prop_map(|value| value.to_string()),
        2 => prop::collection::btree_set(value.clone(), 2..4)
            .prop_map(|set| set.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        1 => (value.clone(), value).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
    ]
}

fn expressions() -> impl Strategy<Value = String> {
    let days = prop_oneof![4 => Just("* * *".to_owned()), 1 => Just("* * 1-5".to_owned()), 1 => Just("L * *".to_owned()),
        1 => Just("1,15 * *".to_owned()), 1 => Just("* 3,10,11 0".to_owned())];
    (field(0, 59), field(0, 23), days).prop_map(|(minute, hour, days)| format!("{minute} {hour} {days}"))
}

/// The rules said again, minute by minute over real time, without any of the code under test but croner's wall clock match.
fn brute_force(expression: &str, zone: Tz, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let cron = Cron::from_str(expression).unwrap();
    let is_wildcard = expression.split(' ').take(2).any(|field| field.starts_with('*'));
    let wall = |instant: DateTime<Utc>| instant.with_timezone(&zone).naive_local();
    let matches = |wall: &NaiveDateTime| cron.is_time_matching(wall).unwrap();
    let mut fires = Vec::new();
    let mut minute = from;
    while minute <= until {
        let (here, before) = (wall(minute), wall(minute - TimeDelta::minutes(1)));
        let step = here - before;
        let due = if is_wildcard {
            matches(&here)
        } else if step == TimeDelta::minutes(1) {
            // Not if this wall clock time was here before: within half a day the clock went back over it.
            let came_before = (1..=180).any(|back| wall(minute - TimeDelta::minutes(back)) == here);
            matches(&here) && !came_before
        } else if step > TimeDelta::minutes(1) {
            let skipped = (1..).map(|by| before + TimeDelta::minutes(by)).take_while(|time| *time < here);
            let is_change = step < TimeDelta::minutes(181);
            matches(&here) || (is_change && skipped.into_iter().any(|time| matches(&time)))
        } else {
            false
        };
        if due {
            fires.push(minute);
        }
        minute += TimeDelta::minutes(1);
    }
    fires
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fire_times_are_those_of_a_walk_over_every_minute(
        expression in expressions(), zone in prop::sample::select(&ZONES[..]), from in instants(),
    ) {
        let from = DateTime::from_timestamp(from.timestamp() / 60 * 60, 0).unwrap();
        let until = from + Days::new(2);
        let timing = cron(&expression, zone);
        let found: Vec<_> =
            timing.fires_after(from - TimeDelta::seconds(1)).take_while(|fire| *fire <= until).collect();
        prop_assert_eq!(found, brute_force(&expression, timing.zone, from, until), "{} in {}", expression, zone);
    }

    #[test]
    fn the_same_fire_times_whichever_instant_they_are_asked_at(
        expression in expressions(), zone in prop::sample::select(&ZONES[..]), from in instants(),
        asked in prop::collection::vec(0.0_f64..1.0, 1..20),
    ) {
        let timing = cron(&expression, zone);
        let fires: Vec<_> = timing.fires_after(from).take(40).collect();
        prop_assert!(fires.windows(2).all(|pair| pair[0] < pair[1]), "not strictly increasing");
        let Some(last) = fires.last() else { return Ok(()) };
        for share in asked {
            let span = (*last - from).num_milliseconds();
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "any instant will do")]
            let at = from + TimeDelta::milliseconds((span as f64 * share) as i64);
            let expected = fires.iter().find(|fire| **fire > at).copied();
            prop_assert_eq!(timing.next_after(at), expected, "{} in {} asked at {}", expression, zone, at);
        }
    }

    #[test]
    fn the_crate_cron_agrees_where_it_can(
        minute in field(0, 59), hour in field(0, 23), day in field(1, 28), from in instants(),
    ) {
        // Six fields, no weekday, and a zone whose clock is never changed: there is no known difference left.
        let expression = format!("0 {minute} {hour} {day} * *");
        let oracle = cron::Schedule::from_str(&expression).unwrap();
        let expected: Vec<_> = oracle.after(&from).take(20).collect();
        let found: Vec<_> = cron(&expression, "UTC").fires_after(from).take(20).collect();
        prop_assert_eq!(found, expected, "{}", expression);
    }
}

/// The days of a month that an expression of one day field means, told by the calendar alone.
fn days_of(field: &str, first: NaiveDate) -> Vec<NaiveDate> {
    let days: Vec<NaiveDate> = first.iter_days().take_while(|day| day.month() == first.month()).collect();
    let weekday = |day: &NaiveDate| day.weekday().num_days_from_sunday();
    if field == "L" {
        return days.last().copied().into_iter().collect();
    }
    if let Some(day) = field.strip_suffix('W') {
        let Some(day) = days.get(day.parse::<usize>().unwrap() - 1) else { return Vec::new() };
        let is_free = |day: &&NaiveDate| !matches!(weekday(day), 0 | 6);
        let distance = |other: &&NaiveDate| (**other - *day).num_days().abs();
        return days.iter().filter(is_free).min_by_key(distance).copied().into_iter().collect();
    }
    if let Some((day, nth)) = field.split_once('#') {
        let same: Vec<_> = days.iter().filter(|other| weekday(other) == day.parse::<u32>().unwrap()).collect();
        return same.get(nth.parse::<usize>().unwrap() - 1).map(|day| **day).into_iter().collect();
    }
    let day = field.strip_suffix('L').unwrap();
    days.iter().rfind(|other| weekday(other) == day.parse::<u32>().unwrap()).copied().into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn last_nearest_and_nth_days_are_those_of_the_calendar(
        year in 1990_i32..2150, month in 1_u32..=12, day in 1_u32..=31, weekday in 0_u32..=6, nth in 1_u32..=5, which in 0..4,
    ) {
        let (field, expression) = match which {
            0 => ("L".to_owned(), "0 6 L * *".to_owned()),
            1 => (format!("{day}W"), format!("0 6 {day}W * *")),
            2 => (format!("{weekday}#{nth}"), format!("0 6 * * {weekday}#{nth}")),
            _ => (format!("{weekday}L"), format!("0 6 * * {weekday}L")),
        };
        let first = NaiveDate::from_ymd_opt(year, month, 1).unwrap();
        let until = first + Months::new(3);
        let months = [first, first + Months::new(1), first + Months::new(2)];
        let expected: Vec<_> = months.into_iter().flat_map(|month| days_of(&field, month)).collect();
        let found: Vec<_> = cron(&expression, "UTC")
            .fires_after(first.and_hms_opt(0, 0, 0).unwrap().and_utc())
            .map(|fire| fire.date_naive())
            .take_while(|day| *day < until)
            .collect();
        prop_assert_eq!(found, expected, "{} from {}", expression, first);
    }

    #[test]
    fn seconds_are_found_as_minutes_are(second in field(0, 59), minute in field(0, 59), zone in prop::sample::select(&ZONES[..]), from in instants()) {
        // A walk over each second of an hour in which the clock is not changed.
        let timing = cron(&format!("{second} {minute} * * * *"), zone);
        let until = from + TimeDelta::hours(1);
        let offset = |at: DateTime<Utc>| at.with_timezone(&timing.zone).offset().fix();
        prop_assume!((0..=12).all(|part| offset(from + TimeDelta::minutes(5 * part)) == offset(from)));
        let (seconds, minutes) = (values(&second), values(&minute));
        let expected: Vec<_> = (1..=3600)
            .map(|by| from + TimeDelta::seconds(by))
            .filter(|at| {
                let wall = at.with_timezone(&timing.zone);
                seconds.contains(&wall.second()) && minutes.contains(&wall.minute())
            })
            .collect();
        let found: Vec<_> = timing.fires_after(from).take_while(|fire| *fire <= until).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_period_goes_on_from_its_start_whichever_instant_it_is_asked_at(
        period in 1_u64..100_000, start in prop::option::of(instants()), from in instants(), length in 0_i64..1_000_000,
        asked in prop::collection::vec(0.0_f64..1.0, 1..10),
    ) {
        let end = Some(from + TimeDelta::seconds(length));
        let timing = Timing { rule: Rule::Every(std::time::Duration::from_secs(period)), zone: Tz::UTC, start, end };
        let fires: Vec<_> = timing.fires_after(from).take(50).collect();
        let step = TimeDelta::seconds(i64::try_from(period).unwrap());
        prop_assert!(fires.windows(2).all(|pair| pair[1] - pair[0] == step), "skipped or doubled");
        let anchor = start.unwrap_or(DateTime::UNIX_EPOCH);
        for fire in &fires {
            prop_assert_eq!((*fire - anchor).num_seconds() % step.num_seconds(), 0);
            prop_assert!(*fire > from && Some(*fire) <= end && start.is_none_or(|start| *fire >= start));
        }
        if let Some(first) = fires.first() {
            let earliest = start.map_or(from, |start| start.max(from));
            prop_assert!(*first - earliest <= step, "skipped at first");
        }
        for share in asked {
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "any instant will do")]
            let at = from + TimeDelta::milliseconds((1000.0 * length as f64 * share) as i64);
            if fires.last().is_some_and(|last| at < *last) {
                prop_assert_eq!(timing.next_after(at), fires.iter().find(|fire| **fire > at).copied());
            }
        }
    }
}

/// The values of a field as [`field`] makes them, read without any crate.
fn values(field: &str) -> Vec<u32> {
    let number = |text: &str| text.parse::<u32>().unwrap();
    if let Some(step) = field.strip_prefix("*/") {
        return (0..60).step_by(usize::try_from(number(step)).unwrap()).collect();
    }
    if field == "*" {
        return (0..60).collect();
    }
    if let Some((from, to)) = field.split_once('-') {
        return (number(from)..=number(to)).collect();
    }
    field.split(',').map(number).collect()
}

/// The evidence of `docs/decisions/0001-croner-not-cron.md`: if one of these ever changes, the reasons given there have.
#[test]
fn what_the_crates_themselves_answer() {
    assert!(cron::Schedule::from_str("30 2 * * *").is_err(), "cron reads five fields now");

    // Weekday 1 is Sunday to cron, Monday to everybody else.
    let monday = cron::Schedule::from_str("0 0 0 * * 1").unwrap();
    let first = monday.after(&utc("2025-06-01 12:00:00")).next().unwrap();
    assert_eq!(first, utc("2025-06-08 00:00:00"), "cron reads weekday 1 as Monday now");

    // At the spring change a fixed-time job of cron's loses its day; in autumn it runs twice.
    let zone = chrono_tz::America::New_York;
    let half_past_two = cron::Schedule::from_str("0 30 2 * * *").unwrap();
    let march = zone.with_ymd_and_hms(2025, 3, 8, 12, 0, 0).unwrap();
    let next = half_past_two.after(&march).next().unwrap();
    assert_eq!(next, zone.with_ymd_and_hms(2025, 3, 10, 2, 30, 0).unwrap(), "cron runs on the day of the change now");
    let half_past_one = cron::Schedule::from_str("0 30 1 * * *").unwrap();
    let november = zone.with_ymd_and_hms(2025, 11, 1, 12, 0, 0).unwrap();
    let days: Vec<_> = half_past_one.after(&november).take(2).map(|fire| fire.date_naive()).collect();
    assert_eq!(days[0], days[1], "cron runs once on the day of the autumn change now");

    // croner takes a list of hours for a wildcard, and runs it twice in autumn; and it gives up in Apia's missing day.
    let list = Cron::from_str("30 1,13 * * *").unwrap();
    let twice: Vec<_> = list.iter_after(november).take(3).map(|fire| fire.format("%d %H:%M").to_string()).collect();
    assert_eq!(twice, ["01 13:30", "02 01:30", "02 01:30"], "croner runs a list of hours once now");
    let minutes = Cron::from_str("0,15 2 * * *").unwrap();
    let march = zone.with_ymd_and_hms(2025, 3, 9, 0, 0, 0).unwrap();
    let first = minutes.find_next_occurrence(&march, false).unwrap();
    assert_eq!(first, zone.with_ymd_and_hms(2025, 3, 10, 2, 0, 0).unwrap(), "croner runs a list in a gap now");
    let apia = chrono_tz::Pacific::Apia.with_ymd_and_hms(2011, 12, 29, 13, 0, 0).unwrap();
    let noon = Cron::from_str("0 12 * * *").unwrap();
    assert!(noon.find_next_occurrence(&apia, false).is_err(), "croner finds its way over a missing day now");
}
