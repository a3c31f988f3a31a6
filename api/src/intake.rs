//! Taking a job in: what was asked for is checked against the catalog, then handed to the store that owns it. The API and
//! the CLI both come through here.

use std::{collections::HashSet, time::Duration};

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Value, value::RawValue};
use sqlx::{PgPool, Postgres, Transaction};
use windrow_queue::{
    Band, BatchId, Catalog, Delivery, Due, Enqueued, JobId, Journaling, Kind, Member, NewJob, QueueName, Tenant,
    error::is_transient,
    job::{InvalidJob, OnConflict, UniqueScope},
    journal,
    store::{JobState, Refused, Store, StoreError},
    vault::VaultError,
};

use crate::{body::too_large, problem::Problem};

/// The longest unique or idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 255;
/// The longest delay: what is further away belongs into a schedule.
const MAX_DELAY: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Timeouts that make sense for one attempt.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(7 * 24 * 3600);
/// Periods that make sense for a unique key.
const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);
/// Rescue limits that make sense.
const RESCUES: std::ops::RangeInclusive<u8> = 0..=20;
/// Attempts that make sense.
const ATTEMPTS: std::ops::RangeInclusive<u16> = 1..=1000;

/// A job as a client asks for it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct JobRequest {
    /// What it is.
    pub kind: String,
    /// Its args; an empty object if left out.
    #[serde(default)]
    pub args: Option<Box<RawValue>>,
    /// Whom it is done for.
    #[serde(default)]
    pub tenant: Option<Tenant>,
    /// Must be the kind's own queue, if given at all.
    #[serde(default)]
    pub queue: Option<QueueName>,
    /// Through the journal or straight into Redis. Left out: as the kind requires, else fast.
    #[serde(default)]
    pub journaled: Option<bool>,
    /// Ready so long after it was accepted: `90s`, `2h 30m`.
    #[serde(default, with = "humantime_serde")]
    pub delay: Option<Duration>,
    /// Ready at this time, RFC 3339.
    #[serde(default)]
    pub run_at: Option<DateTime<Utc>>,
    /// At most one job with this key, kind and tenant, for as long as `unique_scope` says.
    #[serde(default)]
    pub unique_key: Option<String>,
    /// How long the unique key holds: `until_final` (if left out), `queued`, or `{"period": "1h"}` from now.
    #[serde(default, deserialize_with = "unique_scope")]
    pub unique_scope: Option<UniqueScope>,
    /// What happens when a job holds the unique key: `ignore` (if left out), `replace` or `reschedule`.
    #[serde(default)]
    pub on_conflict: Option<OnConflict>,
    /// The open batch that it becomes a member of.
    #[serde(default)]
    pub batch: Option<BatchId>,
    /// The same request again is answered with the same job.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// Attempts in all.
    #[serde(default)]
    pub max_attempts: Option<u16>,
    /// Longest run of one attempt.
    #[serde(default, with = "humantime_serde")]
    pub timeout: Option<Duration>,
    /// Crashes of its worker while it runs apart from others, until it is dead as a poison pill.
    #[serde(default)]
    pub rescue_limit: Option<u8>,
    /// `at_least_once`, or `at_most_once`: never started again once its handler was started.
    #[serde(default)]
    pub delivery: Option<Delivery>,
    /// Priority.
    #[serde(default)]
    pub band: Option<Band>,
    /// Whether its final state can be asked for after it is over.
    #[serde(default)]
    pub keep_result: bool,
}

/// A request that was found good.
#[derive(Debug)]
pub struct Plan {
    /// The job.
    pub job: NewJob,
    /// Through the journal.
    pub journaled: bool,
}

/// What a client is told.
#[derive(Debug, Serialize)]
pub struct Accepted {
    /// The job that stands, new or not.
    pub id: JobId,
    /// What it is.
    pub kind: Kind,
    /// Where it waits.
    pub queue: QueueName,
    /// Whether it went through the journal.
    pub journaled: bool,
    /// Where it is now. Absent for a job that was there before: ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Whether this request made it.
    pub created: bool,
    /// Whether the job that stood took over this request's args and policy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// Whether the job that stood took over this request's time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rescheduled: bool,
}

impl Accepted {
    fn new(plan: &Plan, answer: Enqueued) -> Self {
        Self {
            id: answer.id(),
            kind: plan.job.kind.clone(),
            queue: plan.job.queue.clone(),
            journaled: plan.journaled,
            state: answer.is_created().then(|| initial_state(&plan.job)),
            created: answer.is_created(),
            replaced: matches!(answer, Enqueued::Replaced(_)),
            rescheduled: matches!(answer, Enqueued::Rescheduled(_)),
        }
    }
}

/// With words for who forgot how long a period is.
fn unique_scope<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UniqueScope>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Value::String(word)) if word == "period" => {
            Err(D::Error::custom("a period says how long it is, such as {\"period\": \"1h\"}"))
        }
        Some(scope) => UniqueScope::deserialize(scope).map(Some).map_err(D::Error::custom),
    }
}

fn invalid(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", "A field is not valid", detail).at(pointer)
}

impl JobRequest {
    /// Checks the request.
    ///
    /// # Errors
    /// The field that is at fault, and what would be right.
    pub fn plan(self, catalog: &Catalog) -> Result<Plan, Problem> {
        let unprocessable = |slug, title, detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, slug, title, detail);
        let info = catalog
            .get(&self.kind)
            .map_err(|error| unprocessable("unknown-kind", "There is no such kind", error.to_string()).at("/kind"))?;
        if let Some(queue) = self.queue.filter(|queue| *queue != info.queue) {
            let detail = format!("{} jobs wait in queue {}, not {queue}: leave the field out", info.kind, info.queue);
            return Err(invalid("/queue", detail));
        }
        let journaled = match (info.policy.journaling, self.journaled) {
            (Journaling::Required, Some(false)) => {
                let detail = format!(
                    "{} jobs have effects that must happen exactly once, so they always go through the journal: leave the field out, or say true",
                    info.kind
                );
                return Err(unprocessable("journal-required", "This kind is always journaled", detail).at("/journaled"));
            }
            (Journaling::Required, _) => true,
            (Journaling::Optional, asked) => asked.unwrap_or(false),
        };
        let args = match self.args {
            Some(args) => args,
            None => RawValue::from_string("{}".to_owned()).expect("an empty object is JSON"),
        };
        let invalid_args =
            |detail| unprocessable("invalid-args", "The args are not those of the kind", detail).at("/args");
        // A list would decode too, by the order in which a type happens to have its fields.
        if !args.get().starts_with('{') {
            return Err(invalid_args(format!("the args of {} are a JSON object with named fields", info.kind)));
        }
        info.check_args(&args)
            .map_err(|error| invalid_args(format!("the args of {} do not decode: {error}", info.kind)))?;
        let mut job = NewJob::of_kind(info, args).map_err(|error| match error {
            InvalidJob::TooLarge { .. } => too_large(error.to_string()).at("/args"),
            InvalidJob::Args { .. } | InvalidJob::Nul { .. } | InvalidJob::LooksSealed { .. } => {
                invalid("/args", error.to_string())
            }
        })?;
        job.tenant = self.tenant;
        job.due = due(self.delay, self.run_at)?;
        job.policy.keep_result = self.keep_result;
        if let Some(band) = self.band {
            job.band = band;
        }
        if let Some(attempts) = self.max_attempts {
            if !ATTEMPTS.contains(&attempts) {
                let detail = format!("max_attempts is {attempts}, not {} to {}", ATTEMPTS.start(), ATTEMPTS.end());
                return Err(invalid("/max_attempts", detail));
            }
            job.policy.max_attempts = Some(attempts);
        }
        if let Some(timeout) = self.timeout {
            if !TIMEOUTS.contains(&timeout) {
                let (least, most) = (TIMEOUTS.start(), TIMEOUTS.end());
                let detail = format!("timeout is {timeout:?}, not {least:?} to {most:?}");
                return Err(invalid("/timeout", detail));
            }
            job.policy.timeout = Some(timeout);
        }
        if let Some(limit) = self.rescue_limit {
            if !RESCUES.contains(&limit) {
                let detail = format!("rescue_limit is {limit}, not {} to {}", RESCUES.start(), RESCUES.end());
                return Err(invalid("/rescue_limit", detail));
            }
            job.policy.rescue_limit = Some(limit);
        }
        job.policy.delivery = self.delivery;
        job.batch = self.batch;
        // After the tenant: keys are scoped by it.
        match self.unique_key {
            Some(key) => {
                let scope = self.unique_scope.unwrap_or_default();
                if let UniqueScope::Period(period) = scope
                    && !PERIODS.contains(&period)
                {
                    return Err(invalid(
                        "/unique_scope",
                        format!("a period of {period:?} is not 1 second to 366 days"),
                    ));
                }
                job = job.unique_for(checked("/unique_key", &key)?, scope, self.on_conflict.unwrap_or_default());
            }
            None if self.unique_scope.is_some() => {
                return Err(invalid("/unique_scope", "there is no unique_key for which it could hold"));
            }
            None if self.on_conflict.is_some() => {
                return Err(invalid("/on_conflict", "there is no unique_key that could conflict"));
            }
            None => {}
        }
        if let Some(key) = self.idempotency_key {
            job = job.idempotent(checked("/idempotency_key", &key)?);
        }
        Ok(Plan { job, journaled })
    }
}

fn checked<'a>(pointer: &str, key: &'a str) -> Result<&'a str, Problem> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(invalid(pointer, format!("a key has 1 to {MAX_KEY_BYTES} bytes, this one has {}", key.len())));
    }
    Ok(key)
}

fn due(delay: Option<Duration>, run_at: Option<DateTime<Utc>>) -> Result<Due, Problem> {
    match (delay, run_at) {
        (None, None) => Ok(Due::Now),
        (Some(_), Some(_)) => Err(invalid("/run_at", "delay and run_at are both given: say one of them")),
        (Some(Duration::ZERO), None) => Ok(Due::Now),
        (Some(delay), None) if delay > MAX_DELAY => {
            Err(invalid("/delay", "the delay is longer than ten years: make it shorter, or use a schedule"))
        }
        (Some(delay), None) => Ok(Due::In(delay)),
        (None, Some(at)) => {
            // No host's clock decides here: bounds that hold for as long as anybody looks.
            let years = 1970..2200;
            if !years.contains(&chrono::Datelike::year(&at)) {
                return Err(invalid("/run_at", format!("the year of run_at is not {} to 2199", years.start)));
            }
            Ok(Due::At(at))
        }
    }
}

/// Why a good request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too much is waiting.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// Redis failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The kind is encrypted, and there is no key.
    #[error("{0}")]
    Vault(#[from] VaultError),
    /// The idempotency key stands for other args.
    #[error("{0}")]
    Conflict(#[from] journal::IdempotencyConflict),
    /// Of many, the member at this place is one of a batch that takes none. None of the journaled ones was taken.
    #[error("job {0} of the list: {refused}", refused = Refused::BatchClosed)]
    MemberOfClosed(usize),
    /// Postgres failed.
    #[error("Postgres: {0}")]
    Database(#[from] sqlx::Error),
}

impl From<journal::EnqueueError> for SubmitError {
    fn from(error: journal::EnqueueError) -> Self {
        match error {
            journal::EnqueueError::Conflict(conflict) => Self::Conflict(conflict),
            journal::EnqueueError::Database(error) => Self::Database(error),
        }
    }
}

/// Enqueues. A journaled job is accepted once its transaction is committed.
///
/// # Errors
/// When it was not taken, or nobody can tell: the same plan may be submitted again, it is taken once.
pub async fn submit(store: &Store, database: &PgPool, plan: &Plan) -> Result<Accepted, SubmitError> {
    let answer = if plan.journaled {
        let jobs = store.vault().seal_all(std::slice::from_ref(&plan.job))?;
        let mut tx = database.begin().await?;
        let answer = journal::enqueue_idempotent(&mut tx, &jobs[0]).await?;
        tx.commit().await?;
        answer
    } else {
        let mut answers = store.enqueue(std::slice::from_ref(&plan.job)).await?;
        let answer = answers.pop().unwrap_or(Ok(Enqueued::Created(plan.job.id)))?;
        same_request(store, &plan.job, answer).await?;
        answer
    };
    Ok(Accepted::new(plan, answer))
}

/// The same idempotency key with other args is an error, as for journaled jobs. Of a fast job that is over nothing is left to
/// compare with: there the key alone decides, as it does where the job that stands was found by its unique key, or is encrypted.
async fn same_request(store: &Store, job: &NewJob, answer: Enqueued) -> Result<(), SubmitError> {
    if job.idempotency.is_none() || job.unique.is_some() || job.kind_policy.encrypted || answer.id() == job.id {
        return Ok(());
    }
    let first = answer.id();
    let stands = store.status(&job.queue, Member::fast(first)).await?;
    match stands.and_then(|status| status.args) {
        Some(args) if journal::request_digest(&args) != journal::request_digest(&job.args) => {
            Err(journal::IdempotencyConflict { first }.into())
        }
        _ => Ok(()),
    }
}

/// Enqueues many, with a round trip for each 500. The journaled ones are in one transaction; each answer is in the place of
/// its plan. Of those with an idempotency key each costs a statement of its own.
///
/// # Errors
/// When a store is away, or refuses a row: the journaled ones are not taken then, of the fast ones some may be. The same plans may
/// be submitted again.
pub async fn submit_all(
    store: &Store,
    database: &PgPool,
    plans: &[Plan],
) -> Result<Vec<Result<Accepted, SubmitError>>, SubmitError> {
    let mut answers: Vec<Option<Result<Enqueued, SubmitError>>> = plans.iter().map(|_| None).collect();
    let places = |journaled: bool| (0..plans.len()).filter(|&i| plans[i].journaled == journaled).collect::<Vec<_>>();
    let jobs = |places: &[usize]| places.iter().map(|&i| plans[i].job.clone()).collect::<Vec<_>>();
    let (journaled, fast) = (places(true), places(false));
    if !journaled.is_empty() {
        let (keyed, plain): (Vec<usize>, Vec<usize>) =
            journaled.into_iter().partition(|&i| plans[i].job.idempotency.is_some());
        let (plain_jobs, keyed_jobs) = (jobs(&plain), jobs(&keyed));
        let plain_jobs = store.vault().seal_all(&plain_jobs)?;
        let keyed_jobs = store.vault().seal_all(&keyed_jobs)?;
        let mut tx = database.begin().await?;
        let plain_answers = match journal::enqueue_in(&mut tx, &plain_jobs).await {
            Ok(answers) => answers,
            Err(error) => return Err(refused_member(tx, database, plans, error).await),
        };
        for (&i, answer) in plain.iter().zip(plain_answers) {
            answers[i] = Some(Ok(answer));
        }
        for (&i, job) in keyed.iter().zip(&*keyed_jobs) {
            answers[i] = Some(match journal::enqueue_idempotent(&mut tx, job).await {
                Ok(answer) => Ok(answer),
                Err(journal::EnqueueError::Conflict(conflict)) => Err(conflict.into()),
                Err(journal::EnqueueError::Database(error)) => {
                    return Err(refused_member(tx, database, plans, error).await);
                }
            });
        }
        tx.commit().await?;
    }
    for (&i, answer) in fast.iter().zip(store.enqueue(&jobs(&fast)).await?) {
        answers[i] = Some(match answer {
            Ok(answer) => same_request(store, &plans[i].job, answer).await.map(|()| answer),
            Err(refused) => Err(refused.into()),
        });
    }
    let answered = plans.iter().zip(answers).map(|(plan, answer)| {
        answer.unwrap_or(Ok(Enqueued::Created(plan.job.id))).map(|answer| Accepted::new(plan, answer))
    });
    Ok(answered.collect())
}

/// Postgres refuses a batch's members together: looks which of many was the first that should not have been there.
async fn refused_member(
    tx: Transaction<'_, Postgres>,
    database: &PgPool,
    plans: &[Plan],
    error: sqlx::Error,
) -> SubmitError {
    if !journal::is_batch_closed(&error) {
        return error.into();
    }
    // It holds a connection, and nothing else any more.
    drop(tx);
    let mut open = HashSet::new();
    for (i, plan) in plans.iter().enumerate().filter(|(_, plan)| plan.journaled) {
        let Some(batch) = plan.job.batch else { continue };
        if open.contains(&batch) {
            continue;
        }
        match journal::batch(database, batch).await {
            Ok(Some(status)) if !status.sealed => drop(open.insert(batch)),
            Ok(_) => return SubmitError::MemberOfClosed(i),
            Err(error) => return error.into(),
        }
    }
    error.into()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a word in an answer, which decides nothing; the stores' clocks decide when the job runs"
)]
fn initial_state(job: &NewJob) -> JobState {
    match job.due {
        Due::In(_) => JobState::Scheduled,
        Due::At(at) if at > Utc::now() => JobState::Scheduled,
        Due::Now | Due::At(_) => JobState::Ready,
    }
}

pub(crate) fn no_key(error: &dyn std::error::Error) -> Problem {
    tracing::error!(%error, "a request failed");
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no-encryption-key",
        "This kind is encrypted, and the server has no key",
        error.to_string(),
    )
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refused @ Refused::MemoryGate) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "redis-memory",
                "Redis is nearly out of memory",
                refused.to_string(),
            )
            .retry_after(Duration::from_secs(10)),
            SubmitError::Refused(refused @ Refused::NoKey) => no_key(&refused),
            SubmitError::Refused(refused @ Refused::BatchClosed) => batch_closed(refused.to_string()),
            SubmitError::Refused(refused) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "queue-full", "The queue is full", refused.to_string())
                    .retry_after(Duration::from_secs(5))
            }
            SubmitError::Vault(error) => no_key(&error),
            SubmitError::Conflict(conflict) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-conflict",
                "The idempotency key stands for another request",
                conflict.to_string(),
            ),
            SubmitError::Store(error) => error.into(),
            SubmitError::MemberOfClosed(at) => batch_closed(Refused::BatchClosed.to_string()).within(&format!("/{at}")),
            SubmitError::Database(error) if journal::is_batch_closed(&error) => {
                batch_closed(Refused::BatchClosed.to_string())
            }
            SubmitError::Database(error) => error.into(),
        }
    }
}

fn batch_closed(detail: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, "batch-closed", "The batch takes no members", detail).at("/batch")
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if let StoreError::Invalid(reason) = &error {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Self::new(status, "invalid-request", "The request is not valid", reason.clone());
        }
        if error.is_unavailable() {
            tracing::warn!(%error, "a request failed");
            Self::unavailable("Redis")
        } else {
            tracing::error!(%error, "a request failed");
            Self::internal()
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if is_transient(&error) {
            tracing::warn!(%error, "a request failed");
            return Self::unavailable("Postgres");
        }
        if let Some(refusal) = error.as_database_error() {
            // What JSON allows and jsonb does not: \u0000, numbers beyond its range. 22 data exception, 54 limit exceeded.
            if refusal.code().is_some_and(|code| code.starts_with("22") || code.starts_with("54")) {
                return invalid("/args", format!("the args cannot be kept as jsonb: {}", refusal.message()));
            }
        }
        tracing::error!(%error, "a request failed");
        Self::internal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_waiting_and_too_little_memory_are_told_apart() {
        let full = Problem::from(SubmitError::Refused(Refused::QueueFull));
        let memory = Problem::from(SubmitError::Refused(Refused::MemoryGate));
        assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(memory.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(memory.detail().contains("maxmemory"), "{}", memory.detail());
    }
}
