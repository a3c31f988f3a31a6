//! What a handler knows about the attempt that it executes.

mod checkpoint;
mod progress;
mod waiting;

use std::sync::{Arc, Mutex, OnceLock};

use serde_json::Value;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use self::{checkpoint::Sealed, progress::Progress};
use crate::{
    error::JobError,
    id::{JobId, Member},
    job::{BatchId, Fire, NewJob},
    journal::JobTx,
    name::{Kind, QueueName, Tenant},
    policy::Policy,
    store::{CalledBack, Hold, SessionId, Store},
    vault::Vault,
};

/// The session that holds a job: how its handler reaches Redis.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Redis, by a connection of the runtime on which handlers run.
    pub store: Store,
    /// Who claimed the job.
    pub session: SessionId,
}

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
    /// What the wait for a callback came to, on the attempt after a park.
    pub called_back: Option<CalledBack>,
    /// The batch that the job follows.
    pub follows: Option<BatchId>,
    /// Cancelled when the attempt must stop.
    pub cancel: CancellationToken,
    /// Where journaled jobs have their effects.
    pub database: PgPool,
    /// Who holds the job, and under which claim number. `None` without Redis, as in tests of handlers: then there are no
    /// checkpoints of fast jobs and no callbacks, and progress goes nowhere.
    pub holder: Option<(Arc<Holder>, u64)>,
}

/// One attempt of a job. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobContext {
    inner: Arc<Inner>,
    vault: Vault,
}

#[derive(Debug)]
struct Inner {
    parts: ContextParts,
    progress: OnceLock<Progress>,
    sealed: Mutex<Vec<Sealed>>,
}

impl JobContext {
    /// Wraps the parts.
    #[must_use]
    pub fn new(parts: ContextParts) -> Self {
        let inner = Inner { parts, progress: OnceLock::new(), sealed: Mutex::default() };
        Self { inner: Arc::new(inner), vault: Vault::default() }
    }

    pub(crate) fn parts(&self) -> &ContextParts {
        &self.inner.parts
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

    pub(crate) const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.parts().member.id
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.parts().kind
    }

    /// Its queue.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.parts().queue
    }

    /// Whom it is done for.
    #[must_use]
    pub fn tenant(&self) -> Option<&Tenant> {
        self.parts().tenant.as_ref()
    }

    /// Which attempt this is; 1 is the first. Snoozes and releases do not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.parts().attempt
    }

    /// The fire of the schedule that made this job, with the time it was due.
    #[must_use]
    pub fn fire(&self) -> Option<&Fire> {
        self.parts().fire.as_ref()
    }

    /// W3C trace context, to be sent with outward calls.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.parts().traceparent.as_deref()
    }

    /// The same over all attempts: for `Idempotency-Key`, `Message-ID`, `webhook-id`.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        self.id().to_string()
    }

    /// Resolves when the attempt must stop (lease lost, job cancelled, timeout, shutdown). Stop at a safe point.
    pub async fn cancelled(&self) {
        self.parts().cancel.cancelled().await;
    }

    /// Whether the attempt must stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.parts().cancel.is_cancelled()
    }

    /// The token itself, for work that takes one.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.parts().cancel
    }

    /// Whether the job is journaled, so that [`begin`](Self::begin) is there for it.
    #[must_use]
    pub fn is_journaled(&self) -> bool {
        self.parts().member.generation.is_some()
    }

    /// Opens the transaction that completes the job: its first statement deletes the journal row. Put the effects in, and
    /// commit. Do network calls before, never inside. Dropping it rolls everything back.
    ///
    /// # Errors
    /// `Gone` when the row is no longer there (another worker finished it, or it was cancelled): return it as it is.
    /// A snooze when Postgres is busy or away. `Bury` when the job is not journaled: a mistake in the program.
    pub async fn begin(&self) -> Result<JobTx, JobError> {
        let (id, generation) = self.journal_key()?;
        Ok(JobTx::begin(&self.parts().database, id, generation).await?.with_vault(self.vault.clone()))
    }

    /// Says how far the job is, for whoever looks at it. Costs next to nothing, however often it is called: it is written
    /// twice a second at most, by itself, and the last figures stay until the job is final. What cannot be written is not.
    pub fn progress(&self, done: u64, total: u64) {
        if let Some(progress) = self.inner.progress.get() {
            return progress.say((done, total));
        }
        match (self.hold(), Handle::try_current()) {
            (Ok((store, hold)), Ok(runtime)) => {
                let start = || Progress::start(&runtime, store.clone(), hold, (done, total));
                self.inner.progress.get_or_init(start).say((done, total));
            }
            (Err(error), _) => tracing::debug!(%error, "progress goes nowhere"),
            (_, Err(error)) => tracing::debug!(%error, "progress is first told on a thread of the runtime"),
        }
    }

    /// The fencing token with which this attempt writes into Redis.
    fn hold(&self) -> Result<(&Store, Hold), JobError> {
        let (holder, claim_no) = self.parts().holder.as_ref().ok_or_else(|| {
            let reason = "this attempt has no Redis: a test of a handler that needs it gives ContextParts a holder";
            JobError::bury("no_redis", anyhow::anyhow!(reason))
        })?;
        let hold = Hold {
            queue: self.queue().clone(),
            session: holder.session.clone(),
            member: self.parts().member,
            claim_no: *claim_no,
        };
        Ok((&holder.store, hold))
    }

    pub(crate) fn journal_key(&self) -> Result<(JobId, i32), JobError> {
        let member = self.parts().member;
        let generation = member.generation.ok_or_else(|| {
            JobError::bury(
                "not_journaled",
                anyhow::anyhow!("{} has effects in Postgres but was enqueued as a fast job", self.kind()),
            )
        })?;
        Ok((member.id, generation))
    }
}

/// What a fenced write into Redis says.
fn still_held(held: bool) -> Result<(), JobError> {
    if held { Ok(()) } else { Err(JobError::gone()) }
}
