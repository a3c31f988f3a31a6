//! The relay: journaled jobs from the outbox into Redis.
//!
//! ```text
//! lanes  -> which (band, queue, tenant) have due rows; queues in back-off are left out
//! take   -> up to 500 rows of the most urgent band, lanes in turn          \
//! relay  -> into Redis, queues side by side; HSETNX takes a job only once   } one transaction
//! commit -> the rows are gone                                              /
//! ```
//!
//! Between Redis and the commit a crash puts the rows back, and the next relay sends them again: Redis knows them, or the
//! start check finds their journal rows gone. Several relays skip each other's rows.
//!
//! What Redis refuses (a queue is full) or does not answer goes back into the outbox with a delay, and the queue into
//! back-off: the other queues go on, and the rows of that one are not even read.
//!
//! A job that goes on in a new generation (it was replaced, rescheduled, called back, redriven) leaves the member of the one
//! before in Redis, which nothing but its due time would take out: the relay does, before it sends the new one.
//!
//! **Waking.** A relay with nothing to do says so in `relay_flag`, looks once more, and sleeps; only then do enqueuers
//! NOTIFY. One that enqueued just before the flag was set and committed just after the look is found by polling: soon at
//! first, then once a second.

mod listen;
mod pause;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use sqlx::PgPool;
use tokio::{sync::Notify, time::Instant};
use windrow_queue::{
    JobId, Kind, Member, QueueName,
    error::fingerprint,
    id::Generation,
    journal::{self, CloseState, Closing, OutboxLane, OutboxRow, RelayJob},
    store::Store,
};

pub(crate) use listen::listen;
use pause::Pauses;

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// What jobs are grouped under whose names are not valid, their kind perhaps among them.
const INVALID: Kind = Kind::from_static("invalid");

/// Lanes that one look finds; the next look goes on behind them.
const LANES: usize = 256;

/// Lanes from which one batch takes.
const TURN: usize = 64;

/// Lanes are looked for anew after this, however busy the known ones are: another tenant may have come.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How soon an idle relay looks again, each time later, when nobody wakes it.
const POLLS: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// Batches in a row after which it counts as busy, so that enqueuers need not NOTIFY.
const BUSY: u32 = 3;

/// How jobs are relayed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Jobs in one transaction.
    pub batch: u16,
    /// How long Redis may take for a batch; then the queue goes into back-off.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch: 500, timeout: Duration::from_secs(3) }
    }
}

impl Config {
    /// Checks it.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=500).contains(&self.batch) {
            return Err("relay.batch must be 1 to 500".to_owned());
        }
        // Postgres ends a transaction that idles for 8 s.
        if self.timeout < Duration::from_millis(100) || self.timeout > Duration::from_secs(6) {
            return Err("relay.timeout must be 100ms to 6s".to_owned());
        }
        Ok(())
    }
}

/// The service.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    database: PgPool,
    store: Store,
    metrics: Metrics,
    wake: Arc<Notify>,
    /// Lanes that have due rows, as far as is known; the next to be served in front.
    lanes: VecDeque<OutboxLane>,
    /// Behind which lane the next look begins.
    after: Option<OutboxLane>,
    looked: Option<Instant>,
    pauses: Pauses,
    idle: bool,
    polls: usize,
    busy: u32,
}

/// What one batch did.
#[derive(Default)]
struct Counts {
    relayed: u64,
    refused: u64,
    unavailable: u64,
    invalid: u64,
}

impl Relay {
    /// Puts it together. `wake` is told when there may be something to do.
    #[must_use]
    pub fn new(config: Config, database: PgPool, store: Store, metrics: Metrics, wake: Arc<Notify>) -> Self {
        Self {
            config,
            database,
            store,
            metrics,
            wake,
            lanes: VecDeque::new(),
            after: None,
            looked: None,
            pauses: Pauses::default(),
            idle: false,
            polls: 0,
            busy: 0,
        }
    }

    /// Finds the lanes that have due rows.
    async fn look(&mut self) -> Result<(), sqlx::Error> {
        let without = self.pauses.standing();
        let limit = i64::try_from(LANES).unwrap_or(i64::MAX);
        let mut found = journal::lanes(&self.database, self.after.as_ref(), limit, &without).await?;
        if found.is_empty() && self.after.take().is_some() {
            found = journal::lanes(&self.database, None, limit, &without).await?;
        }
        self.after = if found.len() == LANES { found.last().cloned() } else { None };
        self.lanes = found.into();
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Takes lanes of the most urgent band out of the known ones.
    fn next_turn(&mut self) -> Vec<OutboxLane> {
        let Some(band) = self.lanes.iter().map(OutboxLane::band).min() else { return Vec::new() };
        let mut turn = Vec::new();
        for _ in 0..self.lanes.len() {
            let Some(lane) = self.lanes.pop_front() else { break };
            if lane.band() != band || turn.len() == TURN {
                self.lanes.push_back(lane);
            } else if !self.pauses.is_paused(lane.queue()) {
                turn.push(lane);
            }
        }
        turn
    }

    /// One batch: take, relay, put back what was not taken, commit.
    async fn relay(&mut self) -> anyhow::Result<Counts> {
        let mut turn = self.next_turn();
        let mut counts = Counts::default();
        if turn.is_empty() {
            return Ok(counts);
        }
        let each = (usize::from(self.config.batch) / turn.len()).max(1);
        let mut tx = self.database.begin().await?;
        let rows = journal::take(&mut tx, &turn, i64::try_from(each)?).await?;
        if rows.is_empty() {
            return Ok(counts);
        }
        let mut queues: BTreeMap<QueueName, Vec<(&OutboxRow, RelayJob)>> = BTreeMap::new();
        for row in &rows {
            match row.job() {
                Ok(job) => queues.entry(job.queue.clone()).or_default().push((row, job)),
                Err(error) => {
                    let (id, generation) = row.key();
                    let reason = format!("it cannot be put into Redis: {error}");
                    tracing::error!(job_id = %id, "{reason}");
                    let closing = Closing {
                        state: CloseState::Dead,
                        reason: &reason,
                        fingerprint: fingerprint(&INVALID, "invalid_name", error.what),
                        error: None,
                        attempt: 0,
                    };
                    journal::close(&mut *tx, id, generation, &closing).await?;
                    counts.invalid += 1;
                }
            }
        }
        let (store, timeout) = (&self.store, self.config.timeout);
        let answers = join_all(queues.into_iter().map(|(queue, jobs)| async move {
            let all: Vec<&OutboxRow> = jobs.iter().map(|(row, _)| *row).collect();
            let (jobs, superseded) = latest(jobs);
            let (rows, jobs): (Vec<&OutboxRow>, Vec<RelayJob>) = jobs.into_iter().unzip();
            let answer = tokio::time::timeout(timeout, async {
                if !superseded.is_empty() {
                    store.take_out(&queue, &superseded).await?;
                }
                store.relay(&queue, &jobs).await
            })
            .await;
            (queue, rows, all, answer)
        }))
        .await;
        for (queue, rows, all, answer) in answers {
            let relayed = |outcome: &str, rows: usize| {
                let rows = u64::try_from(rows).unwrap_or(u64::MAX);
                self.metrics.relayed.with_label_values(&[queue.as_str(), outcome]).inc_by(rows);
                rows
            };
            let reason = match answer {
                Ok(Ok(answers)) => {
                    let mut refusal = None;
                    let mut refused = Vec::new();
                    for (row, answer) in rows.iter().zip(answers) {
                        match answer {
                            Ok(_) => self.metrics.relay_seconds.observe(row.waited().as_secs_f64()),
                            Err(error) => {
                                refused.push(*row);
                                refusal = Some(error);
                            }
                        }
                    }
                    counts.relayed += relayed("relayed", rows.len() - refused.len());
                    let Some(refusal) = refusal else {
                        self.pauses.end(&queue);
                        continue;
                    };
                    counts.refused += relayed("refused", refused.len());
                    let delay = self.pauses.begin(&queue, &refusal.to_string());
                    journal::put_back(&mut tx, &refused, delay).await?;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("Redis did not answer within {timeout:?}"),
            };
            counts.unavailable += relayed("unavailable", all.len());
            let delay = self.pauses.begin(&queue, &reason);
            journal::put_back(&mut tx, &all, delay).await?;
        }
        tx.commit().await?;
        // A lane that gave all it was asked for has more; it stands behind the others now.
        for mut lane in turn.drain(..) {
            let mut taken = 0;
            for row in &rows {
                taken += usize::from(lane.took(row));
            }
            if taken >= each {
                self.lanes.push_back(lane);
            }
        }
        Ok(counts)
    }
}

/// The last generation of each job, in their order, and the members that it supersedes: those of rows that are left out here,
/// and the one before each, which another relay put into Redis. They would be acknowledged unrun; taken out first, they give
/// their room to what follows them.
fn latest(jobs: Vec<(&OutboxRow, RelayJob)>) -> (Vec<(&OutboxRow, RelayJob)>, Vec<Member>) {
    if jobs.iter().all(|(row, _)| row.key().1 <= 1) {
        return (jobs, Vec::new());
    }
    let mut last: HashMap<JobId, Generation> = HashMap::new();
    for (id, generation) in jobs.iter().map(|(row, _)| row.key()) {
        let last = last.entry(id).or_insert(generation);
        *last = generation.max(*last);
    }
    let before = |(row, _): &(&OutboxRow, RelayJob)| {
        let (id, generation) = row.key();
        (generation > 1).then(|| Member::journaled(id, generation - 1))
    };
    let superseded = jobs.iter().filter_map(before).collect();
    (jobs.into_iter().filter(|(row, _)| last.get(&row.key().0) == Some(&row.key().1)).collect(), superseded)
}

impl Service for Relay {
    const NAME: &'static str = "relay";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        if self.lanes.is_empty() || self.looked.is_none_or(|looked| looked.elapsed() > LOOK_AGAIN) {
            self.look().await?;
        }
        if self.lanes.is_empty() {
            self.busy = 0;
            // Said before the last look, and said again with every poll: another relay may have taken it back and died.
            if !self.idle || self.polls >= POLLS.len() {
                journal::set_idle(&self.database, true).await?;
                self.idle = true;
                self.look().await?;
            }
        }
        if self.lanes.is_empty() {
            let pause = POLLS[self.polls.min(POLLS.len() - 1)];
            self.polls += 1;
            let pause = self.pauses.next_end().map_or(pause, |end| end.min(pause));
            return Ok(Done { degraded: self.pauses.reason(), ..Done::new([], Pace::Sharp(pause)) });
        }
        self.polls = 0;
        self.busy += 1;
        if self.idle && self.busy >= BUSY {
            journal::set_idle(&self.database, false).await?;
            self.idle = false;
        }
        let result = self.relay().await;
        if result.is_err() {
            // The transaction is rolled back; what the lanes still hold has to be looked up.
            self.lanes.clear();
        }
        let counts = result?;
        let counts = [
            ("relayed", counts.relayed),
            ("refused", counts.refused),
            ("not taken", counts.unavailable),
            ("invalid", counts.invalid),
        ];
        Ok(Done { degraded: self.pauses.reason(), ..Done::new(counts, Pace::Again) })
    }

    async fn wait(&mut self, pause: Duration) {
        tokio::select! {
            () = self.wake.notified() => self.polls = 0,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
