//! Completion of journaled jobs without effects in Postgres: those that finish at about the same time share one DELETE.

use crate::patience::patiently;
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use windrow_queue::{JobError, Member, id::Generation, id::JobId, journal};

/// Rows in one statement.
const BATCH: usize = 200;

type Request = (JobId, Generation, oneshot::Sender<Result<bool, JobError>>);

/// Hands completions to the one task that writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Completer {
    requests: mpsc::Sender<Request>,
}

impl Completer {
    /// Starts the task; it ends when the last clone is gone.
    pub(crate) fn start(database: PgPool) -> Self {
        let (requests, rx) = mpsc::channel(BATCH);
        tokio::spawn(write_batches(database, rx));
        Self { requests }
    }

    /// Completes a job: true if its row was live and is deleted now, false if somebody decided first.
    pub(crate) async fn complete(&self, member: Member) -> Result<bool, JobError> {
        let Some(generation) = member.generation else { return Ok(true) };
        let ended = || JobError::snooze(std::time::Duration::from_secs(1), "shutdown", anyhow::anyhow!("worker ends"));
        let (answer, answered) = oneshot::channel();
        self.requests.send((member.id, generation, answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

async fn write_batches(database: PgPool, mut rx: mpsc::Receiver<Request>) {
    let mut batch = Vec::with_capacity(BATCH);
    // Whatever came while the last statement ran is the next batch: no timer, and no delay when there is little to do.
    while rx.recv_many(&mut batch, BATCH).await > 0 {
        let jobs: Vec<_> = batch.iter().map(|(id, generation, _)| (*id, *generation)).collect();
        let done = patiently(journal::complete(&database, &jobs)).await;
        for (id, generation, answer) in batch.drain(..) {
            let result = match &done {
                Ok(done) if done.contains(&(id, generation)) => Ok(true),
                // Gone, or held by another transaction at that moment: this one waits for the lock and finds out.
                Ok(_) | Err(_) => patiently(journal::complete_one(&database, id, generation)).await,
            };
            // Nobody waits any more if the job was dropped meanwhile; its row decides at the next start check.
            let _ = answer.send(result);
        }
    }
}
