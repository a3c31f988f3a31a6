//! What a run came to: a table for people, an object for programs.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{check::Verdict, evidence::Evidence, inject::Injected};

/// Findings of a sort that are printed; all of them are counted.
const SHOWN: usize = 12;

/// How the work came back after a kind of fault.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Recovery {
    pub(crate) faults: u64,
    /// Not carried out.
    pub(crate) failed: u64,
    /// From the end of the fault to the next effect, at worst.
    pub(crate) next_effect_ms: i64,
    /// From the end of the fault until everything that was due then was done: half of the times, and at worst. What other faults
    /// did meanwhile is in it.
    pub(crate) all_done_median_ms: i64,
    pub(crate) all_done_ms: i64,
}

/// A whole run.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) injected: &'a [Injected],
    pub(crate) evidence: &'a Evidence,
    pub(crate) verdict: &'a Verdict,
    pub(crate) drained_ms: i64,
    pub(crate) unknown: u64,
}

/// Kinds that wait for nobody: what is due of them can be done at once.
const PROMPT: [&str; 4] = ["chaos.put", "chaos.tally", "chaos.stumble", "chaos.steps"];

/// Recovery by kind of fault.
pub(crate) fn recoveries(injected: &[Injected], evidence: &Evidence) -> BTreeMap<&'static str, Recovery> {
    let mut effects: Vec<i64> = evidence.effects.iter().map(|effect| effect.at_ms).collect();
    effects.sort_unstable();
    let mut done: BTreeMap<_, i64> = BTreeMap::new();
    for effect in &evidence.effects {
        let last = done.entry(effect.job_id).or_default();
        *last = (*last).max(effect.at_ms);
    }
    // When each was due, and when it was done.
    let jobs: Vec<(i64, i64)> = evidence
        .sent
        .iter()
        .filter(|(_, sent)| PROMPT.contains(&sent.kind.as_str()))
        .filter_map(|(id, sent)| Some((sent.at_ms + sent.delay_ms, *done.get(id)?)))
        .collect();
    let mut all_done: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let mut recoveries: BTreeMap<_, Recovery> = BTreeMap::new();
    for fault in injected {
        let recovery = recoveries.entry(fault.fault.name()).or_default();
        recovery.faults += 1;
        if fault.failed.is_some() {
            recovery.failed += 1;
            continue;
        }
        let next = effects.get(effects.partition_point(|at| *at <= fault.end_ms));
        recovery.next_effect_ms = recovery.next_effect_ms.max(next.map_or(0, |at| at - fault.end_ms));
        let stood = jobs.iter().filter(|(due, done)| *due <= fault.end_ms && *done > fault.end_ms);
        let last = stood.map(|(_, done)| done - fault.end_ms).max().unwrap_or(0);
        all_done.entry(fault.fault.name()).or_default().push(last);
    }
    for (name, mut times) in all_done {
        times.sort_unstable();
        if let Some(recovery) = recoveries.get_mut(name) {
            recovery.all_done_median_ms = times[times.len() / 2];
            recovery.all_done_ms = times.last().copied().unwrap_or(0);
        }
    }
    recoveries
}

/// How long prompt jobs took from due to done, the slowest last, each with what to look for in the logs.
fn slowest(evidence: &Evidence) -> Vec<(i64, String)> {
    let mut waits: Vec<(i64, String)> = evidence
        .effects
        .iter()
        .filter_map(|effect| {
            let sent = evidence.sent.get(&effect.job_id)?;
            let due = sent.at_ms + sent.delay_ms;
            let (kind, id) = (&sent.kind, effect.job_id);
            let text = format!("{kind} {id}, due at {due} ms, done at {} ms by {}", effect.at_ms, effect.node);
            PROMPT.contains(&sent.kind.as_str()).then_some((effect.at_ms - due, text))
        })
        .collect();
    waits.sort_unstable();
    waits
}

/// The time from due to done of prompt jobs: the median, the 99th percentile, the slowest.
fn waits(evidence: &Evidence) -> [i64; 3] {
    let waits: Vec<i64> = slowest(evidence).into_iter().map(|(wait, _)| wait).collect();
    let at =
        |share: usize| waits.get((waits.len() * share / 100).min(waits.len().saturating_sub(1))).copied().unwrap_or(0);
    [at(50), at(99), at(100)]
}

impl Report<'_> {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let Self { evidence, verdict, .. } = self;
        let [median, p99, slowest] = waits(evidence);
        let recoveries = recoveries(self.injected, evidence);
        let slowest_recovery = recoveries.values().map(|recovery| recovery.all_done_ms).max().unwrap_or(0);
        json!({
            "seed": self.seed,
            "seconds": self.seconds,
            "holds": verdict.holds(),
            "faults": self.injected.len(),
            "jobs": evidence.sent.len(),
            "effects": evidence.effects.len(),
            "fires": verdict.fires,
            "unknown_commits": self.unknown,
            "lost": verdict.lost.len(),
            "duplicated": verdict.duplicated.len(),
            "late": verdict.late.len(),
            "wrong": verdict.wrong.len(),
            "fast_jobs": verdict.fast,
            "fast_lost_in_windows": verdict.fast_lost_in_windows,
            "fast_lost": verdict.fast_lost.len(),
            "fast_more_than_once": verdict.fast_again,
            "slowest_fire_ms": verdict.slowest_fire_ms,
            "wait_ms": {"median": median, "p99": p99, "slowest": slowest},
            "drained_ms": self.drained_ms,
            "slowest_recovery_ms": slowest_recovery,
            "by_fault": recoveries,
            "findings": verdict.all().into_iter().map(|(sort, found)| (sort.to_owned(), json!(found))).collect::<serde_json::Map<_, _>>(),
        })
    }

    /// For people, as a table that documents can hold.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let Self { evidence, verdict, .. } = self;
        let mut text = String::new();
        if !verdict.holds() {
            writeln!(text, "\nfaults, in milliseconds since the begin of the run:")?;
            for fault in self.injected {
                let failed = fault.failed.as_ref().map_or(String::new(), |why| format!(" (not carried out: {why})"));
                writeln!(text, "  {:>7} - {:>7}  {}{failed}", fault.begin_ms, fault.end_ms, fault.fault)?;
            }
            for (sort, found) in verdict.all().into_iter().filter(|(_, found)| !found.is_empty()) {
                writeln!(text, "\n{sort}: {}", found.len())?;
                found.iter().take(SHOWN).try_for_each(|finding| writeln!(text, "  {finding}"))?;
            }
        }
        writeln!(
            text,
            "\n| fault | times | next effect after, at most | all that was due is done after, mostly / at most |"
        )?;
        writeln!(text, "|---|---|---|---|")?;
        let seconds = |ms: i64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
        for (name, it) in recoveries(self.injected, evidence) {
            let failed = if it.failed > 0 { format!(" ({} not carried out)", it.failed) } else { String::new() };
            let (next, median, most) =
                (seconds(it.next_effect_ms), seconds(it.all_done_median_ms), seconds(it.all_done_ms));
            writeln!(text, "| {name} | {}{failed} | {next} | {median} / {most} |", it.faults)?;
        }
        let [median, p99, slowest] = waits(evidence);
        writeln!(
            text,
            "\nseed {}, {} s: {} faults; {} journaled jobs, {} effects, {} fires; {} lost, {} duplicated, {} late, {} otherwise wrong",
            self.seed,
            self.seconds,
            self.injected.len(),
            evidence.sent.len(),
            evidence.effects.len(),
            verdict.fires,
            verdict.lost.len(),
            verdict.duplicated.len(),
            verdict.late.len(),
            verdict.wrong.len(),
        )?;
        writeln!(
            text,
            "{} fast jobs: {} lost where that may be, {} elsewhere, {} ran more than once; {} commits of which the producer never heard",
            verdict.fast,
            verdict.fast_lost_in_windows,
            verdict.fast_lost.len(),
            verdict.fast_again,
            self.unknown,
        )?;
        writeln!(
            text,
            "journaled jobs were done {} after they were due (median; p99 {}, at most {}); the latest fire was {} late; all done {} after the last fault",
            seconds(median),
            seconds(p99),
            seconds(slowest),
            seconds(verdict.slowest_fire_ms),
            seconds(self.drained_ms),
        )?;
        Ok(text)
    }

    /// The jobs that took longest, for who wants to know why.
    pub(crate) fn slowest(&self) -> Vec<String> {
        slowest(self.evidence).into_iter().rev().take(SHOWN).map(|(wait, text)| format!("{wait} ms: {text}")).collect()
    }
}
