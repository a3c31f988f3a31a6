//! Vacancies, as they are listed.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::Tenant;

/// Where a vacancy is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum VacancyStatus {
    /// Stored, not yet on its way to a score.
    New,
    /// A scoring job was made for it.
    Queued,
    /// It has a score.
    Scored,
}

/// A vacancy, without its description.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Vacancy {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// The source that brought it, unless that was deleted.
    pub source_id: Option<Uuid>,
    /// Where it is to be seen; unique for the tenant.
    pub url: String,
    /// Its title.
    pub title: String,
    /// Who hires.
    pub company: Option<String>,
    /// Where.
    pub location: Option<String>,
    /// The lowest salary.
    pub salary_min: Option<Decimal>,
    /// The highest salary.
    pub salary_max: Option<Decimal>,
    /// Tags or categories.
    pub tags: Vec<String>,
    /// When it was published.
    pub published_at: Option<DateTime<Utc>>,
    /// Where it is on its way.
    pub status: VacancyStatus,
    /// 1 to 10.
    pub score: Option<i16>,
    /// Why this score.
    pub reason: Option<String>,
    /// When it was first fetched.
    pub first_seen_at: DateTime<Utc>,
    /// When its content last changed.
    pub updated_at: DateTime<Utc>,
}

/// Which vacancies are wanted; all by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VacancyFilter {
    /// Only these.
    pub status: Option<VacancyStatus>,
    /// Only those with at least this score.
    pub min_score: Option<i16>,
    /// Only this source's.
    pub source_id: Option<Uuid>,
}

/// Where a page of vacancies ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VacancyCursor {
    /// `first_seen_at` of its last one.
    pub first_seen_at: DateTime<Utc>,
    /// `id` of its last one.
    pub id: Uuid,
}

impl Vacancy {
    /// The cursor behind this one.
    #[must_use]
    pub const fn cursor(&self) -> VacancyCursor {
        VacancyCursor { first_seen_at: self.first_seen_at, id: self.id }
    }
}

/// A page of a tenant's vacancies, newest first. The next page begins behind the last one's [`Vacancy::cursor`].
///
/// # Errors
/// When Postgres is away.
pub async fn list_vacancies(
    pool: &PgPool,
    tenant: &Tenant,
    filter: VacancyFilter,
    after: Option<VacancyCursor>,
    limit: i64,
) -> Result<Vec<Vacancy>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, tenant, source_id, url, title, company, location, salary_min, salary_max, tags, published_at, status,
                score, reason, first_seen_at, updated_at
         FROM vacancy
         WHERE tenant = $1 AND ($2::text IS NULL OR status = $2) AND ($3::smallint IS NULL OR score >= $3)
           AND ($4::uuid IS NULL OR source_id = $4)
           AND ($5::timestamptz IS NULL OR (first_seen_at, id) < ($5, $6))
         ORDER BY first_seen_at DESC, id DESC LIMIT $7",
    )
    .bind(tenant.as_str())
    .bind(filter.status)
    .bind(filter.min_score)
    .bind(filter.source_id)
    .bind(after.map(|cursor| cursor.first_seen_at))
    .bind(after.map(|cursor| cursor.id))
    .bind(limit.clamp(1, 1000))
    .fetch_all(pool)
    .await
}
