//! What lists show of a job.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    id::{JobId, Member},
    job::BatchId,
    name::{Kind, Tenant},
    policy::Band,
    store::{
        JobState, Lane,
        envelope::{Mut, read6},
        session::instant,
    },
};

/// Why ready jobs of a lane are not claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldWhy {
    /// Somebody paused it.
    Paused,
    /// As many run as may.
    Concurrency,
    /// As many were started as may; time will let more in.
    Rate,
}

/// What holds ready jobs back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HeldBy {
    /// Why.
    pub why: HeldWhy,
    /// By the limit of this scope: `queue`, `kind=…`, `tenant=…` or `kind=…,tenant=…`.
    pub scope: String,
}

impl HeldBy {
    pub(in crate::store) fn decode(text: &[u8]) -> Option<Self> {
        let (why, id) = text.split_first()?;
        let why = match why {
            b'p' => HeldWhy::Paused,
            b'c' => HeldWhy::Concurrency,
            b'r' => HeldWhy::Rate,
            _ => return None,
        };
        let parts: Vec<&str> = std::str::from_utf8(id).ok()?.split('\x1f').collect();
        let scope = match parts[..] {
            ["k", kind] => format!("kind={kind}"),
            ["t", tenant] => format!("tenant={tenant}"),
            ["b", kind, tenant] => format!("kind={kind},tenant={tenant}"),
            _ => "queue".to_owned(),
        };
        Some(Self { why, scope })
    }
}

/// How far a job has come, by its own account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Progress {
    /// So much is done.
    pub done: u64,
    /// Of so much; 0 if it is not known.
    pub total: u64,
}

impl Progress {
    pub(in crate::store) fn decode(packed: &[u8]) -> Option<Self> {
        (packed.len() == 12).then(|| Self { done: read6(&packed[..6]), total: read6(&packed[6..]) })
    }
}

/// A job as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The job.
    pub id: JobId,
    /// What Redis knows it by.
    #[serde(skip)]
    pub member: Member,
    /// Where it is.
    pub state: JobState,
    /// What it is.
    pub kind: Kind,
    /// Whom it is done for.
    pub tenant: Option<Tenant>,
    /// Priority.
    pub band: Band,
    /// Whether it is in the journal.
    pub journaled: bool,
    /// The batch of a fast job.
    pub batch: Option<BatchId>,
    /// Attempts that count.
    pub attempt: u32,
    /// When Redis took it; not said of running jobs.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// The time of its state: see [`Standing`].
    pub at: Option<DateTime<Utc>>,
    /// Who runs it.
    pub session: Option<String>,
    /// How far it says it has come, while it runs.
    pub progress: Option<Progress>,
    /// It runs, and was told to stop.
    pub stopping: bool,
    /// What keeps it from being claimed, while it is ready.
    pub held_by: Option<HeldBy>,
}

/// An entry that this version cannot read. It is shown, so that nothing is missing without a word.
#[derive(Clone, Debug, Serialize)]
pub struct Unreadable {
    /// The job, if even that can be read.
    pub id: Option<JobId>,
    /// The entry in hexadecimal.
    pub member: String,
    /// Since when, or for when, it stands in the list.
    pub at: Option<DateTime<Utc>>,
}

impl Unreadable {
    pub(in crate::store) fn new(member: &[u8], at: Option<DateTime<Utc>>) -> Self {
        use std::fmt::Write;
        let id = Member::from_bytes(member).map(|member| member.id);
        // An entry of any other length was not written by us, and need not be shown whole.
        let member = member.iter().take(64).fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing into a string cannot fail");
            text
        });
        Self { id, member, at }
    }
}

/// The beginning of an envelope, which says what a job is.
pub(in crate::store) struct Head {
    pub(in crate::store) enqueued_ms: u64,
    pub(in crate::store) ready_ms: u64,
    pub(in crate::store) lane: Lane,
    pub(in crate::store) batch: Option<BatchId>,
}

impl Head {
    pub(in crate::store) fn decode(bytes: &[u8]) -> Option<Self> {
        let (times, rest) = bytes.split_at_checked(12)?;
        let ([1, flags, length, _], rest) = rest.split_first_chunk::<4>()? else { return None };
        let (lane, rest) = rest.split_at_checked(usize::from(*length))?;
        let rest = if flags & 2 == 0 { rest } else { rest.split_at_checked(16)?.1 };
        let batch = if flags & 4 == 0 { None } else { Some(BatchId(Uuid::from_bytes(*rest.first_chunk()?))) };
        Some(Self { enqueued_ms: read6(&times[..6]), ready_ms: read6(&times[6..]), lane: Lane::decode(lane)?, batch })
    }
}

/// A job by its envelope without args.
pub(super) fn listed(member: &[u8], head: &[u8], old: &[u8], state: JobState) -> Option<Listed> {
    let (member, head, old) = (Member::from_bytes(member)?, Head::decode(head)?, Mut::decode(old));
    Some(Listed {
        batch: head.batch,
        enqueued_at: instant(head.enqueued_ms),
        at: instant(old.ready_ms.unwrap_or(head.ready_ms)),
        ..of_lane(member, head.lane, old, state)
    })
}

pub(super) fn of_lane(member: Member, lane: Lane, old: Mut, state: JobState) -> Listed {
    Listed {
        id: member.id,
        member,
        state,
        kind: lane.kind,
        tenant: lane.tenant,
        band: lane.band,
        journaled: member.generation.is_some(),
        batch: None,
        attempt: old.attempt,
        enqueued_at: None,
        at: None,
        session: None,
        progress: None,
        stopping: false,
        held_by: None,
    }
}
