//! The services that keep work moving: schedules are fired, journaled jobs relayed, due jobs promoted, lost ones put back, parks
//! ended, batches followed up, old records pruned, gauges read.
//!
//! Each is a named [`service::Service`] in a file of its own, with one bounded batch a call. All of them may run in any number
//! of processes at once: what must happen once is decided by a row lock or a script, not by a leader.

pub mod batches;
mod bury;
pub mod cron;
pub mod gauges;
pub mod metrics;
pub mod promoter;
pub mod pruner;
pub mod reconciler;
pub mod relay;

pub mod service;
pub mod unparker;
pub mod vacuum;
pub mod watch;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::{sync::Notify, task::JoinSet};
use windrow_queue::{
    Catalog, database, health::Health, journal, metrics::QueueMetrics, shutdown::Shutdown, store::Store,
};
use windrow_schedule::Schedules;

use crate::{metrics::Metrics, service::Service};

/// The `[scheduler]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Firing schedules.
    pub cron: cron::Config,
    /// Relaying journaled jobs.
    pub relay: relay::Config,
    /// Reading gauges.
    pub gauges: gauges::Config,
    /// Pruning records.
    pub pruner: pruner::Config,
    /// Vacuuming the hot tables.
    pub vacuum: vacuum::Config,
    /// Finding lost jobs.
    pub reconciler: reconciler::Config,
}

impl Config {
    /// Checks all of it.
    ///
    /// # Errors
    /// The first key that is wrong, below `scheduler`, and why.
    pub fn validate(&self) -> Result<(), String> {
        self.cron.validate()?;
        self.relay.validate()?;
        self.gauges.validate()?;
        self.pruner.validate()?;
        self.vacuum.validate()?;
        self.reconciler.validate()
    }
}

/// What the services work with.
#[derive(Debug)]
pub struct Deps {
    /// Redis.
    pub store: Store,
    /// Postgres.
    pub database: PgPool,
    /// Postgres without a pooler in between, for LISTEN; see [`listen_pool`]. `None`: the relay polls.
    pub direct: Option<PgPool>,
    /// The kinds that exist, and with them the queues.
    pub catalog: Catalog,
    /// The contents of `schedules.toml`; `None` leaves the table as it is.
    pub schedules: Option<Schedules>,
    /// Where the scheduler's own metrics are registered. Once a process.
    pub registry: prometheus::Registry,
    /// The queue's metrics, which the process may share with a worker.
    pub queue_metrics: QueueMetrics,
    /// What `/readyz` says.
    pub health: Health,
}

/// A pool of one connection to `database.direct_url`, or to `database.url` where that is empty. `None`: that one leads through a
/// pooler which keeps no LISTEN.
///
/// # Errors
/// When the URL is not one.
pub fn listen_pool(config: &database::Config) -> Result<Option<PgPool>, sqlx::Error> {
    database::direct_pool(config, 1)
}

/// Runs all services until the shutdown asks for the end; what each is doing then is finished, unless it is asked to end at
/// once. No failure of a service ends another, nor the process.
///
/// # Errors
/// When the configuration is wrong. Stores that are away are waited for.
pub async fn run(config: Config, deps: Deps, shutdown: Shutdown) -> anyhow::Result<()> {
    config.validate().map_err(anyhow::Error::msg).context("scheduler")?;
    let Deps { store, database, direct, catalog, schedules, registry, queue_metrics, health } = deps;
    store.observe(&queue_metrics);
    let metrics = Metrics::new(&registry);
    let queues = catalog.queues();
    let wake = Arc::new(Notify::new());
    let mut tasks = Tasks { set: JoinSet::new(), metrics: metrics.clone(), health, shutdown: shutdown.clone() };

    let stop = shutdown.soft.clone();
    match direct {
        Some(direct) => drop(tasks.set.spawn(relay::listen(direct, Arc::clone(&wake), stop))),
        None => {
            tracing::info!("database.direct_url is not set: the relay polls each second while it has nothing to do")
        }
    }
    let pg = || database.clone();
    let registering = journal::keep_registering(pg(), catalog.clone());
    let stop = shutdown.soft.clone();
    tasks.set.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = registering => {}
        }
    });
    tasks.start(relay::Relay::new(config.relay, pg(), store.clone(), metrics.clone(), wake));
    tasks.start(promoter::Promoter::new(pg(), store.clone(), queues.clone(), queue_metrics.clone(), metrics.clone()));
    tasks.start(gauges::Gauges::new(
        config.gauges,
        pg(),
        store.clone(),
        queues.clone(),
        queue_metrics,
        metrics.clone(),
    ));
    tasks.start(pruner::Pruner::new(config.pruner, pg(), metrics.clone()));
    tasks.start(unparker::Unparker::new(pg(), metrics.clone()));
    tasks.start(batches::Batches::new(pg(), metrics.clone()));
    tasks.start(vacuum::Vacuum::new(config.vacuum, pg()));
    let found = Arc::new(Notify::new());
    tasks.start(watch::Watch::new(pg(), store.clone(), queues.clone(), metrics.clone(), Arc::clone(&found)));
    tasks.start(reconciler::Reconciler::new(config.reconciler, pg(), store, queues, metrics.clone(), found));
    let cron = cron::Cron::new(config.cron, pg(), catalog.clone(), metrics);
    if let Some(schedules) = schedules {
        let part = tasks.health.part("schedules");
        let ready = reconcile_until_done(pg(), schedules, catalog, part, shutdown.clone());
        tasks.start_after(ready, cron);
    } else {
        tasks.start(cron);
    }

    tokio::select! {
        () = tasks.ended() => {}
        () = shutdown.hard.cancelled() => tracing::warn!("stopped at once; what was being done is rolled back"),
    }
    Ok(())
}

struct Tasks {
    set: JoinSet<()>,
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
}

impl Tasks {
    fn start<S: Service>(&mut self, service: S) {
        self.start_after(std::future::ready(()), service);
    }

    fn start_after<S: Service>(&mut self, first: impl Future<Output = ()> + Send + 'static, service: S) {
        let part = self.health.part(format!("scheduler.{}", S::NAME));
        let (metrics, shutdown) = (self.metrics.clone(), self.shutdown.clone());
        self.set.spawn(async move {
            first.await;
            service::keep_running(service, metrics, part, shutdown).await;
        });
    }

    async fn ended(&mut self) {
        while let Some(ended) = self.set.join_next().await {
            if let Err(error) = ended {
                // Services catch their own panics: this is a mistake in the loop itself.
                tracing::error!(%error, "a service's loop ended by itself; it stays off until the process is restarted");
            }
        }
    }
}

/// The schedules of the file must be in force before anything fires, and a Postgres that is not there yet is waited for.
async fn reconcile_until_done(
    database: PgPool,
    schedules: Schedules,
    catalog: Catalog,
    part: windrow_queue::health::HealthPart,
    shutdown: Shutdown,
) {
    while !shutdown.soft.is_cancelled() {
        match windrow_schedule::reconcile(&database, &schedules, &catalog).await {
            Ok(done) => {
                tracing::info!(
                    added = done.added,
                    changed = done.changed,
                    removed = done.removed,
                    outdated = done.outdated,
                    "schedules.toml is in force"
                );
                part.ok();
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "schedules.toml could not be put in force yet; tried again");
                part.failing(format!("schedules.toml is not in force yet: {error}"));
            }
        }
        tokio::select! {
            () = shutdown.soft.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
