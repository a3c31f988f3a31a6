//! The sweep for single lost jobs: through the journal by id, a batch at a time, again and again.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, timeout};
use uuid::Uuid;
use windrow_queue::{Member, QueueName, journal};

use super::{Config, Stores};

/// Rows that one batch asks Redis about.
const BATCH: i64 = 500;

/// Between two batches.
const PAUSE: Duration = Duration::from_millis(50);

/// How long one queue's Redis may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Rows of one queue in the outbox, from which on telling what is lost from what is on its way costs too much. What is lost is
/// found when the backlog is relayed.
pub(super) const BACKLOG: i64 = 10_000;

/// Where the sweep is.
#[derive(Debug)]
pub(super) struct Sweep {
    config: Config,
    after: Uuid,
    rests_until: Instant,
}

/// What one batch came to.
#[derive(Debug, Default)]
pub(super) struct Swept {
    pub(super) put_back: u64,
    /// How soon the next batch of this sweep is due.
    pub(super) more: Option<Duration>,
    /// A queue that could not be asked, and why.
    pub(super) failed: Option<String>,
}

impl Sweep {
    pub(super) fn new(config: Config) -> Self {
        Self { config, after: Uuid::nil(), rests_until: Instant::now() }
    }

    /// Whether it is somewhere in the journal.
    pub(super) const fn is_under_way(&self) -> bool {
        !self.after.is_nil()
    }

    /// One batch, if the sweep does not rest.
    pub(super) async fn step(&mut self, stores: &Stores) -> Result<Swept, sqlx::Error> {
        if self.after.is_nil() && Instant::now() < self.rests_until {
            return Ok(Swept::default());
        }
        let rows = journal::lost_of_age(&stores.database, self.after, self.config.age, BATCH).await?;
        let mut queues: BTreeMap<QueueName, Vec<Member>> = BTreeMap::new();
        for (member, queue) in &rows {
            // One with a name that Redis cannot have is buried by the relay.
            if let Ok(queue) = QueueName::new(&**queue) {
                queues.entry(queue).or_default().push(*member);
            }
        }
        let mut swept = Swept::default();
        for (queue, members) in &queues {
            match put_back(stores, queue, members).await? {
                Ok(put_back) => swept.put_back += put_back,
                // The next sweep asks for them again.
                Err(reason) => swept.failed = swept.failed.or_else(|| Some(format!("queue {queue}: {reason}"))),
            }
        }
        let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == BATCH);
        self.after = rows.last().filter(|_| is_full).map_or(Uuid::nil(), |(member, _)| member.id.0);
        if is_full {
            swept.more = Some(PAUSE);
        } else {
            self.rests_until = Instant::now() + self.config.period;
        }
        Ok(swept)
    }
}

/// Puts the members back into the outbox that Redis does not know; inside, why Redis could not be asked.
async fn put_back(stores: &Stores, queue: &QueueName, members: &[Member]) -> Result<Result<u64, String>, sqlx::Error> {
    if journal::relays_more_than(&stores.database, queue, BACKLOG).await? {
        return Ok(Ok(0));
    }
    let known = match timeout(PATIENCE, stores.store.exists(queue, members)).await {
        Ok(Ok(known)) => known,
        Ok(Err(error)) => return Ok(Err(error.to_string())),
        Err(_) => return Ok(Err(format!("Redis did not answer within {PATIENCE:?}"))),
    };
    let lost: Vec<Member> = members.iter().zip(known).filter(|(_, known)| !known).map(|(member, _)| *member).collect();
    if lost.is_empty() {
        return Ok(Ok(0));
    }
    let put_back = journal::put_back_lost(&stores.database, queue, &lost).await?;
    if put_back > 0 {
        tracing::warn!(%queue, jobs = put_back, "Redis had lost journaled jobs; they are put back");
    }
    Ok(Ok(put_back))
}
