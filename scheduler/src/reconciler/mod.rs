//! Puts back into Redis what the journal holds and Redis has lost.
//!
//! What the [watch](crate::watch) found is healed by a [`pass`], as fast as it goes: it gives every live row of the journal to
//! Redis, which takes those that it does not have, and ends by writing a new epoch. Several passes may be under way; each has the
//! queues that were found together.
//!
//! Single lost jobs, of which nothing else tells, are found by a [`sweep`] for rows that have been due for over a minute.
//! The generation of what is put back stays, so that a job which turns up after all is not run twice.
//!
//! A queue whose Redis does not answer is left for later, by both; the others go on.

mod pass;
mod sweep;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::{sync::Notify, time::Instant};
use windrow_queue::{QueueName, store::Store};

use self::{pass::Pass, sweep::Sweep};
use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// How often it is looked whether another scheduler found something, or left it half done.
const LOOK: Duration = Duration::from_secs(1);

/// How the journal is compared with Redis.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Pause between two sweeps.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// How long a job must have been due before it can be missing.
    #[serde(with = "humantime_serde")]
    pub age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { period: Duration::from_secs(20), age: Duration::from_secs(60) }
    }
}

impl Config {
    /// Checks it.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if self.period < Duration::from_millis(100) {
            return Err("reconciler.period must be at least 100ms".to_owned());
        }
        if self.age < Duration::from_secs(1) {
            return Err("reconciler.age must be at least 1s".to_owned());
        }
        Ok(())
    }
}

/// What passes and sweeps work with.
#[derive(Debug)]
struct Stores {
    database: PgPool,
    store: Store,
    metrics: Metrics,
}

/// The service.
#[derive(Debug)]
pub struct Reconciler {
    stores: Stores,
    queues: Vec<QueueName>,
    found: Arc<Notify>,
    looked: Option<Instant>,
    passes: VecDeque<Pass>,
    sweep: Sweep,
}

impl Reconciler {
    /// Puts it together. `found` says that there is something to heal.
    #[must_use]
    pub fn new(
        config: Config,
        database: PgPool,
        store: Store,
        queues: Vec<QueueName>,
        metrics: Metrics,
        found: Arc<Notify>,
    ) -> Self {
        let stores = Stores { database, store, metrics };
        Self { stores, queues, found, looked: None, passes: VecDeque::new(), sweep: Sweep::new(config) }
    }
}

impl Service for Reconciler {
    const NAME: &'static str = "reconciler";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let mut done = Done::new([], Pace::After(LOOK));
        let is_busy = !self.passes.is_empty() || self.sweep.is_under_way();
        if !is_busy || self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            let (pass, failed) = Pass::begin(&self.stores, &self.queues).await?;
            self.passes.extend(pass);
            self.looked = Some(Instant::now());
            done.degraded = failed;
        }
        if let Some(mut pass) = self.passes.pop_front() {
            let step = pass.step(&self.stores).await;
            if !pass.is_over() {
                self.passes.push_back(pass);
            }
            let step = step?;
            self.stores.metrics.tidy("put_back", step.put_back);
            self.stores.metrics.tidy("ghosts", step.removed);
            let counts = Done::new([("put back", step.put_back), ("ghosts removed", step.removed)], Pace::Again);
            return Ok(Done { degraded: done.degraded.or(step.failed), ..counts });
        }
        let swept = self.sweep.step(&self.stores).await?;
        self.stores.metrics.tidy("put_back", swept.put_back);
        done.counts = Done::new([("put back", swept.put_back)], Pace::Again).counts;
        done.pace = swept.more.map_or(done.pace, Pace::Sharp);
        done.degraded = done.degraded.or(swept.failed);
        Ok(done)
    }

    async fn wait(&mut self, pause: Duration) {
        tokio::select! {
            biased;
            () = self.found.notified() => self.looked = None,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
