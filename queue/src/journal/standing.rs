//! Rows of the journal by filter, a bounded look at a time.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool, Row};
use uuid::Uuid;

use crate::name::{Kind, QueueName, Tenant};

/// Rows that one look reads at most, whether they match or not.
const WINDOW: i64 = 5000;

/// Which jobs of the journal are meant: those that fit all that is given.
#[derive(Clone, Debug, Default)]
pub struct StandingFilter {
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only in this queue.
    pub queue: Option<QueueName>,
    /// Only those that are parked, or only those that are not.
    pub parked: Option<bool>,
    /// Accepted at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Accepted before this time.
    pub until: Option<DateTime<Utc>>,
}

/// Where a look ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StandingCursor(pub Uuid);

/// A job that still has to happen.
#[derive(Debug, FromRow)]
pub struct Standing {
    /// The job.
    pub id: Uuid,
    /// Its generation.
    #[sqlx(rename = "gen")]
    pub generation: i32,
    /// Whether it waits for a callback.
    pub parked: bool,
    /// Its kind.
    pub kind: String,
    /// Its queue.
    pub queue: String,
    /// Whom it is done for.
    pub tenant: Option<String>,
    /// Attempts that were mirrored.
    pub attempt: i32,
    /// When it became or becomes ready.
    pub run_at: DateTime<Utc>,
    /// Until when it waits for its callback.
    pub park_deadline: Option<DateTime<Utc>>,
    /// When it was accepted.
    pub enqueued_at: DateTime<Utc>,
}

/// What one look found.
#[derive(Debug)]
pub struct StandingPage {
    /// The jobs, in order of their ids, which is about that of their making.
    pub jobs: Vec<Standing>,
    /// Where to go on; `None` when all were looked at. A page may be empty and have a next.
    pub next: Option<StandingCursor>,
}

/// Looks at up to 5,000 rows and finds up to `limit` (at most 500) that the filter names.
///
/// # Errors
/// When Postgres is away.
pub async fn find_standing(
    pool: &PgPool,
    filter: &StandingFilter,
    after: Option<StandingCursor>,
    limit: usize,
) -> Result<StandingPage, sqlx::Error> {
    let limit = limit.clamp(1, 500);
    // Window and matches in one statement: rows that went in between would move the end of a window that was looked for later.
    let rows = sqlx::query(
        "WITH seen AS MATERIALIZED (
             SELECT id, gen, state = 'parked' AS parked, kind, queue, tenant, attempt, run_at, park_deadline, enqueued_at
             FROM job_journal WHERE id > $1 ORDER BY id LIMIT $2
         ), found AS (
             SELECT * FROM seen
             WHERE ($3::text IS NULL OR kind = $3) AND ($4::text IS NULL OR tenant = $4)
               AND ($5::text IS NULL OR queue = $5) AND ($6::bool IS NULL OR parked = $6)
               AND ($7::timestamptz IS NULL OR enqueued_at >= $7) AND ($8::timestamptz IS NULL OR enqueued_at < $8)
             ORDER BY id LIMIT $9
         )
         SELECT window_end.*, found.*
         FROM (SELECT count(*) AS looked_at, (SELECT id FROM seen ORDER BY id DESC LIMIT 1) AS last FROM seen) AS window_end
         LEFT JOIN found ON true ORDER BY found.id",
    )
    .bind(after.map_or(Uuid::nil(), |cursor| cursor.0))
    .bind(WINDOW)
    .bind(filter.kind.as_ref().map(Kind::as_str))
    .bind(filter.tenant.as_ref().map(Tenant::as_str))
    .bind(filter.queue.as_ref().map(QueueName::as_str))
    .bind(filter.parked)
    .bind(filter.since)
    .bind(filter.until)
    .bind(i64::try_from(limit).unwrap_or(500))
    .fetch_all(pool)
    .await?;
    let (looked_at, last): (i64, Option<Uuid>) = match rows.first() {
        Some(row) => (row.try_get("looked_at")?, row.try_get("last")?),
        None => (0, None),
    };
    let jobs: Vec<Standing> = rows
        .iter()
        .filter(|row| row.try_get::<Option<Uuid>, _>("id").is_ok_and(|id| id.is_some()))
        .map(Standing::from_row)
        .collect::<Result<_, _>>()?;
    let next = if jobs.len() == limit { jobs.last().map(|job| job.id) } else { last.filter(|_| looked_at == WINDOW) };
    Ok(StandingPage { jobs, next: next.map(StandingCursor) })
}
