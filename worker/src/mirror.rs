//! Copies retries and snoozes that Redis has taken into the journal.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::mpsc;
use windrow_queue::{
    journal::{self, MIRROR_FROM},
    store::{Applied, AttemptError, Finish},
};

use crate::patience::patiently;

/// Outcomes that may wait to be mirrored; more are not mirrored.
pub(crate) const BACKLOG: usize = 1000;

/// Mirrors outcomes until the hubs end. A mirror that fails is logged: the retry stands in Redis.
pub(crate) async fn run(database: PgPool, mut outcomes: mpsc::Receiver<Applied>) {
    while let Some(outcome) = outcomes.recv().await {
        let (delay, attempt, error): (Duration, Option<u32>, Option<&AttemptError>) = match &outcome.finish {
            Finish::Retry { delay, attempt, error } => (*delay, Some(*attempt), Some(error)),
            Finish::Snooze { delay } => (*delay, None, None),
            _ => continue,
        };
        // An error is kept even if the retry is soon: it is what a dead letter will show.
        if delay < MIRROR_FROM && error.is_none() {
            continue;
        }
        if let Err(error) = patiently(journal::mirror(&database, outcome.member, attempt, delay, error)).await {
            tracing::warn!(job_id = %outcome.member.id, %error, "the retry is not mirrored in the journal");
        }
    }
}
