//! What a worker process does and how much of it at a time.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use windrow_queue::QueueName;

/// The settings of a worker process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Jobs of one queue that run at a time, where `queues` does not say.
    pub concurrency: usize,
    /// The queues that this process serves, each with the number of jobs that run at a time. Empty: all queues of known
    /// kinds.
    pub queues: BTreeMap<QueueName, usize>,
    /// After the first signal to stop: how long running jobs may take to finish, before they are given back.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub listen: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 8,
            queues: BTreeMap::new(),
            grace: Duration::from_secs(25),
            listen: "127.0.0.1:9464".into(),
        }
    }
}

/// The most jobs of one queue that a process may run at a time.
pub const MAX_CONCURRENCY: usize = 1000;

impl Config {
    /// The queues to serve with their concurrency, given those of the known kinds.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub(crate) fn served(&self, known: &[QueueName]) -> anyhow::Result<BTreeMap<QueueName, usize>> {
        let served = if self.queues.is_empty() {
            known.iter().map(|queue| (queue.clone(), self.concurrency)).collect()
        } else {
            self.queues.clone()
        };
        for (queue, &concurrency) in &served {
            anyhow::ensure!(
                (1..=MAX_CONCURRENCY).contains(&concurrency),
                "worker.queues.{queue}: {concurrency} jobs at a time is not possible, use 1 to {MAX_CONCURRENCY}"
            );
            anyhow::ensure!(
                known.contains(queue),
                "worker.queues.{queue}: no kind that this program knows waits in it; known queues are {known:?}"
            );
        }
        anyhow::ensure!(!served.is_empty(), "there is no queue to serve: no handler is registered");
        Ok(served)
    }
}
