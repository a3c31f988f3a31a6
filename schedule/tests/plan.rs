//! What is done about a schedule in one pass: late, on time, caught up; and over many passes: every fire time once.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;
use windrow_schedule::{Missed, Plan, Rule, Timing, plan};

fn every(seconds: u64) -> Timing {
    Timing { rule: Rule::Every(Duration::from_secs(seconds)), zone: Tz::UTC, start: None, end: None }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 / 3600 * 3600 + second, 0).unwrap()
}

const NO_JITTER: Duration = Duration::ZERO;

/// Missed first, last, times; then each fire with what it is told; then what is carried on.
type Said = (Option<(i64, i64, i32)>, Vec<(i64, i32)>, i32);

fn said(plan: &Plan) -> Said {
    let second = |time: DateTime<Utc>| (time - at(0)).num_seconds();
    (
        plan.missed.map(|missed| (second(missed.first), second(missed.last), missed.times)),
        plan.fires.iter().map(|due| (second(due.fire_at), due.missed)).collect(),
        plan.carried,
    )
}

#[test]
fn what_is_noticed_within_the_grace_is_on_time() {
    let hourly = every(3600);
    for policy in [Missed::Skip, Missed::RunOnce, Missed::CatchUp(3)] {
        let plan = plan(&hourly, policy, NO_JITTER, at(0), 0, at(3660));
        assert_eq!(said(&plan), (None, vec![(3600, 0)], 0), "{policy:?}: a minute late");
        assert_eq!((plan.handled_until, plan.next), (at(3600), Some(at(7200))));
    }
    // Half of a short period is the grace.
    let quick = every(10);
    assert_eq!(said(&plan(&quick, Missed::Skip, NO_JITTER, at(0), 0, at(15))), (None, vec![(10, 0)], 0));
    assert_eq!(said(&plan(&quick, Missed::Skip, NO_JITTER, at(0), 0, at(16))), (Some((10, 10, 1)), vec![], 1));
}

#[test]
fn skip_records_and_tells_the_next_that_is_on_time() {
    let first = plan(&every(3600), Missed::Skip, NO_JITTER, at(0), 0, at(3 * 3600 + 90));
    assert_eq!(said(&first), (Some((3600, 3 * 3600, 3)), vec![], 3));
    let next = plan(&every(3600), Missed::Skip, NO_JITTER, first.handled_until, first.carried, at(4 * 3600 + 1));
    assert_eq!(said(&next), (None, vec![(4 * 3600, 3)], 0));
}

#[test]
fn run_once_makes_one_job_for_all_that_was_missed() {
    let late = plan(&every(3600), Missed::RunOnce, NO_JITTER, at(0), 0, at(3 * 3600 + 90));
    assert_eq!(said(&late), (Some((3600, 2 * 3600, 2)), vec![(3 * 3600, 2)], 0));
    let on_time = plan(&every(3600), Missed::RunOnce, NO_JITTER, at(0), 0, at(3 * 3600 + 1));
    assert_eq!(said(&on_time), (Some((3600, 2 * 3600, 2)), vec![(3 * 3600, 2)], 0), "the one on time stands for them");
}

#[test]
fn catch_up_makes_a_job_for_each_of_the_last() {
    let late = plan(&every(3600), Missed::CatchUp(2), NO_JITTER, at(0), 0, at(5 * 3600 + 90));
    assert_eq!(said(&late), (Some((3600, 3 * 3600, 3)), vec![(4 * 3600, 3), (5 * 3600, 0)], 0));
    let few = plan(&every(3600), Missed::CatchUp(50), NO_JITTER, at(0), 0, at(2 * 3600 + 1));
    assert_eq!(said(&few), (None, vec![(3600, 0), (7200, 0)], 0));
}

#[test]
fn jitter_moves_the_moment_and_neither_the_fire_time_nor_the_grace() {
    let share = Duration::from_secs(600);
    let early = plan(&every(3600), Missed::Skip, share, at(0), 0, at(3600 + 599));
    assert_eq!((said(&early), early.handled_until, early.next), ((None, vec![], 0), at(0), Some(at(3600))));
    let due = plan(&every(3600), Missed::Skip, share, at(0), 0, at(3600 + 650));
    assert_eq!(said(&due), (None, vec![(3600, 0)], 0));
}

fn policies() -> impl Strategy<Value = Missed> {
    prop_oneof![Just(Missed::Skip), Just(Missed::RunOnce), (1_u16..=500).prop_map(Missed::CatchUp)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn over_any_passes_every_fire_time_has_exactly_one_outcome_and_every_missed_one_is_told_once(
        period in 1_u64..400, policy in policies(), share in 0_u64..100,
        pauses in prop::collection::vec(0_i64..100_000, 1..12),
    ) {
        let timing = every(period);
        let share = Duration::from_secs(share);
        let (mut handled, mut carried, mut now) = (at(0), 0, at(0));
        let (mut seen, mut missed_total, mut told) = (Vec::new(), 0_i64, 0_i64);
        for pause in pauses {
            now += TimeDelta::milliseconds(pause);
            loop {
                let pass = plan(&timing, policy, share, handled, carried, now);
                prop_assert!(pass.handled_until >= handled);
                if let Some(missed) = pass.missed {
                    let times: Vec<_> =
                        timing.fires_after(missed.first - TimeDelta::seconds(1)).take_while(|time| *time <= missed.last).collect();
                    prop_assert_eq!(times.len(), usize::try_from(missed.times).unwrap());
                    missed_total += i64::from(missed.times);
                    seen.extend(times);
                }
                seen.extend(pass.fires.iter().map(|due| due.fire_at));
                told += pass.fires.iter().map(|due| i64::from(due.missed)).sum::<i64>();
                prop_assert_eq!(pass.next, timing.next_after(pass.handled_until));
                (handled, carried) = (pass.handled_until, pass.carried);
                let due = pass.next.is_some_and(|next| next + TimeDelta::from_std(share).unwrap() <= now);
                if !due {
                    break;
                }
            }
        }
        let expected: Vec<_> = timing.fires_after(at(0)).take_while(|time| *time <= handled).collect();
        prop_assert_eq!(seen, expected, "in order, none left out, none twice");
        prop_assert_eq!(told + i64::from(carried), missed_total);
    }
}
