//! Cancelling one job, fast or journaled, wherever it is.

use serde::Serialize;
use sqlx::PgPool;
use windrow_queue::{
    Member, QueueName, journal,
    store::{Cancelled, Store, StoreError},
};

use crate::find::{FindError, JobView};

/// What became of the job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelOutcome {
    /// It will not run.
    Cancelled,
    /// It runs, and its handler was told to stop.
    Stopping,
}

/// Why a job was not cancelled.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// It is over.
    #[error("the job is over ({0}): there is nothing to cancel")]
    Final(String),
    /// Its row is held.
    #[error("its row is held by a transaction that decides about it: ask again in a moment")]
    Busy,
    /// A store is away.
    #[error("{0}")]
    Find(#[from] FindError),
}

impl From<StoreError> for CancelError {
    fn from(error: StoreError) -> Self {
        Self::Find(error.into())
    }
}

impl From<sqlx::Error> for CancelError {
    fn from(error: sqlx::Error) -> Self {
        Self::Find(error.into())
    }
}

/// Cancels a job that was [found](crate::find::find). Journaled ones in Postgres first, whatever Redis then says.
///
/// # Errors
/// When it is over, or a store is away: asking again is safe.
pub async fn cancel(
    store: &Store,
    database: &PgPool,
    view: &JobView,
    reason: &str,
) -> Result<CancelOutcome, CancelError> {
    if view.is_final() {
        return Err(CancelError::Final(view.state.clone()));
    }
    if view.journaled {
        return journaled(store, database, view, reason).await;
    }
    let Ok(queue) = QueueName::new(&*view.queue) else { return Err(over()) };
    match store.cancel(&queue, &[Member::fast(view.id)]).await?[..] {
        [Cancelled::Done] => Ok(CancelOutcome::Cancelled),
        [Cancelled::Stopping] => Ok(CancelOutcome::Stopping),
        // It ended since it was looked for.
        _ => Err(over()),
    }
}

fn over() -> CancelError {
    CancelError::Final("it ended a moment ago".to_owned())
}

async fn journaled(
    store: &Store,
    database: &PgPool,
    view: &JobView,
    reason: &str,
) -> Result<CancelOutcome, CancelError> {
    let answer = journal::cancel(database, &[view.id], reason).await?.pop();
    let (member, queue) = match answer {
        Some(journal::Cancelled::Done { member, queue }) => (member, queue),
        Some(journal::Cancelled::Busy) => return Err(CancelError::Busy),
        Some(journal::Cancelled::AlreadyFinal | journal::Cancelled::Unknown) | None => return Err(over()),
    };
    let Ok(queue) = QueueName::new(queue) else { return Ok(CancelOutcome::Cancelled) };
    // It is decided. Without Redis, whoever claims it finds no row and lets it go.
    match store.cancel(&queue, &[member]).await {
        Ok(answers) if answers == [Cancelled::Stopping] => Ok(CancelOutcome::Stopping),
        Ok(_) => Ok(CancelOutcome::Cancelled),
        Err(error) => {
            tracing::warn!(job_id = %view.id, %error, "a job is cancelled, and Redis could not be told");
            Ok(CancelOutcome::Cancelled)
        }
    }
}
