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

mod drain;
mod helper;
mod request;
mod table;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use prometheus::IntGauge;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, sleep, sleep_until},
};
use windrow_queue::{
    Member, QueueName,
    context::Holder,
    health::HealthPart,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{Applied, Session, SessionId, Store, StoreError},
};

use self::{drain::Drain, helper::Helpers, table::Table};
use crate::{
    clock::RedisClock,
    prepare::{Claimed, Preparer},
    share::Portion,
};

/// Jobs that one request asks for, at most.
const MAX_WANT: usize = 400;

/// What a hub is made of.
pub(crate) struct HubParts {
    pub(crate) queue: QueueName,
    pub(crate) concurrency: usize,
    /// Its part in the slots of the process.
    pub(crate) portion: Portion,
    pub(crate) store: Store,
    pub(crate) grace: Duration,
    pub(crate) preparer: Preparer,
    /// To the preparer, for what cannot be delivered at once.
    pub(crate) claims: mpsc::UnboundedSender<Claimed>,
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
    /// Some of our jobs are to stop, namely these.
    pub(super) cancel: Notify,
    pub(super) cancelled: Mutex<Vec<Member>>,
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
    /// The session, as handlers need to know it.
    holder: Option<Arc<Holder>>,
    /// Free and busy slots.
    gauges: [IntGauge; 2],
    drain: Drain,
}

enum Ended {
    Gone,
    Drained,
    Killed,
}

impl Hub {
    pub(crate) fn new(parts: HubParts) -> Self {
        let (outcomes_tx, outcomes) = mpsc::unbounded_channel();
        let gauge = |state| parts.metrics.slots.with_label_values(&[parts.queue.as_str(), state]);
        Self {
            gauges: ["free", "busy"].map(gauge),
            slots: Arc::new(Semaphore::new(parts.concurrency)),
            parts,
            table: Table::default(),
            outcomes,
            outcomes_tx,
            signals: Arc::default(),
            may_claim: true,
            n: 0,
            answered: 0,
            holder: None,
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
        drop(self.parts.portion.reserve(0));
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
                    let holder = Holder { store: self.parts.preparer.store.clone(), session: session.id().clone() };
                    self.holder = Some(Arc::new(holder));
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
            let room = if self.drain == Drain::No { self.slots.available_permits().min(MAX_WANT) } else { 0 };
            let pending = self.table.has_pending();
            let asks = pending || (self.may_claim && pause.is_none());
            let slots = self.parts.portion.reserve(if asks { room } else { 0 });
            if pending || slots.left() > 0 {
                match self.request(session, slots).await {
                    Ok(paused) => pause = paused,
                    Err(ended) => return ended,
                }
                continue;
            }
            drop(slots);
            if room > 0 && !asks && pause.is_none() {
                signals.idle.notify_one();
            }
            let deadline = self.drain_deadline();
            let shutdown = self.parts.shutdown.clone();
            let portion = self.parts.portion.clone();
            tokio::select! {
                Some(outcome) = self.outcomes.recv() => self.table.finished(outcome),
                () = signals.wake.notified() => self.may_claim = true,
                () = portion.turn() => {}
                () = signals.cancel.notified() => self.stop_cancelled(),
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

    /// Tells the handlers of cancelled jobs to stop.
    fn stop_cancelled(&self) {
        let cancelled = std::mem::take(&mut *self.signals.cancelled.lock().unwrap_or_else(PoisonError::into_inner));
        for member in cancelled {
            if self.table.cancel(member) {
                tracing::info!(queue = %self.parts.queue, job_id = %member.id, "cancelled: its handler is told");
            }
        }
    }

    /// Publishes what the heartbeat compares and the gauges show.
    fn publish(&self) {
        self.signals.held.store(self.table.held() as u64, Ordering::Release);
        self.signals.answered.store(self.answered, Ordering::Release);
        let free = self.slots.available_permits();
        let open = if self.drain == Drain::No { free } else { 0 };
        self.signals.free.store(open as u64, Ordering::Release);
        for (gauge, value) in self.gauges.iter().zip([free, self.parts.concurrency.saturating_sub(free)]) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
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
