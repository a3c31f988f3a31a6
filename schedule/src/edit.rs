//! Schedules that are made, changed, removed, paused and resumed by hand. What `schedules.toml` declares is changed there.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::{PgConnection, PgPool};
use windrow_queue::{Catalog, Tenant};

use crate::{
    AdminError, Declared, Definition, InvalidSchedule, columns,
    definition::jitter_share,
    row::{Row, put},
    view::{SHOW, ScheduleView, ViewRow, unknown},
};

/// The origin of what is made here.
const ORIGIN: &str = "api";

/// Makes a schedule. True: it is new. False: it stood already, with the very same definition.
///
/// # Errors
/// When the definition is no good, the name is taken (by another definition, or by `schedules.toml`), or Postgres is away.
pub async fn add(database: &PgPool, catalog: &Catalog, declared: Declared) -> Result<(ScheduleView, bool), AdminError> {
    put_in_force(database, catalog, declared, false).await
}

/// The same, but in the place of a schedule of this name, if there is one. True: it is new, or not what it was before.
///
/// # Errors
/// When the definition is no good, the name is one of `schedules.toml`, or Postgres is away.
pub async fn replace(
    database: &PgPool,
    catalog: &Catalog,
    declared: Declared,
) -> Result<(ScheduleView, bool), AdminError> {
    put_in_force(database, catalog, declared, true).await
}

async fn put_in_force(
    database: &PgPool,
    catalog: &Catalog,
    declared: Declared,
    may_replace: bool,
) -> Result<(ScheduleView, bool), AdminError> {
    let definition = Definition::check(declared, catalog)?;
    let mut tx = database.begin().await?;
    // `schedules.toml` is not put in force meanwhile, and whoever makes one of this name at the same time is waited for.
    sqlx::query("SELECT FROM schedule_config FOR SHARE").execute(&mut *tx).await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('windrow schedule ' || $1, 0))")
        .bind(&definition.name)
        .execute(&mut *tx)
        .await?;
    let now = now(&mut tx).await?;
    let (id, from) = match locked(&mut tx, &definition.name, definition.tenant()).await {
        Err(AdminError::Unknown { .. }) => (definition.api_id(), now),
        Err(error) => return Err(error),
        Ok(row) if row.origin != ORIGIN => return Err(AdminError::Declared(row.name)),
        Ok(row) if row.definition(catalog).is_ok_and(|old| old == definition) => {
            return Ok((view(&mut tx, catalog, &definition).await?, false));
        }
        Ok(row) if may_replace => (row.id, row.handled_until.max(now)),
        Ok(row) => return Err(AdminError::Exists(row.name)),
    };
    if !put(&mut tx, id, ORIGIN, &definition, from).await? {
        // The file's has come since it was looked for.
        return Err(AdminError::Declared(definition.name));
    }
    let view = view(&mut tx, catalog, &definition).await?;
    tx.commit().await?;
    Ok((view, true))
}

/// Changes some keys of a definition: those of `keys`, where null stands for "as if it had been left out". `cron` and `every`
/// each take the other's place. It starts again from the later of now and its last fire time. A change that changes nothing
/// does nothing.
///
/// # Errors
/// When there is no such schedule, it is declared in `schedules.toml`, the outcome is no good, or Postgres is away.
pub async fn change(
    database: &PgPool,
    catalog: &Catalog,
    name: &str,
    tenant: Option<&Tenant>,
    keys: Map<String, Value>,
) -> Result<ScheduleView, AdminError> {
    let mut tx = database.begin().await?;
    let row = locked(&mut tx, name, tenant).await?;
    if row.origin != ORIGIN {
        return Err(AdminError::Declared(row.name));
    }
    let refuse = |key: &str, reason: String| {
        AdminError::Invalid(InvalidSchedule { schedule: row.name.clone(), key: key.to_owned().into(), reason })
    };
    if let Some(key) = ["name", "tenant", "each_tenant"].into_iter().find(|key| keys.contains_key(*key)) {
        return Err(refuse(key, "cannot be changed: remove the schedule, and make another".to_owned()));
    }
    let Ok(Value::Object(mut whole)) = serde_json::to_value(row.declared()?) else {
        return Err(refuse("name", "cannot be read by this version".to_owned()));
    };
    for (key, other) in [("cron", "every"), ("every", "cron")] {
        if keys.get(key).is_some_and(|value| !value.is_null()) && !keys.contains_key(other) {
            whole.remove(other);
        }
    }
    for (key, value) in keys {
        let alone = Value::Object([(key.clone(), value.clone())].into_iter().collect());
        if value.is_null() {
            whole.remove(&key);
        } else if let Err(error) = serde_json::from_value::<Declared>(alone) {
            return Err(refuse(&key, error.to_string()));
        } else {
            whole.insert(key, value);
        }
    }
    let declared: Declared =
        serde_json::from_value(Value::Object(whole)).map_err(|error| refuse("name", error.to_string()))?;
    let definition = Definition::check(declared, catalog)?;
    if row.definition(catalog).is_ok_and(|old| old == definition) {
        return view(&mut tx, catalog, &definition).await;
    }
    let from = row.handled_until.max(now(&mut tx).await?);
    put(&mut tx, row.id, ORIGIN, &definition, from).await?;
    let view = view(&mut tx, catalog, &definition).await?;
    tx.commit().await?;
    Ok(view)
}

/// Removes a schedule. Jobs that it made stay; the record of its fires, too, until it is pruned.
///
/// # Errors
/// When there is no such schedule, it is declared in `schedules.toml`, or Postgres is away.
pub async fn remove(database: &PgPool, name: &str, tenant: Option<&Tenant>) -> Result<(), AdminError> {
    let mut tx = database.begin().await?;
    let row = locked(&mut tx, name, tenant).await?;
    if row.origin != ORIGIN {
        return Err(AdminError::Declared(row.name));
    }
    sqlx::query("DELETE FROM schedule WHERE id = $1").bind(row.id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Pauses a schedule, or lets it go on; whatever its origin. What fell into the pause is not made up for. True: it was not so
/// before.
///
/// # Errors
/// When there is no such schedule, or Postgres is away.
pub async fn set_paused(
    database: &PgPool,
    catalog: &Catalog,
    name: &str,
    tenant: Option<&Tenant>,
    paused: bool,
) -> Result<bool, AdminError> {
    let mut tx = database.begin().await?;
    let row = locked(&mut tx, name, tenant).await?;
    if row.paused == paused {
        return Ok(false);
    }
    if paused {
        sqlx::query("UPDATE schedule SET paused = true, updated_at = now() WHERE id = $1")
            .bind(row.id)
            .execute(&mut *tx)
            .await?;
    } else {
        let definition = row.definition(catalog)?;
        let from = row.handled_until.max(now(&mut tx).await?);
        sqlx::query(
            "UPDATE schedule SET paused = false, handled_until = $2, next_fire_at = $3,
                 due_at = $3::timestamptz + make_interval(secs => $4), updated_at = now() WHERE id = $1",
        )
        .bind(row.id)
        .bind(from)
        .bind(definition.timing.next_after(from))
        .bind(jitter_share(row.id, definition.jitter).as_secs_f64())
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(true)
}

async fn now(tx: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(tx).await
}

/// The row of this name and tenant, held until the transaction ends. A scheduler that fires it is waited for.
async fn locked(tx: &mut PgConnection, name: &str, tenant: Option<&Tenant>) -> Result<Row, AdminError> {
    let row: Option<Row> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM schedule WHERE name = $1 AND tenant IS NOT DISTINCT FROM $2 FOR UPDATE"
    ))
    .bind(name)
    .bind(tenant.map(Tenant::as_str))
    .fetch_optional(tx)
    .await?;
    row.ok_or_else(|| unknown(name, tenant))
}

async fn view(tx: &mut PgConnection, catalog: &Catalog, definition: &Definition) -> Result<ScheduleView, AdminError> {
    let row: ViewRow =
        sqlx::query_as(SHOW).bind(&definition.name).bind(definition.tenant().map(Tenant::as_str)).fetch_one(tx).await?;
    Ok(row.view(catalog))
}
