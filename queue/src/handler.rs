//! What executes a kind.

mod batch;

use std::{future::Future, time::Duration};

pub use batch::{BatchHandler, BatchJob, Batched};

use crate::{context::JobContext, error::JobError, job::JobArgs, journal::Committed};

/// What a handler says when it did its work.
#[derive(Debug)]
pub enum Outcome {
    /// Done. A journaled job without effects in Postgres is completed by the worker, in bulk.
    Done,
    /// Done: the journal row was deleted in the transaction that holds the effects.
    Committed(Committed),
    /// Not yet: again after this delay, with no attempt counted.
    Snooze(Duration),
    /// Not here, not now: at once for whoever has a free slot, at the head of its lane, with no attempt counted.
    Release,
    /// Waiting for an outside callback ([`JobContext::callback`]), holding no slot, until it comes or so much time has passed;
    /// then it runs again, with no attempt counted, and finds what came in [`JobContext::called_back`].
    Park {
        /// The longest wait.
        deadline: Duration,
    },
    /// Not any more: final, with the reason.
    Cancel(String),
}

impl From<Committed> for Outcome {
    fn from(committed: Committed) -> Self {
        Self::Committed(committed)
    }
}

/// What a handler returns.
pub type JobResult = Result<Outcome, JobError>;

/// Executes the jobs of one kind.
///
/// The future may be dropped at any await point (lost lease, timeout, hard stop): work that must not be torn apart belongs
/// into one transaction. A handler that runs long watches [`JobContext::cancelled`].
pub trait Handler: Send + Sync + 'static {
    /// The kind's args.
    type Args: JobArgs;

    /// Executes one attempt.
    fn run(&self, ctx: JobContext, args: Self::Args) -> impl Future<Output = JobResult> + Send;
}
