//! A node: one role as a process of its own, which ends with the runner.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use windrow_queue::{
    database,
    health::Health,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{Config as StoreConfig, Store},
};
use windrow_schedule::Schedules;
use windrow_scheduler::{
    metrics::Metrics as SchedulerMetrics,
    relay::Relay,
    service::{Pace, Service},
};

use crate::{
    handler,
    kinds::{SCHEDULES, catalog},
};

/// The variable in which a node finds its settings.
pub(crate) const SETTINGS: &str = "WINDROW_CHAOS_NODE";

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Worker,
    Scheduler,
    /// The relay alone.
    Relay,
}

/// A node's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) redis: String,
    pub(crate) database: String,
    pub(crate) lease: Duration,
}

/// Runs a node until it is told to end.
pub(crate) async fn run() -> anyhow::Result<()> {
    end_with_parent();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::builder().parse("info")?)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let settings =
        std::env::var(SETTINGS).with_context(|| format!("{SETTINGS} is not set: nodes are started by a run"))?;
    let settings: Settings = serde_json::from_str(&settings)?;
    let shutdown = Shutdown::new();
    watch(shutdown.clone())?;
    let store = Store::new(&StoreConfig { url: settings.redis.clone(), lease: settings.lease, ..Default::default() })?;
    let config = database::Config { url: settings.database.clone(), ..Default::default() };
    let database = database::pool(&config)?;
    tracing::info!(node = settings.name, "starts");
    match settings.role {
        Role::Worker => work(&settings, store, database, shutdown).await,
        Role::Scheduler => schedule(store, database, windrow_scheduler::listen_pool(&config)?, shutdown).await,
        Role::Relay => relay(store, database, shutdown).await,
    }
}

async fn work(settings: &Settings, store: Store, database: PgPool, shutdown: Shutdown) -> anyhow::Result<()> {
    let config = windrow_worker::Config { grace: Duration::from_secs(5), ..Default::default() };
    let deps = windrow_worker::Deps {
        store,
        handlers: handler::handlers(&settings.name, &database),
        database,
        metrics: QueueMetrics::new(&prometheus::Registry::new()),
        health: Health::default(),
    };
    windrow_worker::run(config, deps, shutdown).await
}

async fn schedule(store: Store, database: PgPool, direct: Option<PgPool>, shutdown: Shutdown) -> anyhow::Result<()> {
    let registry = prometheus::Registry::new();
    let catalog = catalog();
    let deps = windrow_scheduler::Deps {
        store,
        database,
        direct,
        schedules: Some(Schedules::parse("the schedules of a chaos run", SCHEDULES, &catalog)?),
        catalog,
        queue_metrics: QueueMetrics::new(&registry),
        registry,
        health: Health::default(),
    };
    windrow_scheduler::run(windrow_scheduler::Config::default(), deps, shutdown).await
}

/// A relay beside those of the schedulers.
async fn relay(store: Store, database: PgPool, shutdown: Shutdown) -> anyhow::Result<()> {
    let metrics = SchedulerMetrics::new(&prometheus::Registry::new());
    let mut relay = Relay::new(Default::default(), database, store, metrics, Arc::new(Notify::new()));
    while !shutdown.soft.is_cancelled() {
        let pause = match relay.run_once().await.map(|done| done.pace) {
            Ok(Pace::Again) => continue,
            Ok(Pace::Sharp(pause) | Pace::After(pause)) => pause,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "failed; tried again");
                Duration::from_millis(500)
            }
        };
        tokio::select! {
            () = shutdown.soft.cancelled() => {}
            () = relay.wait(pause) => {}
        }
    }
    Ok(())
}

/// SIGTERM asks for a soft end, and so does the end of standard input, which the runner holds.
fn watch(shutdown: Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let soft = shutdown.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        tracing::info!("asked to end");
        soft.stop();
    });
    // A thread of its own: such a read cannot be cancelled, and must not hold up the end.
    std::thread::Builder::new().name("runner".into()).spawn(move || {
        // Whatever ends it: nobody is there any more.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        tracing::warn!("the runner is gone");
        shutdown.kill();
    })?;
    Ok(())
}

/// A node that stands still when the runner dies would stand for ever.
fn end_with_parent() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        eprintln!("this process does not end with its parent: {error}");
    }
}
