//! From `schedules.toml` into the table, at start.
//!
//! Rows of origin `config` follow the file: added, changed, removed. Rows that were made over the API are not touched. A row
//! whose definition did not change keeps its state, whether or not somebody paused it. One transaction; several processes
//! that start together wait for each other on the row of `schedule_config`.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use windrow_queue::Catalog;

use super::{
    Schedules, columns,
    row::{Row, put},
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
                put(&mut tx, id, "config", definition, row.handled_until.max(now)).await?;
                tracing::info!(schedule = %name, kind = %definition.kind, "schedule changed");
                done.changed += 1;
            }
            None => {
                if put(&mut tx, id, "config", definition, now).await? {
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
