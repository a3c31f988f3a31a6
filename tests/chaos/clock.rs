//! The run's time: milliseconds since its begin, the same for what is injected here and for what PostgreSQL recorded.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;

/// A clock that was set by PostgreSQL's once and needs it no more: servers go away during a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begin: Instant,
    /// PostgreSQL's time at the begin, in milliseconds since 1970.
    epoch_ms: f64,
}

impl Clock {
    /// Begins now.
    pub(crate) async fn start(database: &PgPool) -> Result<Self, sqlx::Error> {
        // The first query pays for the connection.
        sqlx::query("SELECT 1").execute(database).await?;
        let before = Instant::now();
        let epoch_ms: f64 = sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8")
            .fetch_one(database)
            .await?;
        Ok(Self { begin: before + before.elapsed() / 2, epoch_ms })
    }

    /// Milliseconds since the begin.
    pub(crate) fn now_ms(&self) -> i64 {
        i64::try_from(self.begin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// The instant of so many milliseconds.
    pub(crate) fn at(&self, ms: u64) -> Instant {
        self.begin + Duration::from_millis(ms)
    }

    /// What is subtracted from PostgreSQL's times.
    pub(crate) const fn epoch_ms(&self) -> f64 {
        self.epoch_ms
    }
}
