//! The roles: each is its crate's `run` with what it needs, and the operators' listener beside it.

use std::net::SocketAddr;

use prometheus::Registry;
use tokio::task::JoinHandle;
use windrow_api::{Limits, Listener, ops};
use windrow_queue::{health::Health, metrics::QueueMetrics, shutdown::Shutdown};
use windrow_schedule::{FileError, Schedules};

use crate::{
    context::Context,
    kinds, log, probe,
    settings::{Loaded, SettingError},
    signal,
};

/// Connections to the operators' listener: a scraper or two, and a person.
const OPS_LIMITS: Limits = Limits { max_connections: 64, grace: std::time::Duration::from_secs(2) };

/// What a process has once, however many roles run in it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) registry: Registry,
    pub(crate) metrics: QueueMetrics,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
}

impl Process {
    /// Checks the settings, starts logging, and watches for signals.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub(crate) fn start(loaded: &Loaded) -> anyhow::Result<Self> {
        if let Some(fault) = loaded.faults().into_iter().next() {
            return Err(fault.into());
        }
        log::start(&loaded.settings.log)?;
        let registry = Registry::new();
        let metrics = QueueMetrics::new(&registry);
        let process = Self { registry, metrics, health: Health::default(), shutdown: Shutdown::new() };
        signal::watch(process.shutdown.clone())?;
        Ok(process)
    }
}

/// The operators' listener of a role. It answers until the role has ended: a drain is something to watch.
#[derive(Debug)]
struct Ops {
    shutdown: Shutdown,
    served: JoinHandle<()>,
}

impl Ops {
    async fn start(address: SocketAddr, setting: &str, process: &Process) -> anyhow::Result<Self> {
        let listener = Listener::bind(address, setting).await?;
        tracing::info!(address = %listener.address(), "metrics and readiness are served");
        let router = ops::router(process.registry.clone(), process.health.clone());
        let shutdown = Shutdown { soft: Default::default(), hard: process.shutdown.hard.clone() };
        let served = tokio::spawn(listener.serve(router, OPS_LIMITS, shutdown.clone()));
        Ok(Self { shutdown, served })
    }

    async fn stop(self) {
        self.shutdown.stop();
        if let Err(error) = self.served.await {
            tracing::error!(%error, "the listener for metrics and readiness crashed");
        }
    }
}

/// `windrow worker`.
pub(crate) async fn worker(context: &Context) -> anyhow::Result<()> {
    let settings = &context.loaded.settings;
    let process = Process::start(&context.loaded)?;
    let (store, database) = (context.store()?, context.database()?);
    // The worker's own parts say whether each queue is served; an idle one notices nothing by itself.
    probe::watch(store.clone(), database.clone(), &process.health, &process.shutdown);
    let handlers = kinds::handlers(settings, &database, &process.registry)?;
    let address = settings.worker.listen.parse().map_err(|error| bad_address(&context.loaded, error))?;
    let ops = Ops::start(address, "worker.listen", &process).await?;
    let deps = windrow_worker::Deps {
        store,
        database,
        handlers,
        metrics: process.metrics.clone(),
        health: process.health.clone(),
    };
    let ended = windrow_worker::run(settings.worker.clone(), deps, process.shutdown).await;
    ops.stop().await;
    ended
}

fn bad_address(loaded: &Loaded, error: std::net::AddrParseError) -> SettingError {
    loaded.refuse("worker.listen", error.to_string())
}

/// `windrow scheduler`.
pub(crate) async fn scheduler(context: &Context) -> anyhow::Result<()> {
    let settings = &context.loaded.settings;
    let process = Process::start(&context.loaded)?;
    let deps = windrow_scheduler::Deps {
        store: context.store()?,
        database: context.database()?,
        direct: context.direct_database()?,
        catalog: kinds::catalog().with_vault(context.vault()?),
        schedules: schedules(&context.loaded)?,
        registry: process.registry.clone(),
        queue_metrics: process.metrics.clone(),
        health: process.health.clone(),
    };
    probe::watch(deps.store.clone(), deps.database.clone(), &process.health, &process.shutdown);
    let ops = Ops::start(settings.scheduler.listen, "scheduler.listen", &process).await?;
    let ended = windrow_scheduler::run(settings.scheduler.services(), deps, process.shutdown).await;
    ops.stop().await;
    ended
}

/// The schedules to put in force; none if no file is named.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn schedules(loaded: &Loaded) -> anyhow::Result<Option<Schedules>> {
    let path = &loaded.settings.scheduler.schedules;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let schedules = Schedules::load(path, &kinds::catalog());
    let refuse = |error: FileError| {
        let advice = match error {
            FileError::Unreadable { .. } => {
                "; name the file that holds the schedules, or none to leave those in the database"
            }
            _ => "",
        };
        loaded.refuse("scheduler.schedules", format!("{error}{advice}"))
    };
    Ok(Some(schedules.map_err(refuse)?))
}

/// `windrow api`.
pub(crate) async fn api(context: &Context) -> anyhow::Result<()> {
    let config = &context.loaded.settings.api;
    check_api(&context.loaded)?;
    let process = Process::start(&context.loaded)?;
    let deps = windrow_api::Deps {
        store: context.store()?,
        database: context.database()?,
        catalog: kinds::catalog().with_vault(context.vault()?),
        metrics: process.metrics,
        registry: process.registry,
        health: process.health.clone(),
    };
    probe::watch(deps.store.clone(), deps.database.clone(), &process.health, &process.shutdown);
    windrow_api::run(config.clone(), deps, process.shutdown).await
}

/// What the API alone needs of its settings.
///
/// # Errors
/// The setting that is wrong.
pub(crate) fn check_api(loaded: &Loaded) -> Result<(), SettingError> {
    loaded.settings.api.keys().map(drop).map_err(|error| {
        // The error begins with the setting's name.
        let message = error.to_string();
        let (name, reason) = message.split_once(": ").unwrap_or(("api", &message));
        loaded.refuse(name, reason)
    })
}
