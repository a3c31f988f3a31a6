//! What Redis may have lost: the rows that it ought to have, and the members that it ought not to.

use std::time::Duration;

use sqlx::{FromRow, PgPool, Row};
use uuid::Uuid;

use super::OutboxRow;
use crate::{
    id::{Generation, JobId, Member},
    name::QueueName,
};

/// Live rows of some queues, in order of their ids.
#[derive(Debug)]
pub struct LivePage {
    /// The rows, as a relay would have them.
    pub rows: Vec<OutboxRow>,
    /// Where to go on; `None` when all rows were looked at. A page may be empty and have a next.
    pub next: Option<Uuid>,
}

/// Looks at up to `window` rows of the journal behind `after`, and returns those that are live and of these queues.
///
/// # Errors
/// When Postgres is away.
pub async fn live_page(pool: &PgPool, after: Uuid, window: i64, queues: &[&str]) -> Result<LivePage, sqlx::Error> {
    // Bounded by what is looked at, not by what is found: the journal may be long, and all of it another queue's.
    let rows = sqlx::query(
        "WITH seen AS MATERIALIZED (
             SELECT band, id, gen, queue, coalesce(tenant, '') AS tenant, kind, run_at, enqueued_at AS relay_at,
                    0::bigint AS seq, rescue_limit, at_most_once, 0::float8 AS waited_s,
                    greatest(extract(epoch FROM run_at - clock_timestamp()), 0)::float8 AS due_in_s, state
             FROM job_journal WHERE id > $1 ORDER BY id LIMIT $2
         )
         SELECT window_end.*, live.*
         FROM (SELECT count(*) AS looked_at, (SELECT id FROM seen ORDER BY id DESC LIMIT 1) AS last FROM seen) AS window_end
         LEFT JOIN (SELECT * FROM seen WHERE state = 'live' AND queue = ANY ($3)) AS live ON true
         ORDER BY live.id",
    )
    .bind(after)
    .bind(window)
    .bind(queues)
    .fetch_all(pool)
    .await?;
    let (looked_at, last): (i64, Option<Uuid>) = match rows.first() {
        Some(row) => (row.try_get("looked_at")?, row.try_get("last")?),
        None => (0, None),
    };
    let found = rows.iter().filter(|row| row.try_get::<Option<Uuid>, _>("id").is_ok_and(|id| id.is_some()));
    Ok(LivePage {
        rows: found.map(OutboxRow::from_row).collect::<Result<_, _>>()?,
        next: last.filter(|_| looked_at == window),
    })
}

/// Those of these members that may not run: their rows are gone, parked, or of another generation. One that runs at most once
/// and has started is none of them.
///
/// # Errors
/// When Postgres is away: nothing is known then, and nothing may be taken out of Redis.
pub async fn without_row(pool: &PgPool, members: &[Member]) -> Result<Vec<Member>, sqlx::Error> {
    let (ids, generations) = columns(members);
    let rows: Vec<(Uuid, Generation)> = sqlx::query_as(
        "SELECT m.id, m.gen FROM unnest($1::uuid[], $2::int[]) AS m (id, gen)
         WHERE NOT EXISTS (SELECT FROM job_journal j WHERE j.id = m.id AND j.gen = m.gen AND j.state = 'live')
           AND NOT EXISTS (SELECT FROM job_closed c WHERE c.id = m.id AND c.gen = m.gen AND c.runs_until IS NOT NULL)",
    )
    .bind(ids)
    .bind(generations)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id, generation)| Member::journaled(JobId(id), generation)).collect())
}

/// Up to `limit` live rows behind `after` that have been due for this long, in order of their ids, with their queues as stored.
///
/// # Errors
/// When Postgres is away.
pub async fn lost_of_age(
    pool: &PgPool,
    after: Uuid,
    age: Duration,
    limit: i64,
) -> Result<Vec<(Member, String)>, sqlx::Error> {
    let rows: Vec<(Uuid, Generation, String)> = sqlx::query_as(
        "SELECT id, gen, queue FROM job_journal
         WHERE id > $1 AND state = 'live' AND greatest(run_at, enqueued_at) < now() - make_interval(secs => $3)
         ORDER BY id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .bind(age.as_secs_f64())
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id, generation, queue)| (Member::journaled(JobId(id), generation), queue)).collect())
}

/// Whether more rows of a queue than these wait to be relayed.
///
/// # Errors
/// When Postgres is away.
pub async fn relays_more_than(pool: &PgPool, queue: &QueueName, rows: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) > $2 FROM (
             SELECT FROM job_outbox WHERE band IN (0, 1, 2, 3) AND queue = $1 LIMIT $2 + 1) AS waiting",
    )
    .bind(queue.as_str())
    .bind(rows)
    .fetch_one(pool)
    .await
}

/// Puts jobs that Redis does not know back into the outbox, and returns how many. Each row is looked at once more: a job that
/// ended in between is not lost, nor is one that the relay still has. The generation stays, so that a job which turns up
/// after all is not run twice.
///
/// # Errors
/// When Postgres is away.
pub async fn put_back_lost(pool: &PgPool, queue: &QueueName, members: &[Member]) -> Result<u64, sqlx::Error> {
    let (ids, generations) = columns(members);
    let put_back = sqlx::query(
        "INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at, rescue_limit, at_most_once)
         SELECT j.band, now(), j.id, j.gen, j.queue, coalesce(j.tenant, ''), j.kind, j.run_at, j.rescue_limit,
                j.at_most_once
         FROM unnest($1::uuid[], $2::int[]) AS lost (id, gen)
         JOIN job_journal j ON j.id = lost.id AND j.gen = lost.gen AND j.state = 'live'
         WHERE NOT EXISTS (
             SELECT FROM job_outbox o WHERE o.band IN (0, 1, 2, 3) AND o.queue = $3 AND o.id = j.id AND o.gen = j.gen)
         ORDER BY j.band, j.run_at, j.id",
    )
    .bind(ids)
    .bind(generations)
    .bind(queue.as_str())
    .execute(pool)
    .await?;
    Ok(put_back.rows_affected())
}

fn columns(members: &[Member]) -> (Vec<Uuid>, Vec<Generation>) {
    members.iter().filter_map(|member| Some((member.id.0, member.generation?))).unzip()
}
