//! `phone.import_file`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use phonenumber::country;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::mpsc;
use windrow_queue::{Handler, JobContext, JobError, JobResult, Outcome};

use super::{
    Config, ImportFile, ImportMetrics, SourceError,
    error_file::ErrorFile,
    layout::{Found, Layout},
    merge::merge,
    reader::{Batch, Start, read_batches},
    source::{Identity, Source},
};

/// Imports files.
#[derive(Clone, Debug)]
pub struct ImportFileHandler {
    config: Arc<Config>,
    database: PgPool,
    metrics: ImportMetrics,
}

/// How far an import got. Advanced in the transaction that holds the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Checkpoint {
    file: Identity,
    layout: Layout,
    /// Where the next row begins.
    offset: u64,
    /// On which line.
    line: u64,
    /// How much of the error file counts.
    errors: u64,
}

impl ImportFileHandler {
    /// A handler that imports from `config.directory` into `database`.
    #[must_use]
    pub fn new(config: Config, database: PgPool, metrics: ImportMetrics) -> Self {
        Self { config: Arc::new(config), database, metrics }
    }

    /// The project must be the job's tenant's: a job is enqueued for a tenant, and its args come from outside.
    async fn check_project(&self, ctx: &JobContext, args: &ImportFile) -> Result<(), JobError> {
        let owner: Option<String> = sqlx::query_scalar("SELECT tenant FROM project WHERE id = $1")
            .bind(args.project_id)
            .fetch_optional(&self.database)
            .await?;
        let owned = owner.is_some_and(|owner| ctx.tenant().is_none_or(|tenant| tenant.as_str() == owner));
        if owned {
            return Ok(());
        }
        let whose = ctx.tenant().map_or_else(String::new, |tenant| format!(" of tenant {tenant}"));
        Err(JobError::bury("unknown_project", anyhow::anyhow!("there is no project {}{whose}", args.project_id)))
    }

    /// The checkpoint that stands, or the first one, which also makes the import's row.
    async fn begin(&self, ctx: &JobContext, args: &ImportFile, source: &Arc<Source>) -> Result<Checkpoint, JobError> {
        if let Some(checkpoint) = ctx.checkpoint::<Checkpoint>()? {
            if checkpoint.file != source.identity {
                return Err(SourceError::Changed { path: args.path.clone(), line: checkpoint.line }.into());
            }
            return Ok(checkpoint);
        }
        let (file, config, asked) = (Arc::clone(source), Arc::clone(&self.config), args.clone());
        let found = blocking(move || Ok(Found::in_source(&file, &config, &asked)?)).await?;
        let first = Checkpoint {
            file: source.identity,
            layout: found.layout,
            offset: found.offset,
            line: found.line,
            errors: 0,
        };
        let mut step = ctx.step(None, &first).await?;
        sqlx::query(
            "INSERT INTO import (id, project_id, path, supplier, bytes_total, bytes_done) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(ctx.id().0)
        .bind(args.project_id)
        .bind(&args.path)
        .bind(&args.supplier)
        .bind(i64::try_from(source.identity.size).unwrap_or(i64::MAX))
        .bind(i64::try_from(found.offset).unwrap_or(i64::MAX))
        .execute(&mut *step)
        .await?;
        step.commit().await?;
        Ok(first)
    }

    async fn commit_batch(
        &self,
        ctx: &JobContext,
        args: &ImportFile,
        checkpoint: &Checkpoint,
        mut batch: Batch,
        errors: &mut ErrorFile,
    ) -> Result<Checkpoint, JobError> {
        let rejects = std::mem::take(&mut batch.rejects);
        let next = Checkpoint {
            offset: batch.offset,
            line: batch.line,
            errors: checkpoint.errors + rejects.len() as u64,
            ..*checkpoint
        };
        if !rejects.is_empty() {
            errors.write_at(rejects, checkpoint.errors).await?;
        }
        let error_file = (next.errors > 0).then(|| errors.path().to_string_lossy());
        let started = Instant::now();
        let mut step = ctx.step(Some(checkpoint), &next).await?;
        let inserted = merge(&mut step, args.project_id, ctx.id().0, &batch, error_file.as_deref()).await?;
        step.commit().await?;
        self.metrics.batch.observe(started.elapsed().as_secs_f64());
        self.metrics.bytes.inc_by(next.offset - checkpoint.offset);
        for (result, rows) in
            [("inserted", inserted), ("duplicate", batch.valid - inserted), ("rejected", batch.rejected)]
        {
            self.metrics.rows.with_label_values(&[result]).inc_by(rows);
        }
        Ok(next)
    }
}

impl Handler for ImportFileHandler {
    type Args = ImportFile;

    async fn run(&self, ctx: JobContext, args: ImportFile) -> JobResult {
        let default = args.default_region.as_deref().map(region).transpose()?;
        check_supplier(args.supplier.as_deref())?;
        self.check_project(&ctx, &args).await?;
        let (config, path) = (Arc::clone(&self.config), args.path.clone());
        let source = Arc::new(blocking(move || Ok(Source::open(&config, &path)?)).await?);
        let mut checkpoint = self.begin(&ctx, &args, &source).await?;
        let (path, length) = (source.error_path(&self.config, ctx.id()), checkpoint.errors);
        let mut errors = blocking(move || Ok(ErrorFile::open(path, length)?)).await?;

        // One batch waits while another is committed; the reader stops when the receiver is dropped.
        let (sender, mut batches) = mpsc::channel(1);
        let (file, config) = (Arc::clone(&source), Arc::clone(&self.config));
        let start = Start {
            layout: checkpoint.layout,
            offset: checkpoint.offset,
            line: checkpoint.line,
            size: source.identity.size,
            rejected_before: checkpoint.errors > 0,
        };
        let reader = tokio::task::spawn_blocking(move || read_batches(&file.file, &start, default, &config, &sender));
        while let Some(batch) = batches.recv().await {
            if ctx.is_cancelled() {
                return Ok(Outcome::Snooze(Duration::ZERO));
            }
            let batch = batch.map_err(|error| source.unreadable(error))?;
            checkpoint = self.commit_batch(&ctx, &args, &checkpoint, batch, &mut errors).await?;
        }
        reader.await.map_err(|error| JobError::retry("reader", error))?;
        let line = checkpoint.line;
        let file = Arc::clone(&source);
        blocking(move || Ok(file.check_unchanged(line)?)).await?;
        self.finish(&ctx, &checkpoint, &errors).await
    }
}

impl ImportFileHandler {
    async fn finish(&self, ctx: &JobContext, checkpoint: &Checkpoint, errors: &ErrorFile) -> JobResult {
        let mut tx = ctx.begin().await?;
        sqlx::query(
            "UPDATE import SET finished_at = now(), updated_at = now(), bytes_done = bytes_total WHERE id = $1",
        )
        .bind(ctx.id().0)
        .execute(&mut *tx)
        .await?;
        // Within the transaction: whoever lost the job cannot be here, and so cannot cut the file.
        errors.finish(checkpoint.errors).await?;
        let committed = tx.commit().await?;
        self.metrics.finished.inc();
        Ok(committed.into())
    }
}

fn region(name: &str) -> Result<country::Id, JobError> {
    name.trim().to_ascii_uppercase().parse().map_err(|_| {
        JobError::bury(
            "invalid_region",
            anyhow::anyhow!("default_region {name:?} is not a country: use two letters of ISO 3166, such as DE"),
        )
    })
}

fn check_supplier(supplier: Option<&str>) -> Result<(), JobError> {
    match supplier.map(|supplier| supplier.chars().count()) {
        None | Some(1..=200) => Ok(()),
        Some(length) => Err(JobError::bury(
            "invalid_supplier",
            anyhow::anyhow!("supplier must have 1 to 200 characters, and has {length}"),
        )),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| JobError::retry("file_system", error))?
}
