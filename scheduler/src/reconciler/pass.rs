//! One pass: what was found of some queues is healed.
//!
//! ```text
//! begin     -> queues of redis_watch that nobody heals, under a token; the token into each queue's meta
//! clean     -> scheduled members that PostgreSQL does not know are taken out (not of a wiped Redis: it has none)
//! put back  -> every live row of the journal, by id, straight into Redis; it takes what it does not have
//! end       -> a new epoch, into Redis if it still has the token, then into the row if that has
//! ```
//!
//! A pass that dies is taken over by another, from its beginning, when its lease is over: doing it twice changes nothing. What a
//! full queue refuses goes into the outbox, from which the relay brings it when there is room.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use tokio::time::{Instant, timeout};
use uuid::Uuid;
use windrow_queue::{
    Member, QueueName,
    journal::{self, OutboxRow, RelayJob},
};

use super::{Stores, sweep::BACKLOG};
use crate::watch::{
    Finding,
    table::{self, Healed},
};

/// Rows of the journal that one step looks at.
const WINDOW: i64 = 4000;

/// How often the lease is extended; a step must end well within it.
const EXTEND: Duration = Duration::from_secs(1);

/// How long one queue's Redis may take for its part of a step.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a queue is left alone whose Redis did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Sessions that are silent for this much longer than a lease are doomed, and have told whatever they had to tell.
const BEYOND_LEASE: Duration = Duration::from_secs(2);

/// A pass under way.
#[derive(Debug)]
pub(super) struct Pass {
    token: Uuid,
    timeline: String,
    queues: BTreeMap<QueueName, Healing>,
    /// Where it is in the journal; none when it is through.
    after: Option<Uuid>,
    extended: Instant,
}

/// A queue of a pass.
#[derive(Debug)]
struct Healing {
    finding: Finding,
    /// What PostgreSQL remembered of its beat.
    beat: i64,
    /// The run of its server when the pass began: one that was restarted since has perhaps lost what was put back.
    run_id: String,
    /// Where the cleaning is; none when it is done.
    clean: Option<u64>,
    put_back: u64,
    removed: u64,
}

/// What a step did.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) put_back: u64,
    pub(super) removed: u64,
    /// A queue that was left for later, and why.
    pub(super) failed: Option<String>,
}

impl Pass {
    /// Takes what is to be healed, if there is anything. Beside it, which queue could not be begun, and why.
    pub(super) async fn begin(
        stores: &Stores,
        queues: &[QueueName],
    ) -> Result<(Option<Self>, Option<String>), sqlx::Error> {
        let token = Uuid::from_u128(rand::random());
        let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
        let found = table::claim(&stores.database, &names, token).await?;
        if found.is_empty() {
            return Ok((None, None));
        }
        let timeline = table::timeline(&stores.database).await.unwrap_or_default();
        let begun = join_all(found.iter().map(|of| patiently(stores.store.begin_heal(&of.queue, token)))).await;
        let mut pass =
            Self { token, timeline, queues: BTreeMap::new(), after: Some(Uuid::nil()), extended: Instant::now() };
        let mut failed = None;
        for (of, begun) in found.into_iter().zip(begun) {
            match begun {
                Ok(begun) => {
                    let clean = of.finding.leaves_ghosts().then_some(0);
                    let (finding, beat, run_id) = (of.finding, of.beat, begun.run_id);
                    let healing = Healing { finding, beat, run_id, clean, put_back: 0, removed: 0 };
                    pass.queues.insert(of.queue, healing);
                }
                Err(reason) => pass.leave(stores, &of.queue, reason, &mut failed).await?,
            }
        }
        Ok(((!pass.is_over()).then_some(pass), failed))
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_over(&self) -> bool {
        self.queues.is_empty()
    }

    /// A bounded part of it. A queue whose Redis does not answer is left for another pass.
    ///
    /// # Errors
    /// When PostgreSQL is away. The pass goes on where it was, if its lease is not over by then.
    pub(super) async fn step(&mut self, stores: &Stores) -> anyhow::Result<Step> {
        let mut step = Step::default();
        if self.extended.elapsed() >= EXTEND {
            self.extend(stores).await?;
        }
        if self.queues.values().any(|healing| healing.clean.is_some()) {
            self.clean(stores, &mut step).await?;
        } else if let Some(after) = self.after {
            self.put_back(stores, after, &mut step).await?;
        } else {
            self.end(stores, &mut step).await?;
        }
        Ok(step)
    }

    async fn extend(&mut self, stores: &Stores) -> Result<(), sqlx::Error> {
        let names: Vec<&str> = self.queues.keys().map(QueueName::as_str).collect();
        let ours = table::extend(&stores.database, &names, self.token).await?;
        self.queues.retain(|queue, _| ours.iter().any(|name| name == queue.as_str()));
        self.extended = Instant::now();
        Ok(())
    }

    /// Its Redis does not answer, or was wiped again: another pass begins with it anew.
    async fn leave(
        &mut self,
        stores: &Stores,
        queue: &QueueName,
        reason: String,
        failed: &mut Option<String>,
    ) -> Result<(), sqlx::Error> {
        tracing::warn!(%queue, reason, "what this queue lost is put back later");
        self.queues.remove(queue);
        failed.get_or_insert_with(|| format!("queue {queue}: {reason}"));
        table::release(&stores.database, queue, self.token, PAUSE).await
    }

    async fn clean(&mut self, stores: &Stores, step: &mut Step) -> Result<(), sqlx::Error> {
        let pages = self.queues.iter().filter_map(|(queue, healing)| Some((queue.clone(), healing.clean?)));
        let pages: Vec<_> = pages
            .map(|(queue, at)| async move {
                let page = patiently(stores.store.scheduled_journaled(&queue, at)).await;
                (queue, page)
            })
            .collect();
        for (queue, page) in join_all(pages).await {
            let cleaned = match page {
                Ok((members, next)) => remove_ghosts(stores, &queue, &members).await?.map(|removed| (removed, next)),
                Err(reason) => Err(reason),
            };
            match cleaned {
                Ok((removed, next)) => {
                    step.removed += removed;
                    if let Some(healing) = self.queues.get_mut(&queue) {
                        healing.removed += removed;
                        healing.clean = (next != 0).then_some(next);
                    }
                }
                Err(reason) => self.leave(stores, &queue, reason, &mut step.failed).await?,
            }
        }
        Ok(())
    }

    async fn put_back(&mut self, stores: &Stores, after: Uuid, step: &mut Step) -> Result<(), sqlx::Error> {
        let names: Vec<&str> = self.queues.keys().map(QueueName::as_str).collect();
        let page = journal::live_page(&stores.database, after, WINDOW, &names).await?;
        let mut jobs: BTreeMap<QueueName, Vec<RelayJob>> = BTreeMap::new();
        // One with a name that Redis cannot have is buried by the relay.
        for job in page.rows.iter().filter_map(|row: &OutboxRow| row.job().ok()) {
            jobs.entry(job.queue.clone()).or_default().push(job);
        }
        let given = join_all(jobs.iter().map(|(queue, jobs)| patiently(stores.store.relay(queue, jobs)))).await;
        for ((queue, jobs), given) in jobs.iter().zip(given) {
            let answers = match given {
                Ok(answers) => answers,
                Err(reason) => {
                    self.leave(stores, queue, reason, &mut step.failed).await?;
                    continue;
                }
            };
            let taken = answers.iter().filter(|answer| matches!(answer, Ok(true))).count();
            let refused: Vec<Member> =
                jobs.iter().zip(&answers).filter(|(_, answer)| answer.is_err()).map(|(job, _)| job.member).collect();
            let mut put_back = u64::try_from(taken).unwrap_or(u64::MAX);
            if !refused.is_empty() && !journal::relays_more_than(&stores.database, queue, BACKLOG).await? {
                put_back += journal::put_back_lost(&stores.database, queue, &refused).await?;
            }
            step.put_back += put_back;
            if let Some(healing) = self.queues.get_mut(queue) {
                healing.put_back += put_back;
            }
        }
        self.after = page.next;
        Ok(())
    }

    async fn end(&mut self, stores: &Stores, step: &mut Step) -> Result<(), sqlx::Error> {
        let (token, timeline) = (self.token, &*self.timeline);
        let ended = join_all(self.queues.iter().map(|(queue, healing)| async move {
            let epoch = Uuid::from_u128(rand::random());
            let ended = patiently(stores.store.end_heal(queue, token, epoch, healing.beat, timeline)).await;
            (queue.clone(), epoch, ended)
        }))
        .await;
        for (queue, epoch, ended) in ended {
            match ended {
                Ok(Some(begun)) => {
                    let Some(healing) = self.queues.remove(&queue) else { continue };
                    let again =
                        (healing.finding == Finding::PostgresBehind).then(|| stores.store.lease() + BEYOND_LEASE);
                    let (queue, run_id, beat) = (&queue, &*healing.run_id, begun.beat);
                    let healed = Healed { queue, token, epoch, beat, run_id, again };
                    let Some(took) = table::finish(&stores.database, &healed).await? else { continue };
                    stores.metrics.redis_heal_seconds.observe(took.as_secs_f64());
                    let found = healing.finding.as_str();
                    let (put_back, removed) = (healing.put_back, healing.removed);
                    tracing::info!(%queue, found, put_back, removed, ?took, "Redis has what the journal holds");
                }
                Ok(None) => {
                    let reason = "Redis lost its data again meanwhile".to_owned();
                    self.leave(stores, &queue, reason, &mut step.failed).await?;
                }
                Err(reason) => self.leave(stores, &queue, reason, &mut step.failed).await?,
            }
        }
        Ok(())
    }
}

/// Takes those out that may not run. One that is running by now is left alone: it has no row to delete, and so no effects.
async fn remove_ghosts(
    stores: &Stores,
    queue: &QueueName,
    members: &[Member],
) -> Result<Result<u64, String>, sqlx::Error> {
    if members.is_empty() {
        return Ok(Ok(0));
    }
    let ghosts = journal::without_row(&stores.database, members).await?;
    let removed = patiently(stores.store.take_out(queue, &ghosts)).await;
    Ok(removed.map(|removed| u64::try_from(removed).unwrap_or(u64::MAX)))
}

/// Waits for Redis no longer than a step may take.
async fn patiently<T>(asked: impl Future<Output = Result<T, windrow_queue::store::StoreError>>) -> Result<T, String> {
    match timeout(PATIENCE, asked).await {
        Ok(said) => said.map_err(|error| error.to_string()),
        Err(_) => Err(format!("Redis did not answer within {PATIENCE:?}")),
    }
}
