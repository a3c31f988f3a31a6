//! `each_tenant`: one job for every active tenant, in batches. The schedule row holds the last tenant that has its job, so a
//! crash between batches neither leaves one out nor does one twice.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use windrow_queue::{NewJob, Tenant, journal};

use super::{Cron, fire};
use crate::schedule::{Due, Row, columns};

/// Tenants in one transaction.
const BATCH: usize = 500;

#[derive(FromRow)]
struct Fanning {
    #[sqlx(flatten)]
    row: Row,
    fan_fire_at: DateTime<Utc>,
    fan_after: String,
    fan_missed: i32,
}

pub(super) async fn fan_out(cron: &Cron, counts: &mut fire::Counts) -> anyhow::Result<()> {
    let waiting: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM schedule WHERE fan_fire_at IS NOT NULL)")
        .fetch_one(&cron.database)
        .await?;
    if !waiting {
        return Ok(());
    }
    let mut tx = cron.database.begin().await?;
    let standing: Vec<Fanning> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", fan_fire_at, coalesce(fan_after, '') AS fan_after, fan_missed FROM schedule
         WHERE fan_fire_at IS NOT NULL ORDER BY fan_fire_at LIMIT 10 FOR UPDATE SKIP LOCKED"
    ))
    .fetch_all(&mut *tx)
    .await?;
    // One whose kind this version does not know waits for a scheduler that knows it, and does not hold up the others.
    let known = standing.into_iter().find_map(|fanning| match fanning.row.definition(&cron.catalog) {
        Ok(definition) => Some((fanning, definition)),
        Err(error) => {
            tracing::warn!(%error, "cannot be fanned out by this version");
            None
        }
    });
    let Some((Fanning { row, fan_fire_at, fan_after, fan_missed }, definition)) = known else { return Ok(()) };
    let tenants: Vec<String> =
        sqlx::query_scalar("SELECT id FROM tenant WHERE active AND id > $1 ORDER BY id LIMIT $2")
            .bind(&fan_after)
            .bind(i64::try_from(BATCH)?)
            .fetch_all(&mut *tx)
            .await?;
    let due = Due { fire_at: fan_fire_at, missed: fan_missed };
    let jobs = tenants
        .iter()
        .map(|tenant| fire::job(row.id, &definition, Some(&Tenant::new(tenant.as_str())?), due, &cron.catalog))
        .collect::<anyhow::Result<Vec<NewJob>>>()?;
    journal::enqueue_in(&mut tx, &jobs).await?;
    let through = tenants.len() < BATCH;
    sqlx::query(
        "UPDATE schedule_fire SET jobs = jobs + $3, outcome = CASE WHEN $4 THEN 'fired' ELSE outcome END
         WHERE schedule_id = $1 AND fire_at = $2",
    )
    .bind(row.id)
    .bind(fan_fire_at)
    .bind(i32::try_from(jobs.len())?)
    .bind(through)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE schedule SET fan_after = $2, fan_fire_at = CASE WHEN $3 THEN NULL ELSE fan_fire_at END WHERE id = $1",
    )
    .bind(row.id)
    .bind(tenants.last().unwrap_or(&fan_after))
    .bind(through)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    counts.jobs += u64::try_from(jobs.len())?;
    if through {
        tracing::info!(schedule = %row.name, "fanned out over all active tenants");
    }
    Ok(())
}
