//! The transactions in which a journaled job has its effects.

use std::ops::{Deref, DerefMut};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::{at_most_once, enqueue_in};
use crate::{
    error::JobError,
    id::{Generation, JobId},
    job::{Enqueued, Fire, NewJob},
    vault::Vault,
};

/// Proof that the job's row was deleted and its effects committed. Only [`JobTx::commit`] makes one.
#[derive(Debug)]
pub struct Committed {
    id: JobId,
}

impl Committed {
    /// Made by whoever has committed the job's effects with others'.
    pub(super) const fn with_others(id: JobId) -> Self {
        Self { id }
    }

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
    fire: Option<Fire>,
    vault: Vault,
    /// It was closed when it started, since it runs at most once: its row is there, not in the journal.
    closed: bool,
}

/// Which fire a job comes from.
#[derive(FromRow)]
pub(super) struct Source {
    schedule_id: Option<Uuid>,
    fire_at: Option<DateTime<Utc>>,
}

impl Source {
    pub(super) fn fire(&self) -> Option<Fire> {
        Some(Fire { schedule_id: self.schedule_id?, fire_at: self.fire_at?, missed: 0 })
    }
}

async fn enqueue_children(
    tx: &mut PgConnection,
    fire: Option<Fire>,
    vault: &Vault,
    jobs: &[NewJob],
) -> Result<Vec<Enqueued>, JobError> {
    let jobs = vault.seal_all(jobs)?;
    if fire.is_none() {
        return Ok(enqueue_in(tx, &jobs).await?);
    }
    let children: Vec<NewJob> = jobs.iter().map(|job| NewJob { fire: job.fire.or(fire), ..job.clone() }).collect();
    Ok(enqueue_in(tx, &children).await?)
}

/// The last statement before COMMIT. Deferred constraints are checked here, where their errors are errors and leave no doubt.
/// And a transaction that a failed statement has aborted fails here: Postgres answers its COMMIT with a rollback that no
/// driver reports, so that a handler which overlooked an error would be told that its effects stand.
pub(super) async fn settle(tx: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(tx).await?;
    Ok(())
}

impl JobTx {
    pub(crate) async fn begin(pool: &PgPool, id: JobId, generation: Generation) -> Result<Self, JobError> {
        let mut tx = pool.begin().await?;
        let deleted: Option<Source> = sqlx::query_as(
            "DELETE FROM job_journal WHERE id = $1 AND gen = $2 AND state = 'live' RETURNING schedule_id, fire_at",
        )
        .bind(id.0)
        .bind(generation)
        .fetch_optional(&mut *tx)
        .await?;
        let closed = deleted.is_none();
        let source = match deleted {
            Some(source) => Some(source),
            None => at_most_once::complete_in(&mut tx, id, generation).await?,
        };
        let Some(source) = source else {
            tx.rollback().await?;
            return Err(JobError::gone());
        };
        Ok(Self { tx, pool: pool.clone(), id, generation, fire: source.fire(), vault: Vault::default(), closed })
    }

    pub(crate) fn with_vault(self, vault: Vault) -> Self {
        Self { vault, ..self }
    }

    /// Enqueues follow-ups, which are journaled, in this transaction. They stand when it commits. Those of encrypted kinds are
    /// sealed here.
    ///
    /// A follow-up of a job that a schedule made counts as that schedule's: its overlap rule sees work that is still going
    /// on, not only the job that began it.
    ///
    /// # Errors
    /// When Postgres refuses them.
    pub async fn enqueue(&mut self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, JobError> {
        enqueue_children(&mut self.tx, self.fire, &self.vault, jobs).await
    }

    /// Commits effects and completion together.
    ///
    /// An error on COMMIT says nothing about what happened, so the row is looked at: gone means committed.
    ///
    /// # Errors
    /// When the transaction did not commit; nothing of it has happened then.
    pub async fn commit(self) -> Result<Committed, JobError> {
        let Self { mut tx, pool, id, generation, closed, .. } = self;
        settle(&mut tx).await?;
        if let Err(error) = tx.commit().await {
            // The server may still be at it: FOR UPDATE waits for a transaction that has not ended.
            let look = if closed {
                "SELECT FROM job_closed WHERE id = $1 AND gen = $2 FOR UPDATE"
            } else {
                "SELECT FROM job_journal WHERE id = $1 AND gen = $2 FOR UPDATE"
            };
            let stands = sqlx::query(look).bind(id.0).bind(generation).fetch_optional(&pool).await?;
            if stands.is_some() {
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
    fire: Option<Fire>,
    vault: Vault,
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
        let advanced: Option<Source> = sqlx::query_as(
            "UPDATE job_journal SET checkpoint = $4
             WHERE id = $1 AND gen = $2 AND state = 'live' AND checkpoint IS NOT DISTINCT FROM $3
             RETURNING schedule_id, fire_at",
        )
        .bind(id.0)
        .bind(generation)
        .bind(previous)
        .bind(next)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(source) = advanced {
            return Ok(Self { tx, fire: source.fire(), vault: Vault::default() });
        }
        let stands = sqlx::query("SELECT FROM job_journal WHERE id = $1 AND gen = $2 AND state = 'live'")
            .bind(id.0)
            .bind(generation)
            .fetch_optional(&mut *tx)
            .await?;
        let started = stands.is_none() && at_most_once::is_started(&mut tx, id, generation).await?;
        tx.rollback().await?;
        if started {
            return Err(JobError::bury(
                "at_most_once_step",
                anyhow::anyhow!(
                    "a job that runs at most once has no next attempt, and so no steps: use one transaction"
                ),
            ));
        }
        // A job that still stands must not be acknowledged as gone: another attempt reads the checkpoint that is there.
        Err(if stands.is_some() {
            JobError::retry("checkpoint_moved", anyhow::anyhow!("the checkpoint is no longer what this attempt read"))
        } else {
            JobError::gone()
        })
    }

    pub(crate) fn with_vault(self, vault: Vault) -> Self {
        Self { vault, ..self }
    }

    /// Enqueues follow-ups in this transaction. They stand when it commits. Those of encrypted kinds are sealed here.
    ///
    /// # Errors
    /// When Postgres refuses them.
    pub async fn enqueue(&mut self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, JobError> {
        enqueue_children(&mut self.tx, self.fire, &self.vault, jobs).await
    }

    /// Commits the step and its checkpoint together. After an error the next attempt reads the checkpoint that stands, so
    /// an ambiguous COMMIT needs no look here.
    ///
    /// # Errors
    /// When it may not have been committed.
    pub async fn commit(mut self) -> Result<(), JobError> {
        settle(&mut self.tx).await?;
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
