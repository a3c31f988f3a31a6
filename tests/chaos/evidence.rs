//! What is left of a run: the tables, and the producer's book. Times are the run's, in milliseconds.

use std::collections::{HashMap, HashSet};

use sqlx::{FromRow, PgPool, Row};
use uuid::Uuid;

use crate::{book::FastSent, clock::Clock, inject::LossWindow, sent::Expect, stage::Stage};

/// A journaled job that was asked for in a transaction that stands.
#[derive(Clone, Debug)]
pub(crate) struct SentJob {
    pub(crate) kind: String,
    pub(crate) expect: Expect,
    pub(crate) steps: i32,
    pub(crate) note: String,
    pub(crate) unique_key: Option<String>,
    pub(crate) batch: Option<Uuid>,
    pub(crate) delay_ms: i64,
    pub(crate) at_ms: i64,
}

/// An effect that stands.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Effect {
    pub(crate) job_id: Uuid,
    pub(crate) note: String,
    pub(crate) node: String,
    pub(crate) attempt: i32,
    pub(crate) tenant: Option<String>,
    pub(crate) schedule_id: Option<Uuid>,
    pub(crate) fire_at_ms: Option<i64>,
    pub(crate) at_ms: i64,
}

/// A job that will not run.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub(crate) state: String,
    pub(crate) reason: String,
}

/// A schedule and the record of its fires, in order.
#[derive(Clone, Debug)]
pub(crate) struct ScheduleSeen {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) period_ms: i64,
    /// Whether every due time has a job.
    pub(crate) catches_up: bool,
    pub(crate) each_tenant: bool,
    pub(crate) created_ms: i64,
    pub(crate) handled_until_ms: i64,
    pub(crate) fires: Vec<FireSeen>,
}

/// A record of `schedule_fire`.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct FireSeen {
    pub(crate) at_ms: i64,
    pub(crate) through_ms: i64,
    pub(crate) outcome: String,
    pub(crate) late_ms: i64,
}

/// Everything that the checker judges by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) sent: HashMap<Uuid, SentJob>,
    /// Jobs whose transaction was reported as committed, or as rolled back.
    pub(crate) committed: HashSet<Uuid>,
    pub(crate) rolled_back: HashSet<Uuid>,
    pub(crate) effects: Vec<Effect>,
    /// Starts of handlers that were counted: fast jobs, and jobs that run at most once.
    pub(crate) runs: HashMap<Uuid, i64>,
    pub(crate) closed: HashMap<Uuid, Closed>,
    /// What still stands although everything had time to end, in words.
    pub(crate) standing: Vec<String>,
    pub(crate) tenants: usize,
    pub(crate) schedules: Vec<ScheduleSeen>,
    pub(crate) fast: HashMap<Uuid, FastSent>,
    pub(crate) windows: Vec<LossWindow>,
    /// From then on nothing was done to the system any more.
    pub(crate) calm_from_ms: i64,
    /// What was seen to be wrong during the run.
    pub(crate) wrong: Vec<String>,
}

/// `$1` is the clock's epoch.
macro_rules! ms {
    ($column:literal) => {
        concat!("round((extract(epoch FROM ", $column, ") * 1000)::float8 - $1)::bigint")
    };
}

impl Evidence {
    /// Reads the tables, and takes the book over.
    pub(crate) async fn gather(stage: &Stage) -> anyhow::Result<Self> {
        let (database, clock) = (&stage.looking, &stage.clock);
        let mut evidence = Self { tenants: crate::kinds::TENANTS.len(), wrong: stage.wrongs(), ..Self::default() };
        let query = concat!(
            "SELECT job_id, kind, expect, steps, note, unique_key, batch_id, delay_ms, ",
            ms!("at"),
            " AS at_ms FROM chaos_sent"
        );
        for row in sqlx::query(query).bind(clock.epoch_ms()).fetch_all(database).await? {
            let sent = SentJob {
                kind: row.try_get("kind")?,
                expect: Expect::parse(row.try_get("expect")?)?,
                steps: row.try_get("steps")?,
                note: row.try_get("note")?,
                unique_key: row.try_get("unique_key")?,
                batch: row.try_get("batch_id")?,
                delay_ms: row.try_get("delay_ms")?,
                at_ms: row.try_get("at_ms")?,
            };
            evidence.sent.insert(row.try_get("job_id")?, sent);
        }
        evidence.effects = sqlx::query_as(concat!(
            "SELECT job_id, note, node, attempt, tenant, schedule_id, ",
            ms!("fire_at"),
            " AS fire_at_ms, ",
            ms!("at"),
            " AS at_ms FROM chaos_effect"
        ))
        .bind(clock.epoch_ms())
        .fetch_all(database)
        .await?;
        evidence.runs = sqlx::query_as("SELECT job_id, count(*) FROM chaos_run GROUP BY job_id")
            .fetch_all(database)
            .await?
            .into_iter()
            .collect();
        for row in sqlx::query("SELECT id, state, reason FROM job_closed").fetch_all(database).await? {
            evidence.closed.insert(row.get(0), Closed { state: row.get(1), reason: row.get(2) });
        }
        evidence.schedules = schedules(database, clock).await?;
        let mut book = stage.book.open();
        evidence.committed = std::mem::take(&mut book.committed);
        evidence.rolled_back = std::mem::take(&mut book.rolled_back);
        evidence.fast = std::mem::take(&mut book.fast);
        Ok(evidence)
    }
}

async fn schedules(database: &PgPool, clock: &Clock) -> anyhow::Result<Vec<ScheduleSeen>> {
    let query = concat!(
        "SELECT id, name, coalesce(every_s, 2) * 1000 AS period_ms, missed = 'catch_up' AS catches_up, each_tenant, ",
        ms!("created_at"),
        " AS created_ms, ",
        ms!("handled_until"),
        " AS handled_until_ms FROM schedule ORDER BY name"
    );
    let mut schedules = Vec::new();
    for row in sqlx::query(query).bind(clock.epoch_ms()).fetch_all(database).await? {
        let id: Uuid = row.try_get("id")?;
        let fires = sqlx::query_as(concat!(
            "SELECT outcome, late_ms, ",
            ms!("fire_at"),
            " AS at_ms, ",
            ms!("coalesce(through, fire_at)"),
            " AS through_ms FROM schedule_fire WHERE schedule_id = $2 ORDER BY fire_at"
        ));
        let fires = fires.bind(clock.epoch_ms()).bind(id).fetch_all(database).await?;
        schedules.push(ScheduleSeen {
            id,
            name: row.try_get("name")?,
            period_ms: row.try_get("period_ms")?,
            catches_up: row.try_get("catches_up")?,
            each_tenant: row.try_get("each_tenant")?,
            created_ms: row.try_get("created_ms")?,
            handled_until_ms: row.try_get("handled_until_ms")?,
            fires,
        });
    }
    Ok(schedules)
}
