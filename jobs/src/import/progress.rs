//! Projects, and how far imports are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;
use windrow_queue::{JobId, Tenant};

/// Where the numbers of one undertaking of a tenant are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Project {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// Unique in the tenant.
    pub name: String,
}

/// Why a project was not created.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// There is no such tenant.
    #[error("there is no tenant {0:?}; create it first")]
    UnknownTenant(String),
    /// Empty or too long.
    #[error("a project's name must have 1 to 200 characters, and has {0}")]
    NameLength(usize),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The project of this name, made if there is none.
///
/// # Errors
/// When the tenant does not exist or the name is empty or too long.
pub async fn create_project(
    connection: &mut PgConnection,
    tenant: &Tenant,
    name: &str,
) -> Result<Project, ProjectError> {
    let length = name.chars().count();
    if !(1..=200).contains(&length) {
        return Err(ProjectError::NameLength(length));
    }
    // An update that changes nothing, so that the row comes back whether it is new or not.
    let project = sqlx::query_as(
        "INSERT INTO project (tenant, name) SELECT id, $2 FROM tenant WHERE id = $1
         ON CONFLICT (tenant, name) DO UPDATE SET name = excluded.name RETURNING id, tenant, name",
    )
    .bind(tenant.as_str())
    .bind(name)
    .fetch_optional(connection)
    .await?;
    project.ok_or_else(|| ProjectError::UnknownTenant(tenant.to_string()))
}

/// A tenant's project by its name.
///
/// # Errors
/// When Postgres is away.
pub async fn find_project(pool: &PgPool, tenant: &Tenant, name: &str) -> Result<Option<Project>, sqlx::Error> {
    sqlx::query_as("SELECT id, tenant, name FROM project WHERE tenant = $1 AND name = $2")
        .bind(tenant.as_str())
        .bind(name)
        .fetch_optional(pool)
        .await
}

/// Projects by tenant and name, of one tenant or of all, from behind the one given last.
///
/// # Errors
/// When Postgres is away.
pub async fn list_projects(
    pool: &PgPool,
    tenant: Option<&Tenant>,
    after: Option<&Project>,
    limit: u32,
) -> Result<Vec<Project>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, tenant, name FROM project
         WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR (tenant, name) > ($2, $3))
         ORDER BY tenant, name LIMIT $4",
    )
    .bind(tenant.map(Tenant::as_str))
    .bind(after.map(|project| project.tenant.as_str()))
    .bind(after.map(|project| project.name.as_str()))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
}

/// Where an import stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ImportState {
    /// Begun, and its job still stands.
    Running,
    /// Read to its end.
    Done,
    /// Its job is dead; what was imported before is in. Redrive the job, or import the file as another one.
    Failed,
    /// Its job was cancelled or discarded.
    Cancelled,
}

/// How far an import is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct ImportProgress {
    /// The job's id.
    pub id: Uuid,
    /// Into which project.
    pub project_id: Uuid,
    /// Which file.
    pub path: String,
    /// Where the numbers come from.
    pub supplier: Option<String>,
    /// Where it stands.
    pub state: ImportState,
    /// Why it is failed or cancelled.
    pub error: Option<String>,
    /// The file's size.
    pub bytes_total: i64,
    /// Bytes whose rows are committed.
    pub bytes_done: i64,
    /// Rows whose fate is committed.
    pub rows_read: i64,
    /// Numbers that were new to the project.
    pub inserted: i64,
    /// Numbers that were there already, in the project or earlier in the file.
    pub duplicates: i64,
    /// Rows in the error file.
    pub rejected: i64,
    /// Where the rejected rows are, if there are any.
    pub error_file: Option<String>,
    /// When its first transaction was committed.
    pub started_at: DateTime<Utc>,
    /// When its last one was.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Done is what the import says itself; whether an unfinished one still goes on is what the journal says.
const PROGRESS: &str = "
    SELECT i.id, i.project_id, i.path, i.supplier, i.bytes_total, i.bytes_done, i.rows_read, i.inserted, i.duplicates,
           i.rejected, i.error_file, i.started_at, i.finished_at,
           CASE WHEN i.finished_at IS NOT NULL THEN 'done'
                WHEN j.id IS NOT NULL THEN 'running'
                WHEN c.state IN ('cancelled', 'discarded') THEN 'cancelled'
                ELSE 'failed' END AS state,
           CASE WHEN i.finished_at IS NULL AND j.id IS NULL THEN c.reason END AS error
    FROM import i LEFT JOIN job_journal j ON j.id = i.id LEFT JOIN job_closed c ON c.id = i.id";

/// How far the import of this job is. `None`: it has not begun, or there is no such job.
///
/// # Errors
/// When Postgres is away.
pub async fn import_progress(pool: &PgPool, id: JobId) -> Result<Option<ImportProgress>, sqlx::Error> {
    let sql = format!("{PROGRESS} WHERE i.id = $1");
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id.0).fetch_optional(pool).await
}

/// Imports of one project or of all, the latest first.
///
/// # Errors
/// When Postgres is away.
pub async fn list_imports(
    pool: &PgPool,
    project: Option<Uuid>,
    limit: u32,
) -> Result<Vec<ImportProgress>, sqlx::Error> {
    let sql = format!(
        "{PROGRESS} WHERE ($1::uuid IS NULL OR i.project_id = $1) ORDER BY i.started_at DESC, i.id DESC LIMIT $2"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(project).bind(i64::from(limit)).fetch_all(pool).await
}
