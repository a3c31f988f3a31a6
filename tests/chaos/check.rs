//! Judges a run by its evidence. What is not explained is reported; nothing is waved through because a fault was near.
//!
//! - A journaled job whose transaction stands has its effects, each once, or the death that was meant for it. What its producer
//!   was told does not matter but in this: what was reported as committed stands, and what was rolled back was never there.
//!   No fault of a server, a connection or a process counts an attempt of a job.
//! - Every fire time of a schedule has one record, and what is recorded as fired has its job's effect once (for each tenant).
//! - A fast job that was accepted has run, unless the run destroyed the data of Redis in whose hands it was: after it was
//!   accepted, as far back as the destruction reached, and while it was still there to be destroyed.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{
    book::Answer,
    evidence::{Effect, Evidence, ScheduleSeen, SentJob},
    producer::IDEMPOTENT,
    sent::Expect,
};

/// A job that takes longer than this after it was due, and after the last fault, is late.
pub(crate) const LATE_MS: i64 = 45_000;

/// What is wrong, by sort, in words; and what was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) lost: Vec<String>,
    pub(crate) duplicated: Vec<String>,
    pub(crate) late: Vec<String>,
    pub(crate) wrong: Vec<String>,
    pub(crate) fires: u64,
    pub(crate) slowest_fire_ms: i64,
    /// Accepted fast jobs; how many of them were lost where that may be; how many ran more than once.
    pub(crate) fast: u64,
    pub(crate) fast_lost_in_windows: u64,
    pub(crate) fast_lost: Vec<String>,
    pub(crate) fast_again: u64,
}

impl Verdict {
    /// Whether everything that was promised was kept.
    pub(crate) fn holds(&self) -> bool {
        self.all().iter().all(|(_, found)| found.is_empty())
    }

    /// All that is wrong, by sort.
    pub(crate) fn all(&self) -> [(&'static str, &[String]); 5] {
        [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("late", &self.late),
            ("wrong", &self.wrong),
            ("fast jobs lost outside of the windows", &self.fast_lost),
        ]
    }
}

/// Judges.
pub(crate) fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict { wrong: evidence.wrong.clone(), late: evidence.standing.clone(), ..Verdict::default() };
    let mut effects: HashMap<Uuid, Vec<&Effect>> = HashMap::new();
    for effect in evidence.effects.iter().filter(|effect| effect.schedule_id.is_none()) {
        effects.entry(effect.job_id).or_default().push(effect);
    }
    for (id, sent) in &evidence.sent {
        let effects = effects.get(id).map_or(&[][..], Vec::as_slice);
        job(evidence, *id, sent, effects, &mut verdict);
    }
    for id in effects.keys().filter(|id| !evidence.sent.contains_key(id)) {
        let why = if evidence.rolled_back.contains(id) { "whose transaction was rolled back" } else { "of nobody" };
        verdict.wrong.push(format!("job {id} {why} has effects"));
    }
    for id in evidence.committed.iter().filter(|id| !evidence.sent.contains_key(id)) {
        verdict.lost.push(format!("job {id}: its transaction was reported as committed, and is not"));
    }
    for id in evidence.rolled_back.iter().filter(|id| evidence.sent.contains_key(id)) {
        verdict.wrong.push(format!("job {id}: its transaction was rolled back, and stands"));
    }
    batches(evidence, &effects, &mut verdict);
    keys(evidence, &effects, &mut verdict);
    for schedule in &evidence.schedules {
        fires(evidence, schedule, &mut verdict);
    }
    fast(evidence, &mut verdict);
    verdict
}

fn who(effects: &[&Effect]) -> String {
    let each: Vec<String> = effects
        .iter()
        .map(|effect| {
            format!("{:?} by {} (attempt {}) at {} ms", effect.note, effect.node, effect.attempt, effect.at_ms)
        })
        .collect();
    each.join(", ")
}

fn job(evidence: &Evidence, id: Uuid, sent: &SentJob, effects: &[&Effect], verdict: &mut Verdict) {
    let SentJob { kind, at_ms, .. } = sent;
    let closed = evidence.closed.get(&id);
    let state = closed.map_or("", |closed| &closed.state);
    let fate =
        closed.map_or_else(|| "no trace of it".to_owned(), |closed| format!("{}: {}", closed.state, closed.reason));
    let is_completed = effects.iter().any(|effect| effect.note == sent.note);
    let whole = usize::try_from(sent.steps).unwrap_or(0);
    let expected = match sent.expect {
        Expect::Effect => whole,
        Expect::Dead => 0,
        Expect::Once | Expect::EffectOrCancelled => usize::from(closed.is_none()) * whole,
    };
    let mut notes: Vec<&str> = effects.iter().map(|effect| effect.note.as_str()).collect();
    notes.sort_unstable();
    notes.dedup();
    if notes.len() < effects.len() {
        verdict.duplicated.push(format!("{kind} {id} of {at_ms} ms has effects twice: {}", who(effects)));
    } else if effects.len() < expected {
        verdict.lost.push(format!(
            "{kind} {id} of {at_ms} ms has {} of {expected} effects ({}); {fate}",
            effects.len(),
            who(effects)
        ));
    } else if effects.len() > expected {
        verdict.wrong.push(format!("{kind} {id} of {at_ms} ms has effects ({}), and is {fate}", who(effects)));
    } else if expected > 0 && !is_completed {
        verdict.wrong.push(format!("{kind} {id} of {at_ms} ms: {:?} was expected, not {}", sent.note, who(effects)));
    }
    let wrong_end = match sent.expect {
        // Its effects and its death exclude each other.
        Expect::Effect => closed.is_some() && is_completed,
        Expect::Dead => state != "dead",
        Expect::Once => closed.is_some() && state != "dead",
        Expect::EffectOrCancelled => closed.is_some() && state != "cancelled",
    };
    if wrong_end {
        verdict.wrong.push(format!("{kind} {id} of {at_ms} ms ended otherwise than it should: {fate}"));
    }
    // None of what is injected is a job's fault.
    let allowed = if kind == "chaos.stumble" { 2 } else { 1 };
    if effects.iter().any(|effect| effect.attempt > allowed) {
        verdict
            .wrong
            .push(format!("{kind} {id} of {at_ms} ms was counted attempts that were not its fault: {}", who(effects)));
    }
    let runs = evidence.runs.get(&id).copied().unwrap_or(0);
    if sent.expect == Expect::Once && runs > 1 {
        verdict.duplicated.push(format!("{kind} {id} may start once and started {runs} times"));
    }
    if let Some(last) = effects.iter().map(|effect| effect.at_ms).max() {
        let took = last - (at_ms + sent.delay_ms).max(evidence.calm_from_ms);
        if took > LATE_MS {
            verdict.late.push(format!("{kind} {id} of {at_ms} ms came {took} ms after it should"));
        }
    }
}

/// A follow-up runs after every member.
fn batches(evidence: &Evidence, effects: &HashMap<Uuid, Vec<&Effect>>, verdict: &mut Verdict) {
    let mut batches: HashMap<Uuid, (Option<i64>, i64)> = HashMap::new();
    for (id, sent) in &evidence.sent {
        let Some(batch) = sent.batch else { continue };
        let at_ms = effects.get(id).and_then(|effects| effects.iter().map(|effect| effect.at_ms).max());
        let (follow_up, members) = batches.entry(batch).or_default();
        if sent.kind == "chaos.follow" {
            *follow_up = at_ms;
        } else {
            *members = (*members).max(at_ms.unwrap_or(0));
        }
    }
    for (batch, (follow_up, members)) in batches {
        if follow_up.is_some_and(|follow_up| follow_up < members) {
            verdict.wrong.push(format!("the follow-up of batch {batch} ran before its last member"));
        }
    }
}

/// Of jobs with one key, each begins to stand when the one before is over; of one request there is one job.
fn keys(evidence: &Evidence, effects: &HashMap<Uuid, Vec<&Effect>>, verdict: &mut Verdict) {
    let mut keys: BTreeMap<&str, Vec<(i64, i64, Uuid)>> = BTreeMap::new();
    for (id, sent) in &evidence.sent {
        let Some(key) = &sent.unique_key else { continue };
        let over = effects.get(id).and_then(|effects| effects.iter().map(|effect| effect.at_ms).max());
        keys.entry(key).or_default().push((sent.at_ms, over.unwrap_or(i64::MAX), *id));
    }
    for (key, mut jobs) in keys {
        jobs.sort_unstable();
        if key.starts_with(IDEMPOTENT) && jobs.len() > 1 {
            verdict.duplicated.push(format!("{key:?} made {} jobs: {jobs:?}", jobs.len()));
        }
        for pair in jobs.windows(2) {
            if pair[1].0 < pair[0].1 {
                verdict
                    .duplicated
                    .push(format!("jobs {} and {} stood at once under key {key:?}", pair[0].2, pair[1].2));
            }
        }
    }
}

fn fires(evidence: &Evidence, schedule: &ScheduleSeen, verdict: &mut Verdict) {
    let name = &schedule.name;
    let mut jobs: HashMap<i64, Vec<&Effect>> = HashMap::new();
    for effect in evidence.effects.iter().filter(|effect| effect.schedule_id == Some(schedule.id)) {
        jobs.entry(effect.fire_at_ms.unwrap_or_default()).or_default().push(effect);
    }
    let (mut through, mut fired) = (None, 0);
    for fire in &schedule.fires {
        let expected = through.map_or(fire.at_ms, |through: i64| through + schedule.period_ms);
        if fire.at_ms > expected {
            verdict.lost.push(format!("schedule {name}: nothing is recorded for {expected} to {} ms", fire.at_ms - 1));
        } else if fire.at_ms < expected {
            verdict.duplicated.push(format!("schedule {name}: {} ms is recorded twice", fire.at_ms));
            continue;
        }
        through = Some(fire.through_ms);
        verdict.slowest_fire_ms = verdict.slowest_fire_ms.max(fire.late_ms);
        if fire.outcome != "fired" {
            if schedule.catches_up {
                verdict.lost.push(format!("schedule {name}: {} ms was {} and has no job", fire.at_ms, fire.outcome));
            }
            continue;
        }
        fired += 1;
        let effects = jobs.remove(&fire.at_ms).unwrap_or_default();
        let mut tenants: Vec<_> = effects.iter().map(|effect| &effect.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let expected = if schedule.each_tenant { evidence.tenants } else { 1 };
        if tenants.len() < effects.len() {
            verdict.duplicated.push(format!(
                "schedule {name}: the job of {} ms ran twice: {}",
                fire.at_ms,
                who(&effects)
            ));
        } else if effects.len() < expected {
            let found = effects.len();
            verdict
                .lost
                .push(format!("schedule {name}: {} ms fired and has {found} of {expected} effects", fire.at_ms));
        }
    }
    verdict.fires += fired;
    for (at_ms, effects) in jobs {
        verdict.wrong.push(format!("schedule {name}: {at_ms} ms did not fire and has effects: {}", who(&effects)));
    }
    let first = schedule.fires.first().map_or(i64::MAX, |fire| fire.at_ms);
    if first > schedule.created_ms + 2 * schedule.period_ms {
        verdict.lost.push(format!("schedule {name} of {} ms begins to fire at {first} ms", schedule.created_ms));
    }
    if through != Some(schedule.handled_until_ms) {
        let until = schedule.handled_until_ms;
        verdict.lost.push(format!("schedule {name}: dealt with until {until} ms, recorded until {through:?}"));
    }
    if schedule.handled_until_ms < evidence.calm_from_ms - schedule.period_ms {
        verdict.late.push(format!("schedule {name} stands at {} ms", schedule.handled_until_ms));
    }
}

fn fast(evidence: &Evidence, verdict: &mut Verdict) {
    for (id, sent) in &evidence.fast {
        let runs = evidence.runs.get(id).copied().unwrap_or(0);
        match sent.answer {
            Answer::Refused if runs > 0 => verdict.wrong.push(format!("fast job {id} was refused and has run")),
            Answer::Refused | Answer::Unknown => continue,
            Answer::Accepted => verdict.fast += 1,
        }
        verdict.fast_again += u64::from(runs > 1);
        if runs > 0 || sent.answer != Answer::Accepted {
            continue;
        }
        // It was in Redis' hands from some moment between these two, and gone at the latest when it was missed.
        let may_lose = evidence.windows.iter().any(|window| {
            sent.end_ms >= window.from_ms
                && sent.begin_ms <= window.to_ms
                && sent.missing_at_ms.is_none_or(|missing| window.to_ms <= missing)
        });
        if may_lose {
            verdict.fast_lost_in_windows += 1;
        } else {
            let missed = sent.missing_at_ms.map_or(String::new(), |at| format!(", missed at {at} ms"));
            let (begin, end) = (sent.begin_ms, sent.end_ms);
            verdict.fast_lost.push(format!("fast job {id}, accepted between {begin} and {end} ms{missed}"));
        }
    }
}

#[cfg(test)]
mod tests;
