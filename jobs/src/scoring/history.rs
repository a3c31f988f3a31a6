//! Every score that was given.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::Tenant;

/// One score.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct HistoryEntry {
    /// Of which vacancy.
    pub vacancy_id: Uuid,
    /// By which job; each leaves one entry.
    pub job_id: Uuid,
    /// 1 to 10.
    pub score: i16,
    /// Why.
    pub reason: String,
    /// `rules` or `webhook`.
    pub scorer: String,
    /// The profile's version; 0 when the tenant had none of its own.
    pub profile_version: i32,
    /// When.
    pub scored_at: DateTime<Utc>,
}

/// The scores of a tenant's vacancy, newest first, at most 100.
///
/// # Errors
/// When Postgres is away.
pub async fn list_history(pool: &PgPool, tenant: &Tenant, vacancy_id: Uuid) -> Result<Vec<HistoryEntry>, sqlx::Error> {
    sqlx::query_as(
        "SELECT vacancy_id, job_id, score, reason, scorer, profile_version, scored_at FROM scoring_history
         WHERE vacancy_id = $1 AND tenant = $2 ORDER BY scored_at DESC, id DESC LIMIT 100",
    )
    .bind(vacancy_id)
    .bind(tenant.as_str())
    .fetch_all(pool)
    .await
}
