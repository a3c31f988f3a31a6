//! `windrow limits`.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use windrow_queue::{
    QueueName,
    store::{Limit, LimitState, Rate, Scope},
};

use crate::{context::Context, exit::Failure, kinds, operate, output::cell};

/// How many jobs may run at once, and how many may start in a while, over all workers.
#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// All limits and pauses, and what they do now.
    List {
        /// Of this queue; else of all.
        #[arg(long)]
        queue: Option<QueueName>,
    },
    /// Sets a limit, in place of the one before.
    Set {
        /// The queue.
        queue: QueueName,
        /// What is limited: queue, kind=K, tenant=T, tenant=*, kind=K,tenant=T or kind=K,tenant=* (* is each tenant, for itself).
        scope: Scope,
        /// Jobs that may run at once.
        #[arg(long, value_name = "NUMBER")]
        concurrency: Option<u32>,
        /// Jobs that may start in a while, such as 100/1m or 5/s; spread evenly over it.
        #[arg(long, value_name = "NUMBER/TIME", value_parser = rate)]
        rate: Option<(u32, Duration)>,
        /// So many may start at once after a quiet time; else a second's share.
        #[arg(long, value_name = "NUMBER", requires = "rate")]
        burst: Option<u32>,
    },
    /// Takes a limit away. A pause stays.
    Clear {
        /// The queue.
        queue: QueueName,
        /// What was limited.
        scope: Scope,
    },
}

fn rate(text: &str) -> Result<(u32, Duration), String> {
    let advice = || "use a number of jobs, a slash and a time, such as 100/1m or 5/s".to_owned();
    let (count, per) = text.split_once('/').ok_or_else(advice)?;
    let count = count.trim().parse().map_err(|_| advice())?;
    let per = per.trim();
    // `5/s` is five in one second.
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
    Ok((count, humantime::parse_duration(&per).map_err(|_| advice())?))
}

#[derive(Debug, Serialize)]
struct LimitRow {
    queue: QueueName,
    scope: String,
    paused: bool,
    concurrency: Option<u32>,
    rate: Option<String>,
    burst: Option<u32>,
    running: u64,
    waiting_lanes: u64,
}

fn row(queue: &QueueName, state: LimitState) -> LimitRow {
    let LimitState { scope, limit, paused, running, waiting_lanes } = state;
    LimitRow {
        queue: queue.clone(),
        scope: scope.to_string(),
        paused,
        concurrency: limit.concurrency,
        rate: limit.rate.map(|rate| format!("{}/{}", rate.count, humantime::format_duration(rate.per))),
        burst: limit.rate.map(|rate| rate.effective_burst()),
        running,
        waiting_lanes,
    }
}

pub(crate) async fn run(context: &Context, command: LimitCommand) -> anyhow::Result<()> {
    match command {
        LimitCommand::List { queue } => list(context, queue).await,
        LimitCommand::Set { queue, scope, concurrency, rate, burst } => {
            let rate = rate.map(|(count, per)| Rate { count, per, burst });
            if concurrency.is_none() && rate.is_none() {
                return Err(Failure::usage(
                    "give --concurrency, --rate or both; `windrow limits clear` takes a limit away",
                ));
            }
            let (store, limit) = (context.store()?, Limit { concurrency, rate });
            operate::known_scope(&queue, &scope)?;
            operate::begin(context)?;
            let changed = store.set_limit(&queue, &scope, &limit).await?;
            operate::audit("limits.set", &format!("queue={queue} scope={scope} {}", words(&limit)), changed.into());
            let set = serde_json::json!({ "queue": queue, "scope": scope.to_string(), "changed": changed });
            context
                .output
                .show(&set, || format!("{} is limited: {}", operate::scope_words(&queue, &scope), words(&limit)))
        }
        LimitCommand::Clear { queue, scope } => {
            let store = context.store()?;
            operate::begin(context)?;
            let changed = store.clear_limit(&queue, &scope).await?;
            operate::audit("limits.clear", &format!("queue={queue} scope={scope}"), changed.into());
            if !changed {
                return Err(Failure::not_found(format!(
                    "{} has no limit: `windrow limits list --queue {queue}` lists them",
                    operate::scope_words(&queue, &scope)
                )));
            }
            let cleared = serde_json::json!({ "queue": queue, "scope": scope.to_string(), "changed": changed });
            context.output.show(&cleared, || format!("{} has no limit any more", operate::scope_words(&queue, &scope)))
        }
    }
}

fn words(limit: &Limit) -> String {
    let concurrency = limit.concurrency.map(|number| format!("{number} at once"));
    let rate = limit.rate.map(|rate| {
        let per = humantime::format_duration(rate.per);
        format!("{} in {per}, {} of them at once", rate.count, rate.effective_burst())
    });
    [concurrency, rate].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

async fn list(context: &Context, queue: Option<QueueName>) -> anyhow::Result<()> {
    let store = context.store()?;
    let mut rows = Vec::new();
    for queue in queue.map_or_else(|| kinds::catalog().queues(), |queue| vec![queue]) {
        rows.extend(store.limits(&queue).await?.into_iter().map(|state| row(&queue, state)));
    }
    let header = ["queue", "scope", "paused", "at once", "rate", "burst", "running", "waiting lanes"];
    context.output.list(&rows, header, |row| {
        [
            row.queue.to_string(),
            row.scope.clone(),
            if row.paused { "yes".into() } else { String::new() },
            cell(row.concurrency.as_ref()),
            cell(row.rate.as_ref()),
            cell(row.burst.as_ref()),
            row.running.to_string(),
            row.waiting_lanes.to_string(),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        assert_eq!(rate("100/1m"), Ok((100, Duration::from_secs(60))));
        assert_eq!(rate("5/s"), Ok((5, Duration::from_secs(1))));
        assert_eq!(rate("1/2h 30m"), Ok((1, Duration::from_secs(9000))));
        for text in ["", "5", "5/", "/s", "-1/s", "5/x", "a/1s"] {
            assert!(rate(text).is_err(), "{text:?}");
        }
    }
}
