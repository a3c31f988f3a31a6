//! `windrow queues`.

use clap::{Args, Subcommand};
use serde::Serialize;
use windrow_queue::{
    Kind, QueueName, Tenant,
    store::{Counts, Scope},
};

use crate::{context::Context, kinds, operate, output::cell};

/// The queues: what is in them, and whether it is worked on.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// All queues, with what they hold.
    List,
    /// Holds its jobs back. Those that run go on, and jobs are taken in as before.
    Pause(Which),
    /// Lets them run again.
    Resume(Which),
}

/// What of a queue.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The queue.
    queue: QueueName,
    /// Only jobs of this kind.
    #[arg(long)]
    kind: Option<Kind>,
    /// Only jobs of this tenant.
    #[arg(long)]
    tenant: Option<Tenant>,
}

impl Which {
    fn scope(&self) -> Scope {
        match (self.kind.clone(), self.tenant.clone()) {
            (None, None) => Scope::Queue,
            (Some(kind), None) => Scope::Kind(kind),
            (None, Some(tenant)) => Scope::Tenant(tenant),
            (Some(kind), Some(tenant)) => Scope::KindTenant(kind, tenant),
        }
    }
}

#[derive(Debug, Serialize)]
struct QueueRow {
    queue: QueueName,
    /// Scopes that are paused.
    paused: Vec<String>,
    #[serde(flatten)]
    counts: Counts,
}

pub(crate) async fn run(context: &Context, command: QueueCommand) -> anyhow::Result<()> {
    match command {
        QueueCommand::List => list(context).await,
        QueueCommand::Pause(which) => set_paused(context, which, true).await,
        QueueCommand::Resume(which) => set_paused(context, which, false).await,
    }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let store = context.store()?;
    let mut rows = Vec::new();
    for queue in kinds::catalog().queues() {
        let counts = store.counts(&queue).await?;
        let limits = store.limits(&queue).await?;
        let paused = limits.iter().filter(|limit| limit.paused).map(|limit| limit.scope.to_string()).collect();
        rows.push(QueueRow { queue, paused, counts });
    }
    let header = [
        "queue",
        "ready",
        "oldest",
        "scheduled",
        "running",
        "parked",
        "dead",
        "waiting lanes",
        "MB",
        "workers",
        "paused",
    ];
    context.output.list(&rows, header, |row| {
        let counts = &row.counts;
        let oldest =
            counts.oldest_ready.map(|age| humantime::format_duration(std::time::Duration::from_secs(age.as_secs())));
        [
            row.queue.to_string(),
            counts.ready.to_string(),
            cell(oldest.as_ref()),
            counts.scheduled.to_string(),
            counts.running.to_string(),
            counts.parked.to_string(),
            counts.dead.to_string(),
            counts.lanes_waiting.to_string(),
            counts.bytes.div_ceil(1_000_000).to_string(),
            counts.sessions.to_string(),
            row.paused.join(" "),
        ]
    })
}

#[derive(Debug, Serialize)]
struct Changed {
    queue: QueueName,
    scope: String,
    paused: bool,
    changed: bool,
}

async fn set_paused(context: &Context, which: Which, paused: bool) -> anyhow::Result<()> {
    let (store, scope) = (context.store()?, which.scope());
    if paused {
        operate::known_scope(&which.queue, &scope)?;
    } else {
        // What was paused by another version of the program can be resumed by this one.
        operate::known_queue(&which.queue)?;
    }
    operate::begin(context)?;
    let changed =
        if paused { store.pause(&which.queue, &scope).await? } else { store.resume(&which.queue, &scope).await? };
    let action = if paused { "queues.pause" } else { "queues.resume" };
    operate::audit(action, &format!("queue={} scope={scope}", which.queue), changed.into());
    let row = Changed { queue: which.queue, scope: scope.to_string(), paused, changed };
    context.output.show(&row, || {
        let state = if paused { "is paused" } else { "is worked on" };
        let already = if changed { "" } else { " already" };
        format!("{} {state}{already}", operate::scope_words(&row.queue, &scope))
    })
}
