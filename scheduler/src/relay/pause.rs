//! Back-off of single queues: one whose Redis is away or full must not hold up the others.

use std::{collections::BTreeMap, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use windrow_queue::QueueName;

const LONGEST: Duration = Duration::from_secs(5);

/// The queues that are in back-off, or were and have not been well since.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    queues: BTreeMap<String, Paused>,
}

#[derive(Debug)]
struct Paused {
    delays: ExponentialBackoff,
    until: Instant,
    reason: String,
}

impl Pauses {
    /// The queue refused or was away: it is left alone for a while, each time longer.
    pub(super) fn begin(&mut self, queue: &QueueName, reason: &str) -> Duration {
        let paused = self.queues.entry(queue.as_str().to_owned()).or_insert_with(|| {
            tracing::warn!(%queue, reason, "the relay leaves this queue out for now");
            Paused {
                delays: ExponentialBuilder::default()
                    .with_min_delay(Duration::from_millis(200))
                    .with_max_delay(LONGEST)
                    .with_jitter()
                    .without_max_times()
                    .build(),
                until: Instant::now(),
                reason: String::new(),
            }
        });
        let delay = paused.delays.next().unwrap_or(LONGEST);
        paused.until = Instant::now() + delay;
        reason.clone_into(&mut paused.reason);
        delay
    }

    /// The queue takes jobs again.
    pub(super) fn end(&mut self, queue: &QueueName) {
        if self.queues.remove(queue.as_str()).is_some() {
            tracing::info!(%queue, "the queue takes jobs again");
        }
    }

    pub(super) fn is_paused(&self, queue: &str) -> bool {
        self.queues.get(queue).is_some_and(|paused| paused.until > Instant::now())
    }

    /// Queues to leave out.
    pub(super) fn standing(&self) -> Vec<String> {
        let now = Instant::now();
        self.queues.iter().filter(|(_, paused)| paused.until > now).map(|(queue, _)| queue.clone()).collect()
    }

    /// Until the next queue may be tried again.
    pub(super) fn next_end(&self) -> Option<Duration> {
        let now = Instant::now();
        self.queues
            .values()
            .filter_map(|paused| paused.until.checked_duration_since(now))
            .filter(|d| !d.is_zero())
            .min()
    }

    /// What is out of order, for `/readyz`.
    pub(super) fn reason(&self) -> Option<String> {
        let (queue, paused) = self.queues.iter().next()?;
        Some(format!("queue {queue}: {}", paused.reason))
    }
}
