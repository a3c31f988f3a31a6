//! Jobs that wait for somebody outside, holding no slot.
//!
//! ```text
//! expect_callback -> token row              committed before the outward call, fenced by the live row
//! park            -> parked                 or, if the callback came before: live (gen + 1) + outbox row
//! call_back       -> payload stored; parked -> live (gen + 1) + outbox row
//! unpark_due      -> parked, past its deadline -> live (gen + 1) + outbox row; its tokens take nothing any more
//! ```
//!
//! A callback may come before the park commits, and while the deadline passes. So all three lock the token rows first and the
//! journal row second, and look at the journal row in a statement after the one that waited for the lock: whoever is second sees
//! what the first did. Nobody who holds a journal row waits for a token row; tokens of jobs that are over are left to the
//! pruner.
//!
//! Every attempt has its own token, and all tokens of a generation count: somebody outside who recognises the second call by its
//! idempotency key answers to the first.

use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::{PgConnection, PgPool, Row, types::Json};
use uuid::Uuid;

use super::sql::to_outbox;
use crate::{
    id::{Generation, JobId},
    job::has_nul,
    store::{Callback, MAX_CALLBACK_BYTES, TokenDigest},
};

/// What became of a job that was to be parked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parked {
    /// It waits. Redis may forget its member.
    Parked,
    /// What it wanted to wait for had come: it is live again in a new generation, on its way to Redis. Redis may forget its member.
    CameAlready,
    /// Its row is no longer this attempt's: somebody decided first.
    Gone,
}

/// Why a callback was not looked at.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// The payload is too large.
    #[error("the callback has {0} bytes, more than {MAX_CALLBACK_BYTES}: send a reference to what is larger")]
    TooLarge(usize),
    /// The payload has a character that Postgres cannot hold.
    #[error("the callback has the character \\u0000, which jsonb cannot hold: leave it out")]
    Nul,
    /// Postgres is away: asking again is safe.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Makes known that a running job is to be called back under a token, before the token is given away. It is good until
/// `deadline` from now; a park moves that to its own. The same token again changes nothing else. False: the job's row is no
/// longer this attempt's (which is so, too, for one that runs at most once: it has no next attempt), or the token is another
/// job's.
///
/// # Errors
/// When Postgres is away: the outward call must not be made.
pub async fn expect_callback(
    pool: &PgPool,
    id: JobId,
    generation: Generation,
    token: TokenDigest,
    deadline: Duration,
) -> Result<bool, sqlx::Error> {
    let expected = sqlx::query(
        "INSERT INTO job_callback AS known (token_hash, id, gen, deadline)
         SELECT $3, id, gen, clock_timestamp() + make_interval(secs => $4)
         FROM job_journal WHERE id = $1 AND gen = $2 AND state = 'live'
         ON CONFLICT (token_hash) DO UPDATE
             SET deadline = excluded.deadline WHERE known.id = excluded.id AND known.gen = excluded.gen",
    )
    .bind(id.0)
    .bind(generation)
    .bind(token.0.as_slice())
    .bind(seconds(deadline))
    .execute(pool)
    .await?;
    Ok(expected.rows_affected() > 0)
}

/// A row that was parked, or was about to be, goes on with what came. `$1` id, `$2` generation, `$3` what came, `$4` the state
/// in which it must be, `$5` attempts that count.
const GO_ON: &str = concat!(
    "WITH back AS (
         UPDATE job_journal SET state = 'live', gen = gen + 1, callback = $3, park_deadline = NULL,
                run_at = clock_timestamp(), attempt = greatest(attempt, $5)
         WHERE id = $1 AND gen = $2 AND state = $4
         RETURNING id, gen, band, queue, tenant, kind, run_at, rescue_limit, at_most_once
     ), ",
    to_outbox!("back"),
    " SELECT outbox.id FROM outbox LEFT JOIN wake ON true"
);

async fn go_on(
    tx: &mut PgConnection,
    id: Uuid,
    generation: Generation,
    payload: &RawValue,
    from: &'static str,
    attempt: i32,
) -> Result<bool, sqlx::Error> {
    let came = serde_json::value::to_raw_value(&std::collections::HashMap::from([("payload", payload)]));
    let rows = sqlx::query(GO_ON)
        .bind(id)
        .bind(generation)
        .bind(Json(came.map_err(|error| sqlx::Error::Encode(error.into()))?))
        .bind(from)
        .bind(attempt)
        .fetch_all(tx)
        .await?;
    Ok(!rows.is_empty())
}

/// Parks a running job until a callback comes under one of its tokens, or until `deadline` from now. `attempt`: attempts that
/// count, this one not among them; Redis forgets them with the member.
///
/// # Errors
/// When Postgres is away or a row stays locked; asking again is safe, and is answered with `Gone` if it was parked.
pub async fn park(
    pool: &PgPool,
    id: JobId,
    generation: Generation,
    deadline: Duration,
    attempt: u32,
) -> Result<Parked, sqlx::Error> {
    let attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
    let mut tx = pool.begin().await?;
    let tokens =
        sqlx::query("SELECT payload FROM job_callback WHERE id = $1 AND gen = $2 ORDER BY token_hash FOR UPDATE")
            .bind(id.0)
            .bind(generation)
            .fetch_all(&mut *tx)
            .await?;
    let came = tokens.iter().find_map(|row| row.get::<Option<Json<Box<RawValue>>>, _>(0));
    let (parked, answer) = match came {
        Some(payload) => (go_on(&mut tx, id.0, generation, &payload.0, "live", attempt).await?, Parked::CameAlready),
        None => (wait(&mut tx, id, generation, deadline, attempt).await?, Parked::Parked),
    };
    if !parked {
        tx.rollback().await?;
        return Ok(Parked::Gone);
    }
    tx.commit().await?;
    Ok(answer)
}

async fn wait(
    tx: &mut PgConnection,
    id: JobId,
    generation: Generation,
    deadline: Duration,
    attempt: i32,
) -> Result<bool, sqlx::Error> {
    let parked = sqlx::query(
        "WITH parked AS (
             UPDATE job_journal SET state = 'parked', callback = NULL, attempt = greatest(attempt, $4),
                    park_deadline = clock_timestamp() + make_interval(secs => $3)
             WHERE id = $1 AND gen = $2 AND state = 'live' RETURNING id, gen, park_deadline
         ), tokens AS (
             UPDATE job_callback c SET deadline = parked.park_deadline
             FROM parked WHERE c.id = parked.id AND c.gen = parked.gen
         )
         SELECT FROM parked",
    )
    .bind(id.0)
    .bind(generation)
    .bind(seconds(deadline))
    .bind(attempt)
    .fetch_optional(tx)
    .await?;
    Ok(parked.is_some())
}

/// Stores the answer for which a job waits. A parked job is live again, and the relay is woken; one that still runs finds it when
/// it parks.
///
/// # Errors
/// When the payload is not to be had, or Postgres is away: asking again is safe, and is answered with [`Callback::Duplicate`] if
/// the first one arrived.
pub async fn call_back(pool: &PgPool, token: TokenDigest, payload: &RawValue) -> Result<Callback, CallbackError> {
    let bytes = payload.get().len();
    if bytes > MAX_CALLBACK_BYTES {
        return Err(CallbackError::TooLarge(bytes));
    }
    if has_nul(payload.get()) {
        return Err(CallbackError::Nul);
    }
    let mut tx = pool.begin().await?;
    let stored = sqlx::query(
        "UPDATE job_callback SET payload = $2
         WHERE token_hash = $1 AND payload IS NULL AND deadline > clock_timestamp() RETURNING id, gen",
    )
    .bind(token.0.as_slice())
    .bind(Json(payload))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(stored) = stored else {
        let answered: Option<bool> =
            sqlx::query_scalar("SELECT payload IS NOT NULL FROM job_callback WHERE token_hash = $1")
                .bind(token.0.as_slice())
                .fetch_optional(&mut *tx)
                .await?;
        return Ok(match answered {
            Some(true) => Callback::Duplicate,
            Some(false) => Callback::Late,
            None => Callback::Unknown,
        });
    };
    let (id, generation): (Uuid, Generation) = (stored.get(0), stored.get(1));
    let early = || {
        sqlx::query("SELECT FROM job_journal WHERE id = $1 AND gen = $2 AND state = 'live'").bind(id).bind(generation)
    };
    if go_on(&mut tx, id, generation, payload, "parked", 0).await? || early().fetch_optional(&mut *tx).await?.is_some()
    {
        tx.commit().await?;
        return Ok(Callback::Delivered);
    }
    // The job went on without it, or is over: nobody will ask for the payload.
    tx.rollback().await?;
    Ok(Callback::Late)
}

const UNPARK: &str = concat!(
    "WITH due AS (
         SELECT j.id FROM unnest($1::uuid[], $2::int[]) AS parked (id, gen)
         JOIN job_journal j ON j.id = parked.id AND j.gen = parked.gen AND j.state = 'parked'
         ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
     ), back AS (
         UPDATE job_journal j SET state = 'live', gen = j.gen + 1, callback = '\"timed_out\"', park_deadline = NULL,
                run_at = clock_timestamp()
         FROM due WHERE j.id = due.id
         RETURNING j.id, j.gen, j.band, j.queue, j.tenant, j.kind, j.run_at, j.rescue_limit, j.at_most_once
     ), ",
    to_outbox!("back"),
    " SELECT outbox.id FROM outbox LEFT JOIN wake ON true"
);

/// Lets up to `limit` jobs go on whose park is past its deadline, those that wait longest first; returns how many were due and
/// how many of those go on. The others were called back or decided at the same moment.
///
/// # Errors
/// When Postgres is away, or a callback holds its row for too long; nothing was changed then.
pub async fn unpark_due(pool: &PgPool, limit: i64) -> Result<(u64, u64), sqlx::Error> {
    let due: Vec<(Uuid, Generation)> = sqlx::query_as(
        "SELECT id, gen FROM job_journal WHERE state = 'parked' AND park_deadline <= now()
         ORDER BY park_deadline LIMIT $1",
    )
    .bind(limit)
    .fetch_all(pool)
    .await?;
    if due.is_empty() {
        return Ok((0, 0));
    }
    let (ids, generations): (Vec<Uuid>, Vec<Generation>) = due.into_iter().unzip();
    let mut tx = pool.begin().await?;
    sqlx::query(
        "UPDATE job_callback c SET deadline = least(c.deadline, clock_timestamp())
         FROM (SELECT c.token_hash FROM unnest($1::uuid[], $2::int[]) AS parked (id, gen)
               JOIN job_callback c ON c.id = parked.id AND c.gen = parked.gen
               WHERE c.payload IS NULL ORDER BY c.token_hash FOR UPDATE OF c) AS token
         WHERE c.token_hash = token.token_hash",
    )
    .bind(&ids)
    .bind(&generations)
    .execute(&mut *tx)
    .await?;
    let back = sqlx::query(UNPARK).bind(&ids).bind(&generations).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let count = |length| u64::try_from(length).unwrap_or(u64::MAX);
    Ok((count(ids.len()), count(back.len())))
}

/// What Postgres can add to a time; longer waits are that long.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().min(3e9)
}
