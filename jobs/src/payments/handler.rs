//! `payment.post_due`: the sweep that posts what is due.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use windrow_queue::{Handler, JobArgs, JobContext, JobError, JobResult, Kind, NewJob, Outcome, Policy, QueueName};

use super::{
    Config, PaymentMetrics,
    batch::{Posted, post_batch},
    due::any_due,
};

/// The args of `payment.post_due`: none, it posts whatever is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostDue {}

impl JobArgs for PostDue {
    const KIND: Kind = Kind::from_static("payment.post_due");
    const QUEUE: QueueName = QueueName::from_static("payments");
    const POLICY: Policy = Policy::DEFAULT.journaled().with_backoff(Duration::from_secs(2), Duration::from_secs(300));
    const OPERATORS_ONLY: bool = true;
}

/// Posts recurring payments.
#[derive(Clone, Debug)]
pub struct PostDueHandler {
    config: Config,
    database: PgPool,
    metrics: PaymentMetrics,
}

/// How many transactions a job has behind it. Advancing it is what fences a step: of two attempts at one job that run at
/// once, one finds that the other advanced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    batches: u32,
}

impl PostDueHandler {
    /// A handler that looks for due payments in `database`.
    #[must_use]
    pub fn new(config: &Config, database: PgPool, metrics: PaymentMetrics) -> Self {
        Self { config: config.clamped(), database, metrics }
    }

    fn count(&self, posted: &Posted, started: Instant) {
        self.metrics.posted.inc_by(posted.posted);
        self.metrics.failed.inc_by(posted.failed);
        self.metrics.batch.observe(started.elapsed().as_secs_f64());
        for lag in &posted.lags {
            self.metrics.lag.observe(*lag);
        }
    }

    async fn count_blocked(&self) -> Result<(), JobError> {
        let blocked = sqlx::query_scalar("SELECT count(*) FROM recurring_payment WHERE state = 'failed'")
            .fetch_one(&self.database)
            .await?;
        self.metrics.blocked.set(blocked);
        Ok(())
    }
}

impl Handler for PostDueHandler {
    type Args = PostDue;

    async fn run(&self, ctx: JobContext, _: PostDue) -> JobResult {
        let mut progress: Option<Progress> = ctx.checkpoint()?;
        self.count_blocked().await?;
        for _ in 1..self.config.batches_per_job {
            if !any_due(&self.database).await? {
                break;
            }
            if ctx.is_cancelled() {
                return Ok(Outcome::Snooze(Duration::ZERO));
            }
            let started = Instant::now();
            let next = Progress { batches: progress.map_or(0, |progress| progress.batches).saturating_add(1) };
            let mut step = ctx.step(progress.as_ref(), &next).await?;
            let posted = post_batch(&mut step, &self.config).await?;
            step.commit().await?;
            self.count(&posted, started);
            progress = Some(next);
            if !posted.more {
                break;
            }
        }
        let started = Instant::now();
        let mut tx = ctx.begin().await?;
        let posted = post_batch(&mut tx, &self.config).await?;
        if posted.more {
            // One at a time is enough: a follow-up that stands will look for itself.
            let rest = NewJob::new(&PostDue {}).map_err(|error| JobError::bury("invalid_follow_up", error))?;
            tx.enqueue(&[rest.unique("rest")]).await?;
        }
        let committed = tx.commit().await?;
        self.count(&posted, started);
        self.count_blocked().await?;
        Ok(committed.into())
    }
}
