//! One batch into Postgres.

use sqlx::PgConnection;
use uuid::Uuid;
use windrow_queue::JobError;

use super::reader::Batch;

/// Numbers of a batch that are new to the project. The others were there before.
///
/// They come by binary COPY into a temporary table, which is not logged, and from there by one statement. Ascending, so that
/// two imports into one project wait for each other, if at all, in the same order.
async fn insert_new(tx: &mut PgConnection, project: Uuid, import: Uuid, copy: &[u8]) -> Result<u64, sqlx::Error> {
    sqlx::query("CREATE TEMPORARY TABLE import_batch (number bigint NOT NULL, region text NOT NULL) ON COMMIT DROP")
        .persistent(false)
        .execute(&mut *tx)
        .await?;
    let mut input = tx.copy_in_raw("COPY import_batch (number, region) FROM STDIN (FORMAT binary)").await?;
    if let Err(error) = input.send(copy).await {
        input.abort("the batch could not be sent").await?;
        return Err(error);
    }
    input.finish().await?;
    let inserted = sqlx::query(
        "INSERT INTO phone_number (project_id, number, import_id, region)
         SELECT $1, number, $2, region FROM import_batch ORDER BY number
         ON CONFLICT DO NOTHING",
    )
    .bind(project)
    .bind(import)
    // The table is another one in each transaction.
    .persistent(false)
    .execute(tx)
    .await?;
    Ok(inserted.rows_affected())
}

/// Merges a batch and counts it. Returns how many numbers were new.
pub(super) async fn merge(
    tx: &mut PgConnection,
    project: Uuid,
    import: Uuid,
    batch: &Batch,
    error_file: Option<&str>,
) -> Result<u64, JobError> {
    // Whoever removes a project removes its numbers first: it must not go in between.
    let stands: Option<Uuid> = sqlx::query_scalar("SELECT id FROM project WHERE id = $1 FOR KEY SHARE")
        .bind(project)
        .fetch_optional(&mut *tx)
        .await?;
    if stands.is_none() {
        return Err(JobError::bury("unknown_project", anyhow::anyhow!("project {project} was removed")));
    }
    let inserted = if batch.distinct > 0 { insert_new(&mut *tx, project, import, &batch.copy).await? } else { 0 };
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let counted = sqlx::query(
        "UPDATE import SET bytes_done = $2, rows_read = rows_read + $3, inserted = inserted + $4,
                duplicates = duplicates + $5, rejected = rejected + $6, error_file = coalesce($7, error_file),
                updated_at = now()
         WHERE id = $1",
    )
    .bind(import)
    .bind(signed(batch.offset))
    .bind(signed(batch.rows))
    .bind(signed(inserted))
    .bind(signed(batch.valid - inserted))
    .bind(signed(batch.rejected))
    .bind(error_file)
    .execute(tx)
    .await?;
    if counted.rows_affected() == 1 {
        Ok(inserted)
    } else {
        Err(JobError::bury("import_removed", anyhow::anyhow!("the row of import {import} was removed")))
    }
}
