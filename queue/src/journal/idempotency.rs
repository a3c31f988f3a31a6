//! Idempotency keys: the same request twice is answered with the job of the first; another request under the same key is an error.

use std::collections::BTreeMap;

use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{enqueue::stored_args, enqueue_in};
use crate::{
    id::JobId,
    job::{Enqueued, IDEMPOTENCY_PERIOD, NewJob},
};

/// Another request came under the same idempotency key before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the idempotency key was used for a request with other args, which made job {first}: use a new key for a new request, \
     or send the same args again"
)]
pub struct IdempotencyConflict {
    /// The job of the first request, finished or not.
    pub first: JobId,
}

/// Why a request under an idempotency key was not taken.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The key stands for another request. Nothing was enqueued; the caller's transaction goes on.
    #[error(transparent)]
    Conflict(#[from] IdempotencyConflict),
    /// Postgres refused or is away; the caller's transaction is aborted.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Enqueues one job under its idempotency key: the same key with the same args again is answered with the job of the first,
/// finished or not, as long as that job stands and for [`IDEMPOTENCY_PERIOD`] at least. Args are the same if they are equal as
/// JSON. Sealed args cannot be compared: there the key alone decides.
///
/// # Errors
/// When the key stands for other args, or Postgres refuses.
pub async fn enqueue_idempotent(tx: &mut PgConnection, job: &NewJob) -> Result<Enqueued, EnqueueError> {
    stored_args(job)?;
    let request = (!job.kind_policy.encrypted).then(|| request_digest(&job.args));
    if let Some(digest) = job.idempotency {
        // An expired key counts as absent, unless its job stands; a concurrent holder of the same key is waited for by the
        // primary key.
        let claimed = sqlx::query(
            "INSERT INTO job_idempotency AS known (digest, job_id, request, expires_at)
             VALUES ($1, $2, $3, now() + make_interval(secs => $4))
             ON CONFLICT (digest) DO UPDATE
                 SET job_id = excluded.job_id, request = excluded.request, expires_at = excluded.expires_at
             WHERE known.expires_at <= now() AND NOT EXISTS (SELECT FROM job_journal WHERE id = known.job_id)
             RETURNING job_id",
        )
        .bind(digest.0.as_slice())
        .bind(job.id.0)
        .bind(request.as_ref().map(<[u8; 16]>::as_slice))
        .bind(IDEMPOTENCY_PERIOD.as_secs_f64())
        .fetch_optional(&mut *tx)
        .await?;
        if claimed.is_none() {
            let known = sqlx::query("SELECT job_id, request FROM job_idempotency WHERE digest = $1")
                .bind(digest.0.as_slice())
                .fetch_one(&mut *tx)
                .await?;
            let first = JobId(known.get::<Uuid, _>(0));
            // A key of before requests were recorded, or of sealed args, decides alone.
            let known: Option<Vec<u8>> = known.get(1);
            let other = known.zip(request).is_some_and(|(known, request)| known != request);
            return if other { Err(IdempotencyConflict { first }.into()) } else { Ok(Enqueued::Exists(first)) };
        }
    }
    let answer = enqueue_in(&mut *tx, std::slice::from_ref(job)).await?.remove(0);
    if let (Some(digest), false) = (job.idempotency, answer.is_created()) {
        // The unique key found another job: that one is the answer to this request from now on.
        sqlx::query("UPDATE job_idempotency SET job_id = $2 WHERE digest = $1")
            .bind(digest.0.as_slice())
            .bind(answer.id().0)
            .execute(tx)
            .await?;
    }
    Ok(answer)
}

/// Stands for args: the same for JSON texts that differ in nothing but spaces and the order of members.
#[must_use]
pub fn request_digest(args: &RawValue) -> [u8; 16] {
    let mut hash = Sha256::new();
    match serde_json::from_str(args.get()) {
        Ok(value) => update(&mut hash, &value),
        // Too deep to be read: the text itself.
        Err(_) => hash.update(args.get()),
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize()[..16]);
    digest
}

/// Adds a value with its members in order. Every part says what it is and how long, so that no two values read the same.
fn update(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Array(items) => {
            hash.update(b"[");
            hash.update((items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| update(hash, item));
        }
        Value::Object(members) => {
            hash.update(b"{");
            hash.update((members.len() as u64).to_be_bytes());
            for (name, member) in members.iter().collect::<BTreeMap<_, _>>() {
                hash.update((name.len() as u64).to_be_bytes());
                hash.update(name);
                update(hash, member);
            }
        }
        plain => {
            let text = plain.to_string();
            hash.update(b"=");
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn digest(json: &str) -> [u8; 16] {
        request_digest(&RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn requests_are_the_same_when_their_args_are_equal_as_json() {
        assert_eq!(digest(r#"{"a":1,"b":[true,null]}"#), digest(r#"{ "b": [true, null], "a": 1 }"#));
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"[1,2]"#, r#"[2,1]"#),
            (r#"[[1],2]"#, r#"[[1,2]]"#),
            (r#"{"a":{"b":1},"c":2}"#, r#"{"a":{"b":1,"c":2}}"#),
        ] {
            assert_ne!(digest(one), digest(other), "{one} {other}");
        }
        let deep = |open: &str, close: &str| open.repeat(1000) + &close.repeat(1000);
        assert_eq!(digest(&deep("[", "]")), digest(&deep("[", "]")), "deeper than can be read");
        assert_ne!(digest(&deep("[", "]")), digest(&deep("[ ", "]")), "there the text decides");
    }
}
