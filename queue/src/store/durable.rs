//! Enqueueing for those who need more than a Redis that has it in memory: waiting for replicas, or for the file.

use std::{collections::BTreeSet, time::Duration};

use redis::Cmd;

use super::{Refused, Store, StoreError, keys::Keys, link::Link, millis, topology::slot_of};
use crate::{
    job::{Enqueued, NewJob},
    name::QueueName,
};

/// What must have a job before the producer is told that it was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durability {
    /// So many replicas have it in memory. A failover to one of these keeps it.
    pub replicas: u32,
    /// The append-only file has it on disk. Needs Redis 7.2 and `appendonly yes`.
    pub file: bool,
    /// How long to wait for that.
    pub within: Duration,
}

/// How long a marker stands, which only makes Redis count what came before it.
const MARKER_MS: u64 = 60_000;

impl Store {
    /// Enqueues as [`enqueue`](Self::enqueue) does, and answers when what was asked for has the jobs. The windows in which a
    /// crash of Redis loses fast jobs do not exist for these, as far as the replicas or the disk survive.
    ///
    /// # Errors
    /// As `enqueue`; and [`StoreError::NotDurable`] when not enough have the jobs in time, or Redis was replaced meanwhile: the
    /// jobs stand, and may be lost in a crash. Asking again with the same jobs is safe as long as they stand.
    pub async fn enqueue_durable(
        &self,
        jobs: &[NewJob],
        durability: Durability,
    ) -> Result<Vec<Result<Enqueued, Refused>>, StoreError> {
        let queues: BTreeSet<&QueueName> = jobs.iter().map(|job| &job.queue).collect();
        let mut servers = Vec::with_capacity(queues.len());
        for &queue in &queues {
            let keys = Keys::new(queue);
            let before = run_id(&*self.link().of(slot_of(keys.prefix.as_bytes())).await?).await?;
            servers.push((keys, before));
        }
        let answers = self.enqueue(jobs).await?;
        for (keys, before) in servers {
            // A connection of its own: it blocks, and what is waited for is counted by connection.
            let link = self.link().own(&keys, durability.within);
            wait(&link, &keys, durability).await?;
            if run_id(&link).await? != before {
                return Err(StoreError::NotDurable("Redis was restarted or replaced meanwhile".into()));
            }
        }
        Ok(answers)
    }
}

/// WAIT and WAITAOF speak of what their own connection wrote: a marker behind the jobs, in the same stream.
async fn wait(link: &Link, keys: &Keys, durability: Durability) -> Result<(), StoreError> {
    let Durability { replicas, file, within } = durability;
    let within = millis(within).max(1);
    link.send::<String>(redis::cmd("SET").arg(format!("{}durable", keys.prefix)).arg(1).arg("PX").arg(MARKER_MS))
        .await?;
    if replicas > 0 {
        let have: u32 = link.block(redis::cmd("WAIT").arg(replicas).arg(within)).await?;
        if have < replicas {
            return Err(StoreError::NotDurable(format!("{have} of {replicas} replicas have them after {within} ms")));
        }
    }
    if file {
        let (local, _): (u32, u32) =
            link.block(redis::cmd("WAITAOF").arg(1).arg(0).arg(within)).await.map_err(older)?;
        if local == 0 {
            return Err(StoreError::NotDurable(format!("the file does not have them after {within} ms")));
        }
    }
    Ok(())
}

/// A server that does not know WAITAOF, or has no file.
fn older(error: StoreError) -> StoreError {
    match error {
        StoreError::Refused { source, .. } => StoreError::NotDurable(format!(
            "this Redis cannot say when its file has them, which needs Redis 7.2 and appendonly yes: {source}"
        )),
        other => other,
    }
}

async fn run_id(link: &Link) -> Result<String, StoreError> {
    let mut info: Cmd = redis::cmd("INFO");
    let text: String = link.send(info.arg("server")).await?;
    let found = text.lines().find_map(|line| line.strip_prefix("run_id:"));
    found.map(|id| id.trim().to_owned()).ok_or(StoreError::Unreadable("no run_id"))
}
