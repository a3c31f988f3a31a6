//! `windrow tenants`.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use windrow_queue::{QueueName, Tenant, store::Usage};

use crate::{context::Context, exit::Failure, output::time};

/// Whom the work is done for.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Adds a tenant. One that is there already, and the same, is fine.
    Add {
        /// Its id: 1 to 64 letters, digits, '_', '-' or '.'.
        id: Tenant,
        /// What people call it; else its id.
        #[arg(long)]
        name: Option<String>,
        /// Its IANA time zone, such as Europe/Berlin: recurring payments fall due at midnight there.
        #[arg(long, default_value = "UTC")]
        time_zone: chrono_tz::Tz,
    },
    /// All of them.
    List,
    /// What tenants have in a queue, the most first: jobs that stand (the dead left out), and their bytes.
    Usage {
        /// The queue.
        queue: QueueName,
        /// How many tenants, at most.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Nothing more is scheduled for it. What is enqueued already still runs.
    Pause {
        /// Its id.
        id: Tenant,
    },
    /// Work is scheduled for it again.
    Resume {
        /// Its id.
        id: Tenant,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize, FromRow)]
struct TenantRow {
    id: String,
    name: String,
    active: bool,
    time_zone: String,
    created_at: DateTime<Utc>,
}

pub(crate) async fn run(context: &Context, command: TenantCommand) -> anyhow::Result<()> {
    let database = context.database()?;
    match command {
        TenantCommand::Add { id, name, time_zone } => {
            let name = name.unwrap_or_else(|| id.to_string());
            let row = add(&database, &id, &name, time_zone.name()).await?;
            context.output.show(&row, || format!("tenant {id} is there, in {}", row.time_zone))
        }
        TenantCommand::List => {
            let rows: Vec<TenantRow> =
                sqlx::query_as("SELECT id, name, active, time_zone, created_at FROM tenant ORDER BY id")
                    .fetch_all(&database)
                    .await?;
            context.output.list(&rows, ["tenant", "name", "active", "time zone", "since"], |row| {
                let active = if row.active { "yes" } else { "paused" };
                [row.id.clone(), row.name.clone(), active.into(), row.time_zone.clone(), time(Some(row.created_at))]
            })
        }
        TenantCommand::Usage { queue, limit } => usage(context, &queue, limit.into()).await,
        TenantCommand::Pause { id } => set_active(context, &database, &id, false).await,
        TenantCommand::Resume { id } => set_active(context, &database, &id, true).await,
    }
}

/// Goes through all tenants by pages, and keeps no more of them than are to be shown and one page.
async fn usage(context: &Context, queue: &QueueName, limit: usize) -> anyhow::Result<()> {
    let (store, mut top, mut after) = (context.store()?, Vec::<Usage>::new(), None);
    loop {
        let page = store.usage(queue, after.as_ref()).await?;
        top.extend(page.items);
        top.sort_by(|a, b| (b.jobs, b.bytes, &a.tenant).cmp(&(a.jobs, a.bytes, &b.tenant)));
        // A set without an order may show one twice, with figures that changed in between.
        let mut seen = std::collections::HashSet::new();
        top.retain(|usage| seen.insert(usage.tenant.clone()));
        top.truncate(limit);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    context.output.list(&top, ["tenant", "jobs", "bytes"], |usage| {
        let tenant = usage.tenant.as_ref().map_or_else(|| "(none)".to_owned(), ToString::to_string);
        [tenant, usage.jobs.to_string(), usage.bytes.to_string()]
    })
}

async fn add(database: &PgPool, id: &Tenant, name: &str, time_zone: &str) -> anyhow::Result<TenantRow> {
    if !(1..=200).contains(&name.chars().count()) {
        return Err(Failure::usage("--name: a name has 1 to 200 characters"));
    }
    sqlx::query("INSERT INTO tenant (id, name, time_zone) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING")
        .bind(id.as_str())
        .bind(name)
        .bind(time_zone)
        .execute(database)
        .await?;
    let row: TenantRow = sqlx::query_as("SELECT id, name, active, time_zone, created_at FROM tenant WHERE id = $1")
        .bind(id.as_str())
        .fetch_one(database)
        .await?;
    anyhow::ensure!(
        row.name == name && row.time_zone == time_zone,
        "there is a tenant {id} already, called {:?}, in {}: it was left as it is",
        row.name,
        row.time_zone
    );
    Ok(row)
}

async fn set_active(context: &Context, database: &PgPool, id: &Tenant, active: bool) -> anyhow::Result<()> {
    let row: Option<TenantRow> =
        sqlx::query_as("UPDATE tenant SET active = $2 WHERE id = $1 RETURNING id, name, active, time_zone, created_at")
            .bind(id.as_str())
            .bind(active)
            .fetch_optional(database)
            .await?;
    let row = row.ok_or_else(|| unknown(id))?;
    context.output.show(&row, || format!("tenant {id} is {}", if active { "active" } else { "paused" }))
}

/// What is said where a tenant is named that does not exist.
pub(crate) fn unknown(id: &Tenant) -> anyhow::Error {
    Failure::not_found(format!(
        "there is no tenant {id}: `windrow tenants add {id}` makes one, `windrow tenants list` lists them"
    ))
}
