//! A worker's hold on jobs: one session for each process and queue.
//!
//! Every request carries `n`, a counter in the session's memory, and the `n` that was last answered. Redis stores the
//! highest: a lower one is a request that was delayed (`Stale`), a stored one below the last answer is a Redis that was
//! rolled back. The claim number of a job is the `n` of the request that claimed it; it and the session are the fencing
//! token. After anything that may have lost a request or a reply, [`Session::sync`] comes before anything else.

use std::{collections::HashSet, fmt, time::Duration};

use chrono::{DateTime, Utc};
use redis::Value;

use super::{
    AttemptError, Envelope, Store, StoreError,
    envelope::{Mut, read6},
    keys::Keys,
    link::Link,
    millis,
    script::{BYE, FINISH_CLAIM, HEARTBEAT, HELLO, SYNC},
    tick::lost_line,
};
use crate::{id::Member, name::QueueName};

/// Jobs that a tenant gives before the next has its turn.
const QUANTUM: usize = 32;
/// Outcomes in one request.
pub const MAX_OUTCOMES: usize = 500;

/// 64 random bits that name a session.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// A session id from random bits.
    #[must_use]
    pub fn from_random(bits: u64) -> Self {
        Self(format!("{bits:016x}"))
    }

    /// As it stands in keys.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a running job ended, as Redis is told.
#[derive(Clone, Debug)]
pub enum Finish {
    /// Done. With a result, that is kept for an hour.
    Complete {
        /// JSON for whoever asks for the job's final state.
        keep: Option<String>,
    },
    /// Final without being done.
    Cancel {
        /// JSON for whoever asks for the job's final state.
        keep: Option<String>,
    },
    /// Its journal row is gone.
    Gone,
    /// Again after a delay; this many attempts count now.
    Retry {
        /// Until it is ready again.
        delay: Duration,
        /// Attempts that count.
        attempt: u32,
        /// What went wrong.
        error: AttemptError,
    },
    /// Again after a delay, no attempt counted.
    Snooze {
        /// Until it is ready again.
        delay: Duration,
    },
    /// At once, at the head of its lane, no attempt counted.
    Release,
    /// When its callback comes, or after this delay, no attempt counted.
    Park {
        /// The longest wait.
        delay: Duration,
    },
    /// Dead.
    Bury {
        /// The last error.
        error: AttemptError,
    },
}

impl Finish {
    /// The outcome's name in metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Complete { .. } => "complete",
            Self::Cancel { .. } => "cancel",
            Self::Gone => "gone",
            Self::Retry { .. } => "retry",
            Self::Snooze { .. } => "snooze",
            Self::Release => "release",
            Self::Park { .. } => "park",
            Self::Bury { .. } => "dead",
        }
    }
}

/// An outcome on its way to Redis.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The job.
    pub member: Member,
    /// The claim that it speaks of.
    pub claim_no: u64,
    /// What happened.
    pub finish: Finish,
}

/// What Redis said of one outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It counts.
    Applied,
    /// The job is no longer held: the outcome was applied before.
    Already,
    /// The job went back and was claimed again since: the outcome counts for nothing.
    NotYours,
}

/// A job that this session holds now.
#[derive(Debug)]
pub struct Claim {
    /// The job.
    pub member: Member,
    /// With the session, the fencing token.
    pub claim_no: u64,
    /// What it is; an envelope that this version cannot read is given back by the worker.
    pub envelope: Result<Envelope, StoreError>,
    /// Attempts that count so far.
    pub attempt: u32,
    /// How often its worker was lost since its last outcome.
    pub rescues: u8,
    /// When Redis took it, which can be read whatever the envelope's version.
    pub enqueued_at: DateTime<Utc>,
    /// When it last became ready.
    pub ready_at: DateTime<Utc>,
    /// Whether a checkpoint or an answer to a callback may wait for it ([`Store::extras`]).
    pub extras: bool,
}

/// What Redis says of a session that lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beat {
    /// Leases that it counts.
    pub held: u64,
    /// The highest request that it served.
    pub n: u64,
    /// Jobs of this session that somebody cancelled: tell their handlers.
    pub cancelled: Vec<Member>,
}

/// An answer to a claim.
#[derive(Debug)]
pub struct ClaimReply {
    /// Redis' time.
    pub now: DateTime<Utc>,
    /// For each outcome, in their order.
    pub verdicts: Vec<Verdict>,
    /// Whether ready jobs are left.
    pub more: bool,
    /// What this session holds from now on.
    pub claims: Vec<Claim>,
}

/// An answer to a sync.
#[derive(Debug)]
pub struct SyncReply {
    /// For each recent outcome, in their order.
    pub verdicts: Vec<Verdict>,
    /// Leases that nobody executed, given back.
    pub given_back: u64,
    /// Whether there are more of them.
    pub more: bool,
    /// Jobs that run here and are no longer ours: cancel them.
    pub lost: Vec<Member>,
}

/// What a session's request came to.
#[derive(Debug)]
pub enum Reply<T> {
    /// It was served.
    Ok(T),
    /// The session is doomed: everything that it held goes back. Open a new one.
    Gone,
    /// A newer request was served first: this one did nothing.
    Stale,
    /// Redis has forgotten requests that it answered: sync.
    Rollback,
}

/// The hold of one process on the jobs of one queue.
pub struct Session {
    store: Store,
    keys: Keys,
    id: SessionId,
    requests: Link,
    heartbeats: Link,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens a session. `info` says to people whose it is.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn open(
        store: &Store,
        queue: &QueueName,
        id: SessionId,
        slots: usize,
        info: &str,
    ) -> Result<Self, StoreError> {
        let keys = Keys::new(queue);
        let (requests, heartbeats) = (store.link().own(&keys, Duration::ZERO), store.link().own(&keys, Duration::ZERO));
        let session = Self { store: store.clone(), keys, id, requests, heartbeats };
        let mut call = HELLO.call(&session.keys, Some(&session.id.0), store.clock());
        call.arg(&session.id.0).arg(millis(store.lease())).arg(slots).arg(info);
        session.requests.run::<i64>(&HELLO, &call).await?;
        Ok(session)
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &SessionId {
        &self.id
    }

    /// Tells Redis the outcomes (500 at most) and claims up to `want` jobs of about `want_bytes` together (one job may be
    /// larger), in one round trip. Not sent again by itself: after an error, sync.
    ///
    /// # Errors
    /// When Redis is away: whether it did anything is not known then.
    pub async fn finish_claim(
        &self,
        n: u64,
        prev_n: u64,
        want: usize,
        want_bytes: usize,
        journaled_ok: bool,
        outcomes: &[Applied],
    ) -> Result<Reply<ClaimReply>, StoreError> {
        debug_assert!(outcomes.len() <= MAX_OUTCOMES, "the caller sends bounded batches");
        let mut call = FINISH_CLAIM.call(&self.keys, Some(&self.id.0), self.store.clock());
        call.arg(&self.id.0).arg(n).arg(prev_n).arg(n.to_be_bytes().as_slice()).arg(want).arg(want_bytes);
        // Plain completions go first, in the short form; not if the same job has another outcome beside it, since the
        // first of two is the one that counts.
        let is_plain = |outcome: &Applied| matches!(outcome.finish, Finish::Complete { keep: None });
        let others: HashSet<Member> = outcomes.iter().filter(|o| !is_plain(o)).map(|o| o.member).collect();
        let plain = |outcome: &Applied| is_plain(outcome) && !others.contains(&outcome.member);
        let (plains, others): (Vec<usize>, Vec<usize>) = (0..outcomes.len()).partition(|&i| plain(&outcomes[i]));
        call.arg(QUANTUM).arg(u8::from(journaled_ok)).arg(self.store.config().max_dead);
        call.arg(plains.len()).arg(others.len());
        for &i in &plains {
            call.arg(outcomes[i].member.to_bytes()).arg(outcomes[i].claim_no.to_be_bytes().as_slice());
        }
        for &i in &others {
            push_outcome(&mut call, &outcomes[i]);
        }
        let answer: Vec<Value> = self.requests.run(&FINISH_CLAIM, &call).await?;
        let mut reply = parse_reply(answer, |rest| parse_claims(n, rest))?;
        if let Reply::Ok(reply) = &mut reply {
            // Back into the order of the outcomes.
            let mut verdicts = vec![Verdict::Already; outcomes.len()];
            if reply.verdicts.len() != outcomes.len() {
                return Err(StoreError::Unreadable("an answer to a session"));
            }
            for (&i, &verdict) in plains.iter().chain(&others).zip(&reply.verdicts) {
                verdicts[i] = verdict;
            }
            reply.verdicts = verdicts;
        }
        Ok(reply)
    }

    /// Brings Redis and what really runs here to agreement. See the module's text.
    ///
    /// # Errors
    /// When Redis is away: sync again.
    pub async fn sync(
        &self,
        n: u64,
        running: &[(Member, u64)],
        recent: &[Applied],
    ) -> Result<Reply<SyncReply>, StoreError> {
        let mut call = SYNC.call(&self.keys, Some(&self.id.0), self.store.clock());
        call.arg(&self.id.0).arg(n).arg(millis(self.store.lease())).arg(self.store.config().max_dead);
        call.arg(running.len()).arg(recent.len()).arg(lost_line());
        for (member, claim_no) in running {
            call.arg(member.to_bytes()).arg(claim_no.to_be_bytes().as_slice());
        }
        for outcome in recent {
            push_outcome(&mut call, outcome);
        }
        let answer: Vec<Value> = self.requests.run(&SYNC, &call).await?;
        parse_reply(answer, |rest| {
            let [_, codes, given_back, more, Value::Array(lost)] = rest else { return None };
            Some(SyncReply {
                verdicts: verdicts(codes)?,
                given_back: u64::try_from(int(given_back)?).ok()?,
                more: int(more)? == 1,
                lost: members(lost),
            })
        })
    }

    /// Extends the session.
    ///
    /// # Errors
    /// When Redis is away: silence alone loses nothing before the lease is over.
    pub async fn heartbeat(&self) -> Result<Reply<Beat>, StoreError> {
        let mut call = HEARTBEAT.call(&self.keys, Some(&self.id.0), self.store.clock());
        call.arg(&self.id.0);
        let answer: Vec<Value> = self.heartbeats.run(&HEARTBEAT, &call).await?;
        parse_reply(answer, |rest| {
            let [_, held, n, Value::Array(cancelled)] = rest else { return None };
            Some(Beat {
                held: u64::try_from(int(held)?).ok()?,
                n: u64::try_from(int(n)?).ok()?,
                cancelled: members(cancelled),
            })
        })
    }

    /// Closes the session if it holds nothing; else it is left to lapse.
    ///
    /// # Errors
    /// When Redis is away: the session lapses by itself.
    pub async fn bye(&self) -> Result<bool, StoreError> {
        let mut call = BYE.call(&self.keys, Some(&self.id.0), self.store.clock());
        call.arg(&self.id.0);
        Ok(self.requests.run::<i64>(&BYE, &call).await? == 1)
    }
}

/// A connection on which to wait for work. Apart from all others: it blocks.
pub struct Waker {
    link: Link,
    keys: Keys,
    timeout: Duration,
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Waker {
    /// A waker of a queue that waits at most `timeout` at a time.
    #[must_use]
    pub fn new(store: &Store, queue: &QueueName, timeout: Duration) -> Self {
        let keys = Keys::new(queue);
        Self { link: store.link().own(&keys, timeout), keys, timeout }
    }

    /// Returns when there may be work, or when the timeout is over. Dropping the future costs the connection, and may lose a
    /// wake-up, which a tick makes up for within a second. One caller at a time.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn wait(&self) -> Result<bool, StoreError> {
        let mut cmd = redis::cmd("BLPOP");
        cmd.arg(self.keys.wake()).arg(self.timeout.as_secs_f64());
        let token: Option<(String, String)> = self.link.block(&cmd).await?;
        Ok(token.is_some())
    }

    /// Wakes another worker instead of this one, which was woken and has no room after all.
    ///
    /// # Errors
    /// When Redis is away: a tick wakes the other one within a second.
    pub async fn pass_on(&self) -> Result<(), StoreError> {
        self.link.send::<i64>(redis::cmd("LPUSH").arg(self.keys.wake()).arg(1)).await.map(drop)
    }
}

fn push_outcome(call: &mut super::script::Call, outcome: &Applied) {
    let (letter, operands) = match &outcome.finish {
        Finish::Complete { keep: None } => (b'c', None),
        Finish::Cancel { keep: None } => (b'x', None),
        Finish::Complete { keep: Some(result) } => (b'k', Some((Duration::ZERO, result.clone().into_bytes()))),
        Finish::Cancel { keep: Some(result) } => (b'j', Some((Duration::ZERO, result.clone().into_bytes()))),
        Finish::Gone => (b'g', None),
        Finish::Release => (b'l', None),
        Finish::Snooze { delay } => (b's', Some((*delay, Vec::new()))),
        Finish::Park { delay } => (b'p', Some((*delay, Vec::new()))),
        Finish::Retry { delay, attempt, error } => {
            let mut blob = attempt.to_be_bytes().to_vec();
            blob.extend_from_slice(error.line().as_bytes());
            (b'r', Some((*delay, blob)))
        }
        Finish::Bury { error } => (b'b', Some((Duration::ZERO, error.line().into_bytes()))),
    };
    let mut token = [0; 9];
    token[..8].copy_from_slice(&outcome.claim_no.to_be_bytes());
    token[8] = letter;
    call.arg(outcome.member.to_bytes()).arg(token.as_slice());
    if let Some((delay, blob)) = operands {
        call.arg(millis(delay)).arg(blob);
    }
}

fn parse_reply<T>(answer: Vec<Value>, parse: impl FnOnce(&[Value]) -> Option<T>) -> Result<Reply<T>, StoreError> {
    let unreadable = || StoreError::Unreadable("an answer to a session");
    let (status, rest) = answer.split_first().ok_or_else(unreadable)?;
    match bytes(status).ok_or_else(unreadable)? {
        b"OK" => parse(rest).map(Reply::Ok).ok_or_else(unreadable),
        b"GONE" => Ok(Reply::Gone),
        b"STALE" => Ok(Reply::Stale),
        b"ROLLBACK" => Ok(Reply::Rollback),
        _ => Err(unreadable()),
    }
}

fn parse_claims(claim_no: u64, rest: &[Value]) -> Option<ClaimReply> {
    let [now, codes, more, Value::Array(claims), Value::Array(muts)] = rest else { return None };
    let claims = claims
        .chunks_exact(2)
        .enumerate()
        .map(|(i, pair)| {
            let envelope = Envelope::decode(bytes(&pair[1])?);
            let old = muts.get(i).and_then(bytes).map(Mut::decode).unwrap_or_default();
            let ready_ms = old.ready_ms.or(envelope.as_ref().ok().map(|envelope| envelope.ready_ms)).unwrap_or(0);
            Some(Claim {
                member: Member::from_bytes(bytes(&pair[0])?)?,
                claim_no,
                envelope,
                attempt: old.attempt,
                rescues: old.rescues,
                enqueued_at: instant(bytes(&pair[1])?.get(..6).map_or(0, read6))?,
                ready_at: instant(ready_ms)?,
                extras: old.extras != 0,
            })
        })
        .collect::<Option<_>>()?;
    Some(ClaimReply {
        now: instant(u64::try_from(int(now)?).ok()?)?,
        verdicts: verdicts(codes)?,
        more: int(more)? == 1,
        claims,
    })
}

pub(super) fn instant(ms: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)
}

fn members(values: &[Value]) -> Vec<Member> {
    values.iter().filter_map(|member| Member::from_bytes(bytes(member)?)).collect()
}

fn verdicts(codes: &Value) -> Option<Vec<Verdict>> {
    bytes(codes)?
        .iter()
        .map(|code| match code {
            b'a' => Some(Verdict::Applied),
            b'-' => Some(Verdict::Already),
            b'n' => Some(Verdict::NotYours),
            _ => None,
        })
        .collect()
}

pub(super) const fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}
