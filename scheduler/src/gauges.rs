//! Gauges that no event sets: depths, ages, backlogs. A queue that was drained reports zero.

use std::time::Duration;

use sqlx::{PgPool, Row};
use windrow_queue::{QueueName, journal, metrics::QueueMetrics, store::Store};

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// How often gauges are read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between two readings.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { period: Duration::from_secs(5) }
    }
}

impl Config {
    /// Checks it.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if self.period < Duration::from_millis(100) || self.period > Duration::from_secs(300) {
            return Err("gauges.period must be 100ms to 5m".to_owned());
        }
        Ok(())
    }
}

/// The service.
#[derive(Debug)]
pub struct Gauges {
    config: Config,
    database: PgPool,
    store: Store,
    queues: Vec<QueueName>,
    queue_metrics: QueueMetrics,
    metrics: Metrics,
}

impl Gauges {
    /// Puts it together.
    #[must_use]
    pub const fn new(
        config: Config,
        database: PgPool,
        store: Store,
        queues: Vec<QueueName>,
        queue_metrics: QueueMetrics,
        metrics: Metrics,
    ) -> Self {
        Self { config, database, store, queues, queue_metrics, metrics }
    }

    async fn read_queues(&self) -> anyhow::Result<()> {
        let journaled: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT queue, 'dead', count(*) FROM job_closed
             WHERE state = 'dead' AND (runs_until IS NULL OR runs_until <= now()) GROUP BY queue
             UNION ALL
             SELECT queue, 'parked', count(*) FROM job_journal WHERE state = 'parked' GROUP BY queue",
        )
        .fetch_all(&self.database)
        .await?;
        let mut all = Ok(());
        for queue in &self.queues {
            let counts = match self.store.counts(queue).await {
                Ok(counts) => counts,
                // In a cluster the other queues may be on nodes that answer.
                Err(error) => {
                    all = Err(error.into());
                    continue;
                }
            };
            let in_postgres = |state: &str| {
                journaled.iter().find(|row| row.0 == queue.as_str() && row.1 == state).map_or(0, |(_, _, count)| *count)
            };
            let values = [
                ("ready", gauge(counts.ready)),
                ("scheduled", gauge(counts.scheduled)),
                ("running", gauge(counts.running)),
                ("parked", gauge(counts.parked).saturating_add(in_postgres("parked"))),
                ("dead", gauge(counts.dead).saturating_add(in_postgres("dead"))),
            ];
            for (state, value) in values {
                self.queue_metrics.depth.with_label_values(&[queue.as_str(), state]).set(value);
            }
            let oldest = counts.oldest_ready.map_or(0, |age| gauge(age.as_secs()));
            let labels = [queue.as_str()];
            self.queue_metrics.oldest_ready.with_label_values(&labels).set(oldest);
            self.queue_metrics.bytes.with_label_values(&labels).set(gauge(counts.bytes));
            self.queue_metrics.lanes_waiting.with_label_values(&labels).set(gauge(counts.lanes_waiting));
            // Redis has the sum. One that was wiped begins anew: what it drops is seen once it passes the old sum.
            let dropped = self.queue_metrics.dead_dropped.with_label_values(&labels);
            dropped.inc_by(counts.dead_dropped.saturating_sub(dropped.get()));
        }
        all
    }

    async fn read_journal(&self) -> anyhow::Result<()> {
        let rows: Option<i64> =
            sqlx::query_scalar("SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'job_journal'::regclass")
                .fetch_optional(&self.database)
                .await?;
        self.metrics.journal_rows.set(rows.unwrap_or(0));
        let lanes = journal::lanes(&self.database, None, 1000, &[]).await?;
        let now: chrono::DateTime<chrono::Utc> =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&self.database).await?;
        let oldest = lanes.iter().map(|lane| now - lane.oldest()).max();
        self.metrics.outbox_oldest.set(oldest.map_or(0, |age| age.num_seconds().max(0)));
        Ok(())
    }

    async fn read_schedules(&self) -> anyhow::Result<()> {
        let row = sqlx::query(
            "SELECT count(*) FILTER (WHERE enabled AND NOT paused AND error IS NULL),
                    count(*) FILTER (WHERE enabled AND paused), count(*) FILTER (WHERE NOT enabled),
                    count(*) FILTER (WHERE enabled AND NOT paused AND error IS NOT NULL),
                    greatest(0, extract(epoch FROM clock_timestamp() - min(due_at)
                        FILTER (WHERE enabled AND NOT paused AND error IS NULL AND fan_fire_at IS NULL)))::bigint
             FROM schedule",
        )
        .fetch_one(&self.database)
        .await?;
        for (index, state) in ["active", "paused", "disabled", "error"].into_iter().enumerate() {
            self.metrics.schedules.with_label_values(&[state]).set(row.try_get(index)?);
        }
        self.metrics.overdue.set(row.try_get::<Option<i64>, _>(4)?.unwrap_or(0));
        Ok(())
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Service for Gauges {
    const NAME: &'static str = "gauges";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        // What Postgres says does not wait for Redis, nor the other way round.
        let (queues, journal, schedules) = tokio::join!(self.read_queues(), self.read_journal(), self.read_schedules());
        queues.and(journal).and(schedules)?;
        Ok(Done::new([], Pace::After(self.config.period)))
    }
}
