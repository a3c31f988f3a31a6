//! The transactions in which a journaled job has its effects.

use std::ops::{Deref, DerefMut};

use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::enqueue_in;
use crate::{
    error::JobError,
    id::{Generation, JobId},
    job::{Enqueued, NewJob},
};

/// Proof that the job's row was deleted and its effects committed. Only [`JobTx::commit`] makes one.
#[derive(Debug)]
pub struct Committed {
    id: JobId,
}

impl Committed {
    /// The job that completed.
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.id
    }
}

/// The transaction that completes a journaled job: its row is deleted already, the effects go in, then commit.
///
/// Dereferences to the connection, so that it goes wherever sqlx takes `&mut *tx`.
#[derive(Debug)]
pub struct JobTx {
    tx: Transaction<'static, Postgres>,
    pool: PgPool,
    id: JobId,
    generation: Generation,
}

impl JobTx {
    pub(crate) async fn begin(pool: &PgPool, id: JobId, generation: Generation) -> Result<Self, JobError> {
        let mut tx = pool.begin().await?;
        let deleted = sqlx::query("DELETE FROM job_journal WHERE id = $1 AND gen = $2 AND state = 'live'")
            .bind(id.0)
            .bind(generation)
            .execute(&mut *tx)
            .await?;
        if deleted.rows_affected() == 0 {
            tx.rollback().await?;
            return Err(JobError::gone());
        }
        Ok(Self { tx, pool: pool.clone(), id, generation })
    }

    /// Enqueues follow-ups, which are journaled, in this transaction. They stand when it commits.
    ///
    /// # Errors
    /// When Postgres refuses them.
    pub async fn enqueue(&mut self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, JobError> {
        Ok(enqueue_in(&mut self.tx, jobs).await?)
    }

    /// Commits effects and completion together.
    ///
    /// An error on COMMIT says nothing about what happened, so the row is looked at: gone means committed.
    ///
    /// # Errors
    /// When the transaction did not commit; nothing of it has happened then.
    pub async fn commit(self) -> Result<Committed, JobError> {
        let Self { tx, pool, id, generation } = self;
        if let Err(error) = tx.commit().await {
            let stands: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM job_journal WHERE id = $1 AND gen = $2)")
                .bind(id.0)
                .bind(generation)
                .fetch_one(&pool)
                .await?;
            if stands {
                return Err(error.into());
            }
            tracing::info!(job_id = %id, %error, "the commit was reported as failed, but the job's row is gone: completed");
        }
        Ok(Committed { id })
    }
}

impl Deref for JobTx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for JobTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

/// The transaction of one step of a long job: the checkpoint is advanced already, the step's effects go in, then commit.
#[derive(Debug)]
pub struct StepTx {
    tx: Transaction<'static, Postgres>,
}

impl StepTx {
    pub(crate) async fn begin(
        pool: &PgPool,
        id: JobId,
        generation: Generation,
        previous: Option<serde_json::Value>,
        next: serde_json::Value,
    ) -> Result<Self, JobError> {
        let mut tx = pool.begin().await?;
        let advanced = sqlx::query(
            "UPDATE job_journal SET checkpoint = $4
             WHERE id = $1 AND gen = $2 AND state = 'live' AND checkpoint IS NOT DISTINCT FROM $3",
        )
        .bind(id.0)
        .bind(generation)
        .bind(previous)
        .bind(next)
        .execute(&mut *tx)
        .await?;
        if advanced.rows_affected() == 0 {
            tx.rollback().await?;
            return Err(JobError::gone());
        }
        Ok(Self { tx })
    }

    /// Enqueues follow-ups in this transaction. They stand when it commits.
    ///
    /// # Errors
    /// When Postgres refuses them.
    pub async fn enqueue(&mut self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, JobError> {
        Ok(enqueue_in(&mut self.tx, jobs).await?)
    }

    /// Commits the step and its checkpoint together. After an error the next attempt reads the checkpoint that stands, so
    /// an ambiguous COMMIT needs no look here.
    ///
    /// # Errors
    /// When it may not have been committed.
    pub async fn commit(self) -> Result<(), JobError> {
        Ok(self.tx.commit().await?)
    }
}

impl Deref for StepTx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for StepTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}
