//! One attempt of one job: the handler runs under its timeout and its cancellation, a panic is an error, and what it came to
//! is decided. Final decisions about a journaled job are made in Postgres first, then Redis is told.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use rand::RngExt;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;
use windrow_queue::{
    Decision, Fire, JobContext, JobError, JobResult, Kind, Outcome, Tenant,
    context::ContextParts,
    error::fingerprint,
    journal::{self, CloseState, Closing},
    metrics::QueueMetrics,
    policy::Policy,
    store::{AttemptError, Finish, JobState, kept_result},
};

use crate::{
    clock::RedisClock,
    complete::Completer,
    lease::{Lease, StopReason},
    patience::patiently,
    registry::KindHandler,
};

/// How long a handler that was told to stop may take to find a safe point. Then its future is dropped.
pub(crate) const WIND_DOWN: Duration = Duration::from_secs(2);
/// How long a decision waits that Postgres could not take.
const DATABASE_SNOOZE: Duration = Duration::from_secs(2);
/// The longest delay that a handler may name.
const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// A claimed job, ready to run.
pub(crate) struct Delivery {
    pub(crate) lease: Lease,
    pub(crate) handler: KindHandler,
    pub(crate) args: Box<RawValue>,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) attempt: u32,
    pub(crate) policy: Policy,
    pub(crate) keep_result: bool,
    pub(crate) fire: Option<Fire>,
    pub(crate) traceparent: Option<String>,
    pub(crate) checkpoint: Option<serde_json::Value>,
    /// How long it was ready and nobody had it.
    pub(crate) waited: Duration,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("job", &self.lease.member()).finish_non_exhaustive()
    }
}

/// Executes deliveries. One a process, shared by all jobs.
pub(crate) struct Executor {
    pub(crate) database: PgPool,
    pub(crate) metrics: QueueMetrics,
    pub(crate) completer: Completer,
    pub(crate) clock: RedisClock,
}

/// What is needed of a job to decide about it.
struct Attempt {
    lease: Lease,
    kind: Kind,
    tenant: Option<Tenant>,
    number: u32,
    policy: Policy,
    keep_result: bool,
    started_at: DateTime<Utc>,
    ran: Duration,
}

impl Executor {
    pub(crate) async fn execute(self: Arc<Self>, delivery: Delivery) {
        let info = delivery.handler.info();
        let span = tracing::info_span!(
            "job",
            job_id = %delivery.lease.member().id,
            kind = %info.kind,
            attempt = delivery.attempt,
            tenant = delivery.tenant.as_ref().map(tracing::field::display),
            trace_id = delivery.traceparent.as_deref().and_then(|parent| parent.split('-').nth(1)),
        );
        self.execute_in_span(delivery).instrument(span).await;
    }

    async fn execute_in_span(&self, delivery: Delivery) {
        let info = delivery.handler.info().clone();
        let labels = [info.queue.as_str(), info.kind.as_str()];
        let metrics = delivery.handler.metrics(&self.metrics);
        metrics.wait.observe(delivery.waited.as_secs_f64());
        let control = Arc::clone(delivery.lease.control());
        let ctx = JobContext::new(ContextParts {
            member: delivery.lease.member(),
            kind: info.kind.clone(),
            queue: info.queue.clone(),
            tenant: delivery.tenant.clone(),
            attempt: delivery.attempt,
            policy: delivery.policy,
            fire: delivery.fire,
            traceparent: delivery.traceparent,
            checkpoint: delivery.checkpoint,
            cancel: control.cancel.clone(),
            database: self.database.clone(),
        });

        let started = Instant::now();
        let started_at = self.clock.now();
        let mut handler = AssertUnwindSafe(delivery.handler.run(ctx, &delivery.args)).catch_unwind();
        let result = tokio::select! {
            result = &mut handler => Some(result),
            () = sleep(delivery.policy.timeout) => {
                control.cancel.cancel();
                // What was finished within the wind-down counts; an error then is the timeout's.
                timeout(WIND_DOWN, &mut handler).await.ok().filter(|result| matches!(result, Ok(Ok(_))))
            }
            () = control.cancel.cancelled() => timeout(WIND_DOWN, &mut handler).await.ok(),
        };
        drop(handler);
        let ran = started.elapsed();
        metrics.duration.observe(ran.as_secs_f64());

        let result = match (control.reason(), result) {
            // Redis has given the job to somebody else: nothing that happened here counts.
            (StopReason::Lost, _) => return,
            (StopReason::Shutdown, None | Some(Ok(Err(_)) | Err(_))) => {
                self.metrics.finished.with_label_values(&[labels[0], labels[1], "release"]).inc();
                return delivery.lease.finish(Finish::Release);
            }
            (_, Some(Ok(result))) => result,
            (_, Some(Err(panic))) => Err(JobError::retry("panic", anyhow::anyhow!("{}", panic_text(&*panic)))),
            (_, None) => Err(JobError::retry(
                "timeout",
                anyhow::anyhow!("the attempt ran longer than its timeout of {:?}", delivery.policy.timeout),
            )),
        };
        let attempt = Attempt {
            lease: delivery.lease,
            kind: info.kind.clone(),
            tenant: delivery.tenant,
            number: delivery.attempt,
            policy: delivery.policy,
            keep_result: delivery.keep_result,
            started_at,
            ran,
        };
        if let Err(error) = &result
            && error.decision() != Decision::Gone
        {
            self.metrics.failed.with_label_values(&[labels[0], labels[1], error.class()]).inc();
        }
        let Decided { outcome, finish } = self.decide(&attempt, result).await;
        match outcome {
            "complete" => metrics.complete.inc(),
            outcome => self.metrics.finished.with_label_values(&[labels[0], labels[1], outcome]).inc(),
        }
        attempt.lease.finish(finish);
    }

    async fn decide(&self, attempt: &Attempt, result: JobResult) -> Decided {
        match result {
            Ok(Outcome::Done) => match self.completer.complete(attempt.lease.member()).await {
                Ok(true) => Finish::Complete { keep: attempt.keep(JobState::Completed, None) }.into(),
                Ok(false) => Finish::Gone.into(),
                Err(error) => put_off(&error),
            },
            Ok(Outcome::Committed(_)) => Finish::Complete { keep: attempt.keep(JobState::Completed, None) }.into(),
            Ok(Outcome::Snooze(delay)) => Finish::Snooze { delay: delay.min(MAX_DELAY) }.into(),
            Ok(Outcome::Release) => Finish::Release.into(),
            Ok(Outcome::Park { deadline }) => Finish::Park { delay: deadline.min(MAX_DELAY) }.into(),
            Ok(Outcome::Cancel(reason)) => {
                tracing::info!(%reason, "cancelled by its handler");
                let keep = attempt.keep(JobState::Cancelled, Some(&reason));
                match self.close(attempt, CloseState::Cancelled, &reason, None).await {
                    Close::Fast | Close::Closed => Finish::Cancel { keep }.into(),
                    Close::Undecided(finish) => finish.into(),
                }
            }
            Err(error) => self.decide_error(attempt, &error).await,
        }
    }

    async fn decide_error(&self, attempt: &Attempt, error: &JobError) -> Decided {
        let exhausted = attempt.number >= u32::from(attempt.policy.max_attempts);
        let delay = match error.decision() {
            Decision::Gone => return Finish::Gone.into(),
            Decision::Snooze(delay) => {
                let delay = jittered(delay.min(MAX_DELAY));
                tracing::info!(%error, ?delay, "snoozed");
                return Finish::Snooze { delay }.into();
            }
            Decision::Retry if !exhausted => attempt.policy.backoff.delay(attempt.number, &mut rand::rng()),
            Decision::RetryAfter(delay) if !exhausted => delay.min(MAX_DELAY),
            Decision::Retry | Decision::RetryAfter(_) | Decision::Bury => {
                tracing::error!(%error, exhausted, "dead");
                let record = attempt.error(error);
                return match self.close(attempt, CloseState::Dead, &error.message(), Some(&record)).await {
                    Close::Fast => Finish::Bury { error: record }.into(),
                    // Postgres holds it as dead now: Redis has only to forget it.
                    Close::Closed => Decided { outcome: "dead", finish: Finish::Cancel { keep: None } },
                    Close::Undecided(finish) => finish.into(),
                };
            }
        };
        tracing::warn!(%error, ?delay, max_attempts = attempt.policy.max_attempts, "failed, will be retried");
        Finish::Retry { delay, attempt: attempt.number, error: attempt.error(error) }.into()
    }

    /// A final decision other than completion: for a journaled job its row is moved first; a row that is gone means that
    /// the job is over, whatever this attempt came to.
    async fn close(&self, attempt: &Attempt, state: CloseState, reason: &str, error: Option<&AttemptError>) -> Close {
        let member = attempt.lease.member();
        let Some(generation) = member.generation else { return Close::Fast };
        let class = error.map_or("", |error| error.class.as_str());
        let fingerprint = fingerprint(&attempt.kind, class, reason);
        let closing = Closing { state, reason, fingerprint, error, attempt: attempt.number };
        match patiently(journal::close(&self.database, member.id, generation, &closing)).await {
            Ok(true) => Close::Closed,
            Ok(false) => Close::Undecided(Finish::Gone),
            Err(error) => Close::Undecided(put_off(&error.into()).finish),
        }
    }
}

/// What Redis is told of an attempt, and as what it is counted.
struct Decided {
    outcome: &'static str,
    finish: Finish,
}

impl From<Finish> for Decided {
    fn from(finish: Finish) -> Self {
        Self { outcome: finish.label(), finish }
    }
}

/// What Postgres said to a final decision.
enum Close {
    /// It was not asked: the job is not journaled.
    Fast,
    /// The row is moved.
    Closed,
    /// It is over already, or Postgres does not answer.
    Undecided(Finish),
}

/// A decision that Postgres could not take is taken later, by another run of the job.
fn put_off(error: &JobError) -> Decided {
    tracing::warn!(%error, "Postgres could not take the decision; the job is run again later");
    Finish::Snooze { delay: jittered(DATABASE_SNOOZE) }.into()
}

impl Attempt {
    fn keep(&self, state: JobState, reason: Option<&str>) -> Option<String> {
        self.keep_result.then(|| kept_result(state, &self.kind, self.tenant.as_ref(), self.number, reason))
    }

    fn error(&self, error: &JobError) -> AttemptError {
        AttemptError {
            attempt: self.number,
            class: error.class().into(),
            message: error.message(),
            at: self.started_at,
            ran: self.ran,
        }
    }
}

/// Half to one and a half of a delay, so that what was put off together does not come back together.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::rng().random_range(0.5..1.5))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the handler panicked: {}", text.as_deref().unwrap_or("no message"))
}
