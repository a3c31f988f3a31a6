//! A checker that cannot fail is none: forged evidence, each with one thing wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{
    book::FastSent,
    evidence::{Closed, FireSeen},
    inject::LossWindow,
};

const PUT: Uuid = Uuid::from_u128(1);
const DOOMED: Uuid = Uuid::from_u128(2);
const STEPS: Uuid = Uuid::from_u128(3);
const ONCE: Uuid = Uuid::from_u128(4);
const WITHDRAWN: Uuid = Uuid::from_u128(5);
const MEMBER: Uuid = Uuid::from_u128(6);
const FOLLOW: Uuid = Uuid::from_u128(7);
const BATCH: Uuid = Uuid::from_u128(8);
const EACH: Uuid = Uuid::from_u128(9);
const FAST: Uuid = Uuid::from_u128(10);
const SCHEDULE: Uuid = Uuid::from_u128(11);

fn sent(kind: &str, expect: Expect) -> SentJob {
    SentJob {
        kind: kind.to_owned(),
        expect,
        steps: 1,
        note: "done".to_owned(),
        unique_key: None,
        batch: None,
        delay_ms: 0,
        at_ms: 100,
    }
}

fn effect(job_id: Uuid, note: &str, at_ms: i64) -> Effect {
    Effect {
        job_id,
        note: note.to_owned(),
        node: "worker-1".to_owned(),
        attempt: 1,
        tenant: None,
        schedule_id: None,
        fire_at_ms: None,
        at_ms,
    }
}

fn fired(schedule_id: Uuid, fire_at_ms: i64, tenant: Option<&str>) -> Effect {
    Effect {
        schedule_id: Some(schedule_id),
        fire_at_ms: Some(fire_at_ms),
        tenant: tenant.map(str::to_owned),
        ..effect(Uuid::from_u128(1000 + fire_at_ms.unsigned_abs() as u128), "done", fire_at_ms + 5)
    }
}

fn fire(at_ms: i64) -> FireSeen {
    FireSeen { at_ms, through_ms: at_ms, outcome: "fired".to_owned(), late_ms: 3 }
}

fn schedule(id: Uuid, name: &str, each_tenant: bool) -> ScheduleSeen {
    ScheduleSeen {
        id,
        name: name.to_owned(),
        period_ms: 1000,
        catches_up: true,
        each_tenant,
        created_ms: 400,
        handled_until_ms: 3000,
        fires: [1000, 2000, 3000].map(fire).to_vec(),
    }
}

fn accepted(begin_ms: i64) -> FastSent {
    FastSent { begin_ms, end_ms: begin_ms + 10, answer: Answer::Accepted, missing_at_ms: None }
}

/// A run in which everything went as it should.
fn evidence() -> Evidence {
    let mut evidence = Evidence { tenants: 2, calm_from_ms: 3500, ..Evidence::default() };
    let jobs = [
        (PUT, SentJob { unique_key: Some("a".to_owned()), ..sent("chaos.put", Expect::Effect) }),
        (DOOMED, sent("chaos.doom", Expect::Dead)),
        (STEPS, SentJob { steps: 2, ..sent("chaos.steps", Expect::Effect) }),
        (ONCE, sent("chaos.once", Expect::Once)),
        (WITHDRAWN, sent("chaos.put", Expect::EffectOrCancelled)),
        (MEMBER, SentJob { batch: Some(BATCH), ..sent("chaos.put", Expect::Effect) }),
        (FOLLOW, SentJob { batch: Some(BATCH), note: "1 members".to_owned(), ..sent("chaos.follow", Expect::Effect) }),
    ];
    evidence.sent.extend(jobs);
    evidence.committed.extend(evidence.sent.keys());
    evidence.effects = vec![
        effect(PUT, "done", 200),
        effect(STEPS, "step 1", 200),
        effect(STEPS, "done", 300),
        effect(ONCE, "done", 300),
        effect(MEMBER, "done", 300),
        effect(FOLLOW, "1 members", 400),
    ];
    evidence.runs.extend([(ONCE, 1), (FAST, 1)]);
    let closed = |state: &str| Closed { state: state.to_owned(), reason: "so".to_owned() };
    evidence.closed.extend([(DOOMED, closed("dead")), (WITHDRAWN, closed("cancelled"))]);
    evidence.schedules = vec![schedule(SCHEDULE, "plain", false), schedule(EACH, "each", true)];
    for at_ms in [1000, 2000, 3000] {
        evidence.effects.push(fired(SCHEDULE, at_ms, None));
        evidence.effects.extend(["north", "south"].map(|tenant| fired(EACH, at_ms, Some(tenant))));
    }
    evidence.fast.insert(FAST, accepted(100));
    evidence
}

fn found(forge: impl FnOnce(&mut Evidence)) -> Verdict {
    let mut evidence = evidence();
    forge(&mut evidence);
    let verdict = check(&evidence);
    assert!(!verdict.holds(), "nothing was found");
    verdict
}

/// How much was found: lost, duplicated, late, otherwise wrong, fast jobs lost.
fn counts(verdict: &Verdict) -> [usize; 5] {
    verdict.all().map(|(_, found)| found.len())
}

fn assert_found(expected: [usize; 5], forge: impl FnOnce(&mut Evidence)) {
    let verdict = found(forge);
    assert_eq!(counts(&verdict), expected, "{:?}", verdict.all());
}

const LOST: [usize; 5] = [1, 0, 0, 0, 0];
const DUPLICATED: [usize; 5] = [0, 1, 0, 0, 0];
const LATE: [usize; 5] = [0, 0, 1, 0, 0];
const WRONG: [usize; 5] = [0, 0, 0, 1, 0];
const FAST_LOST: [usize; 5] = [0, 0, 0, 0, 1];

fn without(evidence: &mut Evidence, id: Uuid) {
    evidence.effects.retain(|effect| effect.job_id != id);
}

#[test]
fn a_run_in_which_all_went_well_is_found_to_be_so() {
    let verdict = check(&evidence());
    assert!(verdict.holds(), "{:?}", verdict.all());
    assert_eq!((verdict.fires, verdict.fast, verdict.slowest_fire_ms), (6, 1, 3));
}

#[test]
fn a_lost_job_is_found() {
    assert_found(LOST, |evidence| without(evidence, PUT));
    assert_found(LOST, |evidence| evidence.effects.retain(|effect| effect.note != "step 1"));
    assert_found(LOST, |evidence| {
        evidence.committed.insert(Uuid::from_u128(77));
    });
    assert_found(LOST, |evidence| without(evidence, ONCE));
    assert_found(LOST, |evidence| {
        evidence.closed.remove(&WITHDRAWN);
    });
}

#[test]
fn a_job_that_died_and_should_not_have_is_found() {
    assert_found([1, 0, 0, 0, 0], |evidence| {
        without(evidence, PUT);
        evidence.closed.insert(PUT, Closed { state: "dead".to_owned(), reason: "poison".to_owned() });
    });
    assert_found(WRONG, |evidence| {
        evidence.closed.insert(PUT, Closed { state: "dead".to_owned(), reason: "poison".to_owned() });
    });
    assert_found(WRONG, |evidence| {
        evidence.closed.remove(&DOOMED);
    });
}

#[test]
fn a_duplicated_effect_is_found() {
    assert_found(DUPLICATED, |evidence| evidence.effects.push(effect(PUT, "done", 250)));
    assert_found(DUPLICATED, |evidence| evidence.effects.push(effect(STEPS, "step 1", 250)));
    assert_found(DUPLICATED, |evidence| {
        evidence.runs.insert(ONCE, 2);
    });
}

#[test]
fn an_attempt_that_was_counted_for_a_fault_is_found() {
    assert_found(WRONG, |evidence| evidence.effects.iter_mut().find(|it| it.job_id == PUT).unwrap().attempt = 2);
}

#[test]
fn effects_of_jobs_that_nobody_asked_for_are_found() {
    assert_found(WRONG, |evidence| evidence.effects.push(effect(Uuid::from_u128(77), "done", 250)));
    assert_found(WRONG, |evidence| evidence.effects.push(effect(DOOMED, "done", 250)));
    assert_found(WRONG, |evidence| evidence.effects.push(effect(WITHDRAWN, "done", 250)));
    assert_found(WRONG, |evidence| {
        evidence.rolled_back.insert(PUT);
    });
}

#[test]
fn two_jobs_under_one_key_are_found() {
    let second = Uuid::from_u128(77);
    let add = |key: &'static str, at_ms| {
        move |evidence: &mut Evidence| {
            for id in [PUT, second] {
                let at_ms = if id == PUT { 100 } else { at_ms };
                let job = SentJob { unique_key: Some(key.to_owned()), at_ms, ..sent("chaos.put", Expect::Effect) };
                evidence.sent.insert(id, job);
            }
            evidence.effects.push(effect(second, "done", at_ms + 100));
        }
    };
    assert_found(DUPLICATED, add("a", 150));
    assert_found(DUPLICATED, add("request a", 250));
    let mut well = evidence();
    add("a", 250)(&mut well);
    assert!(check(&well).holds(), "one after the other is as it should be");
}

#[test]
fn a_follow_up_that_came_early_or_with_wrong_counts_is_found() {
    assert_found(WRONG, |evidence| evidence.effects.iter_mut().find(|it| it.job_id == MEMBER).unwrap().at_ms = 450);
    assert_found(WRONG, |evidence| {
        evidence.sent.get_mut(&FOLLOW).unwrap().note = "2 members".to_owned();
    });
}

#[test]
fn a_doubled_fire_is_found() {
    assert_found(DUPLICATED, |evidence| evidence.schedules[0].fires.insert(1, fire(1000)));
    assert_found(DUPLICATED, |evidence| evidence.effects.push(fired(SCHEDULE, 2000, None)));
    assert_found(DUPLICATED, |evidence| evidence.effects.push(fired(EACH, 2000, Some("north"))));
}

#[test]
fn a_missing_fire_is_found() {
    let without_fire = |at_ms: i64| {
        move |evidence: &mut Evidence| {
            evidence.schedules[0].fires.retain(|fire| fire.at_ms != at_ms);
            evidence.effects.retain(|effect| effect.schedule_id != Some(SCHEDULE) || effect.fire_at_ms != Some(at_ms));
        }
    };
    assert_found(LOST, without_fire(2000));
    assert_found(LOST, without_fire(3000));
    assert_found(LOST, |evidence| {
        without_fire(1000)(evidence);
        evidence.schedules[0].created_ms = -500;
    });
    // Recorded, and its job never ran; recorded as missed although the schedule catches up.
    assert_found(LOST, |evidence| evidence.effects.retain(|it| it.schedule_id != Some(SCHEDULE) || it.at_ms != 2005));
    assert_found(LOST, |evidence| {
        let places = |it: &Effect| it.schedule_id == Some(EACH) && it.fire_at_ms == Some(2000);
        let place = evidence.effects.iter().position(places).unwrap();
        evidence.effects.remove(place);
    });
    assert_found([1, 0, 0, 1, 0], |evidence| evidence.schedules[0].fires[1].outcome = "missed".to_owned());
}

#[test]
fn what_is_late_or_never_comes_is_found() {
    assert_found(LATE, |evidence| evidence.standing.push("chaos.put still stands".to_owned()));
    assert_found(LATE, |evidence| {
        evidence.effects.iter_mut().find(|it| it.job_id == PUT).unwrap().at_ms = 3500 + LATE_MS + 1;
    });
    assert_found([0, 0, 2, 0, 0], |evidence| evidence.calm_from_ms = 4001);
    assert_found(WRONG, |evidence| evidence.wrong.push("worker-1 panicked".to_owned()));
}

#[test]
fn a_fast_job_may_be_lost_in_a_window_and_nowhere_else() {
    let window = |from_ms, to_ms| LossWindow { from_ms, to_ms };
    let lost = |windows: Vec<LossWindow>, missing_at_ms| {
        move |evidence: &mut Evidence| {
            evidence.runs.remove(&FAST);
            evidence.windows = windows;
            evidence.fast.get_mut(&FAST).unwrap().missing_at_ms = missing_at_ms;
        }
    };
    // Nothing was destroyed; before it was sent; only what came after it.
    assert_found(FAST_LOST, lost(vec![], None));
    assert_found(FAST_LOST, lost(vec![window(0, 99)], None));
    assert_found(FAST_LOST, lost(vec![window(111, 500)], None));
    // Destroyed when it was missing already.
    assert_found(FAST_LOST, lost(vec![window(i64::MIN, 500)], Some(400)));

    for (windows, missing) in [
        (vec![window(105, 500)], None),
        (vec![window(i64::MIN, 105)], None),
        (vec![window(50, 300), window(i64::MIN, 500)], Some(400)),
    ] {
        let mut evidence = evidence();
        lost(windows, missing)(&mut evidence);
        let verdict = check(&evidence);
        assert!(verdict.holds(), "{:?}", verdict.all());
        assert_eq!(verdict.fast_lost_in_windows, 1, "it is counted");
    }
    assert_found(WRONG, |evidence| evidence.fast.get_mut(&FAST).unwrap().answer = Answer::Refused);
}
