//! Batches: a set of jobs with a follow-up that becomes ready once, when all of them are final.
//!
//! Open the batch, enqueue its members ([`NewJob::batch`]), seal it. All of it is in one queue. A batch that is not sealed within
//! seven days is forgotten, and its follow-up never runs; its members run all the same. One that fired can be asked for seven days.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Lane, Refused, Store, StoreError, envelope,
    keys::Keys,
    script::{BATCH_OPEN, BATCH_SEAL},
    session::instant,
};
use crate::{
    id::{JobId, Member},
    job::{BatchId, Due, Enqueued, NewJob},
    name::{QueueName, Tenant},
};

/// A batch as its producer describes it.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Its identity, made by the producer, so that opening it twice opens it once.
    pub id: BatchId,
    /// What runs when all members are final. It has the batch's queue, and reads how the members ended by [`Store::batch`].
    pub follow_up: NewJob,
}

/// How far a batch is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchStatus {
    /// Jobs that belong to it.
    pub members: u64,
    /// Those that completed.
    pub completed: u64,
    /// Those that died. Redriving one later changes nothing here.
    pub dead: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// Whether it takes no more members.
    pub sealed: bool,
    /// When its follow-up became ready.
    pub fired_at: Option<DateTime<Utc>>,
    /// The follow-up.
    pub follow_up: JobId,
    /// Whose the follow-up is.
    pub tenant: Option<Tenant>,
}

impl NewBatch {
    /// Whether the follow-up can be one.
    fn validate(&self) -> Result<(), StoreError> {
        let job = &self.follow_up;
        let wrong = if job.unique.is_some() {
            "a unique key"
        } else if job.idempotency.is_some() {
            "an idempotency key"
        } else if job.batch.is_some() {
            "a batch of its own"
        } else if job.due != Due::Now {
            "a time of its own"
        } else {
            return Ok(());
        };
        Err(StoreError::Invalid(format!(
            "the follow-up of a batch runs once, when its members are final: it cannot have {wrong}"
        )))
    }
}

impl Store {
    /// Opens a batch. The same id again is answered with the follow-up that stands.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the follow-up has a key, a batch or a time of its own; or when Redis is away: asking again
    /// is safe.
    pub async fn open_batch(&self, batch: &NewBatch) -> Result<Result<Enqueued, Refused>, StoreError> {
        batch.validate()?;
        let mut follow_up = batch.follow_up.clone();
        follow_up.follows = Some(batch.id);
        let Ok(args) = self.vault().stored(&follow_up) else { return Ok(Err(Refused::NoKey)) };
        let mut call = BATCH_OPEN.call(&Keys::new(&follow_up.queue), None, self.clock());
        call.arg(batch.id.0.as_bytes())
            .arg(Member::fast(follow_up.id).to_bytes())
            .arg(envelope::encode_fast(&follow_up, &args))
            .arg(self.config().max_jobs);
        let answer: Result<Vec<u8>, StoreError> = self.link().run(&BATCH_OPEN, &call).await;
        let answer = match answer {
            // Refused as a whole; but an earlier call whose answer was lost may have opened it.
            Err(StoreError::Unavailable(error)) if error.code() == Some("OOM") => {
                let stands = self.batch(&follow_up.queue, batch.id).await?;
                return Ok(stands.map_or(Err(Refused::MemoryGate), |stands| Ok(Enqueued::Exists(stands.follow_up))));
            }
            answer => answer?,
        };
        Ok(match &*answer {
            b"+" => Ok(Enqueued::Created(follow_up.id)),
            b"f" => Err(Refused::QueueFull),
            b"m" => Err(Refused::MemoryGate),
            id => Ok(Enqueued::Exists(job_id(id)?)),
        })
    }

    /// Says that a batch has all its members: when the last of them is final, or at once if all are, the follow-up is ready.
    /// `false` if there is no such batch. Sealing twice changes nothing.
    ///
    /// # Errors
    /// When Redis is away: asking again is safe.
    pub async fn seal_batch(&self, queue: &QueueName, id: BatchId) -> Result<bool, StoreError> {
        let mut call = BATCH_SEAL.call(&Keys::new(queue), None, self.clock());
        call.arg(id.0.as_bytes());
        Ok(self.link().run::<i64>(&BATCH_SEAL, &call).await? == 1)
    }

    /// How far a batch is; `None` if there is no such batch (any more).
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn batch(&self, queue: &QueueName, id: BatchId) -> Result<Option<BatchStatus>, StoreError> {
        let mut key = format!("{}b:", Keys::new(queue).prefix).into_bytes();
        key.extend_from_slice(id.0.as_bytes());
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(key).arg(&["m", "part", "sealed", "fired", "n", "c", "d", "x"]);
        type Number = Option<u64>;
        type Bytes = Option<Vec<u8>>;
        let (m, part, sealed, fired, n, c, d, x): (Bytes, Bytes, Number, Number, Number, Number, Number, Number) =
            self.link().send(&cmd).await?;
        let (Some(m), Some(part)) = (m, part) else { return Ok(None) };
        let lane = part.get(2).and_then(|&length| part.get(4..4 + usize::from(length))).and_then(Lane::decode);
        Ok(Some(BatchStatus {
            members: n.unwrap_or(0),
            completed: c.unwrap_or(0),
            dead: d.unwrap_or(0),
            cancelled: x.unwrap_or(0),
            sealed: sealed == Some(1),
            fired_at: fired.and_then(instant),
            follow_up: job_id(&m)?,
            tenant: lane.ok_or(StoreError::Unreadable("a batch"))?.tenant,
        }))
    }
}

fn job_id(bytes: &[u8]) -> Result<JobId, StoreError> {
    Uuid::from_slice(bytes).map(JobId).map_err(|_| StoreError::Unreadable("a batch"))
}
