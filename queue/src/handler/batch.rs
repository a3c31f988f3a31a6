//! Kinds whose work is done set by set: jobs that run at the same time share one transaction.
//!
//! Whatever came while one transaction was under way is the next one's: no timer, and no delay when there is little to do. Each
//! job keeps its own lease, timeout and outcome. When a batch fails, it is halved until the job at fault is alone: that one has
//! the error, the others commit.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::FutureExt;
use rand::RngExt;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Handler, JobResult, Outcome};
use crate::{
    context::JobContext,
    error::{Decision, JobError},
    job::JobArgs,
    journal::BatchTx,
    policy::Delivery,
};

/// A job of a batch.
#[derive(Debug)]
pub struct BatchJob<A> {
    /// Its attempt.
    pub ctx: JobContext,
    /// Its args.
    pub args: A,
}

/// Executes journaled jobs of one kind, many in one transaction. Registered as [`Batched`].
pub trait BatchHandler: Send + Sync + 'static {
    /// The kind's args.
    type Args: JobArgs;

    /// Jobs in one transaction, at most.
    const MOST: usize = 200;

    /// Puts the effects of all of these jobs into the transaction, in which their rows are deleted already; it is committed
    /// when this returns. No calls to the outside from here. An error, or a panic, is rolled back, and if it may be one job's
    /// fault the batch is tried again in halves: it may be called again with the same jobs.
    fn run_batch(
        &self,
        jobs: &[BatchJob<Self::Args>],
        tx: &mut BatchTx,
    ) -> impl Future<Output = Result<(), JobError>> + Send;
}

/// A job that waits for its batch, with where its outcome goes.
type Waiting<A> = (BatchJob<A>, oneshot::Sender<JobResult>);

/// A [`BatchHandler`] as the handler of its kind.
pub struct Batched<H: BatchHandler> {
    handler: Arc<H>,
    waiting: OnceLock<mpsc::Sender<Waiting<H::Args>>>,
}

impl<H: BatchHandler> std::fmt::Debug for Batched<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batched").field("kind", &<H::Args as JobArgs>::KIND).finish_non_exhaustive()
    }
}

impl<H: BatchHandler> Batched<H> {
    /// Gathers jobs for this handler.
    #[must_use]
    pub fn new(handler: H) -> Self {
        Self { handler: Arc::new(handler), waiting: OnceLock::new() }
    }
}

impl<H: BatchHandler> Handler for Batched<H> {
    type Args = H::Args;

    async fn run(&self, ctx: JobContext, args: H::Args) -> JobResult {
        ctx.journal_key()?;
        if ctx.parts().policy.delivery == Delivery::AtMostOnce {
            let reason = "a kind that is executed in batches cannot run at most once: its batches may be tried again";
            return Err(JobError::bury("at_most_once", anyhow::anyhow!(reason)));
        }
        let waiting = self.waiting.get_or_init(|| {
            let (waiting, jobs) = mpsc::channel(H::MOST);
            // Ends when this handler is gone.
            tokio::spawn(gather(Arc::clone(&self.handler), jobs));
            waiting
        });
        let ended = || JobError::snooze(Duration::from_secs(1), "shutdown", anyhow::anyhow!("the worker ends"));
        let (answer, answered) = oneshot::channel();
        waiting.send((BatchJob { ctx, args }, answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

async fn gather<H: BatchHandler>(handler: Arc<H>, mut waiting: mpsc::Receiver<Waiting<H::Args>>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, H::MOST).await > 0 {
        // Whose attempt was given up meanwhile is nobody's any more.
        batch.retain(|(_, answer)| !answer.is_closed());
        let mut parts = vec![std::mem::take(&mut batch)];
        while let Some(mut part) = parts.pop() {
            let Some(longest) = part.iter().map(|(job, _)| job.ctx.parts().policy.timeout).min() else { continue };
            let Err(error) = timeout(longest, run(&*handler, &mut part)).await.unwrap_or_else(|_| {
                Err(JobError::retry("timeout", anyhow::anyhow!("the batch ran longer than its timeout of {longest:?}")))
            }) else {
                continue;
            };
            // A database that is busy or away is no job's fault.
            if part.len() > 1 && !matches!(error.decision(), Decision::Snooze(_)) {
                let half = part.split_off(part.len() / 2);
                parts.extend([half, part]);
                continue;
            }
            let (decision, class, message) = (error.decision(), error.class(), error.message());
            for (_, answer) in part {
                let _ = answer.send(Err(JobError::new(decision, class, anyhow::anyhow!(message.clone()))));
            }
        }
    }
}

/// One transaction. Those that are over or somebody else's are answered and leave the batch; after success, all of them.
async fn run<H: BatchHandler>(handler: &H, batch: &mut Vec<Waiting<H::Args>>) -> Result<(), JobError> {
    let Some((first, _)) = batch.first() else { return Ok(()) };
    let members: Vec<_> = batch.iter().map(|(job, _)| job.ctx.parts().member).collect();
    let tx = BatchTx::begin(&first.ctx.parts().database, &members).await?;
    let mut tx = tx.with_vault(first.ctx.vault().clone());
    let (mut jobs, mut answers) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for (job, answer) in batch.drain(..) {
        let member = job.ctx.parts().member;
        if tx.stands(member) {
            jobs.push(job);
            answers.push(answer);
        } else if tx.busy().contains(&member) {
            let delay = Duration::from_millis(rand::rng().random_range(500..1500));
            let busy = anyhow::anyhow!("another transaction holds the job's row");
            // Nobody waits any more if the attempt was given up; this and the others below.
            let _ = answer.send(Err(JobError::snooze(delay, "busy", busy)));
        } else {
            let _ = answer.send(Err(JobError::gone()));
        }
    }
    let ran = if jobs.is_empty() {
        Ok(Ok(()))
    } else {
        AssertUnwindSafe(handler.run_batch(&jobs, &mut tx)).catch_unwind().await
    };
    let committed = match ran {
        Ok(Ok(())) => tx.commit().await,
        Ok(Err(error)) => Err(error),
        Err(panic) => Err(JobError::panic(&*panic)),
    };
    match committed {
        Ok(committed) => {
            for (job, answer) in jobs.into_iter().zip(answers) {
                let proof = committed.of(job.ctx.parts().member);
                let _ = answer.send(proof.map(Outcome::Committed).ok_or_else(JobError::gone));
            }
            Ok(())
        }
        Err(error) => {
            batch.extend(jobs.into_iter().zip(answers));
            Err(error)
        }
    }
}
