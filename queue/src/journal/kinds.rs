//! The kinds that the database knows: what `windrow_enqueue` checks a job against that comes by SQL.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use sqlx::PgPool;

use crate::{catalog::Catalog, job::MAX_ARGS_BYTES, policy::Delivery};

/// Writes the kinds of a catalog into the database; returns how many are new or different. Kinds that are there already and not
/// in the catalog stay: another program has them. Of two programs that describe a kind differently the one that came last counts.
///
/// # Errors
/// When Postgres is away, or lacks the table.
pub async fn register_kinds(pool: &PgPool, catalog: &Catalog) -> Result<u64, sqlx::Error> {
    let kinds = || catalog.iter();
    let required: Vec<serde_json::Value> = kinds().map(|info| info.required.into()).collect();
    let changed = sqlx::query(
        "INSERT INTO job_kind AS known (kind, queue, band, rescue_limit, at_most_once, encrypted, required, max_args_bytes)
         SELECT kind, queue, band, rescue_limit, at_most_once, encrypted,
                ARRAY (SELECT jsonb_array_elements_text(required)), $8
         FROM unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[], $5::bool[], $6::bool[], $7::jsonb[])
              AS t (kind, queue, band, rescue_limit, at_most_once, encrypted, required)
         ORDER BY kind
         ON CONFLICT (kind) DO UPDATE
             SET queue = excluded.queue, band = excluded.band, rescue_limit = excluded.rescue_limit,
                 at_most_once = excluded.at_most_once, encrypted = excluded.encrypted, required = excluded.required,
                 max_args_bytes = excluded.max_args_bytes, changed_at = now()
         WHERE (known.queue, known.band, known.rescue_limit, known.at_most_once, known.encrypted, known.required,
                known.max_args_bytes)
             IS DISTINCT FROM (excluded.queue, excluded.band, excluded.rescue_limit, excluded.at_most_once, excluded.encrypted,
                excluded.required, excluded.max_args_bytes)",
    )
    .bind(kinds().map(|info| info.kind.as_str()).collect::<Vec<_>>())
    .bind(kinds().map(|info| info.queue.as_str()).collect::<Vec<_>>())
    .bind(kinds().map(|info| i16::from(info.policy.band.number())).collect::<Vec<_>>())
    .bind(kinds().map(|info| info.policy.rescue_limit.map(|limit| i16::from(limit.min(254)))).collect::<Vec<_>>())
    .bind(kinds().map(|info| info.policy.delivery == Delivery::AtMostOnce).collect::<Vec<_>>())
    .bind(kinds().map(|info| info.policy.encrypted).collect::<Vec<_>>())
    .bind(required)
    .bind(i32::try_from(MAX_ARGS_BYTES).unwrap_or(i32::MAX))
    .execute(pool)
    .await?;
    Ok(changed.rows_affected())
}

/// The same, tried again until it succeeds: a Postgres that is away, or not migrated yet, is waited for. Without it nothing is
/// lost but that new kinds cannot be enqueued by SQL. Dropped, it gives up.
pub async fn keep_registering(pool: PgPool, catalog: Catalog) {
    let mut delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(Duration::from_secs(30))
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        match register_kinds(&pool, &catalog).await {
            Ok(0) => return,
            Ok(changed) => return tracing::info!(changed, "kinds are registered for enqueuing by SQL"),
            Err(error) => tracing::debug!(%error, "the kinds cannot be registered yet; tried again"),
        }
        tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(30))).await;
    }
}
