//! `overlap = "queue_one"`: the fire time that waited gets its job when nothing stands any more.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use windrow_queue::journal;

use super::{Cron, fire};
use windrow_schedule::{Due, Row, Tenants, columns};

/// Schedules in one transaction.
const BATCH: i64 = 100;

pub(super) async fn fire_queued(cron: &Cron, counts: &mut fire::Counts) -> anyhow::Result<()> {
    let waiting: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM schedule WHERE queued_fire_at IS NOT NULL)")
        .fetch_one(&cron.database)
        .await?;
    if !waiting {
        return Ok(());
    }
    let mut tx = cron.database.begin().await?;
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM schedule WHERE queued_fire_at IS NOT NULL AND enabled AND NOT paused AND fan_fire_at IS NULL
          AND NOT EXISTS (SELECT FROM job_journal j WHERE j.schedule_id = schedule.id)
          ORDER BY queued_fire_at LIMIT $1 FOR UPDATE SKIP LOCKED"
    ))
    .bind(BATCH)
    .fetch_all(&mut *tx)
    .await?;
    for row in &rows {
        let Some(fire_at) = row.queued_fire_at else { continue };
        // One that cannot fire is found and marked when it is next due.
        let Ok(definition) = row.definition(&cron.catalog) else { continue };
        let due = Due { fire_at, missed: row.missed_count };
        if definition.tenants == Tenants::Each {
            sqlx::query(
                "UPDATE schedule SET queued_fire_at = NULL, missed_count = 0, fan_fire_at = $2, fan_after = '',
                     fan_missed = $3 WHERE id = $1",
            )
            .bind(row.id)
            .bind(fire_at)
            .bind(due.missed)
            .execute(&mut *tx)
            .await?;
            record(&mut tx, row.id, fire_at, "fanning", None).await?;
        } else {
            let job = definition.job(&cron.catalog, definition.tenant(), fire::fire(row.id, due))?;
            journal::enqueue_in(&mut tx, std::slice::from_ref(&job)).await?;
            sqlx::query("UPDATE schedule SET queued_fire_at = NULL, missed_count = 0 WHERE id = $1")
                .bind(row.id)
                .execute(&mut *tx)
                .await?;
            record(&mut tx, row.id, fire_at, "fired", Some(job.id.0)).await?;
            counts.jobs += 1;
        }
        counts.fired += 1;
    }
    tx.commit().await?;
    Ok(())
}

async fn record(
    tx: &mut sqlx::PgConnection,
    id: Uuid,
    fire_at: DateTime<Utc>,
    outcome: &str,
    job: Option<Uuid>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE schedule_fire SET outcome = $3, job_id = $4, jobs = $5
         WHERE schedule_id = $1 AND fire_at = $2 AND outcome = 'queued'",
    )
    .bind(id)
    .bind(fire_at)
    .bind(outcome)
    .bind(job)
    .bind(i32::from(job.is_some()))
    .execute(tx)
    .await?;
    Ok(())
}
