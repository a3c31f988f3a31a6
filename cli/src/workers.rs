//! `windrow workers`.

use clap::Args;
use serde::Serialize;
use windrow_queue::{QueueName, store::SessionInfo};

use crate::{context::Context, kinds, output::time};

/// Which sessions to list.
#[derive(Debug, Args)]
pub(crate) struct WorkersArgs {
    /// Of this queue; else of all.
    #[arg(long)]
    queue: Option<QueueName>,
    /// How many of each queue, at most.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Serialize)]
struct Row {
    queue: QueueName,
    #[serde(flatten)]
    session: SessionInfo,
}

pub(crate) async fn run(context: &Context, args: WorkersArgs) -> anyhow::Result<()> {
    let store = context.store()?;
    let (mut rows, limit) = (Vec::new(), usize::try_from(args.limit)?);
    for queue in args.queue.map_or_else(|| kinds::catalog().queues(), |queue| vec![queue]) {
        // A set without an order may show one twice.
        let (mut sessions, mut after) = (std::collections::BTreeMap::new(), None);
        while sessions.len() < limit {
            let page = store.sessions(&queue, after.as_ref()).await?;
            sessions.extend(page.items.into_iter().map(|session| (session.id.clone(), session)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let of_queue = sessions.into_values().take(limit);
        rows.extend(of_queue.map(|session| Row { queue: queue.clone(), session }));
    }
    rows.sort_by(|a, b| (&a.queue, &a.session.info).cmp(&(&b.queue, &b.session.info)));
    context.output.list(&rows, ["session", "queue", "worker", "slots", "running", "lease until", ""], |row| {
        let SessionInfo { id, info, slots, running, deadline, alive } = &row.session;
        let state = if *alive { "" } else { "lost: its jobs are being given back" };
        let numbers = (slots.to_string(), running.to_string());
        [id.clone(), row.queue.to_string(), info.clone(), numbers.0, numbers.1, time(*deadline), state.to_owned()]
    })
}
