//! The `[scheduler]` section: the services' own settings, and what the role around them needs.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use windrow_scheduler::{cron, gauges, pruner, reconciler, relay, vacuum};

/// Written out, not flattened: serde names no unknown key in a flattened table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub(crate) listen: SocketAddr,
    /// The file of schedules. Empty: the schedules in the database are left as they are.
    pub(crate) schedules: PathBuf,
    pub(crate) cron: cron::Config,
    pub(crate) relay: relay::Config,
    pub(crate) gauges: gauges::Config,
    pub(crate) pruner: pruner::Config,
    pub(crate) vacuum: vacuum::Config,
    pub(crate) reconciler: reconciler::Config,
}

impl Default for Config {
    fn default() -> Self {
        let windrow_scheduler::Config { cron, relay, gauges, pruner, vacuum, reconciler } = Default::default();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9465)),
            schedules: "config/schedules.toml".into(),
            cron,
            relay,
            gauges,
            pruner,
            vacuum,
            reconciler,
        }
    }
}

impl Config {
    /// What the services want.
    pub(crate) fn services(&self) -> windrow_scheduler::Config {
        let Self { cron, relay, gauges, pruner, vacuum, reconciler, .. } = self.clone();
        windrow_scheduler::Config { cron, relay, gauges, pruner, vacuum, reconciler }
    }
}
