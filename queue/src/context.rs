//! What a handler knows about the attempt that it executes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::{Value, value::to_raw_value};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    error::JobError,
    id::{JobId, Member},
    job::{Fire, NewJob},
    journal::{JobTx, StepTx},
    name::{Kind, QueueName, Tenant},
    policy::Policy,
    vault::{Purpose, Vault},
};

/// The parts of a context, as the worker (or a test) puts them together.
#[derive(Debug)]
pub struct ContextParts {
    /// The job, with its generation when it is journaled.
    pub member: Member,
    /// What it is.
    pub kind: Kind,
    /// Where it waited.
    pub queue: QueueName,
    /// Whom it is done for.
    pub tenant: Option<Tenant>,
    /// Which attempt this is; 1 is the first.
    pub attempt: u32,
    /// The policy in force, overrides included.
    pub policy: Policy,
    /// The fire that made the job.
    pub fire: Option<Fire>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// What an earlier attempt left.
    pub checkpoint: Option<Value>,
    /// Cancelled when the attempt must stop.
    pub cancel: CancellationToken,
    /// Where journaled jobs have their effects.
    pub database: PgPool,
}

/// One attempt of a job. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobContext {
    parts: Arc<ContextParts>,
    vault: Vault,
    sealed: Arc<Mutex<Vec<Sealed>>>,
}

/// A checkpoint of an encrypted kind, plain and as it is stored. Sealing it twice gives two texts, and a step asks whether the
/// stored one is still the one that it knows.
struct Sealed {
    plain: Value,
    stored: Value,
}

impl std::fmt::Debug for Sealed {
    /// Leaves the plain one out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").finish_non_exhaustive()
    }
}

/// Checkpoints of an encrypted kind that a context remembers: a step needs the last one, and the one before if it is rolled
/// back.
const REMEMBERED: usize = 4;

impl JobContext {
    /// Wraps the parts.
    #[must_use]
    pub fn new(parts: ContextParts) -> Self {
        Self { parts: Arc::new(parts), vault: Vault::default(), sealed: Arc::default() }
    }

    /// With the keys for what encrypted kinds carry.
    #[must_use]
    pub fn with_vault(self, vault: Vault) -> Self {
        Self { vault, ..self }
    }

    /// Seals a job that the handler enqueues in a transaction of its own: [`JobTx::enqueue`], [`StepTx::enqueue`] and a store
    /// do it without being asked. A job of a kind that is not encrypted stays as it is.
    ///
    /// # Errors
    /// A snooze when this process has no key.
    pub fn seal(&self, mut job: NewJob) -> Result<NewJob, JobError> {
        self.vault.seal(&mut job)?;
        Ok(job)
    }

    /// The job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.parts.member.id
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.parts.kind
    }

    /// Its queue.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.parts.queue
    }

    /// Whom it is done for.
    #[must_use]
    pub fn tenant(&self) -> Option<&Tenant> {
        self.parts.tenant.as_ref()
    }

    /// Which attempt this is; 1 is the first. Snoozes and releases do not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.parts.attempt
    }

    /// Whether a failure of this attempt is the job's death.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.parts.attempt >= u32::from(self.parts.policy.max_attempts)
    }

    /// The fire of the schedule that made this job, with the time it was due.
    #[must_use]
    pub fn fire(&self) -> Option<&Fire> {
        self.parts.fire.as_ref()
    }

    /// W3C trace context, to be sent with outward calls.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.parts.traceparent.as_deref()
    }

    /// The same over all attempts: for `Idempotency-Key`, `Message-ID`, `webhook-id`.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        self.id().to_string()
    }

    /// Resolves when the attempt must stop (lease lost, job cancelled, timeout, shutdown). Stop at a safe point.
    pub async fn cancelled(&self) {
        self.parts.cancel.cancelled().await;
    }

    /// Whether the attempt must stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.parts.cancel.is_cancelled()
    }

    /// The token itself, for work that takes one.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.parts.cancel
    }

    /// Whether the job is journaled, so that [`begin`](Self::begin) is there for it.
    #[must_use]
    pub fn is_journaled(&self) -> bool {
        self.parts.member.generation.is_some()
    }

    /// Opens the transaction that completes the job: its first statement deletes the journal row. Put the effects in, and
    /// commit. Do network calls before, never inside. Dropping it rolls everything back.
    ///
    /// # Errors
    /// `Gone` when the row is no longer there (another worker finished it, or it was cancelled): return it as it is.
    /// A snooze when Postgres is busy or away. `Bury` when the job is not journaled: a mistake in the program.
    pub async fn begin(&self) -> Result<JobTx, JobError> {
        let (id, generation) = self.journal_key()?;
        Ok(JobTx::begin(&self.parts.database, id, generation).await?.with_vault(self.vault.clone()))
    }

    /// Opens the transaction for one step of a long job: its first statement replaces the checkpoint, and finds the job
    /// gone if anybody else advanced it. The step's effects and the new checkpoint are committed together.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn step<T: serde::Serialize + Sync>(&self, previous: Option<&T>, next: &T) -> Result<StepTx, JobError> {
        let (id, generation) = self.journal_key()?;
        let encode = |state: &T| {
            let plain = serde_json::to_value(state).map_err(invalid_checkpoint)?;
            self.stored_checkpoint(plain)
        };
        // The previous one may be what an earlier attempt left.
        self.plain_checkpoint()?;
        let previous = previous.map(encode).transpose()?;
        let step = StepTx::begin(&self.parts.database, id, generation, previous, encode(next)?).await?;
        Ok(step.with_vault(self.vault.clone()))
    }

    /// What an earlier attempt left as its checkpoint.
    ///
    /// # Errors
    /// `Bury` when it is not what this handler reads; a snooze when it was sealed with a key that this process does not have.
    pub fn checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, JobError> {
        self.plain_checkpoint()?.map(T::deserialize).transpose().map_err(invalid_checkpoint)
    }

    /// What an earlier attempt left, opened if it is sealed.
    fn plain_checkpoint(&self) -> Result<Option<Value>, JobError> {
        let Some(stored) = &self.parts.checkpoint else { return Ok(None) };
        if !self.parts.policy.encrypted {
            return Ok(Some(stored.clone()));
        }
        if let Some(known) = self.remembered().iter().find(|known| known.stored == *stored) {
            return Ok(Some(known.plain.clone()));
        }
        let raw = to_raw_value(stored).map_err(invalid_checkpoint)?;
        let opened = self.vault.open_value(Purpose::Checkpoint, self.kind(), self.tenant(), &raw)?;
        // One that is not sealed was left before the kind was encrypted.
        let plain: Value = serde_json::from_str(opened.unwrap_or(raw).get()).map_err(invalid_checkpoint)?;
        self.remember(plain.clone(), stored.clone());
        Ok(Some(plain))
    }

    /// A checkpoint as it is stored: sealed, if the kind is encrypted.
    fn stored_checkpoint(&self, plain: Value) -> Result<Value, JobError> {
        if !self.parts.policy.encrypted {
            return Ok(plain);
        }
        if let Some(known) = self.remembered().iter().rev().find(|known| known.plain == plain) {
            return Ok(known.stored.clone());
        }
        let raw = to_raw_value(&plain).map_err(invalid_checkpoint)?;
        let sealed = self.vault.seal_value(Purpose::Checkpoint, self.kind(), self.tenant(), &raw)?;
        let stored: Value = serde_json::from_str(sealed.get()).map_err(invalid_checkpoint)?;
        self.remember(plain, stored.clone());
        Ok(stored)
    }

    fn remembered(&self) -> MutexGuard<'_, Vec<Sealed>> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, plain: Value, stored: Value) {
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED {
            remembered.remove(0);
        }
        remembered.push(Sealed { plain, stored });
    }

    fn journal_key(&self) -> Result<(JobId, i32), JobError> {
        let member = self.parts.member;
        let generation = member.generation.ok_or_else(|| {
            JobError::bury(
                "not_journaled",
                anyhow::anyhow!("{} has effects in Postgres but was enqueued as a fast job", self.kind()),
            )
        })?;
        Ok((member.id, generation))
    }
}

fn invalid_checkpoint(error: serde_json::Error) -> JobError {
    JobError::bury("invalid_checkpoint", error)
}
