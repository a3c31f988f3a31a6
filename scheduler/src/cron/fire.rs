//! Due schedules: plan, record, enqueue, move on.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{FromRow, PgConnection, Row as _};
use std::collections::HashSet;
use tokio::time::Instant;
use uuid::Uuid;
use windrow_queue::{Catalog, Fire, NewJob, journal};

use super::Cron;
use windrow_schedule::{Definition, Due, Overlap, Plan, Row, Tenants, columns, jitter_share};

/// Jobs in one transaction; the schedules that are left over are due still.
const MAX_JOBS: usize = 5000;

/// After this a schedule that cannot fire is tried again.
const RETRY: TimeDelta = TimeDelta::seconds(60);

/// What one pass did.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) fired: u64,
    pub(super) skipped: u64,
    pub(super) queued: u64,
    pub(super) missed: u64,
    pub(super) jobs: u64,
    pub(super) errors: u64,
}

impl Counts {
    pub(super) const fn any(&self) -> bool {
        self.fired + self.skipped + self.queued + self.missed + self.jobs + self.errors > 0
    }

    pub(super) const fn list(&self) -> [(&'static str, u64); 6] {
        [
            ("fired", self.fired),
            ("skipped", self.skipped),
            ("queued", self.queued),
            ("missed", self.missed),
            ("jobs", self.jobs),
            ("in error", self.errors),
        ]
    }
}

#[derive(FromRow)]
struct Claimed {
    #[sqlx(flatten)]
    row: Row,
    now: DateTime<Utc>,
}

/// A row of `schedule_fire` to be, with the job that goes with it.
struct Record {
    schedule_id: Uuid,
    fire_at: DateTime<Utc>,
    outcome: &'static str,
    through: Option<DateTime<Utc>>,
    times: i32,
    late: TimeDelta,
    job: Option<NewJob>,
}

/// The new state of a schedule.
struct Moved {
    id: Uuid,
    handled_until: DateTime<Utc>,
    next_fire_at: Option<DateTime<Utc>>,
    due_at: Option<DateTime<Utc>>,
    missed_count: i32,
    queued_fire_at: Option<DateTime<Utc>>,
    fan_fire_at: Option<DateTime<Utc>>,
    fan_missed: i32,
    error: Option<String>,
}

/// Everything that one transaction writes.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    moved: Vec<Moved>,
    jobs: usize,
}

/// The due time and the id of a schedule: the order in which they are fired.
pub(super) type Place = (DateTime<Utc>, Uuid);

/// Fires one batch of due schedules, those after this place. Where it ended, if there may be more.
pub(super) async fn fire_due(cron: &Cron, after: Option<Place>, counts: &mut Counts) -> anyhow::Result<Option<Place>> {
    // Nothing is due before 1970.
    let after = after.unwrap_or((DateTime::UNIX_EPOCH, Uuid::nil()));
    let started = Instant::now();
    let mut tx = cron.database.begin().await?;
    // now() is the begin of this transaction: an index can be searched for it, and one pass has one time.
    let claimed: Vec<Claimed> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", now() AS now FROM schedule
         WHERE enabled AND NOT paused AND due_at IS NOT NULL AND due_at <= now() AND fan_fire_at IS NULL
           AND (due_at, id) > ($2, $3)
         ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED"
    ))
    .bind(i64::from(cron.config.batch))
    .bind(after.0)
    .bind(after.1)
    .fetch_all(&mut *tx)
    .await?;
    let Some(now) = claimed.first().map(|claimed| claimed.now) else { return Ok(None) };
    let standing = standing(&mut tx, &claimed).await?;
    let mut batch = Batch::default();
    let mut place = None;
    for Claimed { row, .. } in &claimed {
        if batch.jobs >= MAX_JOBS {
            break;
        }
        place = row.due_at.map(|due_at| (due_at, row.id));
        match row.definition(&cron.catalog) {
            Ok(definition) => {
                let plan = row.plan(&definition, now);
                if let Err(error) = batch.add(row, &definition, plan, standing.contains(&row.id), now, &cron.catalog) {
                    batch.failed(row, now, error.to_string());
                }
            }
            Err(error) => batch.failed(row, now, error.to_string()),
        }
    }
    for failed in batch.moved.iter().filter_map(|moved| moved.error.as_deref()) {
        tracing::error!(error = failed, "a schedule cannot fire; tried again in a minute");
        counts.errors += 1;
    }
    write(&mut tx, &mut batch).await?;
    tx.commit().await?;
    let took = started.elapsed().as_secs_f64();
    for record in &batch.records {
        let times = u64::from(record.times.unsigned_abs());
        cron.metrics
            .fires
            .with_label_values(&[if record.outcome == "fanning" { "fired" } else { record.outcome }])
            .inc_by(times);
        match record.outcome {
            "fired" | "fanning" => {
                counts.fired += 1;
                counts.jobs += u64::from(record.job.is_some());
                cron.metrics.lag.observe(record.late.as_seconds_f64() + took);
            }
            "skipped" => counts.skipped += 1,
            "queued" => counts.queued += 1,
            _ => counts.missed += times,
        }
    }
    Ok(place.filter(|_| claimed.len() >= usize::from(cron.config.batch)))
}

/// Which of these schedules have a job, or a follow-up of one, that is not over. Dead ones are.
async fn standing(tx: &mut PgConnection, claimed: &[Claimed]) -> Result<HashSet<Uuid>, sqlx::Error> {
    let asked: Vec<Uuid> =
        claimed.iter().filter(|claimed| claimed.row.overlap != "allow").map(|claimed| claimed.row.id).collect();
    if asked.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = sqlx::query(
        "SELECT id FROM unnest($1::uuid[]) AS asked (id)
         WHERE EXISTS (SELECT FROM job_journal j WHERE j.schedule_id = asked.id)",
    )
    .bind(asked)
    .fetch_all(tx)
    .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The fire that a job is told of.
pub(super) const fn fire(schedule_id: Uuid, due: Due) -> Fire {
    Fire { schedule_id, fire_at: due.fire_at, missed: due.missed }
}

impl Batch {
    fn add(
        &mut self,
        row: &Row,
        definition: &Definition,
        mut plan: Plan,
        mut standing: bool,
        now: DateTime<Utc>,
        catalog: &Catalog,
    ) -> anyhow::Result<()> {
        let share = TimeDelta::from_std(jitter_share(row.id, definition.jitter))?;
        let late = |fire_at: DateTime<Utc>| now - (fire_at + share);
        let mut records = Vec::with_capacity(plan.fires.len() + 1);
        if let Some(missed) = plan.missed {
            records.push(Record {
                schedule_id: row.id,
                fire_at: missed.first,
                outcome: "missed",
                through: Some(missed.last),
                times: missed.times,
                late: late(missed.first),
                job: None,
            });
        }
        let (mut queued, mut fanning, mut untold) = (row.queued_fire_at, None, 0_i32);
        for (index, due) in plan.fires.iter().enumerate() {
            let mut due = *due;
            due.missed = due.missed.saturating_add(std::mem::take(&mut untold));
            let (outcome, job) = match definition.overlap {
                Overlap::Skip if standing => ("skipped", None),
                Overlap::QueueOne if queued.is_some() => ("skipped", None),
                Overlap::QueueOne if standing => {
                    queued = Some(due.fire_at);
                    ("queued", None)
                }
                _ if definition.tenants == Tenants::Each => {
                    fanning = Some(due);
                    ("fanning", None)
                }
                _ => ("fired", Some(definition.job(catalog, definition.tenant(), fire(row.id, due))?)),
            };
            standing |= outcome == "fired";
            if matches!(outcome, "skipped" | "queued") {
                untold = due.missed;
            }
            records.push(Record {
                schedule_id: row.id,
                fire_at: due.fire_at,
                outcome,
                through: None,
                times: 1,
                late: late(due.fire_at),
                job,
            });
            if fanning.is_some() {
                // One fan-out at a time; the fire times behind it are still due when it is through.
                if let Some(next) = plan.fires.get(index + 1) {
                    plan.next = Some(next.fire_at);
                    plan.handled_until = due.fire_at;
                }
                break;
            }
        }
        self.jobs += records.iter().filter(|record| record.job.is_some()).count();
        self.records.append(&mut records);
        self.moved.push(Moved {
            id: row.id,
            handled_until: plan.handled_until,
            next_fire_at: plan.next,
            due_at: plan.next.map(|next| next + share),
            missed_count: plan.carried.saturating_add(untold),
            queued_fire_at: queued,
            fan_fire_at: fanning.map(|due| due.fire_at),
            fan_missed: fanning.map_or(0, |due| due.missed),
            error: None,
        });
        Ok(())
    }

    /// It keeps its place: what is due now is due again when it can fire.
    fn failed(&mut self, row: &Row, now: DateTime<Utc>, error: String) {
        self.moved.push(Moved {
            id: row.id,
            handled_until: row.handled_until,
            next_fire_at: row.next_fire_at,
            due_at: Some(now + RETRY),
            missed_count: row.missed_count,
            queued_fire_at: row.queued_fire_at,
            fan_fire_at: None,
            fan_missed: 0,
            error: Some(error),
        });
    }
}

async fn write(tx: &mut PgConnection, batch: &mut Batch) -> Result<(), sqlx::Error> {
    let records = &batch.records;
    let inserted = sqlx::query(
        "INSERT INTO schedule_fire (schedule_id, fire_at, outcome, job_id, jobs, through, times, late_ms)
         SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::int[], $6::timestamptz[],
                              $7::int[], $8::bigint[])
         ON CONFLICT DO NOTHING
         RETURNING schedule_id, fire_at",
    )
    .bind(records.iter().map(|record| record.schedule_id).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.fire_at).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.outcome).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.job.as_ref().map(|job| job.id.0)).collect::<Vec<_>>())
    .bind(records.iter().map(|record| i32::from(record.job.is_some())).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.through).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.times).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.late.num_milliseconds()).collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?;
    if inserted.len() < batch.records.len() {
        // A record that stands was made by somebody who moved this schedule further than its row says: a row that was put
        // back to an older state. The fire has its outcome; it gets no second one.
        let new: HashSet<(Uuid, DateTime<Utc>)> = inserted.iter().map(|row| (row.get(0), row.get(1))).collect();
        batch.records.retain(|record| {
            let is_new = new.contains(&(record.schedule_id, record.fire_at));
            if !is_new {
                tracing::warn!(schedule_id = %record.schedule_id, fire_at = %record.fire_at, "fired before; left alone");
            }
            is_new
        });
        for moved in &mut batch.moved {
            moved.fan_fire_at = moved.fan_fire_at.filter(|fire_at| new.contains(&(moved.id, *fire_at)));
        }
    }
    let jobs: Vec<NewJob> = batch.records.iter().filter_map(|record| record.job.clone()).collect();
    if !jobs.is_empty() {
        journal::enqueue_in(&mut *tx, &jobs).await?;
    }
    let moved = &batch.moved;
    sqlx::query(
        "UPDATE schedule s SET handled_until = m.handled_until, next_fire_at = m.next_fire_at, due_at = m.due_at,
             missed_count = m.missed_count, queued_fire_at = m.queued_fire_at, fan_fire_at = m.fan_fire_at, fan_after = '',
             fan_missed = m.fan_missed, error = m.error
         FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::int[], $6::timestamptz[],
                     $7::timestamptz[], $8::int[], $9::text[])
              AS m (id, handled_until, next_fire_at, due_at, missed_count, queued_fire_at, fan_fire_at, fan_missed, error)
         WHERE s.id = m.id",
    )
    .bind(moved.iter().map(|moved| moved.id).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.handled_until).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.next_fire_at).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.due_at).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.missed_count).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.queued_fire_at).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.fan_fire_at).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.fan_missed).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.error.clone()).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
