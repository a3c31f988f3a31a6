#![allow(clippy::unwrap_used, reason = "tests")]

mod faults;
mod files;
mod refused;

use std::{path::PathBuf, sync::Arc};

use prometheus::Registry;
use sqlx::PgPool;
use tempfile::TempDir;
use uuid::Uuid;
use windrow_queue::{Handler, JobError, JobId, Outcome, Tenant};

use super::*;
use crate::testing::{attempt, attempt_of, count, database, standing, tenant};

/// A project, a folder to import from, and the smallest batches there are.
struct Desk {
    pool: PgPool,
    tenant: Tenant,
    project: Uuid,
    folder: Arc<TempDir>,
    config: Config,
}

impl Desk {
    async fn open() -> Self {
        let pool = database().await;
        let tenant = tenant(&pool, "acme").await;
        let project = create_project(&mut pool.acquire().await.unwrap(), &tenant, "spring").await.unwrap().id;
        let folder = tempfile::tempdir().unwrap();
        let config =
            Config { directory: folder.path().to_owned(), batch_rows: 100, max_row_bytes: 1024, ..Config::default() };
        Self { pool, tenant, project, folder: Arc::new(folder), config }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> ImportFile {
        std::fs::write(self.folder.path().join(name), content).unwrap();
        ImportFile::new(self.project, name)
    }

    fn handler(&self) -> ImportFileHandler {
        ImportFileHandler::new(self.config.clone(), self.pool.clone(), ImportMetrics::new(&Registry::new()))
    }

    /// Imports a file in one attempt.
    async fn import(&self, args: &ImportFile) -> Result<ImportProgress, JobError> {
        let (ctx, id) = attempt(&self.pool, Some(&self.tenant), args).await;
        self.handler().run(ctx, args.clone()).await?;
        Ok(self.progress(id).await)
    }

    async fn again(&self, id: JobId) -> Result<Outcome, JobError> {
        let (ctx, args) = attempt_of::<ImportFile>(&self.pool, id).await;
        self.handler().run(ctx, args).await
    }

    async fn progress(&self, id: JobId) -> ImportProgress {
        import_progress(&self.pool, id).await.unwrap().unwrap()
    }

    async fn numbers(&self) -> Vec<i64> {
        sqlx::query_scalar("SELECT number FROM phone_number WHERE project_id = $1 ORDER BY number")
            .bind(self.project)
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }
}

/// The rejected rows: line and reason.
fn rejected(progress: &ImportProgress) -> Vec<(u64, String)> {
    let Some(path) = progress.error_file.as_ref().map(PathBuf::from) else { return Vec::new() };
    csv::Reader::from_path(path)
        .unwrap()
        .records()
        .map(Result::unwrap)
        .map(|row| (row[0].parse().unwrap(), row[1].to_owned()))
        .collect()
}

/// A file of `rows` rows: each seventh is bad, each eleventh repeats an earlier number.
fn mixed(rows: u64) -> (String, Vec<i64>, Vec<u64>) {
    let mut text = String::from("name;phone\n");
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let number = if row % 11 == 10 { row - 10 } else { row };
        if row % 7 == 3 {
            text.push_str(&format!("\"Row; {row}\";0{number}\n"));
            bad.push(row + 2);
        } else {
            let number = 4_915_110_000_000 + i64::try_from(number * 37).unwrap();
            text.push_str(&format!("\"Row; {row}\";+{number}\n"));
            good.push(number);
        }
    }
    good.sort_unstable();
    good.dedup();
    (text, good, bad)
}
