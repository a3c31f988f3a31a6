//! Journaled jobs that Redis takes for lost for good: poison, and those that run at most once. Redis marked them, Postgres
//! decides, then Redis forgets them.

use sqlx::{PgPool, Row};
use windrow_queue::{
    Kind, Member, QueueName,
    error::fingerprint,
    id::Generation,
    journal::{self, CloseState, Closing, STARTED, STARTED_CLASS},
    store::Store,
};

const REASON: &str = "poison: its worker died each time while it ran this job";

/// Moves these jobs to `job_closed`, then takes them out of Redis. A row that is gone was decided before; a crash in between
/// does it again, which changes nothing.
///
/// A job that runs at most once is closed since it started, and gets its reason. One that was claimed and never started was not
/// lost: it goes on in a new generation.
pub(crate) async fn bury(
    database: &PgPool,
    store: &Store,
    queue: &QueueName,
    members: &[Member],
) -> anyhow::Result<u64> {
    let unstarted = journal::restart_unstarted(database, members).await?;
    for member in &unstarted {
        tracing::info!(job_id = %member.id, %queue, "its worker was lost before it started: it goes on");
    }
    let mut buried = 0;
    for member in members {
        let Some(generation) = member.generation.filter(|_| !unstarted.contains(member)) else { continue };
        let Some((kind, class, reason)) = lost(database, *member, generation).await? else { continue };
        let closing = Closing {
            state: CloseState::Dead,
            reason,
            fingerprint: fingerprint(&kind, class, reason),
            error: None,
            attempt: 0,
        };
        if journal::close(database, member.id, generation, &closing).await? {
            tracing::error!(job_id = %member.id, %queue, "dead: {reason}");
            buried += 1;
        }
    }
    store.buried(queue, members).await?;
    Ok(buried)
}

/// What such a job is, and why it is dead; `None` if that was decided before.
async fn lost(
    database: &PgPool,
    member: Member,
    generation: Generation,
) -> anyhow::Result<Option<(Kind, &'static str, &'static str)>> {
    let row = sqlx::query(
        "SELECT kind, false FROM job_journal WHERE id = $1 AND gen = $2
         UNION ALL SELECT kind, true FROM job_closed WHERE id = $1 AND gen = $2 AND runs_until IS NOT NULL LIMIT 1",
    )
    .bind(member.id.0)
    .bind(generation)
    .fetch_optional(database)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let kind = Kind::new(row.try_get::<String, _>(0)?)?;
    let (class, reason) = if row.try_get(1)? { (STARTED_CLASS, STARTED) } else { ("poison", REASON) };
    Ok(Some((kind, class, reason)))
}
