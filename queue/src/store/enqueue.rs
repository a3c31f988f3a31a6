//! Taking jobs in.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use redis::{RedisError, Value};
use uuid::Uuid;

use super::{
    Store, StoreError, envelope,
    gather::{Abandoned, Gather, Limits},
    keys::Keys,
    millis,
    script::ENQUEUE,
};
use crate::{
    id::{JobId, Member},
    job::{Due, Enqueued, IDEMPOTENCY_PERIOD, NewJob, OnConflict, Unique, UniqueScope},
    journal::RelayJob,
    name::QueueName,
    vault::StoredArgs,
};

/// Jobs in one call of the script.
const CHUNK: usize = 500;
/// Fewer jobs than that are put together with those that others enqueue at the same time.
const SMALL: usize = 100;
/// Bytes of envelopes that are put together.
const GATHERED_BYTES: usize = 1024 * 1024;
/// Calls of a queue on their way at once that were put together: while Redis works on one, the next is made.
const GATHERED_CALLS: usize = 2;
/// The longest period of a unique key, a century: what is longer Redis may not be able to count.
const MAX_PERIOD_MS: u64 = 100 * 365 * 24 * 3600 * 1000;

/// Small calls of one queue, put together.
pub(super) type Gathering = Arc<Gather<QueueName, Item, Code, StoreError>>;

pub(super) fn gathering() -> Gathering {
    Arc::new(Gather::new(Limits { calls: GATHERED_CALLS, items: CHUNK, weight: GATHERED_BYTES }))
}

/// A job that the queue does not take now. Nothing of it was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The queue holds as many jobs as it may.
    #[error("the queue is full: wait until workers have caught up, or raise redis.max_jobs")]
    QueueFull,
    /// The queue holds as many bytes as it may.
    #[error("the queue holds as many bytes as it may: wait until workers have caught up, or raise redis.max_bytes")]
    QueueBytes,
    /// The tenant has as many jobs or bytes in the queue as it may.
    #[error(
        "this tenant has as much in the queue as it may: wait until its jobs are done, or raise redis.max_tenant_jobs or redis.max_tenant_bytes"
    )]
    TenantFull,
    /// The batch was never opened, or is sealed.
    #[error("the batch takes no members: open it first, and seal it after the last member")]
    BatchClosed,
    /// Redis is nearly out of memory.
    #[error("Redis is nearly out of memory: wait until workers have caught up, or raise its maxmemory")]
    MemoryGate,
    /// Its kind is encrypted, and the store has no key to seal it with ([`Store::with_vault`]).
    #[error(
        "its kind is encrypted, and this process has no key: set encryption.keys (WINDROW_ENCRYPTION_KEYS) as its workers have it"
    )]
    NoKey,
}

pub(super) struct Item {
    pub(super) member: Vec<u8>,
    /// The envelope, behind the two times.
    pub(super) part: Vec<u8>,
    delay: String,
    unique: Vec<u8>,
    idempotency: Option<[u8; 16]>,
}

impl Item {
    /// Ready at once, with no key and no batch.
    pub(super) fn is_plain(&self) -> bool {
        self.delay == "0" && self.unique.is_empty() && self.idempotency.is_none() && !envelope::in_batch(&self.part)
    }
}

pub(super) enum Code {
    Created,
    Known,
    Stands(JobId),
    Replaced(JobId),
    Rescheduled(JobId),
    Refused(Refused),
}

impl Store {
    /// Enqueues fast jobs, of any mix of queues; answers are in their order. A job's id makes it safe to ask again: after a
    /// lost connection this is done here, a few times.
    ///
    /// # Errors
    /// When Redis is away: some of the jobs may have been taken. Asking again with the same jobs is safe.
    pub async fn enqueue(&self, jobs: &[NewJob]) -> Result<Vec<Result<Enqueued, Refused>>, StoreError> {
        let mut by_queue: HashMap<&QueueName, Vec<usize>> = HashMap::new();
        for (i, job) in jobs.iter().enumerate() {
            by_queue.entry(&job.queue).or_default().push(i);
        }
        let mut answers: Vec<Result<Enqueued, Refused>> =
            jobs.iter().map(|job| Ok(Enqueued::Created(job.id))).collect();
        for (queue, indexes) in by_queue {
            for chunk in indexes.chunks(CHUNK) {
                let (mut sent, mut items) = (Vec::with_capacity(chunk.len()), Vec::with_capacity(chunk.len()));
                for &i in chunk {
                    match self.vault().stored(&jobs[i]) {
                        Ok(args) => {
                            sent.push(i);
                            items.push(fast_item(&jobs[i], &args));
                        }
                        Err(_) => answers[i] = Err(Refused::NoKey),
                    }
                }
                if items.is_empty() {
                    continue;
                }
                for (i, code) in sent.into_iter().zip(self.send_gathered(queue, items).await?) {
                    answers[i] = match code {
                        Code::Created => {
                            self.count_enqueued(queue, &jobs[i].kind);
                            Ok(Enqueued::Created(jobs[i].id))
                        }
                        Code::Known => Ok(Enqueued::Exists(jobs[i].id)),
                        Code::Stands(id) => Ok(Enqueued::Exists(id)),
                        Code::Replaced(id) => Ok(Enqueued::Replaced(id)),
                        Code::Rescheduled(id) => Ok(Enqueued::Rescheduled(id)),
                        Code::Refused(refused) => Err(refused),
                    };
                }
            }
        }
        Ok(answers)
    }

    /// Puts journaled jobs of one queue where workers find them. One that is there already stays as it is: then the answer is
    /// false.
    ///
    /// # Errors
    /// When Redis is away: some may have been taken. Asking again is safe.
    pub async fn relay(&self, queue: &QueueName, jobs: &[RelayJob]) -> Result<Vec<Result<bool, Refused>>, StoreError> {
        let mut answers = Vec::with_capacity(jobs.len());
        for chunk in jobs.chunks(CHUNK) {
            let items: Vec<Item> = chunk
                .iter()
                .map(|job| Item {
                    member: job.member.to_bytes(),
                    part: envelope::encode_journaled(job),
                    delay: delay(job.due),
                    unique: Vec::new(),
                    idempotency: None,
                })
                .collect();
            let codes = self.send_items(queue, &items).await?;
            answers.extend(chunk.iter().zip(codes).map(|(job, code)| match code {
                Code::Refused(refused) => Err(refused),
                Code::Created => {
                    self.count_enqueued(queue, &job.kind);
                    Ok(true)
                }
                Code::Known | Code::Stands(_) | Code::Replaced(_) | Code::Rescheduled(_) => Ok(false),
            }));
        }
        Ok(answers)
    }

    /// Sends a few jobs together with those of other callers; many are a call of their own.
    async fn send_gathered(&self, queue: &QueueName, items: Vec<Item>) -> Result<Vec<Code>, StoreError> {
        if items.len() >= SMALL {
            return self.send_items(queue, &items).await;
        }
        let weight = items.iter().map(|item| item.part.len()).sum();
        let (store, of) = (self.clone(), queue.clone());
        let send = move |items: Vec<Item>| {
            let (store, of) = (store.clone(), of.clone());
            async move { store.send_items(&of, &items).await }
        };
        self.inner.gathering.call(queue, items, weight, send).await.unwrap_or_else(|Abandoned| {
            let error = io::Error::other("the task that sends enqueued jobs has ended");
            Err(StoreError::Unavailable(RedisError::from(error)))
        })
    }

    async fn send_items(&self, queue: &QueueName, items: &[Item]) -> Result<Vec<Code>, StoreError> {
        match self.enqueue_plain(queue, items).await {
            Ok(true) => return Ok(items.iter().map(|_| Code::Created).collect()),
            // If they are in after all, the other script says that they are there.
            Ok(false) | Err(StoreError::Unavailable(_)) => {}
            Err(error) => return Err(error),
        }
        let keys = Keys::new(queue);
        let mut call = ENQUEUE.call(&keys, None, self.clock());
        let config = self.config();
        call.arg(config.max_jobs).arg(config.max_bytes).arg(config.max_tenant_jobs).arg(config.max_tenant_bytes);
        call.arg(items.len());
        for item in items {
            call.arg(&item.member)
                .arg(&item.part)
                .arg(&item.delay)
                .arg(&item.unique)
                .arg(item.idempotency.as_ref().map_or(&[][..], |key| key))
                .arg(millis(IDEMPOTENCY_PERIOD));
        }
        let answer = (|| self.link().run::<Value>(&ENQUEUE, &call))
            .retry(
                ExponentialBuilder::new()
                    .with_min_delay(Duration::from_millis(20))
                    .with_max_delay(Duration::from_millis(500))
                    .with_max_times(4)
                    .with_jitter(),
            )
            .when(|error| error.is_unavailable() && !is_out_of_memory(error))
            .await;
        match answer {
            Ok(Value::Array(codes)) => codes
                .iter()
                .map(|code| if let Value::BulkString(code) = code { decode(code) } else { Err(unreadable()) })
                .collect(),
            Ok(_) => Err(unreadable()),
            // The script was refused as a whole, but an earlier try whose answer was lost may have stored them.
            Err(error) if is_out_of_memory(&error) => {
                let members: Vec<&[u8]> = items.iter().map(|item| &*item.member).collect();
                let known = self.known(&keys, &members).await?;
                Ok(known.map(|known| if known { Code::Known } else { Code::Refused(Refused::MemoryGate) }).collect())
            }
            Err(error) => Err(error),
        }
    }
}

fn is_out_of_memory(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(source) if source.code() == Some("OOM"))
}

fn fast_item(job: &NewJob, args: &StoredArgs<'_>) -> Item {
    Item {
        member: Member::fast(job.id).to_bytes(),
        part: envelope::encode_fast(job, args),
        delay: delay(job.due),
        unique: job.unique.as_ref().map(unique_key).unwrap_or_default(),
        idempotency: job.idempotency.map(|key| key.0),
    }
}

/// As the script reads it: digest, scope, policy, and the period.
fn unique_key(unique: &Unique) -> Vec<u8> {
    let mut key = unique.digest.0.to_vec();
    let (scope, period) = match unique.scope {
        UniqueScope::Queued => (b'q', None),
        UniqueScope::UntilFinal => (b'f', None),
        UniqueScope::Period(period) => (b'p', Some(period)),
    };
    key.push(scope);
    key.push(match unique.on_conflict {
        OnConflict::Ignore => b'i',
        OnConflict::Replace => b'r',
        OnConflict::Reschedule => b't',
    });
    if let Some(period) = period {
        // A period of nothing is no key that Redis can keep.
        key.extend_from_slice(millis(period).clamp(1, MAX_PERIOD_MS).to_string().as_bytes());
    }
    key
}

/// As the script reads it.
fn delay(due: Due) -> String {
    match due {
        Due::Now => "0".into(),
        Due::In(delay) => millis(delay).to_string(),
        Due::At(at) => format!("@{}", at.timestamp_millis().max(0)),
    }
}

fn unreadable() -> StoreError {
    StoreError::Unreadable("an answer to enqueue")
}

fn decode(code: &[u8]) -> Result<Code, StoreError> {
    match code {
        b"+" => Ok(Code::Created),
        b"=" => Ok(Code::Known),
        b"f" => Ok(Code::Refused(Refused::QueueFull)),
        b"b" => Ok(Code::Refused(Refused::QueueBytes)),
        b"t" => Ok(Code::Refused(Refused::TenantFull)),
        b"x" => Ok(Code::Refused(Refused::BatchClosed)),
        b"m" => Ok(Code::Refused(Refused::MemoryGate)),
        [changed @ (b'R' | b'D'), id @ ..] if id.len() == 16 => {
            let id = id_from(id)?;
            Ok(if *changed == b'R' { Code::Replaced(id) } else { Code::Rescheduled(id) })
        }
        id => id_from(id).map(Code::Stands),
    }
}

fn id_from(bytes: &[u8]) -> Result<JobId, StoreError> {
    Uuid::from_slice(bytes).map(JobId).map_err(|_| unreadable())
}
