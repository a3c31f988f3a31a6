//! Takes away what nobody will ask for any more, in bounded batches.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;
use windrow_queue::job::IDEMPOTENCY_PERIOD;

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// Schedules whose records are counted in one round.
const SCHEDULES: i32 = 1000;

/// Rows in one statement.
const BATCH: i64 = 1000;

/// An idempotency key is kept this much longer than promised, so that it never goes while its last request is answered.
const SLACK: Duration = Duration::from_secs(3600);

/// A callback that comes so long after its deadline is told that it is late; later ones, that nobody knows them.
const KEEP_TOKENS: Duration = DAY;

/// What is kept for how long.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between two rounds.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// How long cancelled and discarded journaled jobs stay on record, and batches that are over or were never sealed.
    #[serde(with = "humantime_serde")]
    pub keep_closed: Duration,
    /// How long dead journaled jobs can be redriven.
    #[serde(with = "humantime_serde")]
    pub keep_dead: Duration,
    /// How long fires of schedules stay on record.
    #[serde(with = "humantime_serde")]
    pub keep_fires: Duration,
    /// How many fires of one schedule stay on record, the newest.
    pub max_fires: u32,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for Config {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(60),
            keep_closed: DAY * 30,
            keep_dead: DAY * 180,
            keep_fires: DAY * 30,
            max_fires: 1000,
        }
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
        if !(10..=100_000).contains(&self.max_fires) {
            return Err("pruner.max_fires must be 10 to 100000".to_owned());
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
    /// The last schedule whose records were counted.
    looked_at: Uuid,
}

impl Pruner {
    /// Puts it together.
    #[must_use]
    pub const fn new(config: Config, database: PgPool, metrics: Metrics) -> Self {
        Self { config, database, metrics, looked_at: Uuid::nil() }
    }

    async fn batch(&self, statement: &'static str, keep: Duration) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(statement).bind(keep.as_secs_f64()).bind(BATCH).execute(&self.database).await?;
        Ok(done.rows_affected())
    }
}

/// Records beyond the newest `$1` of each of the next `$2` schedules after `$3`, `$4` records at most. The schedules are found by
/// going from one to the next in the primary key, removed ones too. Answers with the last schedule that was looked at, and how
/// many records went.
const SURPLUS: &str = "
WITH RECURSIVE known AS (
    (SELECT schedule_id AS id, 1 AS n FROM schedule_fire WHERE schedule_id > $3 ORDER BY schedule_id LIMIT 1)
    UNION ALL
    SELECT (SELECT f.schedule_id FROM schedule_fire f WHERE f.schedule_id > known.id ORDER BY f.schedule_id LIMIT 1), n + 1
    FROM known WHERE known.id IS NOT NULL AND n < $2
), surplus AS (
    SELECT old.schedule_id, old.fire_at
    FROM known CROSS JOIN LATERAL (
        SELECT fire_at FROM schedule_fire WHERE schedule_id = known.id ORDER BY fire_at DESC OFFSET $1 - 1 LIMIT 1
    ) AS oldest JOIN schedule_fire old
      ON old.schedule_id = known.id AND old.fire_at < oldest.fire_at AND old.outcome NOT IN ('queued', 'fanning')
    LIMIT $4
), gone AS (
    DELETE FROM schedule_fire f USING surplus s WHERE f.schedule_id = s.schedule_id AND f.fire_at = s.fire_at RETURNING 1
)
SELECT (SELECT max(id::text)::uuid FROM known), (SELECT count(*) FROM known WHERE id IS NOT NULL), (SELECT count(*) FROM gone)";

impl Pruner {
    /// A schedule that fires each second has a record for each. Some schedules are looked at in each round, then the next ones.
    async fn surplus_fires(&mut self) -> Result<u64, sqlx::Error> {
        let (last, seen, gone): (Option<Uuid>, i64, i64) = sqlx::query_as(SURPLUS)
            .bind(i64::from(self.config.max_fires))
            .bind(SCHEDULES)
            .bind(self.looked_at)
            .bind(BATCH)
            .fetch_one(&self.database)
            .await?;
        // These once more if there may be more of theirs; from the front again after the last.
        if gone < BATCH {
            self.looked_at = last.filter(|_| seen >= i64::from(SCHEDULES)).unwrap_or_default();
        }
        Ok(u64::try_from(gone).unwrap_or(0))
    }
}

impl Service for Pruner {
    const NAME: &'static str = "pruner";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        let keys = self
            .batch(
                "DELETE FROM job_idempotency WHERE digest IN (
                     SELECT digest FROM job_idempotency i WHERE expires_at < now() - make_interval(secs => $1)
                       AND NOT EXISTS (SELECT FROM job_journal j WHERE j.id = i.job_id)
                     ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
                SLACK,
            )
            .await?;
        // A key of a job that stands is good for a day at least after the job is over. Each is looked at while it passes the mark;
        // what was missed does not expire while its job stands, either.
        let kept = "UPDATE job_idempotency SET expires_at = now() + make_interval(secs => $1) WHERE digest IN (
                        SELECT digest FROM job_idempotency i
                        WHERE expires_at BETWEEN now() + interval '1 day' - interval '10 min' AND now() + interval '1 day'
                          AND EXISTS (SELECT FROM job_journal j WHERE j.id = i.job_id)
                        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let kept = self.batch(kept, IDEMPOTENCY_PERIOD).await?;
        let periods = "DELETE FROM job_unique WHERE digest IN (
                           SELECT digest FROM job_unique WHERE expires_at < now() - make_interval(secs => $1)
                           ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let periods = self.batch(periods, SLACK).await?;
        let tokens = "DELETE FROM job_callback WHERE token_hash IN (
                          SELECT token_hash FROM job_callback WHERE deadline < now() - make_interval(secs => $1)
                          ORDER BY deadline LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let tokens = self.batch(tokens, KEEP_TOKENS).await?;
        let batches = "DELETE FROM job_batch WHERE id IN (
                           SELECT id FROM job_batch
                           WHERE opened_at < now() - make_interval(secs => $1)
                             AND (sealed_at IS NULL OR fired_at < now() - make_interval(secs => $1))
                           ORDER BY opened_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let batches = self.batch(batches, self.config.keep_closed).await?;
        // Members of a batch that has not fired are counted when it does.
        let closed = "DELETE FROM job_closed WHERE id IN (
                          SELECT id FROM job_closed c
                          WHERE state IN ('cancelled', 'discarded') AND closed_at < now() - make_interval(secs => $1)
                            AND NOT EXISTS (SELECT FROM job_batch b WHERE b.id = c.batch_id AND b.fired_at IS NULL)
                          LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let closed = self.batch(closed, self.config.keep_closed).await?;
        let dead = "DELETE FROM job_closed WHERE id IN (
                        SELECT id FROM job_closed c
                        WHERE state = 'dead' AND closed_at < now() - make_interval(secs => $1)
                          AND NOT EXISTS (SELECT FROM job_batch b WHERE b.id = c.batch_id AND b.fired_at IS NULL)
                        LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let dead = self.batch(dead, self.config.keep_dead).await?;
        // A queued or unfinished fire keeps its record: it is written to once more.
        let fires = "DELETE FROM schedule_fire WHERE (schedule_id, fire_at) IN (
                         SELECT schedule_id, fire_at FROM schedule_fire
                         WHERE recorded_at < now() - make_interval(secs => $1)
                           AND outcome NOT IN ('queued', 'fanning')
                         ORDER BY recorded_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let fires = self.batch(fires, self.config.keep_fires).await? + self.surplus_fires().await?;
        let triggers = "DELETE FROM schedule_trigger WHERE id IN (
                            SELECT id FROM schedule_trigger
                            WHERE fan_after IS NULL AND triggered_at < now() - make_interval(secs => $1)
                            ORDER BY triggered_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let triggers = self.batch(triggers, self.config.keep_fires).await?;
        let counts = [
            ("idempotency keys", keys),
            ("unique keys", periods),
            ("callback tokens", tokens),
            ("batches", batches),
            ("closed jobs", closed),
            ("dead jobs", dead),
            ("fires", fires),
            ("triggers", triggers),
        ];
        for (what, count) in [
            ("pruned_keys", keys),
            ("pruned_unique_keys", periods),
            ("pruned_tokens", tokens),
            ("pruned_batches", batches),
            ("pruned_closed", closed),
            ("pruned_dead", dead),
            ("pruned_fires", fires),
            ("pruned_triggers", triggers),
        ] {
            self.metrics.tidy(what, count);
        }
        let full = counts
            .iter()
            .map(|(_, count)| *count)
            .chain([kept])
            .any(|count| i64::try_from(count).is_ok_and(|count| count >= BATCH));
        let pace = if full { Pace::Sharp(Duration::from_millis(50)) } else { Pace::After(self.config.period) };
        Ok(Done::new(counts, pace))
    }
}
