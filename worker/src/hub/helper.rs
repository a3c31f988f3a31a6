//! The hub's helpers: heartbeat, waker and ticker, each with its own connection, none of them ever in the hub's way.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use windrow_queue::{
    QueueName,
    health::HealthPart,
    metrics::QueueMetrics,
    store::{Reply, Session, Store, Waker},
};

use super::{HubParts, Signals};

/// How long one blocking pop waits. Only bounds how long a dead connection goes unnoticed.
const POP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often time is moved along, at least.
const TICK: Duration = Duration::from_secs(1);

/// The running helpers of one session; they end when this is dropped.
pub(super) struct Helpers {
    _tasks: JoinSet<()>,
}

impl Helpers {
    pub(super) fn start(parts: &HubParts, session: &Arc<Session>, signals: &Arc<Signals>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeat(Arc::clone(session), parts.store.lease() / 4, Arc::clone(signals), parts.health.clone()));
        tasks.spawn(wait_for_work(Waker::new(&parts.store, &parts.queue, POP_TIMEOUT), Arc::clone(signals)));
        tasks.spawn(tick(parts.store.clone(), parts.queue.clone(), parts.metrics.clone()));
        Self { _tasks: tasks }
    }
}

/// Says that the session lives, and notices when Redis counts other leases than the hub does. An idle hub sends nothing
/// itself: that Redis is away shows here.
async fn heartbeat(session: Arc<Session>, period: Duration, signals: Arc<Signals>, health: HealthPart) {
    let mut beats = interval(period);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut differed = false;
    loop {
        beats.tick().await;
        match session.heartbeat().await {
            Ok(Reply::Ok((held, n))) => {
                health.ok();
                // While a request is on its way the counts may differ; twice in a row, with none on its way, they may not.
                let quiet = n == signals.answered.load(Ordering::Acquire);
                let differs = quiet && held != signals.held.load(Ordering::Acquire);
                if differs && differed {
                    tracing::warn!(session = ?session.id(), held, "Redis counts other leases than run here");
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
                sleep(period / 5).await;
                beats.reset_immediately();
            }
        }
    }
}

/// Waits for a token while there are free slots.
async fn wait_for_work(waker: Waker, signals: Arc<Signals>) {
    loop {
        signals.idle.notified().await;
        match waker.wait().await {
            // All slots were taken in the meantime: the token is another worker's.
            Ok(true) if signals.free.load(Ordering::Acquire) == 0 => {
                if let Err(error) = waker.pass_on().await {
                    tracing::debug!(%error, "a wake-up is not passed on; a tick makes up for it");
                }
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
async fn tick(store: Store, queue: QueueName, metrics: QueueMetrics) {
    loop {
        let pause = match store.tick(&queue).await {
            Ok(tick) => {
                metrics.rescued.with_label_values(&[queue.as_str()]).inc_by(tick.rescued);
                if tick.rescued + tick.poisoned > 0 {
                    tracing::warn!(%queue, tick.rescued, tick.poisoned, "gave back the jobs of a lost worker");
                }
                match (tick.more, tick.next_due) {
                    (true, _) => continue,
                    (false, Some(due)) => due.min(TICK).max(Duration::from_millis(1)),
                    (false, None) => TICK,
                }
            }
            Err(error) => {
                tracing::debug!(%queue, %error, "no tick");
                TICK
            }
        };
        sleep(pause).await;
    }
}
