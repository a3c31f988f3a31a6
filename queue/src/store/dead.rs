//! Dead letters of fast jobs. Those of journaled jobs are in Postgres (`journal::list_closed`).

use chrono::{DateTime, Utc};
use redis::Value;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    AttemptError, Envelope, JobState, JobStatus, Store, StoreError,
    envelope::Mut,
    keys::Keys,
    script::{DISCARD, REDRIVE},
    session::{bytes, instant},
    tick::POISON,
};
use crate::{
    id::{JobId, Member},
    job::Enqueued,
    name::{Kind, QueueName, Tenant},
};

/// A dead fast job, with all that is needed to understand and redrive it.
#[derive(Debug, Serialize)]
pub struct DeadJob {
    /// The job.
    pub id: JobId,
    /// What it is.
    pub kind: Kind,
    /// Whom it was to be done for.
    pub tenant: Option<Tenant>,
    /// Its args.
    pub args: Option<Box<RawValue>>,
    /// Attempts that counted, the last included.
    pub attempt: u32,
    /// When it was enqueued.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When it died.
    pub died_at: Option<DateTime<Utc>>,
    /// The last ten attempts' errors, the fatal one last.
    pub errors: Vec<AttemptError>,
}

/// Where a page of dead jobs ended.
#[derive(Clone, Copy, Debug)]
pub struct DeadCursor {
    /// How many were listed so far. New deaths shift the list: a job may be seen twice, none is missed.
    pub skip: usize,
}

impl DeadJob {
    pub(super) fn decode(id: JobId, record: &[u8], died_ms: u64) -> Result<Self, StoreError> {
        let unreadable = || StoreError::Unreadable("a dead job");
        let mut fields = Fields(record);
        let envelope = Envelope::decode(fields.next().ok_or_else(unreadable)?)?;
        let old = Mut::decode(fields.next().ok_or_else(unreadable)?);
        let mut errors = AttemptError::lines(fields.next().ok_or_else(unreadable)?);
        let attempt = errors.last().map_or(0, |error| error.attempt).max(old.attempt);
        let died_at = instant(died_ms);
        // Whoever found the poison did not see it happen: only Redis knows when, and after which attempt.
        if let (Some(error), Some(at)) = (errors.last_mut().filter(|error| error.class == POISON), died_at) {
            (error.at, error.attempt) = (at, attempt);
        }
        Ok(Self {
            id,
            kind: envelope.lane.kind,
            tenant: envelope.lane.tenant,
            args: envelope.args,
            attempt,
            enqueued_at: instant(envelope.enqueued_ms),
            died_at,
            errors,
        })
    }

    pub(super) fn into_status(self) -> JobStatus {
        JobStatus {
            state: JobState::Dead,
            kind: Some(self.kind),
            tenant: self.tenant,
            attempt: self.attempt,
            enqueued_at: self.enqueued_at,
            ready_at: None,
            died_at: self.died_at,
            args: self.args,
            errors: self.errors,
            result: None,
        }
    }
}

/// The fields of a record, each behind its length.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        self.0 = rest;
        Some(field)
    }
}

impl Store {
    /// A page of dead fast jobs, newest first. Those that this version cannot read are left out.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn dead(
        &self,
        queue: &QueueName,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<Vec<DeadJob>, StoreError> {
        let keys = Keys::new(queue);
        let first = after.map_or(0, |cursor| cursor.skip);
        let listed: Vec<(Vec<u8>, f64)> = self
            .link()
            .send(
                redis::cmd("ZRANGE")
                    .arg(keys.dead())
                    .arg(first)
                    .arg(first.saturating_add(limit).saturating_sub(1))
                    .arg("REV")
                    .arg("WITHSCORES"),
            )
            .await?;
        if listed.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let mut get = redis::cmd("HMGET");
        get.arg(keys.dead_records());
        for (member, _) in &listed {
            get.arg(member);
        }
        let records: Vec<Value> = self.link().send(&get).await?;
        Ok(listed
            .iter()
            .zip(&records)
            .filter_map(|((member, died), record)| {
                let id = Member::from_bytes(member)?.id;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time in milliseconds")]
                let died = *died as u64;
                DeadJob::decode(id, bytes(record)?, died).ok()
            })
            .collect())
    }

    /// Brings a dead fast job back as ready, under a new id; `None` if it is not dead. `Exists` if another job stands for its
    /// unique key: the dead job stays dead then.
    ///
    /// # Errors
    /// When Redis is away, or out of memory.
    pub async fn redrive(&self, queue: &QueueName, id: JobId) -> Result<Option<Enqueued>, StoreError> {
        let new = JobId::new();
        let mut call = REDRIVE.call(&Keys::new(queue), None, self.clock());
        call.arg(Member::fast(id).to_bytes()).arg(Member::fast(new).to_bytes());
        match self.link().run::<Value>(&REDRIVE, &call).await? {
            Value::Int(1) => Ok(Some(Enqueued::Created(new))),
            Value::Int(_) => Ok(None),
            other => bytes(&other)
                .and_then(Member::from_bytes)
                .map(|stands| Some(Enqueued::Exists(stands.id)))
                .ok_or(StoreError::Unreadable("an answer to redrive")),
        }
    }

    /// Removes a dead fast job for good; false if it is not dead.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn discard(&self, queue: &QueueName, id: JobId) -> Result<bool, StoreError> {
        let mut call = DISCARD.call(&Keys::new(queue), None, self.clock());
        call.arg(Member::fast(id).to_bytes());
        Ok(self.link().run::<i64>(&DISCARD, &call).await? == 1)
    }
}
