//! Dead letters of fast jobs. Those of journaled jobs are in Postgres (`journal::list_closed`).

use chrono::{DateTime, Utc};
use redis::Value;
use serde::Serialize;

use super::{
    AttemptError, Envelope, Filter, JobState, JobStatus, MAX_PAGE, Page, Refused, Store, StoreError, Unreadable,
    cursor::{Cursor, DueSet, InvalidCursor, Place},
    envelope::Mut,
    keys::Keys,
    list::{CALLS, DuePart, Head, whole},
    script::{DISCARD, REDRIVE},
    session::{bytes, instant},
    tick::{LOST, POISON},
};
use crate::{
    error::fingerprint,
    id::{JobId, Member},
    job::BatchId,
    name::{Kind, QueueName, Tenant},
    vault::shown,
};

/// A dead fast job as lists show it. [`Store::status`] has its args and every attempt's error, too.
#[derive(Clone, Debug, Serialize)]
pub struct DeadJob {
    /// The job.
    pub id: JobId,
    /// What it is.
    pub kind: Kind,
    /// Whom it was to be done for.
    pub tenant: Option<Tenant>,
    /// The batch of which it was a member.
    pub batch: Option<BatchId>,
    /// Attempts that counted, the last included.
    pub attempt: u32,
    /// When it was enqueued.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When it died.
    pub died_at: Option<DateTime<Utc>>,
    /// What it died of.
    pub error: Option<AttemptError>,
}

impl DeadJob {
    fn decode(member: &[u8], head: &[u8], old: &[u8], reason: &[u8], died_ms: u64) -> Option<Self> {
        let (id, head, old) = (Member::from_bytes(member)?.id, Head::decode(head)?, Mut::decode(old));
        let mut errors = AttemptError::lines(reason);
        let (attempt, died_at) = mend(&mut errors, old, died_ms);
        Some(Self {
            id,
            kind: head.lane.kind,
            tenant: head.lane.tenant,
            batch: head.batch,
            attempt,
            enqueued_at: instant(head.enqueued_ms),
            died_at,
            error: errors.pop(),
        })
    }

    /// What it is grouped by, as journaled ones are by the column of that name.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        let (class, message) = self.error.as_ref().map_or(("", ""), |error| (&*error.class, &*error.message));
        fingerprint(&self.kind, class, message)
    }
}

/// How many attempts there were, and when the job died. Whoever found that a worker was lost did not see it happen: only Redis
/// knows when, and after which attempt.
fn mend(errors: &mut [AttemptError], old: Mut, died_ms: u64) -> (u32, Option<DateTime<Utc>>) {
    let attempt = errors.last().map_or(0, |error| error.attempt).max(old.attempt);
    let died_at = instant(died_ms);
    let seen = errors.last_mut().filter(|error| error.class == POISON || error.class == LOST);
    if let (Some(error), Some(at)) = (seen, died_at) {
        (error.at, error.attempt) = (at, attempt);
    }
    (attempt, died_at)
}

/// The status of a dead job, by its record.
pub(super) fn dead_status(record: &[u8], died_ms: u64) -> Result<JobStatus, StoreError> {
    let unreadable = || StoreError::Unreadable("a dead job");
    let mut fields = Fields(record);
    let envelope = Envelope::decode(fields.next().ok_or_else(unreadable)?)?;
    let old = Mut::decode(fields.next().ok_or_else(unreadable)?);
    let mut errors = AttemptError::lines(fields.next().ok_or_else(unreadable)?);
    let (attempt, died_at) = mend(&mut errors, old, died_ms);
    Ok(JobStatus {
        kind: Some(envelope.lane.kind),
        tenant: envelope.lane.tenant,
        attempt,
        enqueued_at: instant(envelope.enqueued_ms),
        died_at,
        batch: envelope.batch,
        args: envelope.args.map(shown),
        errors,
        ..JobStatus::of(JobState::Dead)
    })
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

/// What a redrive came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redriven {
    /// It is ready, under this new id.
    As(JobId),
    /// It stays dead: this other job stands for its unique key, and does its work.
    Stands(JobId),
    /// It is not dead.
    NotDead,
    /// It stays dead: its record cannot be read by this version.
    Unreadable,
    /// It stays dead: there is no room for it now.
    Refused(Refused),
}

/// Jobs in one call of the script.
const REDRIVES: usize = 100;
const DISCARDS: usize = 500;

impl Store {
    /// A page of dead fast jobs, newest first: at most `limit` (1 to [`MAX_PAGE`]). The filter's times are those of death.
    ///
    /// # Errors
    /// When Redis is away, or the cursor is another list's.
    pub async fn dead(
        &self,
        queue: &QueueName,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>, StoreError> {
        let mut place = match after.map(|cursor| &cursor.0) {
            None => None,
            Some(Place::Due { set: DueSet::Dead, score, member }) => Some((*score, *member)),
            Some(_) => return Err(InvalidCursor.into()),
        };
        let (keys, limit, mut page) = (Keys::new(queue), limit.clamp(1, MAX_PAGE), Page::default());
        for _ in 0..CALLS {
            let answer = self.due_part(&keys, DueSet::Dead, filter, place, page.room(limit)).await?;
            let part = DuePart::read(&answer)?;
            for entry in part.entries.as_chunks::<5>().0 {
                let [m, _, head, old, reason] = entry.each_ref().map(|value| bytes(value).unwrap_or_default());
                let died = whole(&entry[1]).unwrap_or(0);
                match DeadJob::decode(m, head, old, reason, died) {
                    Some(job) => page.items.push(job),
                    None => page.unreadable.push(Unreadable::new(m, instant(died))),
                }
            }
            place = part.next;
            if place.is_none() || page.len() >= limit {
                break;
            }
        }
        page.next = place.map(|(score, member)| Cursor(Place::Due { set: DueSet::Dead, score, member }));
        Ok(page)
    }

    /// Brings dead fast jobs back as ready, each under a new id, with fresh attempts and in no batch. It takes room as a new
    /// job does. Answers are in the order of `ids`.
    ///
    /// # Errors
    /// When Redis is away: some may have been redriven.
    pub async fn redrive(&self, queue: &QueueName, ids: &[JobId]) -> Result<Vec<Redriven>, StoreError> {
        let keys = Keys::new(queue);
        let mut answers = Vec::with_capacity(ids.len());
        while answers.len() < ids.len() {
            let left = &ids[answers.len()..];
            let chunk = &left[..left.len().min(REDRIVES)];
            let new: Vec<JobId> = chunk.iter().map(|_| JobId::new()).collect();
            let config = self.config();
            let mut call = REDRIVE.call(&keys, None, self.clock());
            call.arg(config.max_jobs).arg(config.max_bytes).arg(config.max_tenant_jobs).arg(config.max_tenant_bytes);
            call.arg(chunk.len());
            for (old, new) in chunk.iter().zip(&new) {
                call.arg(Member::fast(*old).to_bytes()).arg(Member::fast(*new).to_bytes());
            }
            let codes: Vec<Value> = match self.link().run(&REDRIVE, &call).await {
                Err(StoreError::Unavailable(error)) if error.code() == Some("OOM") => {
                    answers.extend(left.iter().map(|_| Redriven::Refused(Refused::MemoryGate)));
                    return Ok(answers);
                }
                codes => codes?,
            };
            let before = answers.len();
            for (code, new) in codes.iter().zip(new) {
                let code = bytes(code).unwrap_or_default();
                // The call had read enough: the rest is asked for again.
                if code == b"." {
                    break;
                }
                answers.push(redriven(code, new).ok_or(StoreError::Unreadable("an answer to redrive"))?);
            }
            if answers.len() == before {
                return Err(StoreError::Unreadable("an answer to redrive"));
            }
        }
        Ok(answers)
    }

    /// Removes dead fast jobs for good; false for those that are not dead.
    ///
    /// # Errors
    /// When Redis is away: some may have been removed.
    pub async fn discard(&self, queue: &QueueName, ids: &[JobId]) -> Result<Vec<bool>, StoreError> {
        let keys = Keys::new(queue);
        let mut answers = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(DISCARDS) {
            let mut call = DISCARD.call(&keys, None, self.clock());
            call.arg(chunk.len());
            for id in chunk {
                call.arg(Member::fast(*id).to_bytes());
            }
            let codes: Vec<u8> = self.link().run(&DISCARD, &call).await?;
            answers.extend(codes.iter().map(|&code| code == b'1'));
        }
        Ok(answers)
    }
}

fn redriven(code: &[u8], new: JobId) -> Option<Redriven> {
    Some(match code {
        b"+" => Redriven::As(new),
        b"-" => Redriven::NotDead,
        b"?" => Redriven::Unreadable,
        b"m" => Redriven::Refused(Refused::MemoryGate),
        b"f" => Redriven::Refused(Refused::QueueFull),
        b"b" => Redriven::Refused(Refused::QueueBytes),
        b"t" => Redriven::Refused(Refused::TenantFull),
        stands => Redriven::Stands(Member::from_bytes(stands)?.id),
    })
}
