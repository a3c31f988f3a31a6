//! Moves time along in every queue: scheduled jobs that are due become ready, jobs of lost workers go back, poison is buried.
//! Workers do the same for their own queues: neither depends on the other.

use std::time::Duration;

use futures::future::join_all;
use sqlx::PgPool;
use windrow_queue::{QueueName, metrics::QueueMetrics, store::Store};

use crate::{
    bury::bury,
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// The longest pause: a lost wake-up token is healed by the next tick.
const PERIOD: Duration = Duration::from_secs(1);

/// The service.
#[derive(Debug)]
pub struct Promoter {
    database: PgPool,
    store: Store,
    queues: Vec<QueueName>,
    queue_metrics: QueueMetrics,
    metrics: Metrics,
}

impl Promoter {
    /// Puts it together.
    #[must_use]
    pub const fn new(
        database: PgPool,
        store: Store,
        queues: Vec<QueueName>,
        queue_metrics: QueueMetrics,
        metrics: Metrics,
    ) -> Self {
        Self { database, store, queues, queue_metrics, metrics }
    }
}

impl Service for Promoter {
    const NAME: &'static str = "promoter";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let ticks = join_all(self.queues.iter().map(|queue| self.store.tick(queue))).await;
        let (mut promoted, mut rescued, mut poisoned, mut buried) = (0, 0, 0, 0);
        let (mut more, mut pause, mut failed) = (false, PERIOD, Vec::new());
        for (queue, tick) in self.queues.iter().zip(ticks) {
            match tick {
                Ok(tick) => {
                    promoted += tick.promoted;
                    rescued += tick.rescued;
                    // Where workers count theirs: whoever ticks first rescues.
                    self.queue_metrics.rescued.with_label_values(&[queue.as_str()]).inc_by(tick.rescued);
                    poisoned += tick.poisoned;
                    more |= tick.more;
                    pause = tick.next_due.map_or(pause, |due| due.min(pause));
                    if !tick.to_bury.is_empty() {
                        buried += bury(&self.database, &self.store, queue, &tick.to_bury).await?;
                    }
                }
                Err(error) => failed.push((queue, error)),
            }
        }
        if failed.len() < self.queues.len()
            && let Err(error) = self.store.refresh_gates(&self.queues).await
        {
            tracing::debug!(%error, "the memory gates could not be refreshed");
        }
        for (what, count) in [("promoted", promoted), ("rescued", rescued), ("poisoned", poisoned), ("buried", buried)]
        {
            self.metrics.tidy(what, count);
        }
        let degraded = failed.first().map(|(queue, error)| format!("queue {queue}: {error}"));
        if failed.len() == self.queues.len()
            && let Some((queue, error)) = failed.into_iter().next()
        {
            return Err(anyhow::Error::new(error).context(format!("queue {queue}")));
        }
        let pace = match pause {
            _ if more => Pace::Again,
            PERIOD => Pace::After(PERIOD),
            due => Pace::Sharp(due.max(Duration::from_millis(1))),
        };
        // Promotion is what happens all the time; only what was lost is worth a line.
        let counts = [("rescued", rescued), ("poisoned", poisoned), ("buried", buried)];
        Ok(Done { degraded, ..Done::new(counts, pace) })
    }
}
