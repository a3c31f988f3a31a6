//! Takes away what nobody will ask for any more, in bounded batches.

use std::time::Duration;

use sqlx::PgPool;

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// Rows in one statement.
const BATCH: i64 = 1000;

/// An idempotency key is kept this much longer than promised, so that it never goes while its last request is answered.
const SLACK: Duration = Duration::from_secs(3600);

/// What is kept for how long.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between two rounds.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// How long cancelled and discarded journaled jobs stay on record.
    #[serde(with = "humantime_serde")]
    pub keep_closed: Duration,
    /// How long dead journaled jobs can be redriven.
    #[serde(with = "humantime_serde")]
    pub keep_dead: Duration,
    /// How long fires of schedules stay on record.
    #[serde(with = "humantime_serde")]
    pub keep_fires: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for Config {
    fn default() -> Self {
        Self { period: Duration::from_secs(60), keep_closed: DAY * 30, keep_dead: DAY * 180, keep_fires: DAY * 30 }
    }
}

impl Config {
    /// Checks it.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if self.period < Duration::from_secs(1) {
            return Err("pruner.period must be at least 1s".to_owned());
        }
        for (key, keep) in
            [("keep_closed", self.keep_closed), ("keep_dead", self.keep_dead), ("keep_fires", self.keep_fires)]
        {
            if keep < DAY {
                return Err(format!("pruner.{key} must be at least a day"));
            }
        }
        Ok(())
    }
}

/// The service.
#[derive(Debug)]
pub struct Pruner {
    config: Config,
    database: PgPool,
    metrics: Metrics,
}

impl Pruner {
    /// Puts it together.
    #[must_use]
    pub const fn new(config: Config, database: PgPool, metrics: Metrics) -> Self {
        Self { config, database, metrics }
    }

    async fn delete(&self, statement: &'static str, keep: Duration) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(statement).bind(keep.as_secs_f64()).bind(BATCH).execute(&self.database).await?;
        Ok(done.rows_affected())
    }
}

impl Service for Pruner {
    const NAME: &'static str = "pruner";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let keys = self
            .delete(
                "DELETE FROM job_idempotency WHERE digest IN (
                     SELECT digest FROM job_idempotency WHERE expires_at < now() - make_interval(secs => $1)
                     ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
                SLACK,
            )
            .await?;
        let closed = "DELETE FROM job_closed WHERE id IN (
                          SELECT id FROM job_closed
                          WHERE state IN ('cancelled', 'discarded') AND closed_at < now() - make_interval(secs => $1)
                          LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let closed = self.delete(closed, self.config.keep_closed).await?;
        let dead = "DELETE FROM job_closed WHERE id IN (
                        SELECT id FROM job_closed
                        WHERE state = 'dead' AND closed_at < now() - make_interval(secs => $1)
                        LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let dead = self.delete(dead, self.config.keep_dead).await?;
        // A queued or unfinished fire keeps its record: it is written to once more.
        let fires = "DELETE FROM schedule_fire WHERE (schedule_id, fire_at) IN (
                         SELECT schedule_id, fire_at FROM schedule_fire
                         WHERE recorded_at < now() - make_interval(secs => $1)
                           AND outcome NOT IN ('queued', 'fanning')
                         ORDER BY recorded_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let fires = self.delete(fires, self.config.keep_fires).await?;
        let counts = [("idempotency keys", keys), ("closed jobs", closed), ("dead jobs", dead), ("fires", fires)];
        for (what, count) in
            [("pruned_keys", keys), ("pruned_closed", closed), ("pruned_dead", dead), ("pruned_fires", fires)]
        {
            self.metrics.tidy(what, count);
        }
        let full = counts.iter().any(|(_, count)| i64::try_from(*count).is_ok_and(|count| count >= BATCH));
        let pace = if full { Pace::Sharp(Duration::from_millis(50)) } else { Pace::After(self.config.period) };
        Ok(Done::new(counts, pace))
    }
}
