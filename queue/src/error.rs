//! What a handler says when it did not do its work: a decision, a class for metrics, and the source.

use std::{any::Any, fmt, time::Duration};

use sha2::{Digest, Sha256};

use crate::{name::Kind, store::StoreError};

/// What is to happen to a job whose attempt failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Again after the policy's backoff, until attempts run out.
    Retry,
    /// Again after this delay (an outside system named it), until attempts run out.
    RetryAfter(Duration),
    /// Again after about this delay; the attempt is not counted: the fault is not the job's.
    Snooze(Duration),
    /// Never again: dead at once.
    Bury,
    /// The job is no longer this worker's, or no longer stands: nothing was done, nothing is to be recorded.
    Gone,
}

/// A failed attempt.
///
/// Its text is stored with the job and shown to operators: it must carry no secret.
#[derive(Debug)]
pub struct JobError {
    decision: Decision,
    class: &'static str,
    source: anyhow::Error,
}

impl JobError {
    /// A failure with its decision. `class` is a metric label: a small fixed set of snake-case words per kind.
    pub fn new(decision: Decision, class: &'static str, source: impl Into<anyhow::Error>) -> Self {
        Self { decision, class, source: source.into() }
    }

    /// Worth another attempt.
    pub fn retry(class: &'static str, source: impl Into<anyhow::Error>) -> Self {
        Self::new(Decision::Retry, class, source)
    }

    /// Worth another attempt, not before this delay.
    pub fn retry_after(delay: Duration, class: &'static str, source: impl Into<anyhow::Error>) -> Self {
        Self::new(Decision::RetryAfter(delay), class, source)
    }

    /// Not the job's fault: later, with no attempt counted.
    pub fn snooze(delay: Duration, class: &'static str, source: impl Into<anyhow::Error>) -> Self {
        Self::new(Decision::Snooze(delay), class, source)
    }

    /// Not worth another attempt.
    pub fn bury(class: &'static str, source: impl Into<anyhow::Error>) -> Self {
        Self::new(Decision::Bury, class, source)
    }

    /// The journal row is gone: somebody else finished or cancelled the job.
    #[must_use]
    pub fn gone() -> Self {
        Self::new(Decision::Gone, "gone", anyhow::anyhow!("the job no longer stands"))
    }

    /// A handler panicked: worth another attempt.
    #[must_use]
    pub fn panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        Self::retry("panic", anyhow::anyhow!("the handler panicked: {text}"))
    }

    /// What is to happen.
    #[must_use]
    pub const fn decision(&self) -> Decision {
        self.decision
    }

    /// The class, for metrics and fingerprints.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        self.class
    }

    /// The whole chain of causes in one line.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{:#}", self.source)
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.class, self.source)
    }
}

/// What failed jobs are grouped by: kind, class, and the message without what differs from job to job (digits, hex ids).
#[must_use]
pub fn fingerprint(kind: &Kind, class: &str, message: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in [kind.as_str(), class] {
        hash.update(part);
        hash.update([0]);
    }
    for word in message.split_whitespace() {
        let varies = word.bytes().any(|byte| byte.is_ascii_digit());
        hash.update(if varies { "#" } else { word });
        hash.update(b" ");
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize()[..16]);
    digest
}

/// How long a job waits when Postgres is down, busy or deadlocked, or Redis is away.
const STORE_SNOOZE: Duration = Duration::from_secs(2);

/// Database errors, classified in this one place: what is the database's fault is snoozed and costs no attempt.
impl From<sqlx::Error> for JobError {
    fn from(error: sqlx::Error) -> Self {
        if is_transient(&error) {
            Self::snooze(STORE_SNOOZE, "database_unavailable", error)
        } else {
            Self::retry("database", error)
        }
    }
}

/// Errors of Redis, classified likewise.
impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::snooze(STORE_SNOOZE, "redis_unavailable", error),
            StoreError::Invalid(_) => Self::bury("redis_invalid", error),
            _ => Self::retry("redis", error),
        }
    }
}

/// Whether the fault is the database's or the connection's, and the same statement may succeed later.
#[must_use]
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // What sqlx makes of a connection that ends before it began: a load balancer without a server behind it takes
        // connections and closes them, and a server that cannot fork answers so.
        sqlx::Error::Protocol(message) => message.starts_with("unexpected response from SSLRequest"),
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // 08 connection, 40 rollback (serialisation, deadlock), 53 resources, 57 operator intervention (shutdown),
            // 58 the system under it, 55P03 lock_timeout, 25P03 idle_in_transaction_session_timeout, 25006 read-only (a
            // server that is being failed over).
            ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
                || ["55P03", "25P03", "25006"].contains(&&*code)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_differ_only_in_numbers_have_one_fingerprint() {
        let kind = Kind::from_static("test.count");
        let print = |class, message| fingerprint(&kind, class, message);
        assert_eq!(print("http", "job 17 got status 500"), print("http", "job 18 got status 502"));
        assert_ne!(print("http", "no route"), print("http", "no host"));
        assert_ne!(print("http", "no route"), print("dns", "no route"));
    }
}
