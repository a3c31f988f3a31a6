//! Notices when Postgres answers again, so that journaled jobs are claimed again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::PgPool;
use tokio::time::sleep;
use windrow_queue::health::HealthPart;

use crate::patience::patiently;

/// How often Postgres is asked.
const PERIOD: Duration = Duration::from_secs(1);

/// Asks Postgres once in a while, says so in readiness, and sets the flag that hubs read. Never ends.
pub(crate) async fn run(database: PgPool, journal_ok: Arc<AtomicBool>, health: HealthPart) {
    loop {
        match patiently(sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&database)).await {
            Ok(_) => {
                health.ok();
                if !journal_ok.swap(true, Ordering::AcqRel) {
                    tracing::info!("Postgres answers: journaled jobs are claimed");
                }
            }
            Err(error) => {
                health.failing(format!("Postgres does not answer: {error}"));
                journal_ok.store(false, Ordering::Release);
            }
        }
        sleep(PERIOD).await;
    }
}
