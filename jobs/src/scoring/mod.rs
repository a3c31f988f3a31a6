//! Scores: every vacancy gets 1 to 10 and the reason, by the tenant's profile.
//!
//! ```text
//! vacancy.score             load -> score (the call to a webhook comes first) -> one transaction: vacancy, history, done
//! vacancy.requeue_unscored  sweep: a scoring job for every vacancy left without a score and without a job
//! ```
//!
//! A vacancy goes new -> queued -> scored. Each scoring job leaves one row in `scoring_history`: its `job_id` is unique, and
//! the row is written in the transaction that completes the job. A webhook may be called more than once for a job, with the
//! same `Idempotency-Key`.
//!
//! The built-in rules ([`Rules`]) are deterministic: the same vacancy and profile give the same score and reason on any day.
//! Freshness is measured to the moment the vacancy was first seen.

mod config;
mod history;
mod metrics;
mod profile;
mod requeue;
mod rules;
mod score_vacancy;
mod webhook;
mod words;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use history::{HistoryEntry, list_history};
pub use metrics::ScoringMetrics;
pub use profile::{InvalidProfile, Keyword, Profile, ProfileError, Rules, Scorer, find_profile, put_profile};
pub use requeue::{RequeueUnscored, RequeueUnscoredHandler};
pub use score_vacancy::{ScoreVacancy, ScoreVacancyHandler};
pub use webhook::RefusedAnswer;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use uuid::Uuid;

/// What a scorer may know about a vacancy.
#[derive(Clone, Debug, Serialize)]
struct Subject {
    id: Uuid,
    url: String,
    title: String,
    description: String,
    company: Option<String>,
    location: Option<String>,
    salary_min: Option<Decimal>,
    salary_max: Option<Decimal>,
    tags: Vec<String>,
    published_at: Option<DateTime<Utc>>,
    first_seen_at: DateTime<Utc>,
}

/// What a scorer says. The score is 1 to 10, the reason is not empty and not too long to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    score: i16,
    reason: String,
}

/// The longest reason, in characters.
const MAX_REASON: usize = 2000;
