//! Notices that Redis or PostgreSQL came back from an earlier time.
//!
//! ```text
//! due    -> queues whose beat nobody raised for 0.8 s, as PostgreSQL remembers them
//! beat   -> raised in Redis, if epoch and beat there are the same; Redis says what stands
//! judge  -> one beat ahead: well, raised in PostgreSQL. Anything else: found, written down, and healed by the reconciler
//! ```
//!
//! Nothing is locked while Redis is asked. A scheduler that stands still in between raises nothing and finds nothing when it goes
//! on: each write names the row that was read. `docs/decisions/0023-epoch-and-beat.md` says why it is done so.

mod judge;
pub(crate) mod table;

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use sqlx::PgPool;
use tokio::{sync::Notify, time::timeout};
use windrow_queue::{
    QueueName,
    store::{Pulse, Store, StoreError},
};

pub(crate) use judge::{Finding, Known, judge};

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// How often beats are looked after.
const PERIOD: Duration = Duration::from_secs(1);

/// How long one queue's Redis may take: the others wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The service.
#[derive(Debug)]
pub struct Watch {
    database: PgPool,
    store: Store,
    metrics: Metrics,
    queues: Vec<QueueName>,
    found: Arc<Notify>,
}

impl Watch {
    /// Puts it together. `found` is told when there is something to heal.
    #[must_use]
    pub fn new(database: PgPool, store: Store, queues: Vec<QueueName>, metrics: Metrics, found: Arc<Notify>) -> Self {
        for queue in &queues {
            for finding in Finding::COUNTED {
                metrics.redis_found.with_label_values(&[queue.as_str(), finding.as_str()]);
            }
        }
        Self { database, store, metrics, queues, found }
    }

    async fn ask(&self, queue: &QueueName, known: &Known) -> Result<Pulse, String> {
        let asked = timeout(PATIENCE, self.store.beat(queue, known.epoch, known.beat)).await;
        let said = asked.map_err(|_| format!("Redis did not answer within {PATIENCE:?}"))?;
        said.map_err(|error: StoreError| error.to_string())
    }

    async fn report(&self, queue: &QueueName, known: &Known, finding: Finding) -> Result<bool, sqlx::Error> {
        if !table::report(&self.database, known, finding).await? {
            return Ok(false);
        }
        if Finding::COUNTED.contains(&finding) {
            self.metrics.redis_found.with_label_values(&[queue.as_str(), finding.as_str()]).inc();
            tracing::warn!(%queue, found = finding.as_str(), "{finding}: what the journal holds is put back");
        } else {
            tracing::info!(%queue, found = finding.as_str(), "{finding}");
        }
        Ok(true)
    }
}

impl Service for Watch {
    const NAME: &'static str = "watch";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let names: Vec<&str> = self.queues.iter().map(QueueName::as_str).collect();
        let rows = table::due(&self.database, &names).await?;
        let timeline = table::timeline(&self.database).await;
        let due: Vec<(&QueueName, &Known)> = rows
            .iter()
            .filter_map(|known| Some((self.queues.iter().find(|queue| queue.as_str() == known.queue)?, known)))
            .collect();
        let pulses = join_all(due.iter().map(|(queue, known)| self.ask(queue, known))).await;
        let (mut well, mut found, mut degraded) = (Vec::new(), 0, None);
        for ((queue, known), pulse) in due.into_iter().zip(pulses) {
            match pulse.map(|pulse| judge(known, &pulse, timeline.as_deref())) {
                Ok(None) => well.push(known),
                Ok(Some(finding)) => found += u64::from(self.report(queue, known, finding).await?),
                // The others go on; of this one nothing is known.
                Err(reason) => degraded = degraded.or_else(|| Some(format!("queue {queue}: {reason}"))),
            }
        }
        if found > 0 {
            self.found.notify_one();
        }
        if !well.is_empty() {
            table::raise(&self.database, &well).await?;
        }
        Ok(Done { degraded, ..Done::new([("found", found)], Pace::After(PERIOD)) })
    }
}
