//! The rows of `redis_watch`. Every change names what it was judged by: of two that race, one finds nothing to change.

use std::time::Duration;

use sqlx::{PgPool, Row};
use uuid::Uuid;
use windrow_queue::QueueName;

use super::judge::{Finding, Known};

/// How long nobody else takes over a pass that is not heard of.
const LEASE_S: f64 = 5.0;

/// A queue that was found and is to be healed.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) queue: QueueName,
    pub(crate) finding: Finding,
    /// The beat that PostgreSQL remembers.
    pub(crate) beat: i64,
}

/// The queues whose beat is to be raised now: nobody did lately, and nothing was found that is not healed. Rows that are
/// missing are made, and are there for the next look.
pub(crate) async fn due(pool: &PgPool, queues: &[&str]) -> Result<Vec<Known>, sqlx::Error> {
    // A clock that was set back must not silence the beat until it has caught up.
    sqlx::query_as(
        "WITH missing AS (
             INSERT INTO redis_watch (queue) SELECT queue FROM unnest($1::text[]) AS queue
             WHERE NOT EXISTS (SELECT FROM redis_watch w WHERE w.queue = queue.queue) ORDER BY queue
             ON CONFLICT DO NOTHING
         )
         SELECT queue, epoch, beat, run_id, coalesce(again_at <= now(), false) AS again FROM redis_watch
         WHERE queue = ANY ($1) AND found IS NULL AND (beat_at <= now() - interval '800 ms' OR beat_at > now())
         ORDER BY queue",
    )
    .bind(queues)
    .fetch_all(pool)
    .await
}

/// The timeline of this server, which a failover changes and a restore with recovery; `None` where it does not say.
pub(crate) async fn timeline(pool: &PgPool) -> Option<String> {
    let timeline = sqlx::query_scalar("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)").fetch_one(pool);
    timeline.await.inspect_err(|error| tracing::debug!(%error, "PostgreSQL does not name its timeline")).ok()
}

/// Raises the beats of queues that are well.
pub(crate) async fn raise(pool: &PgPool, well: &[&Known]) -> Result<(), sqlx::Error> {
    // Whoever holds one of the rows is raising it, or has found something.
    sqlx::query(
        "UPDATE redis_watch SET beat = beat + 1, beat_at = now() WHERE queue IN (
             SELECT w.queue FROM redis_watch w
             JOIN unnest($1::text[], $2::uuid[], $3::bigint[]) AS seen (queue, epoch, beat)
               ON w.queue = seen.queue AND w.epoch = seen.epoch AND w.beat = seen.beat
             WHERE w.found IS NULL ORDER BY w.queue FOR UPDATE OF w SKIP LOCKED)",
    )
    .bind(well.iter().map(|known| &*known.queue).collect::<Vec<_>>())
    .bind(well.iter().map(|known| known.epoch).collect::<Vec<_>>())
    .bind(well.iter().map(|known| known.beat).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}

/// Writes down what was found, if the row is still what was judged. False: somebody raised the beat meanwhile, so that Redis was
/// judged by an old row; or found the same.
pub(crate) async fn report(pool: &PgPool, known: &Known, finding: Finding) -> Result<bool, sqlx::Error> {
    let reported = sqlx::query(
        "UPDATE redis_watch SET found = $5, found_at = now(), heal = NULL, heal_until = NULL,
                again_at = CASE WHEN $5 = 'again' THEN NULL ELSE again_at END
         WHERE queue = $1 AND epoch IS NOT DISTINCT FROM $2 AND beat = $3 AND run_id IS NOT DISTINCT FROM $4
           AND found IS NULL",
    )
    .bind(&known.queue)
    .bind(known.epoch)
    .bind(known.beat)
    .bind(&known.run_id)
    .bind(finding.as_str())
    .execute(pool)
    .await?;
    Ok(reported.rows_affected() == 1)
}

/// Takes the queues that are to be healed and that nobody heals.
pub(crate) async fn claim(pool: &PgPool, queues: &[&str], token: Uuid) -> Result<Vec<Found>, sqlx::Error> {
    let rows = sqlx::query(
        "UPDATE redis_watch SET heal = $2, heal_until = now() + make_interval(secs => $3) WHERE queue IN (
             SELECT queue FROM redis_watch
             WHERE queue = ANY ($1) AND found IS NOT NULL
               AND (heal_until IS NULL OR heal_until <= now() OR heal_until > now() + interval '1 min')
             ORDER BY queue FOR UPDATE SKIP LOCKED)
         RETURNING queue, found, beat",
    )
    .bind(queues)
    .bind(token)
    .bind(LEASE_S)
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            let (queue, finding): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Found {
                queue: QueueName::new(queue).map_err(|error| sqlx::Error::Decode(error.into()))?,
                finding: Finding::read(&finding).unwrap_or(Finding::RolledBack),
                beat: row.try_get(2)?,
            })
        })
        .collect()
}

/// Says that a pass is still under way; returns the queues that are still its own.
pub(crate) async fn extend(pool: &PgPool, queues: &[&str], token: Uuid) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "UPDATE redis_watch SET heal_until = now() + make_interval(secs => $3)
         WHERE queue = ANY ($1) AND heal = $2 RETURNING queue",
    )
    .bind(queues)
    .bind(token)
    .bind(LEASE_S)
    .fetch_all(pool)
    .await
}

/// Gives a queue back, to be healed by another pass after a while.
pub(crate) async fn release(pool: &PgPool, queue: &QueueName, token: Uuid, pause: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE redis_watch SET heal = NULL, heal_until = now() + make_interval(secs => $3) WHERE queue = $1 AND heal = $2",
    )
    .bind(queue.as_str())
    .bind(token)
    .bind(pause.as_secs_f64())
    .execute(pool)
    .await?;
    Ok(())
}

/// What a pass writes when it is through.
#[derive(Debug)]
pub(crate) struct Healed<'a> {
    pub(crate) queue: &'a QueueName,
    pub(crate) token: Uuid,
    pub(crate) epoch: Uuid,
    pub(crate) beat: i64,
    pub(crate) run_id: &'a str,
    /// When everything is asked for once more, if at all.
    pub(crate) again: Option<Duration>,
}

/// A queue is healed. Returns how long that took since it was found; `None`: the pass is no longer its.
pub(crate) async fn finish(pool: &PgPool, healed: &Healed<'_>) -> Result<Option<Duration>, sqlx::Error> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "WITH stood AS (SELECT queue, found_at FROM redis_watch WHERE queue = $1 AND heal = $2 FOR UPDATE)
         UPDATE redis_watch w SET epoch = $3, beat = $4, run_id = $5, beat_at = now(), found = NULL, found_at = NULL,
                heal = NULL, heal_until = NULL,
                again_at = coalesce(now() + make_interval(secs => $6), w.again_at)
         FROM stood WHERE w.queue = stood.queue
         RETURNING coalesce(greatest(extract(epoch FROM clock_timestamp() - stood.found_at), 0), 0)::float8",
    )
    .bind(healed.queue.as_str())
    .bind(healed.token)
    .bind(healed.epoch)
    .bind(healed.beat)
    .bind(healed.run_id)
    .bind(healed.again.map(|again| again.as_secs_f64()))
    .fetch_optional(pool)
    .await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}
