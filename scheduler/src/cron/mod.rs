//! Fires schedules.
//!
//! One transaction: lock due schedules (others skip them), plan each, record every fire time in `schedule_fire`, enqueue the
//! jobs, move `handled_until` on, commit. A crash before the commit leaves nothing behind; the next pass plans the same. The
//! row's lock makes a fire happen once, and the record's primary key would even if two held it.
//!
//! Only Postgres' clock counts. Any number of schedulers may run.

mod fan;
mod fire;
mod queued;

use std::time::Duration;

use sqlx::PgPool;
use windrow_queue::Catalog;

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// Full batches in a row that each begin where the one before ended.
const PASSES: u32 = 20;

/// How schedules are fired.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Schedules in one transaction.
    pub batch: u16,
    /// The longest sleep; a schedule that was added over the API is noticed after this at the latest.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch: 1000, idle: Duration::from_secs(1) }
    }
}

impl Config {
    /// Checks it.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=10_000).contains(&self.batch) {
            return Err("cron.batch must be 1 to 10000".to_owned());
        }
        if self.idle < Duration::from_millis(10) || self.idle > Duration::from_secs(60) {
            return Err("cron.idle must be 10ms to 60s".to_owned());
        }
        Ok(())
    }
}

/// The service.
#[derive(Debug)]
pub struct Cron {
    config: Config,
    database: PgPool,
    catalog: Catalog,
    metrics: Metrics,
    /// Where the pass before ended, if it left some that are due; and how many such passes there were in a row.
    behind: Option<(fire::Place, u32)>,
}

impl Cron {
    /// Puts it together.
    #[must_use]
    pub const fn new(config: Config, database: PgPool, catalog: Catalog, metrics: Metrics) -> Self {
        Self { config, database, catalog, metrics, behind: None }
    }

    /// Until the next schedule is due, by Postgres' clock; zero when one is. `None`: there is none.
    async fn next_due(&self) -> Result<Option<Duration>, sqlx::Error> {
        let seconds: Option<f64> = sqlx::query_scalar(
            "SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8 FROM schedule
             WHERE enabled AND NOT paused AND due_at IS NOT NULL AND fan_fire_at IS NULL",
        )
        .fetch_one(&self.database)
        .await?;
        Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
    }
}

impl Service for Cron {
    const NAME: &'static str = "cron";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let mut counts = fire::Counts::default();
        // After a full batch nobody has to ask whether more is due. Those that another scheduler held and gave back lie before it:
        // now and then the next one begins in front.
        let (after, passes) = self.behind.take().filter(|(_, passes)| *passes < PASSES).unzip();
        let due = if after.is_some() { Some(Duration::ZERO) } else { self.next_due().await? };
        if due == Some(Duration::ZERO) {
            let place = fire::fire_due(self, after, &mut counts).await?;
            self.behind = place.map(|place| (place, passes.unwrap_or(0) + 1));
        }
        queued::fire_queued(self, &mut counts).await?;
        fan::fan_out(self, &mut counts).await?;
        let pace = if counts.any() {
            Pace::Again
        } else {
            // A schedule that is due but locked is in another scheduler's hands.
            let idle = self.config.idle;
            match due {
                Some(due) if due > Duration::ZERO && due < idle => Pace::Sharp(due),
                Some(due) if due.is_zero() => Pace::Sharp(Duration::from_millis(20).min(idle)),
                _ => Pace::After(idle),
            }
        };
        Ok(Done::new(counts.list(), pace))
    }
}
