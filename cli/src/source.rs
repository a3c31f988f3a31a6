//! `windrow sources`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use uuid::Uuid;
use windrow_jobs::fetch::{
    FetchAll, FetchSource, Format, Source, SourceError, SourceSpec, add_source, list_sources, put_source,
};
use windrow_queue::{NewJob, Tenant};

use crate::{
    context::Context,
    exit::Failure,
    job::{self, WaitArgs},
    output::{cell, time},
    tenant,
};

/// Where vacancies come from.
#[derive(Debug, Subcommand)]
pub(crate) enum SourceCommand {
    /// Adds a source.
    Add(Box<AddArgs>),
    /// All of them, with what their fetches brought.
    List {
        /// Of this tenant.
        #[arg(long)]
        tenant: Option<Tenant>,
    },
    /// Fetches a source now, or all of them.
    Fetch {
        /// Its name or id.
        #[arg(required_unless_present = "all")]
        source: Option<String>,
        /// Whose it is, where several tenants have one of that name.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// All active sources of all active tenants.
        #[arg(long, conflicts_with_all = ["source", "tenant"])]
        all: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// A source to add.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Its name, unique for the tenant.
    name: String,
    /// Its URL, of the first page.
    url: String,
    /// Whose it is.
    #[arg(long)]
    tenant: Tenant,
    /// What its documents are: json, rss, atom or feed.
    #[arg(long)]
    format: Format,
    /// Where a JSON document has what is wanted, as JSON (or @FILE):
    /// {"items": "/jobs", "title": "/title", "url": "/link", "description": "/text", "published": "/date"}.
    #[arg(long, value_name = "JSON")]
    mapping: Option<String>,
    /// How to come to the next page, as JSON (or @FILE): {"by": "next_link"} or {"by": "page_number", "parameter": "page"}.
    #[arg(long, value_name = "JSON")]
    paging: Option<String>,
    /// Sent with every request, such as "Accept-Language: en". No secrets: it is stored as it is.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Change the source of this name, if there is one.
    #[arg(long)]
    replace: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) async fn run(context: &Context, command: SourceCommand) -> anyhow::Result<()> {
    match command {
        SourceCommand::Add(args) => add(context, *args).await,
        SourceCommand::List { tenant } => {
            let rows = list_sources(&context.database()?, tenant.as_ref()).await?;
            list(context, &rows)
        }
        SourceCommand::Fetch { source, tenant, wait, .. } => {
            let plan = match source {
                Some(given) => {
                    let source = find(context, &given, tenant.as_ref()).await?;
                    wait.plan(FetchSource::job(&Tenant::new(source.tenant)?, source.id)?, true)
                }
                None => wait.plan(NewJob::new(&FetchAll {})?, false),
            };
            job::send(context, plan, &wait).await
        }
    }
}

async fn add(context: &Context, args: AddArgs) -> anyhow::Result<()> {
    let AddArgs { name, url, tenant, format, mapping, paging, headers, replace } = args;
    let spec = SourceSpec {
        mapping: mapping.map(|text| read("--mapping", &text)).transpose()?,
        paging: paging.map(|text| read("--paging", &text)).transpose()?,
        headers: headers.into_iter().collect::<BTreeMap<_, _>>(),
        name,
        format,
        url,
    };
    let database = context.database()?;
    let added = match replace {
        true => put_source(&database, &tenant, &spec).await,
        false => add_source(&database, &tenant, &spec).await,
    };
    let id = added.map_err(|error| match error {
        SourceError::Invalid(error) => Failure::usage(error.to_string()),
        SourceError::NoTenant(_) => tenant::unknown(&tenant),
        SourceError::Exists { .. } => anyhow::anyhow!("{error}: give it another name, or --replace it"),
        SourceError::Database(error) => error.into(),
    })?;
    let shown = serde_json::json!({ "id": id, "tenant": tenant, "name": spec.name });
    context.output.show(&shown, || format!("{id} is source {:?} of {tenant}", spec.name))
}

fn read<T: DeserializeOwned>(option: &str, given: &str) -> anyhow::Result<T> {
    let text = job::read_json(given).map_err(|error| Failure::usage(format!("{option}: {error:#}")))?;
    serde_json::from_str(text.get()).map_err(|error| Failure::usage(format!("{option}: {error}")))
}

fn list(context: &Context, rows: &[Source]) -> anyhow::Result<()> {
    let header = ["source", "tenant", "name", "fetched", "new", "duplicates", "skipped", "last fetch", "last error"];
    context.output.list(rows, header, |row| {
        let Source { totals, .. } = row;
        let error: String = cell(row.last_error.as_ref()).chars().take(80).collect();
        [
            row.id.to_string(),
            row.tenant.clone(),
            row.name.clone(),
            totals.items_fetched.to_string(),
            totals.items_inserted.to_string(),
            totals.items_duplicate.to_string(),
            totals.items_skipped.to_string(),
            time(row.last_fetch_at),
            error,
        ]
    })
}

async fn find(context: &Context, given: &str, tenant: Option<&Tenant>) -> anyhow::Result<Source> {
    let id: Option<Uuid> = given.parse().ok();
    let rows = list_sources(&context.database()?, tenant).await?;
    let mut found = rows.into_iter().filter(|source| Some(source.id) == id || source.name == given);
    let first = found.next().ok_or_else(|| {
        let whose = tenant.map(|tenant| format!(" of {tenant}")).unwrap_or_default();
        Failure::not_found(format!("there is no source {given:?}{whose}: `windrow sources list` lists them"))
    })?;
    if found.next().is_some() {
        return Err(Failure::usage(format!("several tenants have a source {given:?}: name one with --tenant")));
    }
    Ok(first)
}
