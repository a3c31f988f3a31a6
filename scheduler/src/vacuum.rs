//! VACUUM of the two hot tables. Rows live for milliseconds in them; autovacuum, which comes once a minute at best, would
//! leave the relay and the start check to walk over hundreds of thousands of dead ones.

use std::time::Duration;

use sqlx::{PgPool, Row};

use crate::service::{Done, Pace, Service};

/// How often the hot tables are vacuumed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between two rounds.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Dead rows from which on a table is worth it.
    pub dead_rows: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { period: Duration::from_secs(10), dead_rows: 1000 }
    }
}

impl Config {
    /// Checks it.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if self.period < Duration::from_secs(1) {
            return Err("vacuum.period must be at least 1s".to_owned());
        }
        Ok(())
    }
}

/// The service.
#[derive(Debug)]
pub struct Vacuum {
    config: Config,
    database: PgPool,
}

impl Vacuum {
    /// Puts it together.
    #[must_use]
    pub const fn new(config: Config, database: PgPool) -> Self {
        Self { config, database }
    }
}

impl Service for Vacuum {
    const NAME: &'static str = "vacuum";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let tables = sqlx::query(
            "SELECT relname::text, n_dead_tup FROM pg_stat_user_tables
             WHERE relid IN ('job_outbox'::regclass, 'job_journal'::regclass) AND n_dead_tup >= $1",
        )
        .bind(i64::from(self.config.dead_rows))
        .fetch_all(&self.database)
        .await?;
        let mut rows = 0;
        for table in &tables {
            // Neither waits for a lock nor takes the one that ends a truncation. A role that may not vacuum gets a warning
            // from Postgres, which then leaves the table to autovacuum.
            let statement = match table.try_get::<&str, _>(0)? {
                "job_outbox" => "VACUUM (SKIP_LOCKED, TRUNCATE false) job_outbox",
                _ => "VACUUM (SKIP_LOCKED, TRUNCATE false) job_journal",
            };
            sqlx::raw_sql(statement).execute(&self.database).await?;
            rows += u64::try_from(table.try_get::<i64, _>(1)?).unwrap_or(0);
        }
        tracing::debug!(tables = tables.len(), rows, "vacuumed");
        Ok(Done::new([], Pace::After(self.config.period)))
    }
}
