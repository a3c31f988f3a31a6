//! Journaled poison: Redis marked it, Postgres decides, then Redis forgets it.

use sqlx::PgPool;
use windrow_queue::{
    Kind, Member, QueueName,
    error::fingerprint,
    journal::{self, CloseState, Closing},
    store::Store,
};

const REASON: &str = "poison: its worker died each time while it ran this job";

/// Moves these jobs to `job_closed`, then takes them out of Redis. A row that is gone was decided before; a crash in between
/// does it again, which changes nothing.
pub(crate) async fn bury(
    database: &PgPool,
    store: &Store,
    queue: &QueueName,
    members: &[Member],
) -> anyhow::Result<u64> {
    let mut buried = 0;
    for member in members {
        let Some(generation) = member.generation else { continue };
        let kind: Option<String> = sqlx::query_scalar("SELECT kind FROM job_journal WHERE id = $1 AND gen = $2")
            .bind(member.id.0)
            .bind(generation)
            .fetch_optional(database)
            .await?;
        let Some(kind) = kind else { continue };
        let closing = Closing {
            state: CloseState::Dead,
            reason: REASON,
            fingerprint: fingerprint(&Kind::new(kind)?, "poison", REASON),
            error: None,
            attempt: 0,
        };
        let moved = journal::close(database, member.id, generation, &closing).await?;
        if moved {
            tracing::error!(job_id = %member.id, %queue, "dead: {REASON}");
            buried += 1;
        }
    }
    store.buried(queue, members).await?;
    Ok(buried)
}
