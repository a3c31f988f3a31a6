//! Follow-ups of batches whose members are all final.
//!
//! A round looks at every batch that is sealed and has not fired, a page a call: an index probe each. So a batch fires within a
//! period or two of its last member, and a hundred thousand that still go on cost each round some hundred short statements.

use std::time::Duration;

use sqlx::PgPool;
use windrow_queue::{BatchId, journal};

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// Batches in one look.
const PAGE: i64 = 500;

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(1);

/// Between two looks of a round.
const STEP: Duration = Duration::from_millis(10);

/// The service.
#[derive(Debug)]
pub struct Batches {
    database: PgPool,
    metrics: Metrics,
    /// Where the round is.
    after: Option<BatchId>,
}

impl Batches {
    /// Puts it together.
    #[must_use]
    pub const fn new(database: PgPool, metrics: Metrics) -> Self {
        Self { database, metrics, after: None }
    }
}

impl Service for Batches {
    const NAME: &'static str = "batches";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let look = journal::fire_batches(&self.database, self.after, PAGE).await?;
        self.after = look.next;
        self.metrics.tidy("batch_fired", look.fired);
        let pace = if self.after.is_some() { Pace::Sharp(STEP) } else { Pace::After(PERIOD) };
        Ok(Done::new([("batches over", look.fired)], pace))
    }
}
