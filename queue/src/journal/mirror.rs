//! Copies a retry or snooze that Redis has already taken into the journal, so that a wiped Redis does not run every delayed
//! retry at once with fresh attempts.

use std::time::Duration;

use sqlx::{PgPool, types::Json};

use crate::{id::Member, store::AttemptError};

/// Delays shorter than this are not worth a write.
pub const MIRROR_FROM: Duration = Duration::from_secs(5);

/// Records attempt, next run and the attempt's error of a job that will run again after `delay`. Only while the row is
/// live; a row that is gone needs no mirror. A mirror that comes late, after that of a later attempt, changes nothing.
///
/// # Errors
/// When Postgres is away. The retry stands in Redis all the same: log it and go on.
pub async fn mirror(
    pool: &PgPool,
    member: Member,
    attempt: Option<u32>,
    delay: Duration,
    error: Option<&AttemptError>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE job_journal SET attempt = coalesce($3, attempt), run_at = clock_timestamp() + make_interval(secs => $4),
                errors = CASE WHEN $5::jsonb IS NULL THEN errors
                    ELSE jsonb_path_query_array(coalesce(errors, '[]') || $5, '$[last - 9 to last]') END
         WHERE id = $1 AND gen = $2 AND state = 'live' AND attempt <= coalesce($3, attempt)",
    )
    .bind(member.id.0)
    .bind(member.generation)
    .bind(attempt.map(|attempt| i32::try_from(attempt).unwrap_or(i32::MAX)))
    .bind(delay.as_secs_f64())
    .bind(error.map(Json))
    .execute(pool)
    .await?;
    Ok(())
}
