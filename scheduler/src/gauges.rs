//! Gauges that no event sets: depths, ages, backlogs. A queue that was drained reports zero.

use std::{collections::HashSet, time::Duration};

use sqlx::{PgPool, Row};
use tokio::time::Instant;
use uuid::Uuid;
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
    /// Schedules whose jobs keep dying, as they were last found.
    failing: HashSet<Uuid>,
    failing_read: Option<Instant>,
}

impl Gauges {
    /// Puts it together.
    #[must_use]
    pub fn new(
        config: Config,
        database: PgPool,
        store: Store,
        queues: Vec<QueueName>,
        queue_metrics: QueueMetrics,
        metrics: Metrics,
    ) -> Self {
        let (failing, failing_read) = (HashSet::new(), None);
        Self { config, database, store, queues, queue_metrics, metrics, failing, failing_read }
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

    async fn read_schedules(&mut self) -> anyhow::Result<()> {
        let row = sqlx::query(SCHEDULES).fetch_one(&self.database).await?;
        let [estimate, disabled, paused, error]: [i64; 4] =
            [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
        let all = if estimate > MANY {
            estimate
        } else {
            sqlx::query_scalar("SELECT count(*) FROM schedule").fetch_one(&self.database).await?
        };
        let active = (all - disabled - paused - error).max(0);
        for (state, count) in [("active", active), ("paused", paused), ("disabled", disabled), ("error", error)] {
            self.metrics.schedules.with_label_values(&[state]).set(count);
        }
        let (due, now): (Option<f64>, f64) = (row.try_get(4)?, row.try_get(5)?);
        self.metrics.overdue.set(due.map_or(0, |due| whole((now - due).max(0.0))));
        self.metrics.next_due.set(due.unwrap_or(0.0));
        if self.failing_read.is_none_or(|read| read.elapsed() >= READ_FAILING) {
            self.read_failing().await?;
            self.failing_read = Some(Instant::now());
        }
        Ok(())
    }

    /// Schedules whose jobs keep dying. Each is named in the log once; the metric says how many they are.
    async fn read_failing(&mut self) -> anyhow::Result<()> {
        let failing: Vec<(Uuid, String, Option<String>)> = sqlx::query_as(FAILING).fetch_all(&self.database).await?;
        for (id, name, tenant) in &failing {
            if !self.failing.contains(id) {
                tracing::warn!(
                    schedule = name,
                    tenant,
                    "the jobs of this schedule keep dying: `windrow schedules history`"
                );
            }
        }
        self.failing = failing.into_iter().map(|(id, ..)| id).collect();
        self.metrics.failing.set(i64::try_from(self.failing.len())?);
        Ok(())
    }
}

/// More schedules than this are not counted but estimated, by Postgres.
const MANY: i64 = 100_000;

/// Time between two looks for schedules whose jobs keep dying.
const READ_FAILING: Duration = Duration::from_secs(30);

/// What partial indexes know: no state is counted by walking over all the others. A schedule in error is due at its next try, and
/// one that is being fanned out when it is through: neither is late.
const SCHEDULES: &str = "
SELECT (SELECT reltuples::bigint FROM pg_class WHERE oid = 'schedule'::regclass),
       (SELECT count(*) FROM schedule WHERE (paused OR NOT enabled) AND NOT enabled),
       (SELECT count(*) FROM schedule WHERE (paused OR NOT enabled) AND enabled),
       (SELECT count(*) FROM schedule WHERE error IS NOT NULL AND enabled AND NOT paused),
       (SELECT extract(epoch FROM due_at)::float8 FROM schedule
        WHERE enabled AND NOT paused AND due_at IS NOT NULL AND error IS NULL AND fan_fire_at IS NULL
        ORDER BY due_at LIMIT 1),
       extract(epoch FROM clock_timestamp())::float8";

/// Schedules of whose last five fires at least three died for one tenant (or nobody in particular), and none came through for it:
/// the others still stand. Jobs that came of a fire's job are not looked at. Only schedules with dead jobs are asked, a thousand at
/// most, from one to the next by the index.
const FAILING: &str = "
WITH RECURSIVE dying AS (
    (SELECT (job->>'schedule_id')::uuid AS id FROM job_closed
     WHERE state = 'dead' AND job->>'schedule_id' IS NOT NULL ORDER BY (job->>'schedule_id')::uuid LIMIT 1)
    UNION ALL
    SELECT (SELECT (c.job->>'schedule_id')::uuid FROM job_closed c
            WHERE c.state = 'dead' AND c.job->>'schedule_id' IS NOT NULL AND (c.job->>'schedule_id')::uuid > dying.id
            ORDER BY (c.job->>'schedule_id')::uuid LIMIT 1)
    FROM dying WHERE dying.id IS NOT NULL
)
SELECT s.id, s.name, s.tenant
FROM (SELECT id FROM dying LIMIT 1000) AS dying JOIN schedule s USING (id)
CROSS JOIN LATERAL (
    SELECT array_agg(fire_at) AS times, min(fire_at) AS first
    FROM (SELECT fire_at FROM schedule_fire WHERE schedule_id = s.id AND outcome = 'fired'
          ORDER BY fire_at DESC LIMIT 5) AS last
) AS fires
WHERE cardinality(fires.times) >= 3 AND EXISTS (
    SELECT FROM (
        SELECT c.tenant, (c.job->>'fire_at')::timestamptz AS fire_at, true AS is_dead
        FROM job_closed c
        WHERE c.state = 'dead' AND c.job->>'schedule_id' IS NOT NULL AND (c.job->>'schedule_id')::uuid = s.id
          AND c.closed_at >= fires.first AND c.kind = s.kind AND (c.runs_until IS NULL OR c.runs_until <= now())
        UNION ALL
        SELECT j.tenant, j.fire_at, false FROM job_journal j WHERE j.schedule_id = s.id AND j.kind = s.kind
    ) AS jobs
    WHERE fire_at = ANY(fires.times) GROUP BY tenant
    HAVING count(DISTINCT fire_at) FILTER (WHERE is_dead) >= 3 AND count(DISTINCT fire_at) = cardinality(fires.times)
)
ORDER BY s.name";

/// Seconds, without their fraction.
#[expect(clippy::cast_possible_truncation, reason = "a clock's seconds are far from the ends of 64 bits")]
fn whole(seconds: f64) -> i64 {
    seconds as i64
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Service for Gauges {
    const NAME: &'static str = "gauges";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        // What Postgres says does not wait for Redis, nor the other way round.
        let (queues, journal) = tokio::join!(self.read_queues(), self.read_journal());
        let schedules = self.read_schedules().await;
        queues.and(journal).and(schedules)?;
        Ok(Done::new([], Pace::After(self.config.period)))
    }
}
