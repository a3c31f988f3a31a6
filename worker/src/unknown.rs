//! Jobs that this program cannot run: of a kind without a handler here, of a version that it cannot read, or sealed with a key that
//! it does not have. They go back for a program that can, and are dead when none came for a long time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use windrow_queue::{
    Kind, Member,
    error::fingerprint,
    journal::{self, CloseState, Closing},
    metrics::QueueMetrics,
    store::{AttemptError, Claim, Finish, StoreError},
    vault::VaultError,
};

use crate::{decide::put_off, patience::patiently};

/// The class of their errors.
const CLASS: &str = "unknown_kind";
/// The same for those whose key is missing.
const KEY_CLASS: &str = "unknown_key";
/// What takes the place of a kind that cannot be read.
const UNREADABLE: Kind = Kind::from_static("unknown");
/// They wait as long as they have waited already, but no shorter and no longer than this.
const WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// Why a job cannot be run here.
#[derive(Debug)]
pub(crate) enum Unknown {
    Kind(Kind),
    Version(StoreError),
    /// It says which key, by its id.
    Key(Kind, VaultError),
}

/// What becomes of such a job.
#[derive(Debug)]
pub(crate) enum Fate {
    Wait(Duration),
    Dead(AttemptError),
}

impl Unknown {
    /// Judged by how long ago it was enqueued.
    pub(crate) fn fate(&self, attempt: u32, enqueued: DateTime<Utc>, now: DateTime<Utc>, most: Duration) -> Fate {
        let age = (now - enqueued).to_std().unwrap_or_default();
        if age < most {
            return Fate::Wait(age.clamp(WAITS.0, WAITS.1));
        }
        let what = match self {
            Self::Kind(kind) => format!("kind {kind}"),
            Self::Version(error) => format!("it ({error})"),
            Self::Key(_, error) => format!("its key ({error})"),
        };
        let message = format!(
            "no worker of its queue knew {what} for {}",
            humantime::format_duration(Duration::from_secs(age.as_secs()))
        );
        Fate::Dead(AttemptError { attempt, class: self.class().into(), message, at: now, ran: Duration::ZERO })
    }

    const fn class(&self) -> &'static str {
        match self {
            Self::Kind(_) | Self::Version(_) => CLASS,
            Self::Key(..) => KEY_CLASS,
        }
    }

    /// Counts it, and says so.
    pub(crate) fn report(&self, claim: &Claim, metrics: &QueueMetrics, queue: &str) {
        // A name that no handler has may be anything: it is no label.
        let (kind, class, what) = match self {
            Self::Kind(kind) => ("unknown", CLASS, format!("no handler here for kind {kind}")),
            Self::Version(error) => ("unknown", "unreadable", error.to_string()),
            Self::Key(kind, error) => (kind.as_str(), KEY_CLASS, error.to_string()),
        };
        metrics.failed.with_label_values(&[queue, kind, class]).inc();
        tracing::warn!(job_id = %claim.member.id, what, "given back for a program that knows it");
    }

    /// Moves the row of a journaled job that is dead, then Redis forgets it.
    pub(crate) async fn close(&self, database: &PgPool, member: Member, error: &AttemptError) -> Finish {
        let Some(generation) = member.generation else { return Finish::Bury { error: error.clone() } };
        let kind = match self {
            Self::Kind(kind) | Self::Key(kind, _) => kind,
            Self::Version(_) => &UNREADABLE,
        };
        let closing = Closing {
            state: CloseState::Dead,
            reason: &error.message,
            fingerprint: fingerprint(kind, self.class(), &error.message),
            error: Some(error),
            attempt: error.attempt,
        };
        match patiently(journal::close(database, member.id, generation, &closing)).await {
            Ok(true) => Finish::Cancel { keep: None },
            Ok(false) => Finish::Gone,
            Err(error) => put_off(&error.into()).finish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    fn fate_after(age: Duration) -> Fate {
        let enqueued = DateTime::UNIX_EPOCH;
        Unknown::Kind(Kind::from_static("test.new")).fate(2, enqueued, enqueued + age, WEEK)
    }

    #[test]
    fn a_job_of_an_unknown_kind_waits_longer_and_longer_and_dies_of_age() {
        for (age, waits) in [(0, 5), (60, 60), (3600, 600), (WEEK.as_secs() - 1, 600)] {
            let Fate::Wait(delay) = fate_after(Duration::from_secs(age)) else { panic!("dead after {age} s") };
            assert_eq!(delay, Duration::from_secs(waits), "after {age} s");
        }
        let Fate::Dead(error) = fate_after(WEEK) else { panic!("not dead after a week") };
        assert_eq!((&*error.class, error.attempt), (CLASS, 2));
        assert_eq!(error.message, "no worker of its queue knew kind test.new for 7days");
    }

    #[test]
    fn a_clock_that_stands_before_the_job_was_enqueued_kills_nothing() {
        let enqueued = DateTime::UNIX_EPOCH + WEEK;
        let unreadable = Unknown::Version(StoreError::Unreadable("a job"));
        assert!(matches!(unreadable.fate(0, enqueued, DateTime::UNIX_EPOCH, WEEK), Fate::Wait(_)));
    }
}
