//! The hub's helpers: heartbeat, waker and ticker, each with its own connection, none of them ever in the hub's way.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use windrow_queue::{
    QueueName,
    health::HealthPart,
    metrics::QueueMetrics,
    store::{Reply, Session, Store, Waker},
};

use super::{HubParts, Signals};
use crate::share::Portion;

/// How long one blocking pop waits. Only bounds how long a dead connection goes unnoticed.
const POP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a job that runs does not know that it was cancelled, at most.
const CANCEL_WITHIN: Duration = Duration::from_millis(500);
/// How often time is moved along, at least.
const TICK: Duration = Duration::from_secs(1);
/// How soon it is moved along again behind a moment at which something was due.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The running helpers of one session; they end when this is dropped.
pub(super) struct Helpers {
    _tasks: JoinSet<()>,
}

impl Helpers {
    pub(super) fn start(parts: &HubParts, session: &Arc<Session>, signals: &Arc<Signals>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeat(Arc::clone(session), parts.store.lease() / 4, Arc::clone(signals), parts.health.clone()));
        let waker = Waker::new(&parts.store, &parts.queue, POP_TIMEOUT);
        tasks.spawn(wait_for_work(waker, parts.portion.clone(), Arc::clone(signals)));
        tasks.spawn(tick(parts.store.clone(), parts.queue.clone(), parts.metrics.clone()));
        Self { _tasks: tasks }
    }
}

/// Says that the session lives, learns which of its jobs are to stop, and notices when Redis counts other leases than the hub
/// does. An idle hub sends nothing itself: that Redis is away shows here.
async fn heartbeat(session: Arc<Session>, idle: Duration, signals: Arc<Signals>, health: HealthPart) {
    let busy = idle.min(CANCEL_WITHIN);
    let mut beats = interval(busy);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut differed, mut last) = (false, None);
    loop {
        beats.tick().await;
        // Nothing can be cancelled, so there is nothing to learn sooner.
        if signals.held.load(Ordering::Acquire) == 0
            && last.is_some_and(|last: Instant| last.elapsed() + busy / 2 < idle)
        {
            continue;
        }
        match session.heartbeat().await {
            Ok(Reply::Ok(beat)) => {
                last = Some(Instant::now());
                health.ok();
                if !beat.cancelled.is_empty() {
                    *signals.cancelled.lock().unwrap_or_else(PoisonError::into_inner) = beat.cancelled;
                    signals.cancel.notify_one();
                }
                // While a request is on its way the counts may differ; twice in a row, with none on its way, they may not.
                let quiet = beat.n == signals.answered.load(Ordering::Acquire);
                let differs = quiet && beat.held != signals.held.load(Ordering::Acquire);
                if differs && differed {
                    tracing::warn!(session = ?session.id(), beat.held, "Redis counts other leases than run here");
                    signals.mismatch.notify_one();
                }
                differed = differs;
            }
            Ok(Reply::Gone) => return signals.gone.notify_one(),
            // Heartbeats carry no number: these cannot be answers to one.
            Ok(Reply::Stale | Reply::Rollback) => {}
            Err(error) => {
                tracing::debug!(%error, "no heartbeat");
                health.failing(error.to_string());
                last = None;
                sleep(idle / 5).await;
                beats.reset_immediately();
            }
        }
    }
}

/// Waits for a token while there are free slots.
async fn wait_for_work(waker: Waker, portion: Portion, signals: Arc<Signals>) {
    loop {
        signals.idle.notified().await;
        match waker.wait().await {
            // All slots were taken in the meantime: the token is another worker's. The hub stands in line for the next slot.
            Ok(true) if signals.free.load(Ordering::Acquire) == 0 || portion.is_full() => {
                if let Err(error) = waker.pass_on().await {
                    tracing::debug!(%error, "a wake-up is not passed on; a tick makes up for it");
                }
                signals.wake.notify_one();
            }
            // Woken or not, the hub looks for itself: a token may have been lost.
            Ok(_) => signals.wake.notify_one(),
            Err(error) => {
                tracing::debug!(%error, "not waiting for work");
                sleep(Duration::from_millis(500)).await;
                signals.idle.notify_one();
            }
        }
    }
}

/// Promotes and rescues: a stopped scheduler must not stop retries.
///
/// A lane that is let in when its rate allows it may be stopped by that rate again with its next job, of which nobody is told:
/// behind every moment at which something was due it is looked again soon, then less and less often.
async fn tick(store: Store, queue: QueueName, metrics: QueueMetrics) {
    let (mut again, mut something_due) = (TICK, false);
    loop {
        let next = match store.tick(&queue).await {
            Ok(tick) => {
                metrics.rescued.with_label_values(&[queue.as_str()]).inc_by(tick.rescued);
                if tick.rescued + tick.poisoned > 0 {
                    tracing::warn!(%queue, tick.rescued, tick.poisoned, "gave back the jobs of a lost worker");
                }
                if tick.more {
                    continue;
                }
                tick.next_due.unwrap_or(TICK)
            }
            Err(error) => {
                tracing::debug!(%queue, %error, "no tick");
                TICK
            }
        };
        again = if something_due { LOOK_AGAIN } else { (again * 2).min(TICK) };
        something_due = next <= again && next < TICK;
        sleep(next.min(again).max(Duration::from_millis(1))).await;
    }
}
