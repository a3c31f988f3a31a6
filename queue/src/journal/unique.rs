//! What becomes of a job whose unique key is taken: it is answered with the one that stands, which may take over something of it.
//!
//! Only a live row whose time has not come is changed, and no member of a batch, which counts it as what it was. It goes on in a
//! new generation with a new outbox row: the member that Redis holds is a ghost, which the relay takes out with that row, and
//! which the start check acknowledges unrun until then. One that runs before its time by Postgres' clock (a retry that was
//! mirrored late) loses its row with the generation, so that args which were replaced never have effects.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    enqueue::{at, at_most_once, delay_s, rescue_limit, stored_args},
    sql::to_outbox,
};
use crate::{
    id::JobId,
    job::{Enqueued, NewJob, OnConflict, UniqueScope},
};
use sqlx::types::Json;

/// Answers jobs that were not created; returns those whose key is free again by now.
pub(super) async fn resolve(
    tx: &mut PgConnection,
    jobs: &[NewJob],
    taken: &[usize],
    answers: &mut [Enqueued],
) -> Result<Vec<usize>, sqlx::Error> {
    let standing = standing(&mut *tx, jobs, taken).await?;
    let changed = change(&mut *tx, jobs, &standing).await?;
    for (&i, &id) in &standing {
        answers[i] = match on_conflict(&jobs[i]) {
            OnConflict::Replace if changed.contains(&id) => Enqueued::Replaced(id),
            OnConflict::Reschedule if changed.contains(&id) => Enqueued::Rescheduled(id),
            _ => Enqueued::Exists(id),
        };
    }
    Ok(taken.iter().copied().filter(|i| !standing.contains_key(i)).collect())
}

fn on_conflict(job: &NewJob) -> OnConflict {
    job.unique.map(|unique| unique.on_conflict).unwrap_or_default()
}

fn for_a_period(job: &NewJob) -> bool {
    job.unique.is_some_and(|unique| matches!(unique.scope, UniqueScope::Period(_)))
}

/// The job that stands in the way of each. A key for a period names one that may be over already.
async fn standing(
    tx: &mut PgConnection,
    jobs: &[NewJob],
    taken: &[usize],
) -> Result<BTreeMap<usize, JobId>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT asked.position, held.id
         FROM unnest($1::uuid[], $2::bytea[], $3::bool[]) WITH ORDINALITY AS asked (id, unique_key, period, position),
         LATERAL (
             SELECT job_id AS id FROM job_unique WHERE asked.period AND digest = asked.unique_key
             UNION ALL
             SELECT id FROM job_journal WHERE NOT asked.period AND unique_key = asked.unique_key
             UNION ALL
             SELECT id FROM job_journal WHERE id = asked.id
             LIMIT 1) AS held",
    )
    .bind(taken.iter().map(|&i| jobs[i].id.0).collect::<Vec<_>>())
    .bind(taken.iter().map(|&i| jobs[i].unique.map(|unique| unique.digest.0.to_vec())).collect::<Vec<_>>())
    .bind(taken.iter().map(|&i| for_a_period(&jobs[i])).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let found = rows.iter().filter_map(|row| {
        let position = usize::try_from(row.get::<i64, _>(0)).ok()?.checked_sub(1)?;
        Some((*taken.get(position)?, JobId(row.get(1))))
    });
    Ok(found.collect())
}

/// What a standing job takes over, of the last that asked for it.
#[derive(Default)]
struct Change<'a> {
    args_of: Option<&'a NewJob>,
    time_of: Option<&'a NewJob>,
}

const CHANGE: &str = concat!(
    "WITH new AS MATERIALIZED (
         SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bool[], $4::jsonb[], $5::jsonb[], $6::smallint[], $7::bool[],
                              $8::bool[], $9::timestamptz[], $10::float8[])
             AS t (id, unique_key, replace, args, policy, rescue_limit, at_most_once, reschedule, run_at, delay_s)
     ), waiting AS (
         SELECT j.id FROM new JOIN job_journal j ON j.id = new.id
         WHERE j.state = 'live' AND j.run_at > clock_timestamp() AND j.batch_id IS NULL
           AND (new.unique_key IS NULL OR j.unique_key = new.unique_key)
         ORDER BY j.id FOR UPDATE OF j
     ), changed AS (
         UPDATE job_journal j SET gen = j.gen + 1,
             args = CASE WHEN new.replace THEN new.args ELSE j.args END,
             policy = CASE WHEN new.replace THEN new.policy ELSE j.policy END,
             rescue_limit = CASE WHEN new.replace THEN new.rescue_limit ELSE j.rescue_limit END,
             at_most_once = CASE WHEN new.replace THEN new.at_most_once ELSE j.at_most_once END,
             checkpoint = CASE WHEN new.replace THEN NULL ELSE j.checkpoint END,
             run_at = CASE WHEN new.reschedule
                 THEN coalesce(new.run_at, clock_timestamp() + make_interval(secs => new.delay_s)) ELSE j.run_at END
         FROM new JOIN waiting USING (id) WHERE j.id = new.id
         RETURNING j.id, j.gen, j.band, j.queue, j.tenant, j.kind, j.run_at, j.rescue_limit, j.at_most_once
     ), ",
    to_outbox!("changed"),
    " SELECT outbox.id FROM outbox LEFT JOIN wake ON true"
);

/// Changes the standing jobs that may still be changed; returns those.
async fn change(
    tx: &mut PgConnection,
    jobs: &[NewJob],
    standing: &BTreeMap<usize, JobId>,
) -> Result<HashSet<JobId>, sqlx::Error> {
    let mut changes: HashMap<JobId, Change<'_>> = HashMap::new();
    for (&i, &id) in standing {
        // The same job sent twice has nothing to take over from itself.
        match on_conflict(&jobs[i]) {
            OnConflict::Replace if jobs[i].id != id => changes.entry(id).or_default().args_of = Some(&jobs[i]),
            OnConflict::Reschedule if jobs[i].id != id => changes.entry(id).or_default().time_of = Some(&jobs[i]),
            _ => {}
        }
    }
    if changes.is_empty() {
        return Ok(HashSet::new());
    }
    let changes: Vec<(JobId, Change<'_>)> = changes.into_iter().collect();
    let args_of = || changes.iter().map(|(_, change)| change.args_of);
    let time_of = || changes.iter().map(|(_, change)| change.time_of);
    // A key for a period is not the row's.
    let key = |change: &Change<'_>| {
        let job = change.args_of.or(change.time_of).filter(|job| !for_a_period(job))?;
        job.unique.map(|unique| unique.digest.0.to_vec())
    };
    let rows = sqlx::query(CHANGE)
        .bind(changes.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        .bind(changes.iter().map(|(_, change)| key(change)).collect::<Vec<_>>())
        .bind(args_of().map(|job| job.is_some()).collect::<Vec<_>>())
        .bind(args_of().map(|job| job.map(stored_args).transpose()).collect::<Result<Vec<_>, _>>()?)
        .bind(
            args_of()
                .map(|job| job.filter(|job| !job.policy.is_empty()).map(|job| Json(job.policy)))
                .collect::<Vec<_>>(),
        )
        .bind(args_of().map(|job| job.and_then(rescue_limit)).collect::<Vec<_>>())
        .bind(args_of().map(|job| job.is_some_and(at_most_once)).collect::<Vec<_>>())
        .bind(time_of().map(|job| job.is_some()).collect::<Vec<_>>())
        .bind(time_of().map(|job| job.and_then(at)).collect::<Vec<_>>())
        .bind(time_of().map(|job| job.map_or(0.0, delay_s)).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
    Ok(rows.iter().map(|row| JobId(row.get::<Uuid, _>(0))).collect())
}
