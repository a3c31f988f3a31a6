use serde::{Deserialize, Serialize};

/// The `[payments]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Postings in one transaction, at most (default 1000, 1 to 10000). More is hardly faster and holds locks on accounts longer.
    pub batch: u16,
    /// Transactions of one job, at most (default 50). What is still due then is left to a follow-up job.
    pub batches_per_job: u16,
    /// Missed dates of one payment posted in one transaction, at most (default 31): a payment that missed years takes turns
    /// with the others.
    pub catch_up: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch: 1000, batches_per_job: 50, catch_up: 31 }
    }
}

impl Config {
    /// The figures that are used: what is out of range counts as the nearest that is in it.
    #[must_use]
    pub(super) fn clamped(&self) -> Self {
        Self {
            batch: self.batch.clamp(1, 10_000),
            batches_per_job: self.batches_per_job.max(1),
            catch_up: self.catch_up.max(1),
        }
    }
}
