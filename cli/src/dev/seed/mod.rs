//! What the demonstration works on: two made-up tenants with what they look for, where they look, and what they pay.
//!
//! Put in place once; where it is there already, from an earlier run on kept data, it stays.

mod bookkeeping;
mod profile;
mod source;

use anyhow::Context;
use sqlx::PgPool;
use uuid::Uuid;
use windrow_jobs::import::create_project;
use windrow_queue::Tenant;

pub(super) use source::ExtraSource;

use super::sample::SampleServer;

/// Recruits in Berlin; keeps its books in euros.
const HARBOUR: Tenant = Tenant::from_static("demo-harbour");
/// Recruits in New York; keeps its books in dollars.
const LANTERN: Tenant = Tenant::from_static("demo-lantern");

/// The demonstration's tenants. Nobody else's data are counted, or changed.
pub(super) const TENANTS: [&str; 2] = ["demo-harbour", "demo-lantern"];

/// Whose the imported phone numbers are.
pub(super) const IMPORTER: Tenant = HARBOUR;

const PROJECT: &str = "Autumn campaign";

/// Puts everything in place, and gives the project into which the sample file is imported.
pub(super) async fn put(database: &PgPool, samples: &SampleServer, extra: &[ExtraSource]) -> anyhow::Result<Uuid> {
    tenants(database).await.context("the demonstration's tenants")?;
    profile::put(database, samples).await.context("what the demonstration's tenants look for")?;
    source::put(database, samples, extra).await.context("the demonstration's sources")?;
    bookkeeping::put(database).await.context("the demonstration's accounts and payments")?;
    let project = create_project(&mut *database.acquire().await?, &IMPORTER, PROJECT).await;
    Ok(project.context("the demonstration's project")?.id)
}

async fn tenants(database: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO tenant (id, name, time_zone)
         VALUES ($1, 'Harbour Lane Recruiting', 'Europe/Berlin'), ($2, 'Lantern Hill Careers', 'America/New_York')
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(HARBOUR.as_str())
    .bind(LANTERN.as_str())
    .execute(database)
    .await?;
    Ok(())
}
