//! The hub of one queue: the one place that speaks to Redis for the jobs of that queue in this process.
//!
//! It owns the session, the table of running jobs and the slots. It lives on the lease thread (`run`), apart from the
//! handlers, so that a handler which blocks a core does not look like a dead worker. Three helpers live beside it, each with
//! a connection of its own: the heartbeat, the waker (blocking pop) and the ticker.
//!
//! ```text
//! claim, deliver -> running -> outcome -> told with the next request, which also claims as many jobs as there are free slots
//! error or rollback -> sync until Redis answers -> on
//! GONE -> every handler is told that it lost its job -> new session
//! stop -> no more claims; after the grace handlers are told; after two more seconds what is left is released -> bye
//! ```

mod helper;
mod table;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::{DateTime, Utc};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, sleep, sleep_until},
};
use windrow_queue::{
    QueueName,
    health::HealthPart,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{Applied, Claim, Finish, Reply, Session, SessionId, Store, StoreError, Verdict},
};

use self::{helper::Helpers, table::Table};
use crate::{
    clock::RedisClock,
    execute::WIND_DOWN,
    lease::Lease,
    prepare::{Claimed, Preparer},
};

/// Bytes of envelopes that one answer may carry.
const WANT_BYTES: usize = 4 * 1024 * 1024;
/// Jobs that one request asks for, at most.
const MAX_WANT: usize = 400;
/// How long to wait when ready jobs are left that this process may not have.
const UNSERVABLE_PAUSE: Duration = Duration::from_millis(250);

/// What a hub is made of.
pub(crate) struct HubParts {
    pub(crate) queue: QueueName,
    pub(crate) concurrency: usize,
    pub(crate) store: Store,
    pub(crate) grace: Duration,
    pub(crate) preparer: Preparer,
    pub(crate) journaled: mpsc::UnboundedSender<Claimed>,
    pub(crate) mirror: mpsc::Sender<Applied>,
    pub(crate) metrics: QueueMetrics,
    pub(crate) clock: RedisClock,
    pub(crate) health: HealthPart,
    pub(crate) shutdown: Shutdown,
    pub(crate) info: String,
}

/// What the helpers tell the hub.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// There may be work.
    pub(super) wake: Notify,
    /// The session is doomed.
    pub(super) gone: Notify,
    /// Redis counts other leases than we do.
    pub(super) mismatch: Notify,
    /// Slots are free: the waker may take a token.
    pub(super) idle: Notify,
    /// Leases that this process answers for, and the last answered request; for the heartbeat's comparison.
    pub(super) held: AtomicU64,
    pub(super) answered: AtomicU64,
    /// Slots that may take a job.
    pub(super) free: AtomicU64,
}

pub(crate) struct Hub {
    parts: HubParts,
    slots: Arc<Semaphore>,
    table: Table,
    outcomes: mpsc::UnboundedReceiver<Applied>,
    outcomes_tx: mpsc::UnboundedSender<Applied>,
    signals: Arc<Signals>,
    /// Ready jobs may be there.
    may_claim: bool,
    /// Requests sent, in all sessions: a claim number must not come again, or a handler of a session that is gone could finish
    /// a claim of this one. And the last one that this session had an answer to.
    n: u64,
    answered: u64,
    drain: Drain,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// Running jobs may finish until then.
    Until(Instant),
    /// They were told; what is left then is released.
    Told(Instant),
    Released,
}

enum Ended {
    Gone,
    Drained,
    Killed,
}

impl Hub {
    pub(crate) fn new(parts: HubParts) -> Self {
        let (outcomes_tx, outcomes) = mpsc::unbounded_channel();
        Self {
            slots: Arc::new(Semaphore::new(parts.concurrency)),
            parts,
            table: Table::default(),
            outcomes,
            outcomes_tx,
            signals: Arc::default(),
            may_claim: true,
            n: 0,
            answered: 0,
            drain: Drain::No,
        }
    }

    /// Serves the queue until it is told to stop.
    pub(crate) async fn run(mut self) {
        loop {
            let Some(session) = self.open().await else { return };
            let helpers = Helpers::start(&self.parts, &session, &self.signals);
            let ended = self.serve(&session).await;
            drop(helpers);
            match ended {
                Ended::Gone => {
                    let lost = self.table.lose_all();
                    self.publish();
                    tracing::warn!(queue = %self.parts.queue, session = ?session.id(), lost, "Redis gave this session up");
                    self.parts.metrics.leases_lost.with_label_values(&[self.parts.queue.as_str()]).inc_by(lost as u64);
                }
                Ended::Drained => {
                    match session.bye().await {
                        Ok(closed) => tracing::info!(queue = %self.parts.queue, closed, "stopped"),
                        Err(error) => tracing::warn!(queue = %self.parts.queue, %error, "the session is left to lapse"),
                    }
                    return;
                }
                Ended::Killed => return,
            }
        }
    }

    /// Opens a session, waiting for Redis as long as it takes. `None`: told to stop meanwhile.
    async fn open(&mut self) -> Option<Arc<Session>> {
        (self.answered, self.may_claim) = (0, true);
        let mut delays = backoff();
        loop {
            if self.parts.shutdown.soft.is_cancelled() {
                return None;
            }
            let id = SessionId::from_random(rand::random());
            let HubParts { store, queue, concurrency, info, health, .. } = &self.parts;
            match Session::open(store, queue, id, *concurrency, info).await {
                Ok(session) => {
                    health.ok();
                    tracing::info!(%queue, session = ?session.id(), concurrency, "serving");
                    return Some(Arc::new(session));
                }
                Err(error) => self.unavailable(&error),
            }
            tokio::select! {
                () = sleep(delays.next().unwrap_or(MAX_DELAY)) => {}
                () = self.parts.shutdown.soft.cancelled() => {}
            }
        }
    }

    async fn serve(&mut self, session: &Arc<Session>) -> Ended {
        let signals = Arc::clone(&self.signals);
        let mut pause: Option<Instant> = None;
        loop {
            while let Ok(outcome) = self.outcomes.try_recv() {
                self.table.finished(outcome);
            }
            self.publish();
            if self.parts.shutdown.hard.is_cancelled() {
                return Ended::Killed;
            }
            // Before anything is claimed: a slot that gets free after the signal stays free.
            if self.drain == Drain::No && self.parts.shutdown.soft.is_cancelled() {
                tracing::info!(queue = %self.parts.queue, running = self.table.held(), "stopping: nothing more is claimed");
                self.drain = Drain::Until(Instant::now() + self.parts.grace);
            }
            if self.drain != Drain::No && self.table.is_empty() {
                return Ended::Drained;
            }
            let want = if self.drain == Drain::No { self.slots.available_permits().min(MAX_WANT) } else { 0 };
            if self.table.has_pending() || (want > 0 && self.may_claim && pause.is_none()) {
                match self.request(session, want).await {
                    Ok(paused) => pause = paused,
                    Err(ended) => return ended,
                }
                continue;
            }
            if want > 0 && pause.is_none() {
                signals.idle.notify_one();
            }
            let deadline = self.drain_deadline();
            let shutdown = self.parts.shutdown.clone();
            tokio::select! {
                Some(outcome) = self.outcomes.recv() => self.table.finished(outcome),
                () = signals.wake.notified() => self.may_claim = true,
                () = signals.gone.notified() => return Ended::Gone,
                () = signals.mismatch.notified() => {
                    if let Err(ended) = self.resync(session).await {
                        return ended;
                    }
                }
                () = sleep_until(pause.unwrap_or(deadline)), if pause.is_some() => pause = None,
                () = shutdown.soft.cancelled(), if self.drain == Drain::No => {}
                () = sleep_until(deadline), if matches!(self.drain, Drain::Until(_) | Drain::Told(_)) => self.drain_on(),
                () = shutdown.hard.cancelled() => return Ended::Killed,
            }
        }
    }

    fn drain_deadline(&self) -> Instant {
        match self.drain {
            Drain::Until(deadline) | Drain::Told(deadline) => deadline,
            Drain::No | Drain::Released => Instant::now() + Duration::from_secs(3600),
        }
    }

    fn drain_on(&mut self) {
        match self.drain {
            Drain::Until(_) => {
                tracing::warn!(queue = %self.parts.queue, running = self.table.held(), "the grace is over");
                self.table.stop_all();
                self.drain = Drain::Told(Instant::now() + WIND_DOWN + Duration::from_millis(250));
            }
            Drain::Told(_) => {
                self.table.release_all();
                self.drain = Drain::Released;
            }
            Drain::No | Drain::Released => {}
        }
    }

    /// One round trip. Answers until when there is nothing to claim for us, although jobs are ready.
    async fn request(&mut self, session: &Arc<Session>, want: usize) -> Result<Option<Instant>, Ended> {
        self.n += 1;
        let batch = self.table.take_batch();
        let journal_ok = self.parts.preparer.journal_ok.load(Ordering::Acquire);
        let reply = session.finish_claim(self.n, self.answered, want, WANT_BYTES, journal_ok, &batch).await;
        match reply {
            Ok(Reply::Ok(reply)) => {
                self.answered = self.n;
                self.parts.health.ok();
                self.parts.clock.saw(reply.now);
                self.settle(&batch, &reply.verdicts);
                self.table.answered(batch);
                let got = reply.claims.len();
                // Fewer than we wanted and none left: the next one comes with a wake-up.
                self.may_claim = reply.more;
                for claim in reply.claims {
                    self.deliver(claim, reply.now);
                }
                let unservable = reply.more && want > 0 && got == 0;
                Ok(unservable.then(|| Instant::now() + UNSERVABLE_PAUSE))
            }
            Ok(Reply::Gone) => {
                // Their jobs are lost like those that still run, and are counted with them.
                self.table.unanswered(batch);
                Err(Ended::Gone)
            }
            Ok(Reply::Stale | Reply::Rollback) => {
                tracing::warn!(queue = %self.parts.queue, "Redis and this session disagree");
                self.table.unanswered(batch);
                self.resync(session).await.map(|()| None)
            }
            Err(error) => {
                self.unavailable(&error);
                self.table.unanswered(batch);
                self.resync(session).await.map(|()| None)
            }
        }
    }

    /// Tells Redis what really runs here until it agrees. Handlers go on meanwhile: silence is no reason to stop them.
    async fn resync(&mut self, session: &Arc<Session>) -> Result<(), Ended> {
        let mut delays = backoff();
        let mut give_up = None;
        loop {
            while let Ok(outcome) = self.outcomes.try_recv() {
                self.table.finished(outcome);
            }
            self.n += 1;
            let replay = self.table.replay();
            match session.sync(self.n, &self.table.running(), &replay).await {
                Ok(Reply::Ok(reply)) => {
                    self.answered = self.n;
                    self.parts.health.ok();
                    self.settle(&replay, &reply.verdicts);
                    self.table.synced();
                    let lost = reply.lost.iter().filter(|member| self.table.lose(**member)).count();
                    self.parts.metrics.leases_lost.with_label_values(&[self.parts.queue.as_str()]).inc_by(lost as u64);
                    tracing::info!(
                        queue = %self.parts.queue, replayed = replay.len(), given_back = reply.given_back, lost, "in agreement with Redis"
                    );
                    self.may_claim = true;
                    if !reply.more {
                        return Ok(());
                    }
                }
                Ok(Reply::Gone) => return Err(Ended::Gone),
                Ok(Reply::Stale | Reply::Rollback) => {}
                Err(error) => {
                    self.unavailable(&error);
                    // While Redis is away, a process that was told to stop waits for it no longer than its grace.
                    if self.parts.shutdown.soft.is_cancelled() {
                        let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.parts.grace);
                        if Instant::now() >= give_up {
                            tracing::warn!(queue = %self.parts.queue, "Redis stayed away: what ran here is rescued by others");
                            return Err(Ended::Killed);
                        }
                    }
                    tokio::select! {
                        () = sleep(delays.next().unwrap_or(MAX_DELAY)) => {}
                        () = self.parts.shutdown.hard.cancelled() => return Err(Ended::Killed),
                    }
                }
            }
        }
    }

    fn settle(&self, batch: &[Applied], verdicts: &[Verdict]) {
        for (outcome, verdict) in batch.iter().zip(verdicts) {
            match verdict {
                Verdict::Applied => {
                    if outcome.member.generation.is_some()
                        && matches!(outcome.finish, Finish::Retry { .. } | Finish::Snooze { .. })
                    {
                        // Postgres is behind: without a mirror the retry still stands in Redis.
                        if self.parts.mirror.try_send(outcome.clone()).is_err() {
                            tracing::debug!(job_id = %outcome.member.id, "not mirrored");
                        }
                    }
                }
                Verdict::Already => {}
                Verdict::NotYours => {
                    self.parts.metrics.leases_lost.with_label_values(&[self.parts.queue.as_str()]).inc();
                    tracing::warn!(job_id = %outcome.member.id, "it was somebody else's already: its outcome does not count");
                }
            }
        }
    }

    fn deliver(&mut self, claim: Claim, now: DateTime<Utc>) {
        // The hub alone takes permits, and asked for no more than were free.
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            tracing::error!(job_id = %claim.member.id, "claimed without a free slot; it is given back by the next sync");
            self.signals.mismatch.notify_one();
            return;
        };
        let lease = Lease::new(claim.member, claim.claim_no, self.outcomes_tx.clone(), slot);
        self.table.claimed(&lease);
        let claimed = Claimed { claim, lease, now };
        if claimed.claim.member.generation.is_none() {
            self.parts.preparer.deliver_fast(claimed);
        } else if let Err(error) = self.parts.journaled.send(claimed) {
            // The role is ending; the lease in the error gives the job back.
            drop(error);
        }
    }

    /// Publishes what the heartbeat compares and the gauges show.
    fn publish(&self) {
        self.signals.held.store(self.table.held() as u64, Ordering::Release);
        self.signals.answered.store(self.answered, Ordering::Release);
        let free = self.slots.available_permits();
        let open = if self.drain == Drain::No { free } else { 0 };
        self.signals.free.store(open as u64, Ordering::Release);
        let queue = self.parts.queue.as_str();
        let gauge = |state, value: usize| {
            self.parts.metrics.slots.with_label_values(&[queue, state]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge("free", free);
        gauge("busy", self.parts.concurrency.saturating_sub(free));
    }

    fn unavailable(&self, error: &StoreError) {
        tracing::warn!(queue = %self.parts.queue, %error, "waiting for Redis");
        self.parts.health.failing(error.to_string());
    }
}

const MAX_DELAY: Duration = Duration::from_secs(2);

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(MAX_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}
