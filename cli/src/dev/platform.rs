//! All roles in this process, each through the very `run` that it has as a process of its own.

use std::net::SocketAddr;

use anyhow::Context as _;
use prometheus::Registry;
use sqlx::PgPool;
use tokio::task::JoinSet;
use windrow_api::{
    Listener,
    key::{ApiKey, NewKey},
};
use windrow_queue::{health::Health, metrics::QueueMetrics, shutdown::Shutdown, store::Store};
use windrow_schedule::Schedules;

use crate::{context::Context, kinds, probe, role::Process};

/// The roles as they run.
#[derive(Debug)]
pub(super) struct Platform {
    pub(super) process: Process,
    pub(super) store: Store,
    pub(super) database: PgPool,
    pub(super) api: SocketAddr,
    /// Opens the API of this run.
    pub(super) key: String,
    roles: JoinSet<(&'static str, anyhow::Result<()>)>,
}

impl Platform {
    /// Starts them.
    pub(super) async fn start(context: &Context, schedules: Schedules, shutdown: Shutdown) -> anyhow::Result<Self> {
        let settings = &context.loaded.settings;
        let registry = Registry::new();
        let metrics = QueueMetrics::new(&registry);
        let process = Process { registry, metrics, health: Health::default(), shutdown };
        let store = context.store()?;
        // A pool for each role, as it has one of its own elsewhere; what `dev` itself asks shares the API's.
        let (worker_database, scheduler_database, database) =
            (context.database()?, context.database()?, context.database()?);
        probe::watch(store.clone(), database.clone(), &process.health, &process.shutdown);

        let worker = windrow_worker::Deps {
            store: store.clone(),
            handlers: kinds::handlers(settings, &worker_database, &process.registry)?,
            database: worker_database,
            metrics: process.metrics.clone(),
            health: process.health.clone(),
        };
        let scheduler = windrow_scheduler::Deps {
            store: store.clone(),
            database: scheduler_database,
            direct: context.direct_database()?,
            catalog: kinds::catalog().with_vault(store.vault().clone()),
            schedules: Some(schedules),
            registry: process.registry.clone(),
            queue_metrics: process.metrics.clone(),
            health: process.health.clone(),
        };
        let api = windrow_api::Deps {
            store: store.clone(),
            database: database.clone(),
            catalog: kinds::catalog().with_vault(store.vault().clone()),
            metrics: process.metrics.clone(),
            registry: process.registry.clone(),
            health: process.health.clone(),
        };
        let key = NewKey::generate(&mut rand::rng());
        let mut api_config = settings.api.clone();
        api_config.open = false;
        api_config.keys.push(ApiKey { name: "windrow dev".into(), sha256: key.sha256, tenant: None });
        let listener = Listener::bind(api_config.listen, "--listen").await?;
        let address = listener.address();

        let mut roles = JoinSet::new();
        let (worker_config, stop) = (settings.worker.clone(), process.shutdown.clone());
        roles.spawn(async move { ("worker", windrow_worker::run(worker_config, worker, stop).await) });
        let (scheduler_config, stop) = (settings.scheduler.services(), process.shutdown.clone());
        roles.spawn(async move { ("scheduler", windrow_scheduler::run(scheduler_config, scheduler, stop).await) });
        let stop = process.shutdown.clone();
        roles.spawn(async move { ("API", windrow_api::serve(listener, &api_config, api, stop).await) });
        Ok(Self { process, store, database, api: address, key: key.secret, roles })
    }

    /// Waits for a role that ends although nobody asked it to; without an end otherwise.
    pub(super) async fn failure(&mut self) -> anyhow::Error {
        loop {
            let Some(ended) = self.roles.join_next().await else { return std::future::pending().await };
            match ended {
                Err(error) => return anyhow::Error::new(error).context("a role crashed"),
                Ok((role, Err(error))) => return error.context(format!("the {role} ended")),
                Ok((role, Ok(()))) if !self.process.shutdown.soft.is_cancelled() => {
                    return anyhow::anyhow!("the {role} ended by itself");
                }
                Ok(_) => {}
            }
        }
    }

    /// Asks all roles to end, and waits until they have.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.process.shutdown.stop();
        while let Some(ended) = self.roles.join_next().await {
            let (role, ended) = ended.context("a role crashed while it was stopped")?;
            ended.with_context(|| format!("the {role} failed while it was stopped"))?;
        }
        Ok(())
    }
}
