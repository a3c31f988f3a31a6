//! Jobs that waited for a callback until their deadline go on without it, and are told so.

use std::time::Duration;

use sqlx::PgPool;
use windrow_queue::journal;

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// Jobs in one transaction.
const BATCH: i64 = 500;

/// How late a deadline may be noticed.
const PERIOD: Duration = Duration::from_secs(1);

/// The service.
#[derive(Debug)]
pub struct Unparker {
    database: PgPool,
    metrics: Metrics,
}

impl Unparker {
    /// Puts it together.
    #[must_use]
    pub const fn new(database: PgPool, metrics: Metrics) -> Self {
        Self { database, metrics }
    }
}

impl Service for Unparker {
    const NAME: &'static str = "unparker";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let (due, unparked) = journal::unpark_due(&self.database, BATCH).await?;
        self.metrics.tidy("unparked", unparked);
        // Rows that others decide at this moment are no reason to ask again at once.
        let more = i64::try_from(due).is_ok_and(|due| due == BATCH) && unparked > 0;
        Ok(Done::new([("past their deadline", unparked)], if more { Pace::Again } else { Pace::After(PERIOD) }))
    }
}
