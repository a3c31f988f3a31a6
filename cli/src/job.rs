//! `windrow jobs`.

use std::{fs, io::Read, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::value::RawValue;
use windrow_api::{
    find::{JobView, find},
    intake::{Accepted, JobRequest, Plan, submit},
    trace,
};
use windrow_queue::{Band, JobId, NewJob, QueueName, Tenant};

use crate::{
    context::Context,
    exit::Failure,
    kinds,
    output::{cell, time},
};

/// Enqueues jobs and looks for them.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Enqueues a job.
    Enqueue(Box<EnqueueArgs>),
    /// Where a job is.
    Status {
        /// Its id.
        id: JobId,
    },
    /// The kinds that exist, with their queues and policies.
    Kinds,
}

/// A job to enqueue.
#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    /// Its kind; `windrow jobs kinds` lists them.
    kind: String,
    /// Its args as JSON; `@FILE` or `@-` (standard input) reads them from there.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    args: String,
    /// Whom it is done for.
    #[arg(long)]
    tenant: Option<Tenant>,
    /// Its queue, to be sure: anything but the kind's own is refused.
    #[arg(long)]
    queue: Option<QueueName>,
    /// Through the journal, even if the kind does not require it.
    #[arg(long, conflicts_with = "fast")]
    journaled: bool,
    /// Straight into Redis.
    #[arg(long)]
    fast: bool,
    /// Ready so long from now, such as 90s or "2h 30m".
    #[arg(long, value_parser = humantime::parse_duration, conflicts_with = "run_at")]
    delay: Option<Duration>,
    /// Ready at this time, such as 2030-01-31T08:00:00Z.
    #[arg(long)]
    run_at: Option<DateTime<Utc>>,
    /// The same key again is answered with the same job, for three days.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// At most one unfinished job with this key, kind and tenant.
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// Attempts in all.
    #[arg(long, value_name = "NUMBER")]
    max_attempts: Option<u16>,
    /// Longest run of one attempt.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    attempt_timeout: Option<Duration>,
    /// Priority: critical, high, normal or low.
    #[arg(long, value_parser = band)]
    band: Option<Band>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Whether to wait for the end of a job.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until the job is over. Fails unless it completed.
    #[arg(long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, requires = "wait", value_parser = humantime::parse_duration, default_value = "5m", value_name = "DURATION")]
    timeout: Duration,
}

impl WaitArgs {
    /// Whether to wait.
    pub(crate) const fn is_asked(&self) -> bool {
        self.wait
    }

    /// The plan, with its job's result kept if it is to be waited for.
    pub(crate) fn plan(&self, mut job: NewJob, journaled: bool) -> Plan {
        job.policy.keep_result = self.wait;
        Plan { job, journaled }
    }
}

fn band(text: &str) -> Result<Band, String> {
    serde_json::from_value(text.into()).map_err(|_| "use critical, high, normal or low".to_owned())
}

pub(crate) async fn run(context: &Context, command: JobCommand) -> anyhow::Result<()> {
    match command {
        JobCommand::Enqueue(args) => enqueue(context, *args).await,
        JobCommand::Status { id } => {
            let found = find(&context.store()?, &context.database()?, &kinds::catalog(), id).await?;
            let view = found.ok_or_else(|| {
                Failure::not_found(format!("there is no job {id}, or it is over and its result was not kept"))
            })?;
            show(context, &view)
        }
        JobCommand::Kinds => list_kinds(context),
    }
}

fn list_kinds(context: &Context) -> anyhow::Result<()> {
    let catalog = kinds::catalog();
    let rows: Vec<_> = catalog
        .iter()
        .map(|info| serde_json::json!({ "kind": info.kind, "queue": info.queue, "policy": info.policy }))
        .collect();
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    context.output.list(&rows, ["kind", "queue", "journaling", "attempts", "timeout"], |row| {
        let policy = &row["policy"];
        [&row["kind"], &row["queue"], &policy["journaling"], &policy["max_attempts"], &policy["timeout"]].map(text)
    })
}

async fn enqueue(context: &Context, args: EnqueueArgs) -> anyhow::Result<()> {
    let request = JobRequest {
        kind: args.kind,
        args: Some(read_json(&args.args).context("--args")?),
        tenant: args.tenant,
        queue: args.queue,
        journaled: (args.journaled || args.fast).then_some(args.journaled),
        delay: args.delay,
        run_at: args.run_at,
        unique_key: args.unique_key,
        idempotency_key: args.idempotency_key,
        max_attempts: args.max_attempts,
        timeout: args.attempt_timeout,
        band: args.band,
        keep_result: args.wait.wait,
    };
    let plan = request.plan(&kinds::catalog()).map_err(|problem| {
        let option = problem.pointer().unwrap_or_default().trim_start_matches('/').replace('_', "-");
        let detail = problem.detail();
        Failure::usage(match &*option {
            "" | "kind" => detail.to_owned(),
            "journaled" => format!("--fast: {detail}"),
            "timeout" => format!("--attempt-timeout: {detail}"),
            option => format!("--{option}: {detail}"),
        })
    })?;
    send(context, plan, &args.wait).await
}

/// JSON as given, or from the file behind `@`.
pub(crate) fn read_json(given: &str) -> anyhow::Result<Box<RawValue>> {
    let text = match given.strip_prefix('@') {
        None => given.to_owned(),
        Some("-") => {
            let mut text = String::new();
            // The args' own limit is far below; more is not even read.
            std::io::stdin().take(2 * 1024 * 1024).read_to_string(&mut text).context("standard input")?;
            text
        }
        Some(path) => {
            fs::read_to_string(path).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?
        }
    };
    RawValue::from_string(text).map_err(|error| Failure::usage(format!("this is no JSON: {error}")))
}

/// Enqueues, says so, and waits if asked to.
///
/// The job goes on with the trace in `TRACEPARENT`, where programs that trace their children put it, or starts one.
pub(crate) async fn send(context: &Context, mut plan: Plan, wait: &WaitArgs) -> anyhow::Result<()> {
    let given = std::env::var("TRACEPARENT").ok();
    plan.job.traceparent = Some(trace::continue_or_start(given.as_deref(), &mut rand::rng()));
    let accepted = submit(&context.store()?, &context.database()?, &plan).await?;
    if !wait.wait {
        return context.output.show(&accepted, || words(&accepted));
    }
    let view = await_end(context, &accepted, wait.timeout).await?;
    show(context, &view)?;
    if view.is_completed() {
        return Ok(());
    }
    anyhow::bail!("job {} is {}{}", view.id, view.state, view.reason.map(|why| format!(": {why}")).unwrap_or_default())
}

fn words(accepted: &Accepted) -> String {
    let Accepted { id, kind, queue, created, .. } = accepted;
    if *created { format!("{id} ({kind}) waits in {queue}") } else { format!("{id} ({kind}) stood already") }
}

/// The first pause between two looks, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A journaled job's row goes before Redis has its result; a job that nobody knows for so long is over.
const UNKNOWN: Duration = Duration::from_secs(5);

async fn await_end(context: &Context, accepted: &Accepted, limit: Duration) -> anyhow::Result<JobView> {
    let (store, database, catalog) = (context.store()?, context.database()?, kinds::catalog());
    let waiting = async {
        let (mut pause, longest) = PAUSES;
        let mut unknown = Duration::ZERO;
        loop {
            match find(&store, &database, &catalog, accepted.id).await? {
                Some(view) if view.is_final() => return Ok(view),
                Some(_) => unknown = Duration::ZERO,
                None if unknown >= UNKNOWN => {
                    return Err(Failure::not_found(format!(
                        "job {} is over, and its result was not kept: it was enqueued without --wait",
                        accepted.id
                    )));
                }
                None => unknown += pause,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(longest);
        }
    };
    let shown = humantime::format_duration(limit);
    tokio::time::timeout(limit, waiting).await.map_err(|_| {
        Failure::timed_out(format!(
            "job {} was not over after {shown}; `windrow jobs status {}` says where it is",
            accepted.id, accepted.id
        ))
    })?
}

fn show(context: &Context, view: &JobView) -> anyhow::Result<()> {
    let errors: Vec<String> = view
        .errors
        .iter()
        .map(|error| format!("attempt {}, {}: {}: {}", error.attempt, time(Some(error.at)), error.class, error.message))
        .collect();
    context.output.record(
        view,
        &[
            ("job", view.id.to_string()),
            ("kind", cell(view.kind.as_ref())),
            ("queue", view.queue.clone()),
            ("tenant", cell(view.tenant.as_ref())),
            ("state", view.state.clone()),
            ("journaled", view.journaled.to_string()),
            ("attempt", view.attempt.to_string()),
            ("enqueued", time(view.enqueued_at)),
            ("ready", time(view.ready_at)),
            ("closed", time(view.closed_at)),
            ("reason", cell(view.reason.as_ref())),
            ("errors", errors.join("\n")),
        ],
    )
}
