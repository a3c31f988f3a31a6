//! `windrow dead`: fast ones are in Redis, journaled ones in Postgres; here they are one list.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use windrow_queue::{
    Enqueued, JobId, Kind, QueueName, Tenant,
    id::Member,
    journal::{self, CloseState, Closed, ClosedCursor},
    store::{DeadCursor, DeadJob, JobState, Store},
};

use crate::{
    context::Context,
    exit::Failure,
    kinds,
    output::{cell, time},
};

/// Rows asked for at a time.
const PAGE: usize = 200;

/// Dead jobs: look at them, run them again, discard them.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// The newest first.
    List(DeadFilter),
    /// One, with its args and every attempt's error.
    Show {
        /// Its id.
        id: JobId,
    },
    /// Runs jobs again, with fresh attempts.
    Redrive {
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
    /// Gives jobs up for good.
    Discard {
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
}

/// Which of them.
#[derive(Debug, Args)]
pub(crate) struct DeadFilter {
    /// Of this kind.
    #[arg(long)]
    kind: Option<Kind>,
    /// Of this queue.
    #[arg(long)]
    queue: Option<QueueName>,
    /// Of this tenant.
    #[arg(long)]
    tenant: Option<Tenant>,
    /// How many, at most.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

impl DeadFilter {
    fn takes(&self, dead: &Dead) -> bool {
        let is = |wanted: Option<&str>, given: Option<&str>| wanted.is_none() || wanted == given;
        is(self.kind.as_ref().map(Kind::as_str), Some(&dead.kind))
            && is(self.queue.as_ref().map(QueueName::as_str), Some(&dead.queue))
            && is(self.tenant.as_ref().map(Tenant::as_str), dead.tenant.as_deref())
    }
}

#[derive(Debug, Serialize)]
struct Dead {
    id: JobId,
    kind: String,
    queue: String,
    tenant: Option<String>,
    journaled: bool,
    attempt: u64,
    died_at: Option<DateTime<Utc>>,
    reason: String,
    args: Value,
    errors: Value,
}

impl Dead {
    fn fast(queue: &QueueName, job: DeadJob) -> Self {
        let reason = job.errors.last().map(|error| format!("{}: {}", error.class, error.message));
        Self {
            id: job.id,
            kind: job.kind.into(),
            queue: queue.to_string(),
            tenant: job.tenant.map(String::from),
            journaled: false,
            attempt: job.attempt.into(),
            died_at: job.died_at,
            reason: reason.unwrap_or_default(),
            args: job.args.and_then(|args| serde_json::from_str(args.get()).ok()).unwrap_or(Value::Null),
            errors: serde_json::to_value(job.errors).unwrap_or(Value::Null),
        }
    }

    fn journaled(mut closed: Closed) -> Self {
        Self {
            id: JobId(closed.id),
            kind: closed.kind,
            queue: closed.queue,
            tenant: closed.tenant,
            journaled: true,
            attempt: closed.job["attempt"].as_u64().unwrap_or(0),
            died_at: Some(closed.closed_at),
            reason: closed.reason,
            args: closed.job["args"].take(),
            errors: closed.job["errors"].take(),
        }
    }
}

pub(crate) async fn run(context: &Context, command: DeadCommand) -> anyhow::Result<()> {
    let (store, database) = (context.store()?, context.database()?);
    match command {
        DeadCommand::List(filter) => list(context, &store, &database, &filter).await,
        DeadCommand::Show { id } => show(context, &store, &database, id).await,
        DeadCommand::Redrive { ids } => {
            let mut done = Vec::with_capacity(ids.len());
            for id in ids {
                done.push(redrive(&store, &database, id).await?);
            }
            context.output.list(&done, ["dead", "runs again as"], |(old, new)| [old.to_string(), new.to_string()])
        }
        DeadCommand::Discard { ids } => {
            for &id in &ids {
                discard(&store, &database, id).await?;
            }
            context.output.list(&ids, ["discarded"], |id| [id.to_string()])
        }
    }
}

async fn list(context: &Context, store: &Store, database: &PgPool, filter: &DeadFilter) -> anyhow::Result<()> {
    let mut found = journaled(database, filter).await?;
    for queue in kinds::catalog().queues() {
        found.extend(fast(store, &queue, filter).await?);
    }
    found.sort_by_key(|dead| (std::cmp::Reverse(dead.died_at), dead.id));
    found.truncate(filter.limit);
    context.output.list(&found, ["job", "kind", "tenant", "attempts", "died", "reason"], |dead| {
        let reason: String = dead.reason.chars().take(100).collect();
        let attempts = dead.attempt.to_string();
        [dead.id.to_string(), dead.kind.clone(), cell(dead.tenant.as_ref()), attempts, time(dead.died_at), reason]
    })
}

async fn journaled(database: &PgPool, filter: &DeadFilter) -> anyhow::Result<Vec<Dead>> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = journal::list_closed(database, CloseState::Dead, cursor, i64::try_from(PAGE)?).await?;
        let Some(last) = page.last() else { return Ok(found) };
        cursor = Some(ClosedCursor { closed_at: last.closed_at, id: last.id });
        found.extend(page.into_iter().map(Dead::journaled).filter(|dead| filter.takes(dead)));
        if found.len() >= filter.limit {
            return Ok(found);
        }
    }
}

async fn fast(store: &Store, queue: &QueueName, filter: &DeadFilter) -> anyhow::Result<Vec<Dead>> {
    let (mut found, mut skip) = (Vec::new(), 0);
    loop {
        let page = store.dead(queue, Some(DeadCursor { skip }), PAGE).await?;
        if page.is_empty() {
            return Ok(found);
        }
        skip += PAGE;
        found.extend(page.into_iter().map(|job| Dead::fast(queue, job)).filter(|dead| filter.takes(dead)));
        if found.len() >= filter.limit {
            return Ok(found);
        }
    }
}

async fn show(context: &Context, store: &Store, database: &PgPool, id: JobId) -> anyhow::Result<()> {
    let dead = match journal::show_closed(database, id).await? {
        Some(closed) if closed.state == "dead" => Dead::journaled(closed),
        _ => fast_by_id(store, id).await?.ok_or_else(|| not_dead(id))?,
    };
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    context.output.record(
        &dead,
        &[
            ("job", dead.id.to_string()),
            ("kind", dead.kind.clone()),
            ("queue", dead.queue.clone()),
            ("tenant", cell(dead.tenant.as_ref())),
            ("journaled", dead.journaled.to_string()),
            ("attempts", dead.attempt.to_string()),
            ("died", time(dead.died_at)),
            ("reason", dead.reason.clone()),
            ("args", pretty(&dead.args)),
            ("errors", pretty(&dead.errors)),
        ],
    )
}

async fn fast_by_id(store: &Store, id: JobId) -> anyhow::Result<Option<Dead>> {
    for queue in kinds::catalog().queues() {
        let Some(status) = store.status(&queue, Member::fast(id)).await? else { continue };
        let (JobState::Dead, Some(kind)) = (status.state, status.kind) else { return Ok(None) };
        let (tenant, args, attempt) = (status.tenant, status.args, status.attempt);
        let job = DeadJob {
            id,
            kind,
            tenant,
            args,
            attempt,
            enqueued_at: status.enqueued_at,
            died_at: status.died_at,
            errors: status.errors,
        };
        return Ok(Some(Dead::fast(&queue, job)));
    }
    Ok(None)
}

fn not_dead(id: JobId) -> anyhow::Error {
    Failure::not_found(format!("there is no dead job {id}"))
}

fn stays_dead(id: JobId, other: Option<JobId>) -> String {
    let other = other.map_or_else(|| "another job".to_owned(), |other| format!("job {other}"));
    format!("job {id} stays dead: {other} with its unique key stands, which does its work")
}

/// The old id and the new, which is the same for a journaled job.
async fn redrive(store: &Store, database: &PgPool, id: JobId) -> anyhow::Result<(JobId, JobId)> {
    if journal::redrive(database, id).await? {
        return Ok((id, id));
    }
    if journal::show_closed(database, id).await?.is_some_and(|closed| closed.state != "discarded") {
        anyhow::bail!(stays_dead(id, None));
    }
    for queue in kinds::catalog().queues() {
        match store.redrive(&queue, id).await? {
            Some(Enqueued::Created(new)) => return Ok((id, new)),
            Some(other) => anyhow::bail!(stays_dead(id, Some(other.id()))),
            None => {}
        }
    }
    Err(not_dead(id))
}

async fn discard(store: &Store, database: &PgPool, id: JobId) -> anyhow::Result<()> {
    if journal::discard(database, id).await? {
        return Ok(());
    }
    for queue in kinds::catalog().queues() {
        if store.discard(&queue, id).await? {
            return Ok(());
        }
    }
    Err(not_dead(id))
}
