//! What an attempt came to. Final decisions about a journaled job are made in Postgres first, then Redis is told.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::RngExt;
use tokio::time::sleep;
use windrow_queue::{
    Decision, JobError, JobResult, Kind, Outcome, Tenant,
    error::fingerprint,
    journal::{self, CloseState, Closing, Parked},
    policy::{Delivery, Policy},
    store::{AttemptError, Finish, JobState, kept_result},
};

use crate::{execute::Executor, lease::Lease, patience::patiently};

/// How long a decision waits that Postgres could not take.
const DATABASE_SNOOZE: Duration = Duration::from_secs(2);
/// How often a completion is tried that no other run of the job can repeat.
const LAST_TRIES: u32 = 5;
/// The longest delay that a handler may name.
const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);
/// The class of errors of a job that may not be started again.
const AT_MOST_ONCE: &str = "at_most_once";

/// What is needed of a job to decide about it.
pub(crate) struct Attempt {
    pub(crate) lease: Lease,
    pub(crate) kind: Kind,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) number: u32,
    pub(crate) policy: Policy,
    pub(crate) keep_result: bool,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) ran: Duration,
}

/// How the run of a handler ended.
pub(crate) enum Ended {
    /// It returned, panicked, or ran out of time.
    Handler(JobResult),
    /// The process ends, and it did not finish.
    Shutdown,
    /// It was cancelled, and did not complete all the same.
    Cancelled,
}

/// What Redis is told of an attempt, and as what it is counted.
pub(crate) struct Decided {
    pub(crate) outcome: &'static str,
    pub(crate) finish: Finish,
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
    /// It is over already.
    Gone,
    /// Postgres does not answer.
    Undecided(Finish),
}

impl Executor {
    pub(crate) async fn decide(&self, attempt: &Attempt, ended: Ended) -> Decided {
        let once = attempt.policy.delivery == Delivery::AtMostOnce;
        match ended {
            Ended::Cancelled => self.cancel(attempt, "cancelled on request").await,
            Ended::Shutdown if once => self.bury(attempt, &not_again("its worker stopped before it was done")).await,
            Ended::Shutdown => Finish::Release.into(),
            Ended::Handler(Ok(Outcome::Done)) => self.complete(attempt, if once { LAST_TRIES } else { 1 }).await,
            Ended::Handler(Ok(Outcome::Committed(_))) => {
                Finish::Complete { keep: attempt.keep(JobState::Completed, None) }.into()
            }
            Ended::Handler(Ok(Outcome::Cancel(reason))) => self.cancel(attempt, &reason).await,
            Ended::Handler(Ok(Outcome::Snooze(_) | Outcome::Release | Outcome::Park { .. })) if once => {
                self.bury(attempt, &not_again("its handler asked to be run again")).await
            }
            Ended::Handler(Ok(Outcome::Snooze(delay))) => Finish::Snooze { delay: delay.min(MAX_DELAY) }.into(),
            Ended::Handler(Ok(Outcome::Release)) => Finish::Release.into(),
            Ended::Handler(Ok(Outcome::Park { deadline })) => self.park(attempt, deadline.min(MAX_DELAY)).await,
            Ended::Handler(Err(error)) => self.fail(attempt, error).await,
        }
    }

    async fn complete(&self, attempt: &Attempt, mut tries: u32) -> Decided {
        loop {
            tries = tries.saturating_sub(1);
            match self.completer.complete(attempt.lease.member()).await {
                Ok(true) => return Finish::Complete { keep: attempt.keep(JobState::Completed, None) }.into(),
                Ok(false) => return Finish::Gone.into(),
                Err(error) if tries == 0 => return put_off(&error),
                Err(error) => tracing::warn!(%error, tries, "it is done, but Postgres could not take it; tried again"),
            }
            sleep(DATABASE_SNOOZE).await;
        }
    }

    async fn fail(&self, attempt: &Attempt, error: JobError) -> Decided {
        let once = attempt.policy.delivery == Delivery::AtMostOnce;
        let exhausted = attempt.number >= u32::from(attempt.policy.max_attempts);
        let delay = match error.decision() {
            Decision::Gone => return Finish::Gone.into(),
            Decision::Bury => return self.bury(attempt, &error).await,
            _ if once => return self.bury(attempt, &not_again(error)).await,
            Decision::Snooze(delay) => {
                let delay = jittered(delay.min(MAX_DELAY));
                tracing::info!(%error, ?delay, "snoozed");
                return Finish::Snooze { delay }.into();
            }
            Decision::Retry | Decision::RetryAfter(_) if exhausted => return self.bury(attempt, &error).await,
            Decision::Retry => attempt.policy.backoff.delay(attempt.number, &mut rand::rng()),
            Decision::RetryAfter(delay) => delay.min(MAX_DELAY),
        };
        tracing::warn!(%error, ?delay, max_attempts = attempt.policy.max_attempts, "failed, will be retried");
        Finish::Retry { delay, attempt: attempt.number, error: attempt.error(&error) }.into()
    }

    /// A journaled job waits in Postgres, and comes back as another generation: Redis has only to forget this one.
    async fn park(&self, attempt: &Attempt, deadline: Duration) -> Decided {
        let member = attempt.lease.member();
        let Some(generation) = member.generation else { return Finish::Park { delay: deadline }.into() };
        let counting = attempt.number.saturating_sub(1);
        match patiently(journal::park(&self.database, member.id, generation, deadline, counting)).await {
            Ok(Parked::Parked | Parked::CameAlready) => Decided { outcome: "park", finish: Finish::Gone },
            Ok(Parked::Gone) => Finish::Gone.into(),
            Err(error) => put_off(&error.into()),
        }
    }

    async fn bury(&self, attempt: &Attempt, error: &JobError) -> Decided {
        tracing::error!(%error, "dead");
        let record = attempt.error(error);
        match self.close(attempt, CloseState::Dead, &error.message(), Some(&record)).await {
            Close::Fast => Finish::Bury { error: record }.into(),
            // Postgres holds it as dead now: Redis has only to forget it.
            Close::Closed => Decided { outcome: "dead", finish: Finish::Cancel { keep: None } },
            Close::Gone => Finish::Gone.into(),
            Close::Undecided(finish) => finish.into(),
        }
    }

    async fn cancel(&self, attempt: &Attempt, reason: &str) -> Decided {
        tracing::info!(%reason, "cancelled");
        match self.close(attempt, CloseState::Cancelled, reason, None).await {
            Close::Undecided(finish) => finish.into(),
            // Whoever cancels a journaled job from outside closes its row first.
            Close::Fast | Close::Closed | Close::Gone => {
                Finish::Cancel { keep: attempt.keep(JobState::Cancelled, Some(reason)) }.into()
            }
        }
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
            Ok(false) => Close::Gone,
            Err(error) => Close::Undecided(put_off(&error.into()).finish),
        }
    }
}

/// Why a job that may be started once is dead.
fn not_again(reason: impl std::fmt::Display) -> JobError {
    JobError::bury(AT_MOST_ONCE, anyhow::anyhow!("it is not started again: {reason}"))
}

/// What becomes of a job that may be started once, if nobody says how its run ended.
pub(crate) fn abandoned(attempt: u32, at: DateTime<Utc>) -> Finish {
    let message = not_again("its run was dropped before it was done").message();
    Finish::Bury { error: AttemptError { attempt, class: AT_MOST_ONCE.into(), message, at, ran: Duration::ZERO } }
}

/// A decision that Postgres could not take is taken later, by another run of the job.
pub(crate) fn put_off(error: &JobError) -> Decided {
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
