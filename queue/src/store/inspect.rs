//! Looking at the queue: where a job is, and how many there are.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    AttemptError, DeadJob, Envelope, Store, StoreError,
    envelope::Mut,
    keys::Keys,
    script::{COUNTS, EXISTS, STATUS},
    session::{bytes, instant},
};
use crate::{
    id::Member,
    name::{Kind, QueueName, Tenant},
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
    /// When it died.
    pub died_at: Option<DateTime<Utc>>,
    /// Args of a fast job.
    pub args: Option<Box<RawValue>>,
    /// The last ten attempts' errors.
    pub errors: Vec<AttemptError>,
    /// The result that was kept.
    pub result: Option<serde_json::Value>,
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
    /// Dead fast jobs; dead journaled ones are in Postgres.
    pub dead: u64,
    /// Worker sessions.
    pub sessions: u64,
    /// Dead fast jobs that were dropped because there were too many, ever.
    pub dead_dropped: u64,
    /// How long the oldest ready job has been ready.
    #[serde(with = "humantime_serde")]
    pub oldest_ready: Option<Duration>,
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
        let mut call = STATUS.call(&Keys::new(queue), None, self.clock());
        call.arg(member.to_bytes());
        let answer: Vec<Value> = self.link().run(&STATUS, &call).await?;
        let fields: Vec<&[u8]> = answer.iter().map(|value| bytes(value).unwrap_or_default()).collect();
        let [state, envelope, old, errors, extra] = fields[..] else { return Ok(None) };
        let state = match state {
            b"completed" => return kept_status(extra).map(Some),
            b"dead" => {
                let dead = DeadJob::decode(member.id, envelope, text_ms(extra))?;
                return Ok(Some(dead.into_status()));
            }
            b"scheduled" => JobState::Scheduled,
            b"running" => JobState::Running,
            // Journaled poison on its way to `job_closed`.
            b"poison" => JobState::Dead,
            _ => JobState::Ready,
        };
        let envelope = Envelope::decode(envelope)?;
        let old = Mut::decode(old);
        let ready_ms = match state {
            JobState::Scheduled => text_ms(extra),
            _ => old.ready_ms.unwrap_or(envelope.ready_ms),
        };
        Ok(Some(JobStatus {
            state,
            kind: Some(envelope.lane.kind),
            tenant: envelope.lane.tenant,
            attempt: old.attempt,
            enqueued_at: instant(envelope.enqueued_ms),
            ready_at: instant(ready_ms),
            died_at: None,
            args: envelope.args,
            errors: AttemptError::lines(errors),
            result: None,
        }))
    }

    /// How many jobs a queue has, without walking it.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn counts(&self, queue: &QueueName) -> Result<Counts, StoreError> {
        let call = COUNTS.call(&Keys::new(queue), None, self.clock());
        let answer: Vec<i64> = self.link().run(&COUNTS, &call).await?;
        let [_, held, scheduled, running, dead, oldest, sessions, dropped, poison] = answer[..] else {
            return Err(StoreError::Unreadable("an answer to counts"));
        };
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Counts {
            ready: count(held - scheduled - running - poison),
            scheduled: count(scheduled),
            running: count(running),
            dead: count(dead),
            sessions: count(sessions),
            dead_dropped: count(dropped),
            oldest_ready: u64::try_from(oldest).ok().map(Duration::from_millis),
        })
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
        state: kept.state,
        kind: Some(kept.kind),
        tenant: kept.tenant,
        attempt: kept.attempt,
        enqueued_at: None,
        ready_at: None,
        died_at: None,
        args: None,
        errors: Vec::new(),
        result: kept.reason.map(serde_json::Value::String),
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
