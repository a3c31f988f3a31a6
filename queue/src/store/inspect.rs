//! Looking at the queue: where a job is, and how many there are.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use redis::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    AttemptError, Envelope, HeldBy, Progress, Store, StoreError,
    cursor::{Cursor, InvalidCursor, Place},
    dead::dead_status,
    envelope::{Mut, read6},
    keys::Keys,
    list::{Page, array, parts, whole},
    script::{COUNTS, EXISTS, LIST_USAGE, STATUS},
    session::{bytes, instant},
};
use crate::{
    id::Member,
    job::BatchId,
    name::{Kind, QueueName, Tenant},
    vault::shown,
};

/// Where a job is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for its time.
    Scheduled,
    /// Waiting for a worker.
    Ready,
    /// A worker has it.
    Running,
    /// Waiting for a callback, or for its deadline.
    Parked,
    /// It will not run unless somebody redrives it.
    Dead,
    /// Done.
    Completed,
    /// No longer wanted.
    Cancelled,
}

/// What Redis knows of a job.
#[derive(Debug, Serialize)]
pub struct JobStatus {
    /// Where it is.
    pub state: JobState,
    /// What it is.
    pub kind: Option<Kind>,
    /// Whom it is done for.
    pub tenant: Option<Tenant>,
    /// Attempts that count.
    pub attempt: u32,
    /// When Redis took it.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When it is due (scheduled), or became ready.
    pub ready_at: Option<DateTime<Utc>>,
    /// When its last attempt was claimed, while it runs.
    pub running_since: Option<DateTime<Utc>>,
    /// The session that runs it.
    pub session: Option<String>,
    /// Until when a parked job waits for its callback.
    pub park_deadline: Option<DateTime<Utc>>,
    /// How far it says it has come.
    pub progress: Option<Progress>,
    /// It runs, and was told to stop.
    pub stopping: bool,
    /// What keeps it from being claimed, while it is ready.
    pub held_by: Option<HeldBy>,
    /// The batch of which it is a member, if it is a fast job.
    pub batch: Option<BatchId>,
    /// When it died.
    pub died_at: Option<DateTime<Utc>>,
    /// Args of a fast job.
    pub args: Option<Box<RawValue>>,
    /// The last ten attempts' errors.
    pub errors: Vec<AttemptError>,
    /// The result that was kept.
    pub result: Option<serde_json::Value>,
}

impl JobStatus {
    /// A state of which nothing else is known yet.
    pub(super) const fn of(state: JobState) -> Self {
        Self {
            state,
            kind: None,
            tenant: None,
            attempt: 0,
            enqueued_at: None,
            ready_at: None,
            running_since: None,
            session: None,
            park_deadline: None,
            progress: None,
            stopping: false,
            held_by: None,
            batch: None,
            died_at: None,
            args: None,
            errors: Vec::new(),
            result: None,
        }
    }
}

/// How many jobs a queue has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Waiting for a worker.
    pub ready: u64,
    /// Waiting for their time.
    pub scheduled: u64,
    /// In work.
    pub running: u64,
    /// Fast jobs that wait for a callback; parked journaled ones are in Postgres.
    pub parked: u64,
    /// Dead fast jobs; dead journaled ones are in Postgres.
    pub dead: u64,
    /// Worker sessions.
    pub sessions: u64,
    /// Dead fast jobs that were dropped because there were too many, ever.
    pub dead_dropped: u64,
    /// Bytes of all jobs that stand (the dead left out).
    pub bytes: u64,
    /// Tenants that have jobs standing; those without a tenant count as one.
    pub tenants: u64,
    /// Lanes (band, tenant and kind) that have ready jobs.
    pub lanes: u64,
    /// Those among them that wait for a limit.
    pub lanes_waiting: u64,
    /// How long the oldest ready job has been ready. Of many lanes 64 in each band are looked at, and 64 that wait.
    #[serde(with = "humantime_serde")]
    pub oldest_ready: Option<Duration>,
}

/// What a tenant's jobs weigh in a queue: all that stand, the dead left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Usage {
    /// Whose they are; `None` for jobs of no tenant.
    pub tenant: Option<Tenant>,
    /// How many.
    pub jobs: u64,
    /// Bytes of their envelopes, args included.
    pub bytes: u64,
}

/// The record of a job whose result was kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) state: JobState,
    pub(crate) kind: Kind,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) attempt: u32,
    pub(crate) reason: Option<String>,
}

impl Store {
    /// Where a job is; `None` if Redis does not know it (any more).
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn status(&self, queue: &QueueName, member: Member) -> Result<Option<JobStatus>, StoreError> {
        let (keys, mut scan) = (Keys::new(queue), 0);
        // A thousand sessions a call.
        loop {
            let mut call = STATUS.call(&keys, None, self.clock());
            call.arg(member.to_bytes()).arg(scan);
            let answer: Vec<Value> = self.link().run(&STATUS, &call).await?;
            let fields: Vec<&[u8]> = answer.iter().map(|value| bytes(value).unwrap_or_default()).collect();
            let [state, envelope, old, errors, extra, progress, _] = fields[..] else { return Ok(None) };
            if state == b"more" {
                scan = whole(&answer[4]).ok_or(StoreError::Unreadable("an answer to status"))?;
                continue;
            }
            let state = match state {
                b"completed" => return kept_status(extra).map(Some),
                b"dead" => {
                    return dead_status(envelope, text_ms(extra)).map(Some);
                }
                b"scheduled" => JobState::Scheduled,
                b"running" => JobState::Running,
                b"parked" => JobState::Parked,
                // Journaled poison on its way to `job_closed`.
                b"poison" => JobState::Dead,
                _ => JobState::Ready,
            };
            let (envelope, old) = (Envelope::decode(envelope)?, Mut::decode(old));
            let ready_ms = match state {
                JobState::Scheduled => text_ms(extra),
                _ => old.ready_ms.unwrap_or(envelope.ready_ms),
            };
            let is = |wanted| state == wanted;
            let session = extra.get(6..).and_then(|sid| std::str::from_utf8(sid).ok()).map(str::to_owned);
            return Ok(Some(JobStatus {
                kind: Some(envelope.lane.kind),
                tenant: envelope.lane.tenant,
                attempt: old.attempt,
                enqueued_at: instant(envelope.enqueued_ms),
                ready_at: instant(ready_ms),
                running_since: extra.get(..6).filter(|_| is(JobState::Running)).map(read6).and_then(instant),
                session: session.filter(|_| is(JobState::Running)),
                park_deadline: is(JobState::Parked).then(|| text_ms(extra)).and_then(instant),
                progress: Progress::decode(progress),
                stopping: is(JobState::Running) && whole(&answer[6]) == Some(1),
                held_by: is(JobState::Ready).then(|| HeldBy::decode(extra)).flatten(),
                batch: envelope.batch,
                args: envelope.args.map(shown),
                errors: AttemptError::lines(errors),
                ..JobStatus::of(state)
            }));
        }
    }

    /// How many jobs a queue has, without walking it: one call, and one more for each 100 sessions beyond the first 1,000.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn counts(&self, queue: &QueueName) -> Result<Counts, StoreError> {
        let keys = Keys::new(queue);
        let call = COUNTS.call(&keys, None, self.clock());
        let answer: Vec<i64> = self.link().run(&COUNTS, &call).await?;
        let [
            _,
            held,
            scheduled,
            running,
            dead,
            oldest,
            sessions,
            dropped,
            poison,
            parked,
            waiting,
            lanes,
            bytes,
            tenants,
        ] = answer[..]
        else {
            return Err(StoreError::Unreadable("an answer to counts"));
        };
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let running = if sessions > 1000 { self.running(&keys).await? } else { count(running) };
        Ok(Counts {
            ready: count(held - scheduled - parked - poison).saturating_sub(running),
            scheduled: count(scheduled),
            running,
            parked: count(parked),
            dead: count(dead),
            sessions: count(sessions),
            dead_dropped: count(dropped),
            bytes: count(bytes),
            tenants: count(tenants),
            lanes: count(lanes),
            lanes_waiting: count(waiting),
            oldest_ready: u64::try_from(oldest).ok().map(Duration::from_millis),
        })
    }

    /// Running jobs, added up over the sessions.
    async fn running(&self, keys: &Keys) -> Result<u64, StoreError> {
        let (mut of, mut scan) = (HashMap::new(), 0);
        loop {
            let (sessions, next) = self.sessions_part(keys, scan).await?;
            // A scan may show a session twice.
            of.extend(sessions.into_iter().map(|session| (session.id, session.running)));
            if next == 0 {
                return Ok(of.into_values().sum());
            }
            scan = next;
        }
    }

    /// A part of what standing jobs weigh by tenant, about 200 tenants at a time, in no order. What stands throughout is listed
    /// at least once.
    ///
    /// # Errors
    /// When Redis is away, or the cursor is another list's.
    pub async fn usage(&self, queue: &QueueName, after: Option<&Cursor>) -> Result<Page<Usage>, StoreError> {
        let scan = match after.map(|cursor| &cursor.0) {
            None => 0,
            Some(Place::Scan(scan)) => *scan,
            Some(_) => return Err(InvalidCursor.into()),
        };
        let mut call = LIST_USAGE.call(&Keys::new(queue), None, self.clock());
        call.arg(scan);
        let answer: Vec<Value> = self.link().run(&LIST_USAGE, &call).await?;
        let [next, entries] = parts(&answer)?;
        let items = array(entries)?.as_chunks::<2>().0.iter().filter_map(|[tenant, packed]| {
            let (tenant, packed) = (bytes(tenant)?, bytes(packed)?);
            let tenant = match tenant {
                // The whole queue: that is among the counts.
                b"\0" => return None,
                b"" => None,
                name => Some(Tenant::new(std::str::from_utf8(name).ok()?).ok()?),
            };
            let (jobs, bytes) = packed.split_first_chunk::<4>()?;
            Some(Usage { tenant, jobs: u32::from_be_bytes(*jobs).into(), bytes: read6(bytes) })
        });
        let next = whole(next).ok_or(StoreError::Unreadable("an answer to usage"))?;
        let next = (next != 0).then_some(Cursor(Place::Scan(next)));
        Ok(Page { items: items.collect(), unreadable: Vec::new(), next })
    }

    /// Which of these members Redis holds, in their order.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn exists(&self, queue: &QueueName, members: &[Member]) -> Result<Vec<bool>, StoreError> {
        let keys = Keys::new(queue);
        let mut found = Vec::with_capacity(members.len());
        for chunk in members.chunks(2000) {
            let chunk: Vec<Vec<u8>> = chunk.iter().map(|member| member.to_bytes()).collect();
            found.extend(self.known(&keys, &chunk).await?);
        }
        Ok(found)
    }

    /// The same for at most 2000 members as Redis writes them.
    pub(super) async fn known(
        &self,
        keys: &Keys,
        members: &[impl AsRef<[u8]>],
    ) -> Result<impl Iterator<Item = bool>, StoreError> {
        let mut call = EXISTS.call(keys, None, self.clock());
        call.arg(members.len());
        for member in members {
            call.arg(member.as_ref());
        }
        let answer: Vec<u8> = self.link().run(&EXISTS, &call).await?;
        Ok(answer.into_iter().map(|byte| byte == b'1'))
    }
}

fn text_ms(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn kept_status(record: &[u8]) -> Result<JobStatus, StoreError> {
    let kept: Kept = serde_json::from_slice(record).map_err(|_| StoreError::Unreadable("a kept result"))?;
    Ok(JobStatus {
        kind: Some(kept.kind),
        tenant: kept.tenant,
        attempt: kept.attempt,
        result: kept.reason.map(serde_json::Value::String),
        ..JobStatus::of(kept.state)
    })
}

/// The record that is kept of a final job that somebody may ask for ([`PolicyOverride::keep_result`]).
///
/// [`PolicyOverride::keep_result`]: crate::policy::PolicyOverride::keep_result
#[must_use]
pub fn kept_result(
    state: JobState,
    kind: &Kind,
    tenant: Option<&Tenant>,
    attempt: u32,
    reason: Option<&str>,
) -> String {
    let kept = Kept { state, kind: kind.clone(), tenant: tenant.cloned(), attempt, reason: reason.map(str::to_owned) };
    // Names, a number and a text always serialise.
    serde_json::to_string(&kept).unwrap_or_default()
}
