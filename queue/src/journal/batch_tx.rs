//! One transaction for many jobs of a kind whose work is done set by set.

use std::{
    collections::{HashMap, HashSet},
    ops::{Deref, DerefMut},
};

use sqlx::{FromRow, PgConnection, PgPool, Postgres, Row, Transaction};

use super::{
    complete::delete,
    enqueue_in,
    tx::{Committed, Source, settle},
};
use crate::{
    error::JobError,
    id::{JobId, Member},
    job::{Enqueued, Fire, NewJob},
    vault::Vault,
};

/// Completes up to a few hundred journaled jobs together: their rows are deleted already, the effects of all of them go in,
/// then commit.
///
/// ```no_run
/// # async fn run(pool: &sqlx::PgPool, members: &[windrow_queue::Member]) -> Result<(), windrow_queue::JobError> {
/// let mut tx = windrow_queue::journal::BatchTx::begin(pool, members).await?;
/// let ids: Vec<_> = tx.standing().map(|member| member.id.0).collect();
/// sqlx::query("INSERT INTO receipt (job) SELECT unnest($1::uuid[])").bind(ids).execute(&mut *tx).await?;
/// let done = tx.commit().await?;
/// # let _ = done; Ok(()) }
/// ```
///
/// Effects belong to [`standing`](Self::standing) members only. If one of them spoils the transaction, roll back, and begin
/// again with fewer: nothing has happened. Dropping it rolls back, too, a little later: until then the members are busy.
/// Dereferences to the connection.
#[derive(Debug)]
pub struct BatchTx {
    tx: Transaction<'static, Postgres>,
    pool: PgPool,
    standing: HashMap<Member, Option<Fire>>,
    busy: HashSet<Member>,
    vault: Vault,
}

/// Proof that the rows of these jobs were deleted and their effects committed. Only [`BatchTx::commit`] makes one.
#[derive(Debug)]
pub struct BatchCommitted {
    members: HashSet<Member>,
}

impl BatchCommitted {
    /// The jobs that completed.
    #[must_use]
    pub const fn members(&self) -> &HashSet<Member> {
        &self.members
    }

    /// The proof for one of them.
    #[must_use]
    pub fn of(&self, member: Member) -> Option<Committed> {
        self.members.contains(&member).then(|| Committed::with_others(member.id))
    }
}

impl BatchTx {
    /// Opens the transaction; its first statement deletes the rows of the members that are live.
    ///
    /// # Errors
    /// A snooze when Postgres is busy or away.
    pub async fn begin(pool: &PgPool, members: &[Member]) -> Result<Self, JobError> {
        let key = |member: &Member| Some((member.id, member.generation?));
        let mut tx = pool.begin().await?;
        let mut standing = HashMap::with_capacity(members.len());
        for row in delete(&mut *tx, members.iter().filter_map(key)).await? {
            standing.insert(Member::journaled(JobId(row.get(0)), row.get(1)), Source::from_row(&row)?.fire());
        }
        let missing: Vec<_> = members.iter().filter(|member| !standing.contains_key(member)).filter_map(key).collect();
        let mut busy = HashSet::new();
        if !missing.is_empty() {
            let held = sqlx::query(
                "SELECT j.id, j.gen FROM unnest($1::uuid[], $2::int[]) AS missing (id, gen)
                 JOIN job_journal j ON j.id = missing.id AND j.gen = missing.gen AND j.state = 'live'",
            )
            .bind(missing.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
            .bind(missing.iter().map(|(_, generation)| *generation).collect::<Vec<_>>())
            .fetch_all(&mut *tx)
            .await?;
            busy = held.iter().map(|row| Member::journaled(JobId(row.get(0)), row.get(1))).collect();
        }
        Ok(Self { tx, pool: pool.clone(), standing, busy, vault: Vault::default() })
    }

    /// With the keys by which follow-ups of encrypted kinds are sealed.
    #[must_use]
    pub fn with_vault(self, vault: Vault) -> Self {
        Self { vault, ..self }
    }

    /// The members whose effects go in.
    pub fn standing(&self) -> impl Iterator<Item = Member> + '_ {
        self.standing.keys().copied()
    }

    /// Whether this one's effects go in.
    #[must_use]
    pub fn stands(&self, member: Member) -> bool {
        self.standing.contains_key(&member)
    }

    /// The members whose rows another transaction holds: give them back, they are decided there. What is neither standing nor
    /// busy is over.
    #[must_use]
    pub const fn busy(&self) -> &HashSet<Member> {
        &self.busy
    }

    /// Enqueues follow-ups in this transaction, each with the member from which it comes: what a schedule made stays that
    /// schedule's work. Answers are in their order.
    ///
    /// # Errors
    /// When Postgres refuses them.
    pub async fn enqueue(&mut self, jobs: Vec<(Member, NewJob)>) -> Result<Vec<Enqueued>, JobError> {
        let jobs: Vec<NewJob> = jobs
            .into_iter()
            .map(|(member, job)| {
                let fire = job.fire.or_else(|| self.standing.get(&member).copied().flatten());
                NewJob { fire, ..job }
            })
            .collect();
        Ok(enqueue_in(&mut self.tx, &self.vault.seal_all(&jobs)?).await?)
    }

    /// Leaves everything as it was; the rows are free when this returns.
    ///
    /// # Errors
    /// When Postgres is away: it rolls back by itself then.
    pub async fn rollback(self) -> Result<(), JobError> {
        Ok(self.tx.rollback().await?)
    }

    /// Commits the effects and the completion of all standing members together.
    ///
    /// # Errors
    /// When the transaction did not commit; nothing of it has happened then. An error on COMMIT says nothing, so the rows are
    /// looked at: gone means committed.
    pub async fn commit(self) -> Result<BatchCommitted, JobError> {
        let Self { mut tx, pool, standing, .. } = self;
        let members: HashSet<Member> = standing.into_keys().collect();
        settle(&mut tx).await?;
        if let Err(error) = tx.commit().await {
            // All of them or none: one row tells. FOR UPDATE waits for a transaction that has not ended.
            let Some((id, generation)) = members.iter().next().map(|member| (member.id, member.generation)) else {
                return Err(error.into());
            };
            let stands = sqlx::query("SELECT FROM job_journal WHERE id = $1 AND gen = $2 FOR UPDATE")
                .bind(id.0)
                .bind(generation)
                .fetch_optional(&pool)
                .await?;
            if stands.is_some() {
                return Err(error.into());
            }
            tracing::info!(jobs = members.len(), %error, "the commit was reported as failed, but the jobs' rows are gone");
        }
        Ok(BatchCommitted { members })
    }
}

impl Deref for BatchTx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for BatchTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}
