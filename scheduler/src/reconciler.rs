//! Puts back into Redis what the journal holds and Redis has lost.
//!
//! A sweep goes through the journal by id, a batch at a time: rows that are live, due for over a minute and unknown to Redis
//! are put back into the outbox, with their generation as it is, so that a job which turns up after all is not run twice.
//!
//! A Redis that was restarted may have come back without its last seconds, or with nothing. Its `run_id` tells: it differs
//! from the one in `redis_watch`, and a sweep begins at once that asks about every live row, however young. Only when it is
//! through is the new `run_id` written, so that a scheduler which dies in the middle leaves the work to the next.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{FromRow, PgPool};
use tokio::time::Instant;
use uuid::Uuid;
use windrow_queue::{JobId, Member, QueueName, store::Store};

use crate::{
    metrics::Metrics,
    service::{Done, Pace, Service},
};

/// Rows that one batch asks Redis about.
const BATCH: i64 = 500;

/// How often a restarted Redis is looked for.
const LOOK: Duration = Duration::from_secs(2);

/// How long, and how often in a row, a full sweep waits for the relay; a queue that takes nothing is left for later then.
const WAIT: Duration = Duration::from_millis(200);
const MAX_WAITS: u32 = 100;

/// Rows of one queue in the outbox, from which on the sweep leaves that queue for later.
const BACKLOG: i64 = 10_000;

/// How the journal is compared with Redis.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Pause between two sweeps.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// How long a job must have been due before it can be missing.
    #[serde(with = "humantime_serde")]
    pub age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { period: Duration::from_secs(20), age: Duration::from_secs(60) }
    }
}

impl Config {
    /// Checks it.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if self.period < Duration::from_millis(100) {
            return Err("reconciler.period must be at least 100ms".to_owned());
        }
        if self.age < Duration::from_secs(1) {
            return Err("reconciler.age must be at least 1s".to_owned());
        }
        Ok(())
    }
}

/// The service.
#[derive(Debug)]
pub struct Reconciler {
    config: Config,
    database: PgPool,
    store: Store,
    metrics: Metrics,
    queues: Vec<QueueName>,
    /// Where the sweep is.
    after: Uuid,
    /// The `run_id` that this sweep is about, when it asks about every row.
    full: Option<String>,
    rests_until: Instant,
    /// How often in a row it has waited for the relay.
    waits: u32,
}

#[derive(FromRow)]
struct Live {
    id: Uuid,
    #[sqlx(rename = "gen")]
    generation: i32,
    queue: String,
}

impl Reconciler {
    /// Puts it together.
    #[must_use]
    pub fn new(config: Config, database: PgPool, store: Store, queues: Vec<QueueName>, metrics: Metrics) -> Self {
        Self {
            config,
            database,
            store,
            metrics,
            queues,
            after: Uuid::nil(),
            full: None,
            rests_until: Instant::now(),
            waits: 0,
        }
    }

    /// Begins a full sweep if Redis is not the one that was last swept for.
    async fn notice_restart(&mut self) -> anyhow::Result<()> {
        let server = self.store.server().await?;
        if server.loading || self.full.as_deref() == Some(&*server.run_id) {
            return Ok(());
        }
        let names: Vec<&str> = self.queues.iter().map(QueueName::as_str).collect();
        let (known, same): (i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE run_id IS NOT NULL), count(*) FILTER (WHERE run_id = $2)
             FROM redis_watch WHERE queue = ANY ($1)",
        )
        .bind(&names)
        .bind(&server.run_id)
        .fetch_one(&self.database)
        .await?;
        if usize::try_from(same)? == names.len() {
            return Ok(());
        }
        if known > 0 {
            tracing::warn!("Redis was restarted: every journaled job is asked for");
        }
        self.full = Some(server.run_id);
        self.after = Uuid::nil();
        Ok(())
    }

    /// The full sweep is through: what it was about is known now.
    async fn finish_full(&self, run_id: &str) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO redis_watch (queue, run_id) SELECT queue, $2 FROM unnest($1::text[]) AS queue ORDER BY queue
             ON CONFLICT (queue) DO UPDATE SET run_id = excluded.run_id",
        )
        .bind(self.queues.iter().map(QueueName::as_str).collect::<Vec<_>>())
        .bind(run_id)
        .execute(&self.database)
        .await?;
        Ok(())
    }

    /// Whether so much of a queue waits to be relayed that telling what is lost from what is on its way costs too much. What
    /// is lost is found when the backlog is relayed.
    async fn is_backlogged(&self, queue: &QueueName) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT count(*) > $2 FROM (
                 SELECT FROM job_outbox WHERE band IN (0, 1, 2, 3) AND queue = $1 LIMIT $2 + 1) AS waiting",
        )
        .bind(queue.as_str())
        .bind(BACKLOG)
        .fetch_one(&self.database)
        .await
    }

    /// Puts the members back that Redis does not know.
    async fn put_back(&self, queue: &QueueName, members: &[Member]) -> anyhow::Result<u64> {
        let known = self.store.exists(queue, members).await?;
        let lost: Vec<&Member> =
            members.iter().zip(known).filter(|(_, known)| !known).map(|(member, _)| member).collect();
        if lost.is_empty() {
            return Ok(0);
        }
        // The row is looked at once more: a job that ended in between is not lost, nor is one that the relay still has.
        let put_back = sqlx::query(
            "INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at, rescue_limit, at_most_once)
             SELECT j.band, now(), j.id, j.gen, j.queue, coalesce(j.tenant, ''), j.kind, j.run_at, j.rescue_limit,
                    j.at_most_once
             FROM unnest($1::uuid[], $2::int[]) AS lost (id, gen)
             JOIN job_journal j ON j.id = lost.id AND j.gen = lost.gen AND j.state = 'live'
             WHERE NOT EXISTS (
                 SELECT FROM job_outbox o WHERE o.band IN (0, 1, 2, 3) AND o.queue = $3 AND o.id = j.id AND o.gen = j.gen)
             ORDER BY j.band, j.run_at, j.id",
        )
        .bind(lost.iter().map(|member| member.id.0).collect::<Vec<_>>())
        .bind(lost.iter().map(|member| member.generation).collect::<Vec<_>>())
        .bind(queue.as_str())
        .execute(&self.database)
        .await?
        .rows_affected();
        if put_back > 0 {
            tracing::warn!(%queue, jobs = put_back, "Redis had lost journaled jobs; they are put back");
        }
        Ok(put_back)
    }
}

impl Service for Reconciler {
    const NAME: &'static str = "reconciler";

    async fn run_once(&mut self) -> anyhow::Result<Done> {
        self.notice_restart().await?;
        if self.full.is_none() && self.after.is_nil() && Instant::now() < self.rests_until {
            return Ok(Done::new([], Pace::After(LOOK)));
        }
        let rows: Vec<Live> = sqlx::query_as(
            "SELECT j.id, j.gen, j.queue FROM job_journal j
             WHERE j.id > $1 AND j.state = 'live'
               AND ($4 OR greatest(j.run_at, j.enqueued_at) < now() - make_interval(secs => $3))
             ORDER BY j.id LIMIT $2",
        )
        .bind(self.after)
        .bind(BATCH)
        .bind(self.config.age.as_secs_f64())
        .bind(self.full.is_some())
        .fetch_all(&self.database)
        .await?;
        let mut put_back = 0;
        let mut queues: BTreeMap<QueueName, Vec<Member>> = BTreeMap::new();
        for row in &rows {
            // One with a name that Redis cannot have is buried by the relay.
            if let Ok(queue) = QueueName::new(&*row.queue) {
                queues.entry(queue).or_default().push(Member::journaled(JobId(row.id), row.generation));
            }
        }
        for (queue, members) in &queues {
            if self.is_backlogged(queue).await? {
                if self.full.is_some() && self.waits < MAX_WAITS {
                    // The relay is behind with what this sweep gave it: let it work that off, then ask for these rows again.
                    self.waits += 1;
                    return Ok(Done::new([("put back", put_back)], Pace::Sharp(WAIT)));
                }
                continue;
            }
            self.waits = 0;
            put_back += self.put_back(queue, members).await?;
        }
        self.metrics.tidy("put_back", put_back);
        let more = i64::try_from(rows.len()).is_ok_and(|rows| rows == BATCH);
        self.after = rows.last().map(|row| row.id).filter(|_| more).unwrap_or(Uuid::nil());
        if let Some(run_id) = self.full.take_if(|_| !more) {
            self.finish_full(&run_id).await?;
        }
        let pace = match (more, self.full.is_some()) {
            (true, true) => Pace::Again,
            (true, false) => Pace::Sharp(Duration::from_millis(50)),
            (false, _) => {
                self.rests_until = Instant::now() + self.config.period;
                Pace::After(LOOK)
            }
        };
        Ok(Done::new([("put back", put_back)], pace))
    }
}
