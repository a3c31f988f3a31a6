//! What finished lately.

use chrono::{DateTime, Utc};
use redis::Value;
use serde::Serialize;

use super::{
    Lane, Store, StoreError,
    envelope::read6,
    keys::Keys,
    list::Unreadable,
    script::RECENT_JOBS,
    session::{bytes, instant},
};
use crate::{
    id::{JobId, Member},
    name::{Kind, QueueName, Tenant},
};

/// Finished jobs that a queue remembers. Of each request of a worker at most 8 are noted: all of them while there is little
/// to do, a sample while there is much.
pub const RECENT: usize = 1000;

/// What an attempt came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Done.
    Completed,
    /// No longer wanted.
    Cancelled,
    /// Its journal row was gone: it had been done.
    Gone,
    /// It will not run unless somebody redrives it.
    Dead,
}

/// A job that finished.
#[derive(Clone, Debug, Serialize)]
pub struct Finished {
    /// The job.
    pub id: JobId,
    /// What it was.
    pub kind: Kind,
    /// Whom it was done for.
    pub tenant: Option<Tenant>,
    /// Whether it was in the journal.
    pub journaled: bool,
    /// What it came to.
    pub outcome: Ended,
    /// When its last attempt was claimed.
    pub claimed_at: Option<DateTime<Utc>>,
    /// When Redis was told.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Finished {
    /// letter1 finished6 claimed6 m_length1 m lane
    fn decode(entry: &[u8]) -> Option<Self> {
        let (letter, rest) = entry.split_first()?;
        let (finished, rest) = rest.split_at_checked(6)?;
        let (claimed, rest) = rest.split_at_checked(6)?;
        let (length, rest) = rest.split_first()?;
        let (member, lane) = rest.split_at_checked(usize::from(*length))?;
        let (member, lane) = (Member::from_bytes(member)?, Lane::decode(lane)?);
        let outcome = match letter {
            b'c' | b'k' => Ended::Completed,
            b'x' | b'j' => Ended::Cancelled,
            b'g' => Ended::Gone,
            b'b' => Ended::Dead,
            _ => return None,
        };
        Some(Self {
            id: member.id,
            kind: lane.kind,
            tenant: lane.tenant,
            journaled: member.generation.is_some(),
            outcome,
            claimed_at: instant(read6(claimed)),
            finished_at: instant(read6(finished)),
        })
    }
}

impl Store {
    /// Jobs that finished lately, newest first: at most `limit` and [`RECENT`]. What cannot be read is in the second list.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn recent(
        &self,
        queue: &QueueName,
        limit: usize,
    ) -> Result<(Vec<Finished>, Vec<Unreadable>), StoreError> {
        let mut call = RECENT_JOBS.call(&Keys::new(queue), None, self.clock());
        call.arg(limit.min(RECENT));
        let entries: Vec<Value> = self.link().run(&RECENT_JOBS, &call).await?;
        let (mut finished, mut unreadable) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries.iter().map(|entry| bytes(entry).unwrap_or_default()) {
            match Finished::decode(entry) {
                Some(job) => finished.push(job),
                None => unreadable.push(Unreadable::new(entry, None)),
            }
        }
        Ok((finished, unreadable))
    }
}
