//! One attempt of one job: the handler runs under its timeout and its cancellation, and a panic is an error. What it came to
//! is decided in `decide`.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;
use windrow_queue::{
    BatchId, Decision, Fire, JobContext, JobError, KindInfo, Outcome, Tenant, Vault,
    context::{ContextParts, Holder},
    journal,
    metrics::QueueMetrics,
    policy::{Delivery as DeliveryPolicy, Policy},
    store::{CalledBack, Finish},
    vault::VaultError,
};

use crate::{
    clock::RedisClock,
    complete::Completer,
    decide::{Attempt, Decided, Ended, abandoned, put_off},
    lease::{Lease, StopReason},
    patience::patiently,
    registry::KindHandler,
};

/// How long a handler that was told to stop may take to find a safe point. Then its future is dropped.
pub(crate) const WIND_DOWN: Duration = Duration::from_secs(2);

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
    pub(crate) called_back: Option<CalledBack>,
    pub(crate) follows: Option<BatchId>,
    pub(crate) holder: Arc<Holder>,
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

/// What a callback brought, as the handler takes it.
fn opened_callback(
    vault: &Vault,
    policy: &Policy,
    info: &KindInfo,
    came: Option<CalledBack>,
) -> Result<Option<CalledBack>, VaultError> {
    Ok(match came {
        Some(CalledBack::Payload(payload)) => {
            Some(CalledBack::Payload(vault.open_callback(policy.encrypted, &info.queue, payload)?))
        }
        other => other,
    })
}

impl Executor {
    /// The future is small: it is moved into its task, for every job. What seldom happens is boxed in it.
    pub(crate) fn execute(self: Arc<Self>, delivery: Delivery) -> impl Future<Output = ()> + Send {
        let info = delivery.handler.info();
        let span = tracing::info_span!(
            "job",
            job_id = %delivery.lease.member().id,
            kind = %info.kind,
            attempt = delivery.attempt,
            tenant = delivery.tenant.as_ref().map(tracing::field::display),
            trace_id = delivery.traceparent.as_deref().and_then(|parent| parent.split('-').nth(1)),
        );
        self.execute_in_span(delivery).instrument(span)
    }

    async fn execute_in_span(self: Arc<Self>, delivery: Delivery) {
        let info = delivery.handler.info().clone();
        let labels = [info.queue.as_str(), info.kind.as_str()];
        let metrics = delivery.handler.metrics(&self.metrics);
        metrics.wait.observe(delivery.waited.as_secs_f64());
        let control = Arc::clone(delivery.lease.control());
        let vault = delivery.holder.store.vault().clone();
        let mut attempt = Attempt {
            lease: delivery.lease,
            kind: info.kind.clone(),
            tenant: delivery.tenant,
            number: delivery.attempt,
            policy: delivery.policy,
            keep_result: delivery.keep_result,
            started_at: self.clock.now(),
            ran: Duration::ZERO,
        };
        let opened = vault
            .open_args(attempt.policy.encrypted, &attempt.kind, attempt.tenant.as_ref(), delivery.args)
            .and_then(|args| Ok((args, opened_callback(&vault, &attempt.policy, &info, delivery.called_back)?)));
        let (args, called_back) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Its handler was not started.
                attempt.policy.delivery = DeliveryPolicy::AtLeastOnce;
                let error = JobError::from(error);
                self.metrics.failed.with_label_values(&[labels[0], labels[1], error.class()]).inc();
                let Decided { outcome, finish } = Box::pin(self.decide(&attempt, Ended::Handler(Err(error)))).await;
                self.metrics.finished.with_label_values(&[labels[0], labels[1], outcome]).inc();
                return attempt.lease.finish(finish);
            }
        };
        let ctx = JobContext::new(ContextParts {
            member: attempt.lease.member(),
            kind: info.kind.clone(),
            queue: info.queue.clone(),
            tenant: attempt.tenant.clone(),
            attempt: attempt.number,
            policy: attempt.policy,
            fire: delivery.fire,
            traceparent: delivery.traceparent,
            checkpoint: delivery.checkpoint,
            called_back,
            follows: delivery.follows,
            cancel: control.cancel.clone(),
            database: self.database.clone(),
            holder: Some((Arc::clone(&delivery.holder), attempt.lease.claim_no())),
        })
        .with_vault(vault);
        let stopped_before = match control.reason() {
            StopReason::None if attempt.policy.delivery == DeliveryPolicy::AtMostOnce => {
                Box::pin(self.start_once(&attempt)).await
            }
            StopReason::None => None,
            StopReason::Lost => return,
            StopReason::Shutdown => Some(Finish::Release.into()),
            StopReason::Cancelled => Some(Box::pin(self.decide(&attempt, Ended::Cancelled)).await),
        };
        if let Some(Decided { outcome, finish }) = stopped_before {
            self.metrics.finished.with_label_values(&[labels[0], labels[1], outcome]).inc();
            return attempt.lease.finish(finish);
        }

        let started = Instant::now();
        let mut handler = AssertUnwindSafe(delivery.handler.run(ctx, &args)).catch_unwind();
        let result = tokio::select! {
            result = &mut handler => Some(result),
            () = sleep(attempt.policy.timeout) => {
                control.cancel.cancel();
                // What was finished within the wind-down counts; an error then is the timeout's.
                timeout(WIND_DOWN, &mut handler).await.ok().filter(|result| matches!(result, Ok(Ok(_))))
            }
            () = control.cancel.cancelled() => timeout(WIND_DOWN, &mut handler).await.ok(),
        };
        drop(handler);
        attempt.ran = started.elapsed();
        metrics.duration.observe(attempt.ran.as_secs_f64());

        let ended = match (control.reason(), result) {
            // Redis has given the job to somebody else: nothing that happened here counts.
            (StopReason::Lost, _) => return,
            (StopReason::Shutdown, None | Some(Ok(Err(_)) | Err(_))) => Ended::Shutdown,
            (StopReason::Cancelled, Some(Ok(Ok(outcome @ (Outcome::Done | Outcome::Committed(_)))))) => {
                Ended::Handler(Ok(outcome))
            }
            (StopReason::Cancelled, _) => Ended::Cancelled,
            (_, Some(Ok(result))) => Ended::Handler(result),
            (_, Some(Err(panic))) => Ended::Handler(Err(JobError::panic(&*panic))),
            (_, None) => Ended::Handler(Err(JobError::retry(
                "timeout",
                anyhow::anyhow!("the attempt ran longer than its timeout of {:?}", attempt.policy.timeout),
            ))),
        };
        if let Ended::Handler(Err(error)) = &ended
            && error.decision() != Decision::Gone
        {
            self.metrics.failed.with_label_values(&[labels[0], labels[1], error.class()]).inc();
        }
        let decided = match ended {
            // Nearly all jobs end so, and nobody has to be asked.
            Ended::Handler(Ok(Outcome::Done))
                if attempt.lease.member().generation.is_none() && !attempt.keep_result =>
            {
                Finish::Complete { keep: None }.into()
            }
            ended => Box::pin(self.decide(&attempt, ended)).await,
        };
        match decided.outcome {
            "complete" => metrics.complete.inc(),
            outcome => self.metrics.finished.with_label_values(&[labels[0], labels[1], outcome]).inc(),
        }
        attempt.lease.finish(decided.finish);
    }

    /// From here on the job is never started again. Something: nor is it now.
    async fn start_once(&self, attempt: &Attempt) -> Option<Decided> {
        let member = attempt.lease.member();
        if member.generation.is_some() {
            let starting = [(member, attempt.policy.timeout)];
            match patiently(journal::start_at_most_once(&self.database, &starting)).await {
                Ok(started) if started.contains(&member) => {}
                Ok(_) => return Some(Finish::Gone.into()),
                // It may be recorded as started all the same: then its row is gone when it is claimed again.
                Err(error) => return Some(put_off(&error.into())),
            }
        }
        attempt.lease.control().must_not_start_again(abandoned(attempt.number, attempt.started_at));
        None
    }
}
