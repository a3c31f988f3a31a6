//! What has happened so far: counted in the stores and in this process' metrics, for the demo's tenants alone.

use chrono::{DateTime, Utc};
use prometheus::Registry;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;
use windrow_queue::{QueueName, store::Store};

use super::seed::TENANTS;

/// Where the figures come from.
#[derive(Clone, Debug)]
pub(super) struct Books {
    pub(super) store: Store,
    pub(super) database: PgPool,
    pub(super) registry: Registry,
    pub(super) queues: Vec<QueueName>,
    /// What began before, by Postgres' clock, is not this run's.
    pub(super) since: DateTime<Utc>,
}

/// All figures at one moment. Counters count from the beginning of the database.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) sources: Sources,
    pub(super) vacancies: Vacancies,
    pub(super) import: Option<Import>,
    pub(super) payments: Payments,
    pub(super) jobs: Jobs,
}

#[derive(Clone, Copy, Debug, Default, FromRow)]
pub(super) struct Sources {
    pub(super) sources: i64,
    /// Those that came through in this run, unchanged ones included.
    pub(super) reached: i64,
    pub(super) fetched: i64,
    pub(super) inserted: i64,
    pub(super) updated: i64,
    pub(super) duplicates: i64,
    pub(super) skipped: i64,
    pub(super) not_modified: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vacancies {
    pub(super) stored: i64,
    /// How many have the score 1, 2, … 10.
    pub(super) scores: [i64; 10],
}

impl Vacancies {
    pub(super) fn scored(&self) -> i64 {
        self.scores.iter().sum()
    }
}

#[derive(Clone, Copy, Debug, Default, FromRow)]
pub(super) struct Import {
    pub(super) bytes_total: i64,
    pub(super) bytes_done: i64,
    pub(super) imported: i64,
    pub(super) duplicates: i64,
    pub(super) rejected: i64,
    pub(super) finished: bool,
}

#[derive(Clone, Copy, Debug, Default, FromRow)]
pub(super) struct Payments {
    pub(super) posted: i64,
    /// Payments with a due date that is not posted.
    pub(super) due: i64,
    pub(super) failed: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Jobs {
    /// Standing in the journal.
    pub(super) standing: i64,
    /// Attempts of this process that failed and were put off.
    pub(super) retried: u64,
    /// Journaled ones of this run, and all fast ones.
    pub(super) dead: u64,
}

impl Figures {
    /// Reads them all. `import` is the import job's id, once it is known.
    pub(super) async fn read(books: &Books, import: Option<Uuid>) -> anyhow::Result<Self> {
        let database = &books.database;
        // First: when nothing stands any more, what is read after this is what all jobs came to.
        let jobs = jobs(books).await?;
        Ok(Self {
            sources: sources(database, books.since).await?,
            vacancies: vacancies(database).await?,
            import: match import {
                Some(id) => find_import(database, id).await?,
                None => None,
            },
            payments: payments(database).await?,
            jobs,
        })
    }

    /// What came to pass after `before`: counters become differences, all else is as it stands.
    pub(super) fn since(mut self, before: &Self) -> Self {
        let (now, then) = (&mut self.sources, &before.sources);
        now.fetched -= then.fetched;
        now.inserted -= then.inserted;
        now.updated -= then.updated;
        now.duplicates -= then.duplicates;
        now.skipped -= then.skipped;
        now.not_modified -= then.not_modified;
        self.payments.posted -= before.payments.posted;
        self.jobs.dead = self.jobs.dead.saturating_sub(before.jobs.dead);
        self
    }
}

async fn sources(database: &PgPool, since: DateTime<Utc>) -> Result<Sources, sqlx::Error> {
    sqlx::query_as(
        "SELECT count(*) AS sources, count(*) FILTER (WHERE last_fetch_at >= $2) AS reached,
             coalesce(sum(items_fetched), 0)::bigint AS fetched, coalesce(sum(items_inserted), 0)::bigint AS inserted,
             coalesce(sum(items_updated), 0)::bigint AS updated, coalesce(sum(items_duplicate), 0)::bigint AS duplicates,
             coalesce(sum(items_skipped), 0)::bigint AS skipped, coalesce(sum(not_modified), 0)::bigint AS not_modified
         FROM source WHERE tenant = ANY($1) AND active",
    )
    .bind(&TENANTS[..])
    .bind(since)
    .fetch_one(database)
    .await
}

async fn vacancies(database: &PgPool) -> anyhow::Result<Vacancies> {
    let rows: Vec<(Option<i16>, i64)> = sqlx::query_as(
        "SELECT CASE WHEN status = 'scored' THEN score END AS scored, count(*) FROM vacancy WHERE tenant = ANY($1) GROUP BY 1",
    )
    .bind(&TENANTS[..])
    .fetch_all(database)
    .await?;
    let mut vacancies = Vacancies::default();
    for (score, count) in rows {
        vacancies.stored += count;
        if let Some(slot) = score.and_then(|score| usize::try_from(score - 1).ok()) {
            *vacancies.scores.get_mut(slot).ok_or_else(|| anyhow::anyhow!("a vacancy has a score beyond 10"))? += count;
        }
    }
    Ok(vacancies)
}

async fn find_import(database: &PgPool, id: Uuid) -> Result<Option<Import>, sqlx::Error> {
    sqlx::query_as(
        "SELECT bytes_total, bytes_done, inserted AS imported, duplicates, rejected, finished_at IS NOT NULL AS finished
         FROM import WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(database)
    .await
}

async fn payments(database: &PgPool) -> Result<Payments, sqlx::Error> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM payment_run r JOIN recurring_payment p ON p.id = r.recurring_payment_id
                 WHERE p.tenant = ANY($1) AND r.outcome = 'posted') AS posted,
             count(*) FILTER (WHERE state = 'active' AND next_due_at <= now()) AS due,
             count(*) FILTER (WHERE state = 'failed') AS failed
         FROM recurring_payment WHERE tenant = ANY($1)",
    )
    .bind(&TENANTS[..])
    .fetch_one(database)
    .await
}

async fn jobs(books: &Books) -> anyhow::Result<Jobs> {
    // Sweeps and vacancy.fetch_all are nobody's in particular.
    let (standing, dead): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM job_journal WHERE tenant IS NULL OR tenant = ANY($1)),
             (SELECT count(*) FROM job_closed
              WHERE state = 'dead' AND closed_at >= $2 AND (tenant IS NULL OR tenant = ANY($1)))",
    )
    .bind(&TENANTS[..])
    .bind(books.since)
    .fetch_one(&books.database)
    .await?;
    let mut fast = 0;
    for queue in &books.queues {
        fast += books.store.counts(queue).await?.dead;
    }
    Ok(Jobs { standing, retried: retried(&books.registry), dead: u64::try_from(dead)? + fast })
}

/// From this process' own metric, as anybody reads it at `/metrics`.
fn retried(registry: &Registry) -> u64 {
    let families = registry.gather();
    let finished = families.iter().filter(|family| family.name() == "windrow_jobs_finished_total");
    let retries = finished
        .flat_map(|family| family.get_metric())
        .filter(|metric| metric.get_label().iter().any(|label| label.name() == "outcome" && label.value() == "retry"));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter of whole events")]
    retries.map(|metric| metric.get_counter().get_value() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use windrow_queue::metrics::QueueMetrics;

    #[test]
    fn retries_are_summed_over_queues_and_kinds_and_nothing_else_is() {
        let registry = Registry::new();
        let metrics = QueueMetrics::new(&registry);
        assert_eq!(retried(&registry), 0);
        metrics.finished.with_label_values(&["fetch", "a.b", "retry"]).inc();
        metrics.finished.with_label_values(&["import", "c.d", "retry"]).inc_by(2);
        metrics.finished.with_label_values(&["import", "c.d", "complete"]).inc_by(5);
        assert_eq!(retried(&registry), 3);
    }
}
