//! One run: load and faults side by side, then peace until everything is done, then judgement.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::Row;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    check::check,
    evidence::Evidence,
    inject::{Injected, carry_out, watch},
    kinds::{FAST, JOURNALED, SETS},
    outside::{call_back, redrive},
    plan::plan,
    producer::{PRODUCERS, produce},
    report::Report,
    stage::Stage,
};

/// From the last fault until everything must be done: the longest lease, a reconciler, and a machine with other things to do.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// Runs of this length have jobs that kill their workers.
const POISON_FROM: u64 = 120;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    pub(crate) json: bool,
    pub(crate) keep: bool,
}

/// Runs; false: something is wrong, and was printed with the seed.
pub(crate) async fn run(asked: Asked) -> anyhow::Result<bool> {
    let Asked { seconds, seed, json, keep } = asked;
    // The usual lease, where there is time for it.
    let lease = Duration::from_secs(if seconds < 120 { 4 } else { 10 });
    let planned = plan(seed, seconds, lease);
    eprintln!("chaos: seed {seed}: {} faults in {seconds} s, leases of {} s", planned.len(), lease.as_secs());
    let stage = Arc::new(Stage::new(lease).await?);
    if let Some(why) = &stage.no_skew {
        eprintln!("chaos: no clock is set wrong: {why}");
    }
    let poison = seconds >= POISON_FROM;
    let [over, done] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let mut background = JoinSet::new();
    let watched = Arc::clone(&stage);
    background.spawn(async move { watch(&watched, poison).await });
    let (outside, stop) = (Arc::clone(&stage), Arc::clone(&done));
    background.spawn(async move { call_back(&outside, &stop).await });
    let (outside, stop) = (Arc::clone(&stage), Arc::clone(&over));
    let operator = tokio::spawn(async move { redrive(&outside, &stop).await });

    let until = stage.clock.at(seconds * 1000);
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        let stage = Arc::clone(&stage);
        producers.spawn(async move { produce(&stage, seed, number, until, poison).await });
    }
    let mut faults = JoinSet::new();
    for fault in planned {
        sleep_until(stage.clock.at(fault.at_ms)).await;
        eprintln!("chaos: {:>7} ms  {}", stage.clock.now_ms(), fault.fault);
        let stage = Arc::clone(&stage);
        faults.spawn(async move { carry_out(&stage, &fault).await });
    }
    let mut injected: Vec<Injected> = faults.join_all().await;
    injected.sort_by_key(|fault| fault.begin_ms);
    for produced in producers.join_all().await {
        produced?;
    }
    over.store(true, Ordering::Relaxed);
    operator.await?;
    let calm_from_ms = stage.clock.now_ms();
    eprintln!("chaos: {calm_from_ms:>7} ms  all faults are over");
    for fault in &injected {
        if let Some(why) = &fault.failed {
            eprintln!("chaos: not carried out: {}: {why}", fault.fault);
        }
    }
    let standing = drain(&stage, calm_from_ms).await;
    done.store(true, Ordering::Relaxed);
    let drained_ms = stage.clock.now_ms() - calm_from_ms;
    background.shutdown().await;
    for node in &stage.nodes {
        let mut node = node.lock().await;
        for line in node.panics() {
            stage.wrong(line);
        }
        node.kill().await?;
    }
    let unknown = stage.book.open().unknown;
    let mut evidence = Evidence::gather(&stage).await?;
    evidence.windows = injected.iter().filter_map(|fault| fault.loses).collect();
    (evidence.calm_from_ms, evidence.standing) = (calm_from_ms, standing);
    let verdict = check(&evidence);
    let report =
        Report { seed, seconds, injected: &injected, evidence: &evidence, verdict: &verdict, drained_ms, unknown };
    if json {
        println!("{}", report.json());
    } else {
        println!("{}", report.text()?);
    }
    if json && !verdict.holds() {
        eprintln!("{}", report.text()?);
    }
    if keep || !verdict.holds() {
        report.slowest().iter().for_each(|slow| eprintln!("chaos: slow: {slow}"));
        let logs = Arc::into_inner(stage).map(|mut stage| stage.keep_logs().display().to_string());
        eprintln!("chaos: the logs are in {}", logs.unwrap_or_default());
    }
    if !verdict.holds() {
        eprintln!("chaos: FAILED, seed {seed}");
    }
    Ok(verdict.holds())
}

/// Waits until nothing is left to do, and stops the schedules once they have caught up. Answers with what stands nevertheless.
async fn drain(stage: &Stage, calm_from_ms: i64) -> Vec<String> {
    let give_up = Instant::now() + DRAINED_WITHIN;
    let mut caught_up = false;
    loop {
        let left = if caught_up { standing(stage).await } else { catch_up(stage, calm_from_ms).await };
        let left = left.unwrap_or_else(|error| vec![format!("it cannot be seen what stands: {error:#}")]);
        if (left.is_empty() && caught_up) || Instant::now() > give_up {
            return left;
        }
        caught_up |= left.is_empty();
        sleep(Duration::from_millis(100)).await;
    }
}

/// Pauses the schedules when all of them have dealt with the time of the faults. Answers with those that have not.
async fn catch_up(stage: &Stage, calm_from_ms: i64) -> anyhow::Result<Vec<String>> {
    #[expect(clippy::cast_precision_loss, reason = "a run has few milliseconds")]
    let calm = (stage.clock.epoch_ms() + calm_from_ms as f64) / 1000.0;
    let behind: Vec<String> = sqlx::query_scalar(
        "SELECT format('schedule %s stands at %s, error %s', name, handled_until, coalesce(error, 'none')) FROM schedule
         WHERE handled_until < to_timestamp($1) OR fan_fire_at IS NOT NULL",
    )
    .bind(calm)
    .fetch_all(&stage.looking)
    .await?;
    if behind.is_empty() {
        sqlx::query("UPDATE schedule SET paused = true").execute(&stage.looking).await?;
    }
    Ok(behind)
}

/// What is left to do, in words.
async fn standing(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let mut standing: Vec<String> = sqlx::query(
        "(SELECT format('%s %s still stands: %s, generation %s, attempt %s, due %s, in the outbox %s times', j.kind, j.id, j.state,
                        j.gen, j.attempt, j.run_at, (SELECT count(*) FROM job_outbox o WHERE o.id = j.id))
          FROM job_journal j LIMIT 20)
         UNION ALL (SELECT format('%s %s is still in the outbox', kind, id) FROM job_outbox LIMIT 20)
         UNION ALL (SELECT format('batch %s did not fire', id) FROM job_batch WHERE sealed_at IS NOT NULL AND fired_at IS NULL LIMIT 20)
         UNION ALL (SELECT format('schedule %s is still fanning out', name) FROM schedule WHERE fan_fire_at IS NOT NULL)",
    )
    .fetch_all(&stage.looking)
    .await?
    .iter()
    .map(|row| row.get(0))
    .collect();
    for queue in [JOURNALED, SETS, FAST] {
        let counts = stage.seeing.counts(&queue).await?;
        let left = counts.ready + counts.scheduled + counts.running + counts.parked;
        if left > 0 {
            standing.push(format!("queue {queue} holds jobs in Redis: {counts:?}"));
        }
    }
    Ok(standing)
}
