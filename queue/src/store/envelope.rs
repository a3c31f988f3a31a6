//! The bytes of a job in Redis. A binary header that Lua reads by position, then what only workers read.
//!
//! ```text
//! enqueued_ms6 ready_ms6                                 put in front by the script, from Redis' clock
//! version1 flags1 lane_length1 rescue1                   rescue: the job's own rescue limit and 1, or 0
//! lane [unique16] [batch16] extra_length2 extra args     lane: band1 \x1f tenant \x1f kind; extra: JSON, usually empty
//! ```
//!
//! Flags: 1 journaled, 2 unique key, 4 member of a batch, 8 unique while it is queued only, 16 unique for a period, 64 at most
//! once. The scripts read these; 128 is theirs.
//!
//! Integers are big-endian. Golden bytes of every version are in the tests: old envelopes stay readable.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::StoreError;
use crate::{
    job::{BatchId, Fire, NewJob, UniqueScope},
    journal::RelayJob,
    name::{Kind, Tenant},
    policy::{Band, Delivery, PolicyOverride},
    vault::StoredArgs,
};

/// The version that this program writes.
const VERSION: u8 = 1;
const JOURNALED: u8 = 1;
const UNIQUE: u8 = 2;
const BATCH: u8 = 4;
const WHILE_QUEUED: u8 = 8;
const FOR_A_PERIOD: u8 = 16;
const AT_MOST_ONCE: u8 = 64;
/// Bytes of the two times before a part.
pub(super) const TIMES: usize = 12;
/// Times, version, flags, lane length, rescue limit.
const HEADER: usize = TIMES + 4;

/// What went wrong in one attempt, as dead letters and statuses show it. No secret may get in here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptError {
    /// Which attempt.
    pub attempt: u32,
    /// Class of error.
    pub class: String,
    /// What happened, cut to [`AttemptError::MAX_MESSAGE`].
    pub message: String,
    /// When, by the worker's clock.
    pub at: DateTime<Utc>,
    /// How long the attempt ran.
    #[serde(with = "humantime_serde")]
    pub ran: Duration,
}

impl AttemptError {
    /// The longest message kept, in bytes as JSON.
    pub const MAX_MESSAGE: usize = 1500;

    /// One line of JSON.
    pub(crate) fn line(&self) -> String {
        let mut error = self.clone();
        let mut written = 0;
        let end = error.message.char_indices().find(|&(_, c)| {
            written += json_length(c);
            written > Self::MAX_MESSAGE
        });
        if let Some((end, _)) = end {
            error.message.truncate(end);
        }
        // A struct of strings and numbers always serialises, and JSON escapes line breaks.
        serde_json::to_string(&error).unwrap_or_default()
    }

    /// The lines that Redis holds.
    pub(crate) fn lines(text: &[u8]) -> Vec<Self> {
        text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

/// Bytes of a character within a JSON string: a message of control characters is six times as long there.
fn json_length(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        c => c.len_utf8(),
    }
}

/// Where a job waits within its queue.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Lane {
    /// Priority.
    pub band: Band,
    /// Whom it is done for.
    pub tenant: Option<Tenant>,
    /// What it is.
    pub kind: Kind,
}

impl Lane {
    pub(super) fn encode(band: Band, tenant: Option<&Tenant>, kind: &Kind) -> String {
        format!("{}\x1f{}\x1f{kind}", band.number(), tenant.map_or("", Tenant::as_str))
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.splitn(3, '\x1f');
        let band = Band::from_number(parts.next()?.parse().ok()?)?;
        let tenant = parts.next()?;
        let tenant = if tenant.is_empty() { None } else { Some(Tenant::new(tenant).ok()?) };
        Some(Self { band, tenant, kind: Kind::new(parts.next()?).ok()? })
    }
}

#[derive(PartialEq, Serialize, Deserialize, Default)]
struct Extra {
    #[serde(default, skip_serializing_if = "PolicyOverride::is_empty")]
    policy: PolicyOverride,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fire: Option<Fire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    follows: Option<BatchId>,
}

/// A job as Redis holds it.
#[derive(Debug)]
pub struct Envelope {
    /// When Redis took it.
    pub enqueued_ms: u64,
    /// When it first became ready.
    pub ready_ms: u64,
    /// Where it waits.
    pub lane: Lane,
    /// Whether its args are in the journal.
    pub journaled: bool,
    /// What differs from the kind's policy.
    pub policy: PolicyOverride,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The fire that made it.
    pub fire: Option<Fire>,
    /// The batch of which it is a member.
    pub batch: Option<BatchId>,
    /// The batch that it follows.
    pub follows: Option<BatchId>,
    /// What happens when its worker is lost.
    pub delivery: Delivery,
    /// Its own rescue limit.
    pub rescue_limit: Option<u8>,
    /// Args as JSON; empty when journaled.
    pub args: Option<Box<RawValue>>,
}

/// The part of a fast job's envelope that the producer makes. Its args are given as they may be stored: sealed, if its kind
/// is encrypted.
pub(crate) fn encode_fast(job: &NewJob, args: &StoredArgs<'_>) -> Vec<u8> {
    let extra = Extra { policy: job.policy, trace: job.traceparent.clone(), fire: job.fire, follows: job.follows };
    let extra = if extra == Extra::default() { Vec::new() } else { serde_json::to_vec(&extra).unwrap_or_default() };
    let policy = job.effective_policy();
    let scope = match job.unique.map(|unique| unique.scope) {
        Some(UniqueScope::Queued) => WHILE_QUEUED,
        Some(UniqueScope::Period(_)) => FOR_A_PERIOD,
        Some(UniqueScope::UntilFinal) | None => 0,
    };
    Header {
        flags: scope | if policy.delivery == Delivery::AtMostOnce { AT_MOST_ONCE } else { 0 },
        rescue_limit: policy.rescue_limit,
        lane: &Lane::encode(job.band, job.tenant.as_ref(), &job.kind),
        unique: job.unique.map(|unique| unique.digest.0),
        batch: job.batch,
    }
    .encode(&extra, args.get().as_bytes())
}

/// The times of a job that was enqueued and became ready at this millisecond.
pub(super) fn times(ms: i64) -> [u8; TIMES] {
    let mut times = [0; TIMES];
    let six = &ms.max(0).to_be_bytes()[2..];
    times[..6].copy_from_slice(six);
    times[6..].copy_from_slice(six);
    times
}

/// The lane that a part names.
pub(super) fn lane_of(part: &[u8]) -> &[u8] {
    let length = part.get(2).map_or(0, |&length| usize::from(length));
    part.get(4..4 + length).unwrap_or_default()
}

/// The tenant in the name of a lane.
pub(super) fn tenant_of(lane: &[u8]) -> &[u8] {
    lane.splitn(3, |&byte| byte == b'\x1f').nth(1).unwrap_or_default()
}

/// Whether a part belongs to a member of a batch.
pub(crate) fn in_batch(part: &[u8]) -> bool {
    part.get(1).is_some_and(|flags| flags & BATCH != 0)
}

/// The same for a journaled job: only where it waits.
pub(crate) fn encode_journaled(job: &RelayJob) -> Vec<u8> {
    Header {
        flags: JOURNALED | if job.at_most_once { AT_MOST_ONCE } else { 0 },
        rescue_limit: job.rescue_limit,
        lane: &Lane::encode(job.band, job.tenant.as_ref(), &job.kind),
        unique: None,
        batch: None,
    }
    .encode(&[], &[])
}

/// What the scripts read.
struct Header<'a> {
    flags: u8,
    rescue_limit: Option<u8>,
    lane: &'a str,
    unique: Option<[u8; 16]>,
    batch: Option<BatchId>,
}

impl Header<'_> {
    fn encode(&self, extra: &[u8], args: &[u8]) -> Vec<u8> {
        let Self { flags, rescue_limit, lane, unique, batch } = self;
        let lane_length = u8::try_from(lane.len()).expect("names have at most 64 bytes each");
        // An extra beyond 64 KiB cannot come about: its parts are bounded (policy, a traceparent of 55 bytes, a fire, a batch).
        let extra_length = u16::try_from(extra.len()).expect("the extra's parts are small");
        let mut part = Vec::with_capacity(4 + lane.len() + 34 + extra.len() + args.len());
        let flag = |bit, set| if set { bit } else { 0 };
        let flags = flags | flag(UNIQUE, unique.is_some()) | flag(BATCH, batch.is_some());
        part.extend_from_slice(&[VERSION, flags, lane_length, rescue_limit.map_or(0, |limit| limit.saturating_add(1))]);
        part.extend_from_slice(lane.as_bytes());
        if let Some(digest) = unique {
            part.extend_from_slice(digest);
        }
        if let Some(batch) = batch {
            part.extend_from_slice(batch.0.as_bytes());
        }
        part.extend_from_slice(&extra_length.to_be_bytes());
        part.extend_from_slice(extra);
        part.extend_from_slice(args);
        part
    }
}

impl Envelope {
    /// Reads an envelope.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when it was written by a newer version, or is damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::parse(bytes).ok_or(StoreError::Unreadable("a job"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let [version, flags, lane_length, rescue] = header[12..].try_into().ok()?;
        if version != VERSION {
            return None;
        }
        let (lane, rest) = rest.split_at_checked(usize::from(lane_length))?;
        let rest = if flags & UNIQUE == 0 { rest } else { rest.split_at_checked(16)?.1 };
        let (batch, rest) = if flags & BATCH == 0 {
            (None, rest)
        } else {
            let (batch, rest) = rest.split_first_chunk::<16>()?;
            (Some(BatchId(Uuid::from_bytes(*batch))), rest)
        };
        let (extra_length, rest) = rest.split_first_chunk::<2>()?;
        let (extra, args) = rest.split_at_checked(usize::from(u16::from_be_bytes(*extra_length)))?;
        let extra: Extra = if extra.is_empty() { Extra::default() } else { serde_json::from_slice(extra).ok()? };
        Some(Self {
            enqueued_ms: read6(&header[..6]),
            ready_ms: read6(&header[6..12]),
            lane: Lane::decode(lane)?,
            journaled: flags & JOURNALED != 0,
            policy: extra.policy,
            traceparent: extra.trace,
            fire: extra.fire,
            batch,
            follows: extra.follows,
            delivery: if flags & AT_MOST_ONCE == 0 { Delivery::AtLeastOnce } else { Delivery::AtMostOnce },
            rescue_limit: rescue.checked_sub(1),
            args: if args.is_empty() { None } else { Some(serde_json::from_slice(args).ok()?) },
        })
    }
}

/// What Redis holds of a job that ran before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mut {
    /// Attempts that count.
    pub(crate) attempt: u32,
    /// Rescues since its last outcome.
    pub(crate) rescues: u8,
    /// When it last became ready.
    pub(crate) ready_ms: Option<u64>,
    /// What waits for its next attempt: 1 a checkpoint, 2 what became of a callback.
    pub(crate) extras: u8,
}

impl Mut {
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        match (bytes.first_chunk::<4>(), bytes.get(4), bytes.get(5..11)) {
            (Some(attempt), Some(&rescues), Some(ready)) => {
                let extras = bytes.get(11).copied().unwrap_or(0);
                Self { attempt: u32::from_be_bytes(*attempt), rescues, ready_ms: Some(read6(ready)), extras }
            }
            _ => Self::default(),
        }
    }
}

pub(super) fn read6(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| (value << 8) | u64::from(byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{name::QueueName, vault::Vault};

    #[derive(Serialize, Deserialize)]
    struct Args {
        n: u32,
    }
    impl crate::job::JobArgs for Args {
        const KIND: Kind = Kind::from_static("test.count");
        const QUEUE: QueueName = QueueName::from_static("test");
    }

    fn encode_fast(job: &NewJob) -> Vec<u8> {
        super::encode_fast(job, &Vault::default().stored(job).unwrap())
    }

    fn stored(part: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 7][..], part].concat()
    }

    #[test]
    fn an_envelope_survives_the_way_through_redis() {
        let job = NewJob::new(&Args { n: 7 }).unwrap().tenant(Tenant::new("acme").unwrap()).unique("k");
        let envelope = Envelope::decode(&stored(&encode_fast(&job))).unwrap();
        assert_eq!(envelope.args.unwrap().get(), r#"{"n":7}"#);
        assert_eq!(envelope.lane.tenant.unwrap().as_str(), "acme");
        assert_eq!((envelope.enqueued_ms, envelope.ready_ms, envelope.journaled), (256, 263, false));
    }

    #[test]
    fn version_1_stays_readable() {
        let golden = stored(b"\x01\x00\x0e\x002\x1fa\x1ftest.count\x00\x00{\"n\":1}");
        let envelope = Envelope::decode(&golden).unwrap();
        assert_eq!(envelope.lane.kind.as_str(), "test.count");
        assert_eq!(envelope.args.unwrap().get(), r#"{"n":1}"#);
        let job = NewJob::new(&Args { n: 1 }).unwrap().tenant(Tenant::new("a").unwrap());
        assert_eq!(stored(&encode_fast(&job)), golden);
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        let job = NewJob::new(&Args { n: 7 }).unwrap().unique("k").traceparent(Some("00-x".into()));
        let whole = stored(&encode_fast(&job));
        for end in 0..whole.len() - 7 {
            assert!(Envelope::decode(&whole[..end]).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                drop(Envelope::decode(&damaged));
            }
        }
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let error = AttemptError {
            attempt: 1,
            class: "test".into(),
            message: String::new(),
            at: DateTime::UNIX_EPOCH,
            ran: Duration::from_millis(3),
        };
        for part in ["ä\n", "\u{1}", "\\\"", "plain"] {
            let error = AttemptError { message: part.repeat(2000), ..error.clone() };
            let line = error.line();
            assert!((1500..2048).contains(&line.len()) && !line.contains('\n'), "{part:?}: {}", line.len());
            let kept = AttemptError::lines(line.as_bytes()).pop().unwrap();
            assert!(error.message.starts_with(&kept.message));
        }
    }
}
