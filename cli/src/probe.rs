//! Asks Redis and Postgres every two seconds whether they are there, for `/readyz`.

use std::{future::Future, time::Duration};

use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval, timeout};
use windrow_queue::{
    health::{Health, HealthPart},
    shutdown::Shutdown,
    store::Store,
};

const PERIOD: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(2);

/// Watches both until the shutdown.
pub(crate) fn watch(store: Store, database: PgPool, health: &Health, shutdown: &Shutdown) {
    let redis = health.part("redis");
    tokio::spawn(repeat(redis, shutdown.clone(), move || {
        let store = store.clone();
        async move { store.ping().await.map_err(|error| error.to_string()) }
    }));
    let postgres = health.part("postgres");
    tokio::spawn(repeat(postgres, shutdown.clone(), move || {
        let database = database.clone();
        async move { sqlx::query("SELECT 1").execute(&database).await.map(drop).map_err(|error| error.to_string()) }
    }));
}

async fn repeat<F>(part: HealthPart, shutdown: Shutdown, ask: impl Fn() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.soft.run_until_cancelled(ticks.tick()).await.is_some() {
        match timeout(PATIENCE, ask()).await {
            Ok(Ok(())) => part.ok(),
            Ok(Err(reason)) => part.failing(format!("does not answer: {reason}")),
            Err(_) => part.failing(format!("has not answered for {PATIENCE:?}")),
        }
    }
}
