//! Making a schedule's job by hand, apart from its fire times.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::{Catalog, Fire, JobId, Tenant, journal};

use crate::{AdminError, definition::Tenants, view::find};

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, FromRow)]
pub struct Triggered {
    /// The trigger's own id.
    pub id: Uuid,
    /// When it was asked for. The job is told this as its due time.
    pub triggered_at: DateTime<Utc>,
    /// Its job; of one for each tenant, schedulers make the jobs, batch by batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<Uuid>,
    /// Jobs made so far.
    pub jobs: i32,
    /// Whether there are tenants left that have no job yet.
    pub fanning: bool,
    /// Whether this request made it; false for the same request again.
    #[sqlx(default)]
    pub created: bool,
}

/// Makes a schedule's job now, whatever its state. It counts among the schedule's standing jobs like any other. For every active
/// tenant, if the schedule does: then the request is recorded, and schedulers work it off in bounded batches.
///
/// The same `request_key` again is answered with the first trigger.
///
/// # Errors
/// When there is no such schedule, its job cannot be made, or Postgres is away.
pub async fn trigger(
    database: &PgPool,
    catalog: &Catalog,
    name: &str,
    tenant: Option<&Tenant>,
    caller: &str,
    request_key: Option<&str>,
) -> Result<Triggered, AdminError> {
    let row = find(database, name, tenant).await?;
    let definition = row.definition(catalog)?;
    let is_each = definition.tenants == Tenants::Each;
    let mut tx = database.begin().await?;
    let triggered_at: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *tx).await?;
    // Made in any case: what cannot be made is refused now, to whoever asks, and not in a scheduler's log.
    let fire = Fire { schedule_id: row.id, fire_at: triggered_at, missed: 0 };
    let job = definition.job(catalog, definition.tenant(), fire)?;
    let mut made: Option<Triggered> = sqlx::query_as(
        "INSERT INTO schedule_trigger (id, schedule_id, caller, request_key, job_id, jobs, fan_after, triggered_at)
         VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, CASE WHEN $6 THEN '' END, $7)
         ON CONFLICT (schedule_id, request_key) DO NOTHING
         RETURNING id, triggered_at, job_id, jobs, fan_after IS NOT NULL AS fanning, true AS created",
    )
    .bind(row.id)
    .bind(caller)
    .bind(request_key)
    .bind((!is_each).then_some(job.id.0))
    .bind(i32::from(!is_each))
    .bind(is_each)
    .bind(triggered_at)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(triggered) = made.take() else {
        // Read apart from the statement above, which does not see what another transaction has committed since it began.
        return Ok(sqlx::query_as(
            "SELECT id, triggered_at, job_id, jobs, fan_after IS NOT NULL AS fanning, false AS created
             FROM schedule_trigger WHERE schedule_id = $1 AND request_key = $2",
        )
        .bind(row.id)
        .bind(request_key)
        .fetch_one(&mut *tx)
        .await?);
    };
    if !is_each {
        journal::enqueue_in(&mut tx, std::slice::from_ref(&job)).await?;
    }
    tx.commit().await?;
    Ok(triggered)
}

impl Triggered {
    /// Its job, of a schedule for one tenant or none.
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        self.job_id.map(JobId)
    }
}
