//! The transaction of a fetch: vacancies, their scoring jobs, the source's state.

use rust_decimal::Decimal;
use sqlx::{Row, types::Json};
use uuid::Uuid;
use windrow_queue::{JobError, NewJob, Tenant, journal::JobTx};

use super::{
    download::{Download, Fetched},
    item::Item,
    source::Source,
};
use crate::scoring::ScoreVacancy;

/// Rows in one statement.
const CHUNK: usize = 500;

/// What became of the items of a fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub inserted: u64,
    pub updated: u64,
    pub duplicate: u64,
    pub skipped: u64,
}

impl Counts {
    const fn fetched(&self) -> u64 {
        self.inserted + self.updated + self.duplicate + self.skipped
    }
}

/// Puts a fetch into the database. `None` when the source is gone: nothing was changed, roll back.
pub(super) async fn store(
    tx: &mut JobTx,
    source: &Source,
    download: Download,
    traceparent: Option<&str>,
    rescore_changed: bool,
) -> Result<Option<Counts>, JobError> {
    // The source's row first: with it locked it cannot be deleted under the vacancies.
    let stands = sqlx::query("SELECT FROM source WHERE id = $1 FOR NO KEY UPDATE")
        .bind(source.id)
        .fetch_optional(&mut **tx)
        .await?;
    if stands.is_none() {
        return Ok(None);
    }
    let Download::Fetched(mut fetched) = download else {
        sqlx::query(
            "UPDATE source SET last_fetch_at = now(), failures = 0, fetches = fetches + 1, not_modified = not_modified + 1
             WHERE id = $1",
        )
        .bind(source.id)
        .execute(&mut **tx)
        .await?;
        return Ok(Some(Counts::default()));
    };
    let mut counts = Counts { skipped: fetched.skipped, duplicate: fetched.repeated, ..Counts::default() };
    // In the order of the index, so that two sources of a tenant which share vacancies never wait for each other in a circle.
    fetched.items.sort_unstable_by(|a, b| a.url.cmp(&b.url));
    for items in fetched.items.chunks(CHUNK) {
        let (inserted, updated) = upsert(tx, source, items, rescore_changed).await?;
        counts.inserted += inserted.len() as u64;
        counts.updated += updated;
        counts.duplicate += (items.len() - inserted.len()) as u64 - updated;
        enqueue_scoring(tx, &source.tenant, &inserted, traceparent).await?;
    }
    record(tx, source, &fetched, &counts).await?;
    Ok(Some(counts))
}

/// Inserts what is new, as queued; updates what this source brought before and now differs. Gives the ids of new ones, and
/// the number of updated ones.
async fn upsert(
    tx: &mut JobTx,
    source: &Source,
    items: &[Item],
    rescore_changed: bool,
) -> Result<(Vec<Uuid>, u64), JobError> {
    fn column<'a, T: 'a>(items: &'a [Item], pick: fn(&'a Item) -> T) -> Vec<T> {
        items.iter().map(pick).collect()
    }
    let rows = sqlx::query(
        "INSERT INTO vacancy AS v (tenant, source_id, url, title, description, company, location, salary_min, salary_max,
                                   tags, published_at, status, score_jobs, queued_at)
         SELECT $1, $2, url, title, description, company, location, salary_min, salary_max,
                ARRAY(SELECT jsonb_array_elements_text(tags)), published_at, 'queued', 1, now()
         FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::numeric[], $9::numeric[], $10::jsonb[],
                     $11::timestamptz[]) WITH ORDINALITY
              AS t (url, title, description, company, location, salary_min, salary_max, tags, published_at, position)
         ORDER BY position
         ON CONFLICT (tenant, url) DO UPDATE SET source_id = excluded.source_id, title = excluded.title,
             description = excluded.description, company = excluded.company, location = excluded.location,
             salary_min = excluded.salary_min, salary_max = excluded.salary_max, tags = excluded.tags,
             published_at = coalesce(v.published_at, excluded.published_at), updated_at = now(),
             status = CASE WHEN $12 THEN 'new' ELSE v.status END,
             score_jobs = CASE WHEN $12 THEN 0 ELSE v.score_jobs END
         WHERE (v.source_id = excluded.source_id OR v.source_id IS NULL)
           AND ((v.title, v.description, v.company, v.location, v.salary_min, v.salary_max, v.tags)
                IS DISTINCT FROM (excluded.title, excluded.description, excluded.company, excluded.location,
                                  excluded.salary_min, excluded.salary_max, excluded.tags)
                OR (v.published_at IS NULL AND excluded.published_at IS NOT NULL))
         RETURNING v.id, v.xmax = 0 AS inserted",
    )
    .bind(&source.tenant)
    .bind(source.id)
    .bind(column(items, |item| item.url.as_str()))
    .bind(column(items, |item| item.title.as_str()))
    .bind(column(items, |item| item.description.as_str()))
    .bind(column(items, |item| item.company.as_deref()))
    .bind(column(items, |item| item.location.as_deref()))
    .bind(column::<Option<Decimal>>(items, |item| item.salary_min))
    .bind(column::<Option<Decimal>>(items, |item| item.salary_max))
    .bind(column(items, |item| Json(&item.tags)))
    .bind(column(items, |item| item.published))
    .bind(rescore_changed)
    .fetch_all(&mut **tx)
    .await?;
    // A row that this statement made has no xmax; one that it updated has its own transaction's.
    let inserted: Vec<Uuid> = rows.iter().filter(|row| row.get("inserted")).map(|row| row.get("id")).collect();
    let updated = (rows.len() - inserted.len()) as u64;
    Ok((inserted, updated))
}

async fn enqueue_scoring(
    tx: &mut JobTx,
    tenant: &str,
    vacancies: &[Uuid],
    traceparent: Option<&str>,
) -> Result<(), JobError> {
    let tenant = Tenant::new(tenant).map_err(|error| JobError::bury("invalid_tenant", error))?;
    let jobs = vacancies
        .iter()
        .map(|id| ScoreVacancy::job(&tenant, *id).map(|job| job.traceparent(traceparent.map(str::to_owned))))
        .collect::<Result<Vec<NewJob>, _>>()
        .map_err(|error| JobError::bury("invalid_job", error))?;
    tx.enqueue(&jobs).await?;
    Ok(())
}

/// Validators are kept only if the source still is what was fetched: after a change of its mapping a 304 would hide what the
/// new mapping gives.
async fn record(tx: &mut JobTx, source: &Source, fetched: &Fetched, counts: &Counts) -> Result<(), JobError> {
    let total = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    sqlx::query(
        "UPDATE source SET etag = CASE WHEN version = $2 THEN $3 END, last_modified = CASE WHEN version = $2 THEN $4 END,
                last_fetch_at = now(), failures = 0, fetches = fetches + 1, items_fetched = items_fetched + $5,
                items_inserted = items_inserted + $6, items_updated = items_updated + $7,
                items_duplicate = items_duplicate + $8, items_skipped = items_skipped + $9
         WHERE id = $1",
    )
    .bind(source.id)
    .bind(source.version)
    .bind(fetched.etag.as_deref())
    .bind(fetched.last_modified.as_deref())
    .bind(total(counts.fetched()))
    .bind(total(counts.inserted))
    .bind(total(counts.updated))
    .bind(total(counts.duplicate))
    .bind(total(counts.skipped))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
