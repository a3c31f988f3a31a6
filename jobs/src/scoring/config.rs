//! Settings of scoring.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How scoring is done, for all tenants.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Longest time for a webhook to answer. Default `60s`.
    #[serde(with = "humantime_serde")]
    pub webhook_timeout: Duration,
    /// Largest answer of a webhook, in bytes. Default 65536 (64 KiB).
    pub webhook_max_bytes: usize,
    /// How long a queued vacancy waits for its score before the sweep looks whether its job is lost; twice as long after the
    /// second job, and so on. Default `30m`.
    #[serde(with = "humantime_serde")]
    pub requeue_after: Duration,
    /// Scoring jobs that are made for a vacancy, at most, the first included; then its dead letters wait for an operator.
    /// Default 5.
    pub max_jobs: i32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            webhook_timeout: Duration::from_secs(60),
            webhook_max_bytes: 64 * 1024,
            requeue_after: Duration::from_secs(30 * 60),
            max_jobs: 5,
        }
    }
}
