//! What a producer hands over.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    catalog::KindInfo,
    id::JobId,
    name::{Kind, QueueName, Tenant},
    policy::{Band, Policy, PolicyOverride},
    vault::{Seal, VaultError, looks_sealed},
};

/// The largest args of one job, in bytes of JSON. What is larger belongs into a table or a file, with its key in the args.
pub const MAX_ARGS_BYTES: usize = 256 * 1024;

/// The args of a kind, and the kind's own constants. One type a kind.
pub trait JobArgs: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// `area.verb_noun`, stable for ever; old args must stay decodable.
    const KIND: Kind;
    /// The queue in which jobs of this kind wait.
    const QUEUE: QueueName;
    /// How they are executed.
    const POLICY: Policy = Policy::DEFAULT;
    /// Whether only operators may enqueue it over HTTP: what it does concerns every tenant, so a key that is bound to one may
    /// not.
    const OPERATORS_ONLY: bool = false;
    /// Names that its args must have: whoever enqueues by SQL is told at once if one is missing, not by a dead letter.
    const REQUIRED: &'static [&'static str] = &[];
}

/// When a job becomes ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Due {
    /// At once.
    #[default]
    Now,
    /// So long after the store accepted it.
    In(Duration),
    /// At an instant; one in the past is now.
    At(DateTime<Utc>),
}

/// The fire of a schedule that made a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fire {
    /// The schedule.
    pub schedule_id: Uuid,
    /// The time at which it was due, which may be earlier than the time at which it ran.
    pub fire_at: DateTime<Utc>,
    /// How many fire times before this one were missed and not made up for.
    pub missed: i32,
}

/// 16 bytes that stand for a unique or idempotency key of any length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyDigest(pub [u8; 16]);

impl KeyDigest {
    /// The digest of a key within a scope (kind and tenant), so that equal keys of different tenants never meet.
    #[must_use]
    pub fn new(kind: &Kind, tenant: Option<&Tenant>, key: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [kind.as_str(), tenant.map_or("", Tenant::as_str), key] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        Self(digest)
    }
}

/// How long a unique key stands for its job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniqueScope {
    /// While it is ready or scheduled: once it runs, another may be enqueued.
    Queued,
    /// Until it is final: while it runs, too, and between attempts.
    #[default]
    UntilFinal,
    /// For so long after it was enqueued, whatever becomes of it.
    #[serde(with = "humantime_serde")]
    Period(Duration),
}

/// What happens when a job with the same unique key stands already. Only a job that still waits for its time can be changed;
/// one that is ready or running stays as it is, and the producer is told which one it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The one that stands, stands.
    #[default]
    Ignore,
    /// It takes over the args and policy of the new one, and keeps its id and its place or time. One that is ready, too.
    Replace,
    /// It takes over the time of the new one, and keeps its args.
    Reschedule,
}

/// A unique key and what it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unique {
    /// Stands for the key.
    pub digest: KeyDigest,
    /// How long it holds.
    pub scope: UniqueScope,
    /// What a second job comes to.
    pub on_conflict: OnConflict,
}

/// A set of jobs with a follow-up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub Uuid);

impl std::fmt::Display for BatchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A job as a producer describes it. Its id is made here, so that sending it twice enqueues it once.
#[derive(Clone)]
pub struct NewJob {
    /// Its identity.
    pub id: JobId,
    /// What it is.
    pub kind: Kind,
    /// Where it waits.
    pub queue: QueueName,
    /// Whom it is done for.
    pub tenant: Option<Tenant>,
    /// Args as JSON: plain, or sealed.
    pub args: Box<RawValue>,
    /// Whether they are sealed: [`Vault::seal`](crate::Vault::seal) makes it.
    pub seal: Seal,
    /// Priority.
    pub band: Band,
    /// The kind's policy.
    pub kind_policy: Policy,
    /// What differs from it.
    pub policy: PolicyOverride,
    /// When it becomes ready.
    pub due: Due,
    /// At most one job with this key stands at a time; a second is answered with the first.
    pub unique: Option<Unique>,
    /// The batch of which it is a member.
    pub batch: Option<BatchId>,
    /// The batch that it follows; set by whoever opens the batch.
    pub follows: Option<BatchId>,
    /// The same request twice is answered with the job of the first, for [`IDEMPOTENCY_PERIOD`].
    pub idempotency: Option<KeyDigest>,
    /// W3C trace context of the enqueuing request.
    pub traceparent: Option<String>,
    /// The fire that made it.
    pub fire: Option<Fire>,
}

impl std::fmt::Debug for NewJob {
    /// Leaves the args out: they may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewJob")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("queue", &self.queue)
            .field("tenant", &self.tenant)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_PERIOD: Duration = Duration::from_secs(3 * 24 * 3600);

/// A job that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJob {
    /// The args do not serialise, or are no JSON.
    #[error("the args of {kind} are not JSON: {source}")]
    Args {
        /// The job's kind.
        kind: Kind,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// The args are too large.
    #[error(
        "the args of {kind} have {bytes} bytes, more than {MAX_ARGS_BYTES}: put the data into a table or a file and its key into the args"
    )]
    TooLarge {
        /// The job's kind.
        kind: Kind,
        /// Their size.
        bytes: usize,
    },
    /// The args have a character that Postgres cannot hold.
    #[error("the args of {kind} have the character \\u0000, which jsonb cannot hold: leave it out")]
    Nul {
        /// The job's kind.
        kind: Kind,
    },
    /// The args of an encrypted kind are written as only the vault writes them.
    #[error(
        "the args of {kind} are an object with nothing but \"$sealed\": give them as they are, they are sealed here"
    )]
    LooksSealed {
        /// The job's kind.
        kind: Kind,
    },
}

/// Whether a JSON text has an escaped NUL. Behind an odd number of backslashes `u0000` is plain text.
pub(crate) fn has_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let backslashes = json[..at].bytes().rev().take_while(|&byte| byte == b'\\').count();
        backslashes % 2 == 0
    })
}

impl NewJob {
    /// A job of a kind that is known at compile time.
    ///
    /// # Errors
    /// When the args do not serialise to JSON, are larger than [`MAX_ARGS_BYTES`], or have a NUL.
    pub fn new<A: JobArgs>(args: &A) -> Result<Self, InvalidJob> {
        let args =
            serde_json::value::to_raw_value(args).map_err(|source| InvalidJob::Args { kind: A::KIND, source })?;
        Self::from_parts(A::KIND, A::QUEUE, A::POLICY, args)
    }

    /// A job of a kind that the catalog describes, with args that came from outside and were checked against it.
    ///
    /// # Errors
    /// When the args are larger than [`MAX_ARGS_BYTES`], or have a NUL.
    pub fn of_kind(info: &KindInfo, args: Box<RawValue>) -> Result<Self, InvalidJob> {
        Self::from_parts(info.kind.clone(), info.queue.clone(), info.policy, args)
    }

    fn from_parts(kind: Kind, queue: QueueName, kind_policy: Policy, args: Box<RawValue>) -> Result<Self, InvalidJob> {
        let bytes = args.get().len();
        if bytes > MAX_ARGS_BYTES {
            return Err(InvalidJob::TooLarge { kind, bytes });
        }
        if has_nul(args.get()) {
            return Err(InvalidJob::Nul { kind });
        }
        if kind_policy.encrypted && looks_sealed(&args) {
            return Err(InvalidJob::LooksSealed { kind });
        }
        Ok(Self {
            id: JobId::new(),
            kind,
            queue,
            tenant: None,
            args,
            seal: Seal::default(),
            band: kind_policy.band,
            kind_policy,
            policy: PolicyOverride::default(),
            due: Due::Now,
            unique: None,
            batch: None,
            follows: None,
            idempotency: None,
            traceparent: None,
            fire: None,
        })
    }

    /// Whom it is done for. Set it before any key: keys are scoped by tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// When it becomes ready.
    #[must_use]
    pub fn due(mut self, due: Due) -> Self {
        self.due = due;
        self
    }

    /// At most one job with this key, kind and tenant stands at a time, until it is final; a second is answered with the first.
    #[must_use]
    pub fn unique(self, key: &str) -> Self {
        self.unique_for(key, UniqueScope::default(), OnConflict::default())
    }

    /// At most one job with this key, kind and tenant stands at a time.
    #[must_use]
    pub fn unique_for(mut self, key: &str, scope: UniqueScope, on_conflict: OnConflict) -> Self {
        let digest = KeyDigest::new(&self.kind, self.tenant.as_ref(), key);
        self.unique = Some(Unique { digest, scope, on_conflict });
        self
    }

    /// Makes it a member of a batch.
    #[must_use]
    pub fn batch(mut self, batch: BatchId) -> Self {
        self.batch = Some(batch);
        self
    }

    /// The args as a store may hold them, which are sealed ones if the kind is encrypted.
    ///
    /// # Errors
    /// [`VaultError::Unsealed`]: they were not sealed, or the job was changed since.
    pub fn stored_args(&self) -> Result<&RawValue, VaultError> {
        if self.kind_policy.encrypted && self.seal != Seal::of(&self.kind, self.tenant.as_ref(), &self.args) {
            return Err(VaultError::Unsealed { kind: self.kind.clone() });
        }
        Ok(&self.args)
    }

    /// The policy in force: the kind's, with what differs.
    #[must_use]
    pub fn effective_policy(&self) -> Policy {
        self.policy.apply(self.kind_policy)
    }

    /// The same key again (same kind and tenant) is answered with this job.
    #[must_use]
    pub fn idempotent(mut self, key: &str) -> Self {
        self.idempotency = Some(KeyDigest::new(&self.kind, self.tenant.as_ref(), key));
        self
    }

    /// Carries the trace of whoever asks for it.
    #[must_use]
    pub fn traceparent(mut self, traceparent: Option<String>) -> Self {
        self.traceparent = traceparent;
        self
    }
}

/// What a producer is told about a job it enqueued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enqueued {
    /// It stands now.
    Created(JobId),
    /// A job with the same id, unique key or idempotency key stands already, unchanged.
    Exists(JobId),
    /// A job with the same unique key stands, and took over the args and policy of this one.
    Replaced(JobId),
    /// A job with the same unique key stands, and took over the time of this one.
    Rescheduled(JobId),
}

impl Enqueued {
    /// The job that stands, new or not.
    #[must_use]
    pub const fn id(self) -> JobId {
        match self {
            Self::Created(id) | Self::Exists(id) | Self::Replaced(id) | Self::Rescheduled(id) => id,
        }
    }

    /// Whether this call made it.
    #[must_use]
    pub const fn is_created(self) -> bool {
        matches!(self, Self::Created(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_found_and_a_backslash_before_it_is_not_taken_for_one() {
        assert!(has_nul(r#"{"a":"x\u0000y"}"#));
        assert!(has_nul(r#"{"a":"\\\u0000"}"#));
        assert!(!has_nul(r#"{"a":"\\u0000"}"#));
        assert!(!has_nul(r#"{"a":"u0000"}"#));
    }
}
