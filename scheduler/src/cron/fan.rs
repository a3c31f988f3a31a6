//! `each_tenant`: one job for every active tenant, in batches, at a fire time or because somebody asked for it. A row holds the
//! last tenant that has its job, so a crash between batches neither leaves one out nor does one twice.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;
use windrow_queue::{Fire, NewJob, Tenant, journal};
use windrow_schedule::{Definition, Due, Row, columns};

use super::{Cron, fire};

/// Tenants in one transaction.
const BATCH: usize = 500;

/// Fan-outs that are looked at for one that this version knows how to do.
const LOOK: i64 = 10;

/// One batch of a fire time's, and one of a trigger's.
pub(super) async fn fan_out(cron: &Cron, counts: &mut fire::Counts) -> anyhow::Result<()> {
    let (fires, triggers): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM schedule WHERE fan_fire_at IS NOT NULL),
                EXISTS (SELECT FROM schedule_trigger WHERE fan_after IS NOT NULL)",
    )
    .fetch_one(&cron.database)
    .await?;
    if fires {
        fan_fire(cron, counts).await?;
    }
    if triggers {
        fan_trigger(cron, counts).await?;
    }
    Ok(())
}

#[derive(FromRow)]
struct Fanning {
    #[sqlx(flatten)]
    row: Row,
    fan_fire_at: DateTime<Utc>,
    fan_after: String,
    fan_missed: i32,
}

async fn fan_fire(cron: &Cron, counts: &mut fire::Counts) -> anyhow::Result<()> {
    let mut tx = cron.database.begin().await?;
    let standing: Vec<Fanning> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", fan_fire_at, coalesce(fan_after, '') AS fan_after, fan_missed FROM schedule
         WHERE fan_fire_at IS NOT NULL ORDER BY fan_fire_at LIMIT $1 FOR UPDATE SKIP LOCKED"
    ))
    .bind(LOOK)
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
    let due = Due { fire_at: fan_fire_at, missed: fan_missed };
    let part = part(&mut tx, cron, &definition, fire::fire(row.id, due), fan_after).await?;
    sqlx::query(
        "UPDATE schedule_fire SET jobs = jobs + $3, outcome = CASE WHEN $4 THEN 'fired' ELSE outcome END
         WHERE schedule_id = $1 AND fire_at = $2",
    )
    .bind(row.id)
    .bind(fan_fire_at)
    .bind(part.jobs)
    .bind(part.is_last)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE schedule SET fan_after = $2, fan_fire_at = CASE WHEN $3 THEN NULL ELSE fan_fire_at END WHERE id = $1",
    )
    .bind(row.id)
    .bind(&part.after)
    .bind(part.is_last)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    part.count(&row.name, counts);
    Ok(())
}

#[derive(FromRow)]
struct Trigger {
    id: Uuid,
    schedule_id: Uuid,
    triggered_at: DateTime<Utc>,
    fan_after: String,
}

async fn fan_trigger(cron: &Cron, counts: &mut fire::Counts) -> anyhow::Result<()> {
    let mut tx = cron.database.begin().await?;
    let standing: Vec<Trigger> = sqlx::query_as(
        "SELECT id, schedule_id, triggered_at, fan_after FROM schedule_trigger
         WHERE fan_after IS NOT NULL ORDER BY triggered_at LIMIT $1 FOR UPDATE SKIP LOCKED",
    )
    .bind(LOOK)
    .fetch_all(&mut *tx)
    .await?;
    for Trigger { id, schedule_id, triggered_at, fan_after } in standing {
        // Without a lock: what somebody changes meanwhile counts from the next batch on.
        let row: Option<Row> = sqlx::query_as(concat!("SELECT ", columns!(), " FROM schedule WHERE id = $1"))
            .bind(schedule_id)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else {
            tracing::warn!(trigger = %id, "its schedule was removed: tenants that have no job yet get none");
            sqlx::query("UPDATE schedule_trigger SET fan_after = NULL WHERE id = $1")
                .bind(id)
                .execute(&mut *tx)
                .await?;
            continue;
        };
        let definition = match row.definition(&cron.catalog) {
            Ok(definition) => definition,
            Err(error) => {
                tracing::warn!(%error, "cannot be fanned out by this version");
                continue;
            }
        };
        let fire = Fire { schedule_id, fire_at: triggered_at, missed: 0 };
        let part = part(&mut tx, cron, &definition, fire, fan_after).await?;
        sqlx::query(
            "UPDATE schedule_trigger SET jobs = jobs + $2, fan_after = CASE WHEN $4 THEN NULL ELSE $3 END WHERE id = $1",
        )
        .bind(id)
        .bind(part.jobs)
        .bind(&part.after)
        .bind(part.is_last)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        part.count(&row.name, counts);
        return Ok(());
    }
    tx.commit().await?;
    Ok(())
}

/// What one batch came to.
struct Part {
    /// The last tenant that has its job now.
    after: String,
    jobs: i32,
    is_last: bool,
}

/// Jobs for the next tenants after this one, in the caller's transaction.
async fn part(
    tx: &mut PgConnection,
    cron: &Cron,
    definition: &Definition,
    fire: Fire,
    after: String,
) -> anyhow::Result<Part> {
    let tenants: Vec<String> =
        sqlx::query_scalar("SELECT id FROM tenant WHERE active AND id > $1 ORDER BY id LIMIT $2")
            .bind(&after)
            .bind(i64::try_from(BATCH)?)
            .fetch_all(&mut *tx)
            .await?;
    let jobs = tenants
        .iter()
        .map(|tenant| Ok(definition.job(&cron.catalog, Some(&Tenant::new(tenant.as_str())?), fire)?))
        .collect::<anyhow::Result<Vec<NewJob>>>()?;
    journal::enqueue_in(tx, &jobs).await?;
    let is_last = tenants.len() < BATCH;
    Ok(Part { after: tenants.into_iter().next_back().unwrap_or(after), jobs: i32::try_from(jobs.len())?, is_last })
}

impl Part {
    fn count(&self, schedule: &str, counts: &mut fire::Counts) {
        counts.jobs += u64::from(self.jobs.unsigned_abs());
        if self.is_last {
            tracing::info!(schedule, "fanned out over all active tenants");
        }
    }
}
