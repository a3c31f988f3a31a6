//! From `schedules.toml` into the table, at start.
//!
//! Rows of origin `config` follow the file: added, changed, removed. Rows that were made over the API are not touched. A row
//! whose definition did not change keeps its state, whether or not somebody paused it. One transaction; several processes
//! that start together wait for each other on the row of `schedule_config`.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use windrow_queue::{Catalog, Tenant};

use super::{
    Schedules,
    definition::{Definition, Tenants, jitter_share},
    row::{Row, Written, columns},
};

/// What the reconciliation changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reconciled {
    /// Schedules that are new.
    pub added: usize,
    /// Schedules with another definition than before.
    pub changed: usize,
    /// Schedules that are no longer in the file.
    pub removed: usize,
    /// The file was older than what is in force, and nothing was done.
    pub outdated: bool,
}

/// Brings the table in line with the file.
///
/// # Errors
/// When Postgres is away or refuses; nothing is changed then.
pub async fn reconcile(database: &PgPool, schedules: &Schedules, catalog: &Catalog) -> Result<Reconciled, sqlx::Error> {
    let mut done = Reconciled::default();
    let mut tx = database.begin().await?;
    let in_force: i64 =
        sqlx::query_scalar("SELECT generation FROM schedule_config FOR UPDATE").fetch_one(&mut *tx).await?;
    if schedules.generation < in_force {
        tracing::warn!(
            file = schedules.generation,
            in_force,
            "schedules.toml is older than what is in force: the schedules are left as they are; \
             raise `generation` to put this file in force"
        );
        done.outdated = true;
        return Ok(done);
    }
    sqlx::query("UPDATE schedule_config SET generation = $1 WHERE generation <> $1")
        .bind(schedules.generation)
        .execute(&mut *tx)
        .await?;
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *tx).await?;
    let mut gone: Vec<Row> =
        sqlx::query_as(concat!("SELECT ", columns!(), " FROM schedule WHERE origin = 'config' ORDER BY id FOR UPDATE"))
            .fetch_all(&mut *tx)
            .await?;
    for definition in &schedules.list {
        let id = definition.config_id();
        let stands = gone.iter().position(|row| row.id == id).map(|index| gone.swap_remove(index));
        let name = &definition.name;
        match stands {
            Some(row) if row.definition(catalog).is_ok_and(|old| old == *definition) => {}
            Some(row) => {
                // From the later of now and the last fire: an edit makes no fire time come twice, and none in the past.
                write(&mut tx, id, definition, row.handled_until.max(now)).await?;
                tracing::info!(schedule = %name, kind = %definition.kind, "schedule changed");
                done.changed += 1;
            }
            None => {
                if write(&mut tx, id, definition, now).await? {
                    tracing::info!(schedule = %name, kind = %definition.kind, "schedule added");
                    done.added += 1;
                } else {
                    tracing::error!(
                        schedule = %name,
                        "a schedule of this name was made over the API and stays in force; rename one of the two"
                    );
                }
            }
        }
    }
    for row in &gone {
        sqlx::query("DELETE FROM schedule WHERE id = $1").bind(row.id).execute(&mut *tx).await?;
        tracing::info!(schedule = %row.name, kind = %row.kind, "schedule removed");
        done.removed += 1;
    }
    tx.commit().await?;
    Ok(done)
}

/// Inserts the definition or replaces the one of the same id. False: another row has its name.
async fn write(
    tx: &mut PgConnection,
    id: Uuid,
    definition: &Definition,
    from: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let written = Written::of(definition);
    let timing = &definition.timing;
    let next = timing.next_after(from);
    let share = TimeDelta::from_std(jitter_share(id, definition.jitter)).unwrap_or(TimeDelta::zero());
    let rows = sqlx::query(
        "INSERT INTO schedule AS s (id, name, origin, kind, args, cron, every_s, time_zone, jitter_ms, overlap, missed,
             catch_up, starts_at, ends_at, tenant, each_tenant, enabled, handled_until, next_fire_at, due_at)
         SELECT $1, $2, 'config', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19
         WHERE NOT EXISTS (
             SELECT FROM schedule other WHERE other.name = $2 AND other.tenant IS NOT DISTINCT FROM $14 AND other.id <> $1)
         ON CONFLICT (id) DO UPDATE SET version = s.version + 1, kind = excluded.kind, args = excluded.args,
             cron = excluded.cron, every_s = excluded.every_s, time_zone = excluded.time_zone,
             jitter_ms = excluded.jitter_ms, overlap = excluded.overlap, missed = excluded.missed,
             catch_up = excluded.catch_up, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
             each_tenant = excluded.each_tenant, enabled = excluded.enabled, handled_until = excluded.handled_until,
             next_fire_at = excluded.next_fire_at, due_at = excluded.due_at, missed_count = 0, error = NULL,
             updated_at = now()",
    )
    .bind(id)
    .bind(&definition.name)
    .bind(definition.kind.as_str())
    .bind(&definition.args)
    .bind(written.cron)
    .bind(written.every_s)
    .bind(written.time_zone)
    .bind(written.jitter_ms)
    .bind(written.overlap)
    .bind(written.missed)
    .bind(written.catch_up)
    .bind(timing.start)
    .bind(timing.end)
    .bind(definition.tenant().map(Tenant::as_str))
    .bind(definition.tenants == Tenants::Each)
    .bind(definition.enabled)
    .bind(from)
    .bind(next)
    .bind(next.map(|next| next + share))
    .execute(tx)
    .await?;
    Ok(rows.rows_affected() > 0)
}
