//! `windrow projects`.

use clap::Subcommand;
use sqlx::PgPool;
use uuid::Uuid;
use windrow_jobs::import::{Project, ProjectError, create_project, list_imports, list_projects};
use windrow_queue::Tenant;

use crate::{
    context::Context,
    exit::Failure,
    output::{cell, time},
    tenant,
};

/// Projects, into which phone numbers are imported.
#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Adds a project. One that is there already is fine.
    Add {
        /// Its name, unique for its tenant.
        name: String,
        /// Whose it is.
        #[arg(long)]
        tenant: Tenant,
    },
    /// All of them.
    List {
        /// Of this tenant.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// How many, at most.
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
    /// Imports, and how far they are.
    Imports {
        /// Of this project: its name or id.
        #[arg(long)]
        project: Option<String>,
        /// Whose project it is, where several tenants have one of that name.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// How many, at most.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

pub(crate) async fn run(context: &Context, command: ProjectCommand) -> anyhow::Result<()> {
    let database = context.database()?;
    match command {
        ProjectCommand::Add { name, tenant } => {
            let mut connection = database.acquire().await?;
            let project = create_project(&mut connection, &tenant, &name).await.map_err(|error| match error {
                ProjectError::UnknownTenant(_) => tenant::unknown(&tenant),
                ProjectError::NameLength(_) => Failure::usage(error.to_string()),
                ProjectError::Database(error) => error.into(),
            })?;
            context.output.show(&project, || format!("{} is project {name:?} of {tenant}", project.id))
        }
        ProjectCommand::List { tenant, limit } => {
            let rows = list_projects(&database, tenant.as_ref(), None, limit).await?;
            context.output.list(&rows, ["project", "tenant", "name"], |row| {
                [row.id.to_string(), row.tenant.clone(), row.name.clone()]
            })
        }
        ProjectCommand::Imports { project, tenant, limit } => {
            let project = match project {
                Some(given) => Some(find(&database, &given, tenant.as_ref()).await?.id),
                None => None,
            };
            let rows = list_imports(&database, project, limit).await?;
            let header = ["import", "file", "state", "read", "inserted", "duplicates", "rejected", "begun", "error"];
            context.output.list(&rows, header, |row| {
                [
                    row.id.to_string(),
                    row.path.clone(),
                    format!("{:?}", row.state).to_lowercase(),
                    row.rows_read.to_string(),
                    row.inserted.to_string(),
                    row.duplicates.to_string(),
                    row.rejected.to_string(),
                    time(Some(row.started_at)),
                    cell(row.error.as_ref()),
                ]
            })
        }
    }
}

/// The project that a person names by its id, or by its name, within a tenant if need be.
///
/// # Errors
/// When there is none, or several.
pub(crate) async fn find(database: &PgPool, given: &str, tenant: Option<&Tenant>) -> anyhow::Result<Project> {
    let mut found: Vec<Project> = sqlx::query_as(
        "SELECT id, tenant, name FROM project
         WHERE (id = $1 OR name = $2) AND ($3::text IS NULL OR tenant = $3) ORDER BY id LIMIT 2",
    )
    .bind(given.parse::<Uuid>().ok())
    .bind(given)
    .bind(tenant.map(Tenant::as_str))
    .fetch_all(database)
    .await?;
    if found.len() > 1 {
        return Err(Failure::usage(format!(
            "several tenants have a project {given:?}: name one with --tenant, or give the project's id"
        )));
    }
    found.pop().ok_or_else(|| {
        let whose = tenant.map(|tenant| format!(" of {tenant}")).unwrap_or_default();
        Failure::not_found(format!("there is no project {given:?}{whose}: `windrow projects add` makes one"))
    })
}
