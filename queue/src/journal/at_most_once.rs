//! Jobs that run at most once.
//!
//! ```text
//! live -> closed, "started"            before the handler starts: from here on no attempt can start it again
//! started -> deleted                   it completed; its effects are in the same transaction
//! started -> dead with its own reason  anything else came of it, or its worker was lost
//! ```
//!
//! A started job is a row of `job_closed` with `runs_until`. While that time has not come it may be running, and is shown and
//! redriven by nobody. A worker that is lost says nothing: then Redis says so ([`lost`](super::lost)), and when Redis was wiped,
//! time does.

use std::{collections::HashSet, time::Duration};

use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use super::tx::Source;
use crate::id::{Generation, JobId, Member};

/// Why a started job is dead of which nothing was heard again.
pub const STARTED: &str = "started, at most once; its worker was lost";

/// The class of that, in fingerprints.
pub const STARTED_CLASS: &str = "lost";

/// How much longer than its timeout an attempt may take until its end is on record: wind-down, a Postgres that is waited for, and
/// the session's lease.
const SLACK: Duration = Duration::from_secs(60);

/// Records that these jobs start now and must not start again, and returns those that may: the others are over. To be called
/// after the start check, before the handler, with the attempt's timeout; whatever becomes of the attempt is final.
///
/// An error on its way back leaves the job dead although its handler never started. That is the price of "at most".
///
/// # Errors
/// When Postgres is away: then nothing may be started.
pub async fn start_at_most_once(pool: &PgPool, members: &[(Member, Duration)]) -> Result<HashSet<Member>, sqlx::Error> {
    let journaled = || members.iter().filter_map(|(member, timeout)| Some((member.id.0, member.generation?, timeout)));
    // The fingerprint is that of `error::fingerprint`, computed where the kind is.
    let started = sqlx::query(
        "WITH starting AS (
             SELECT j.id, claimed.runs_s FROM unnest($1::uuid[], $2::int[], $3::float8[]) AS claimed (id, gen, runs_s)
             JOIN job_journal j ON j.id = claimed.id AND j.gen = claimed.gen AND j.state = 'live'
             ORDER BY j.id FOR UPDATE OF j
         ), gone AS (
             DELETE FROM job_journal j USING starting WHERE j.id = starting.id RETURNING j.*, starting.runs_s
         )
         INSERT INTO job_closed (id, gen, state, queue, kind, tenant, reason, fingerprint, batch_id, runs_until, job)
         SELECT id, gen, 'dead', queue, kind, tenant, $4,
                substring(sha256(convert_to(kind, 'UTF8') || $5) FOR 16), batch_id,
                clock_timestamp() + make_interval(secs => runs_s),
                to_jsonb(gone) - 'runs_s'::text || jsonb_build_object('attempt', attempt + 1, 'errors', coalesce(errors, '[]'))
         FROM gone
         ON CONFLICT (id) DO UPDATE SET gen = excluded.gen, state = excluded.state, reason = excluded.reason,
             fingerprint = excluded.fingerprint, closed_at = excluded.closed_at, batch_id = excluded.batch_id,
             runs_until = excluded.runs_until, job = excluded.job
         RETURNING id, gen",
    )
    .bind(journaled().map(|(id, ..)| id).collect::<Vec<_>>())
    .bind(journaled().map(|(_, generation, _)| generation).collect::<Vec<_>>())
    .bind(journaled().map(|(.., timeout)| timeout.saturating_add(SLACK).as_secs_f64().min(1e9)).collect::<Vec<_>>())
    .bind(STARTED)
    .bind(fingerprint_tail())
    .fetch_all(pool)
    .await?;
    Ok(started.iter().map(|row| Member::journaled(JobId(row.get::<Uuid, _>(0)), row.get(1))).collect())
}

/// What [`fingerprint`](crate::error::fingerprint) hashes behind the kind.
fn fingerprint_tail() -> Vec<u8> {
    let mut tail = vec![0];
    tail.extend_from_slice(STARTED_CLASS.as_bytes());
    tail.push(0);
    for word in STARTED.split_whitespace() {
        tail.extend_from_slice(word.as_bytes());
        tail.push(b' ');
    }
    tail
}

/// Completes a started job in the transaction of its effects.
pub(super) async fn complete_in(
    tx: &mut PgConnection,
    id: JobId,
    generation: Generation,
) -> Result<Option<Source>, sqlx::Error> {
    sqlx::query_as(
        "DELETE FROM job_closed WHERE id = $1 AND gen = $2 AND state = 'dead' AND runs_until IS NOT NULL
         RETURNING (job->>'schedule_id')::uuid AS schedule_id, (job->>'fire_at')::timestamptz AS fire_at",
    )
    .bind(id.0)
    .bind(generation)
    .fetch_optional(tx)
    .await
}

/// Whether it is a started job whose end is not on record.
pub(super) async fn is_started(tx: &mut PgConnection, id: JobId, generation: Generation) -> Result<bool, sqlx::Error> {
    let started = sqlx::query("SELECT FROM job_closed WHERE id = $1 AND gen = $2 AND runs_until IS NOT NULL")
        .bind(id.0)
        .bind(generation)
        .fetch_optional(tx)
        .await?;
    Ok(started.is_some())
}

/// Goes back on the decision of a Redis that took jobs for lost which were claimed and never started: they are live in a new
/// generation, and run. Returns those that did. Only for jobs that run at most once: of others nobody knows whether they began.
///
/// # Errors
/// When Postgres is away; nothing was changed then.
pub async fn restart_unstarted(pool: &PgPool, members: &[Member]) -> Result<HashSet<Member>, sqlx::Error> {
    const RESTART: &str = concat!(
        "WITH unstarted AS (
             SELECT j.id FROM unnest($1::uuid[], $2::int[]) AS lost (id, gen)
             JOIN job_journal j ON j.id = lost.id AND j.gen = lost.gen AND j.state = 'live' AND j.at_most_once
             ORDER BY j.id FOR UPDATE OF j
         ), again AS (
             UPDATE job_journal j SET gen = j.gen + 1 FROM unstarted WHERE j.id = unstarted.id
             RETURNING j.id, j.gen, j.band, j.queue, j.tenant, j.kind, j.run_at, j.rescue_limit, j.at_most_once
         ), ",
        super::sql::to_outbox!("again"),
        " SELECT again.id, again.gen - 1 FROM again LEFT JOIN wake ON true"
    );
    let journaled = || members.iter().filter_map(|member| Some((member.id.0, member.generation?)));
    let again = sqlx::query(RESTART)
        .bind(journaled().map(|(id, _)| id).collect::<Vec<_>>())
        .bind(journaled().map(|(_, generation)| generation).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    Ok(again.iter().map(|row| Member::journaled(JobId(row.get::<Uuid, _>(0)), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::fingerprint, name::Kind};
    use sha2::{Digest, Sha256};

    #[test]
    fn the_fingerprint_that_postgres_computes_is_the_one_of_errors() {
        let kind = Kind::from_static("test.send_once");
        let digest = Sha256::new().chain_update(kind.as_str()).chain_update(fingerprint_tail()).finalize();
        assert_eq!(digest[..16], fingerprint(&kind, STARTED_CLASS, STARTED));
    }
}
