//! Asks Redis and Postgres every two seconds whether they are there, for `/readyz`.

use std::{future::Future, time::Duration};

use sqlx::{PgPool, error::DatabaseError};
use tokio::time::{MissedTickBehavior, interval, timeout};
use windrow_queue::{
    database::MIGRATOR,
    health::{Health, HealthPart},
    shutdown::Shutdown,
    store::Store,
};

const PERIOD: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(2);
/// What Postgres says when a table is not there.
pub(crate) const UNDEFINED_TABLE: &str = "42P01";

/// Watches both until the shutdown.
pub(crate) fn watch(store: Store, database: PgPool, health: &Health, shutdown: &Shutdown) {
    let redis = health.part("redis");
    tokio::spawn(repeat(redis, shutdown.clone(), move || {
        let store = store.clone();
        async move { store.ping().await.map_err(|error| format!("does not answer: {error}")) }
    }));
    let postgres = health.part("postgres");
    tokio::spawn(repeat(postgres, shutdown.clone(), move || {
        let database = database.clone();
        async move { schema(&database).await }
    }));
}

/// Whether Postgres answers and has the schema that this program was written for. A newer one will do: it is expanded first.
async fn schema(database: &PgPool) -> Result<(), String> {
    const MISSING: &str = "migrations are missing: run `windrow migrate`";
    let newest = MIGRATOR.iter().map(|migration| migration.version).max();
    let applied = sqlx::query_scalar("SELECT EXISTS (SELECT FROM _sqlx_migrations WHERE version >= $1 AND success)");
    match applied.bind(newest).fetch_one(database).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(MISSING.to_owned()),
        Err(error) => match error.as_database_error().and_then(DatabaseError::code).as_deref() {
            Some(UNDEFINED_TABLE) => Err(MISSING.to_owned()),
            // It answers. A user that may not read that table can still have rights on all others.
            Some("42501") => Ok(()),
            _ => Err(format!("does not answer: {error}")),
        },
    }
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
            Ok(Err(reason)) => part.failing(reason),
            Err(_) => part.failing(format!("has not answered for {PATIENCE:?}")),
        }
    }
}
