//! `windrow jobs`.

mod cancel;
mod list;

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
use windrow_queue::{
    Band, BatchId, Delivery, JobId, NewJob, QueueName, Tenant,
    job::{OnConflict, UniqueScope},
};

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
    /// A page of jobs in a state.
    List(list::ListArgs),
    /// Where a job is, and all that is known of it.
    #[command(alias = "status")]
    Show {
        /// Its id.
        id: JobId,
    },
    /// Cancels jobs: those that wait are gone at once, those that run are told to stop.
    Cancel(cancel::CancelArgs),
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
    /// At most one job with this key, kind and tenant.
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// How long the key holds: until-final, queued, or a time such as 1h.
    #[arg(long, value_name = "SCOPE", value_parser = unique_scope, requires = "unique_key")]
    unique_scope: Option<UniqueScope>,
    /// What happens when a job holds the key: ignore, replace or reschedule.
    #[arg(long, value_name = "WHAT", value_parser = on_conflict, requires = "unique_key")]
    on_conflict: Option<OnConflict>,
    /// The open batch that it becomes a member of.
    #[arg(long, value_name = "ID")]
    batch: Option<uuid::Uuid>,
    /// Attempts in all.
    #[arg(long, value_name = "NUMBER")]
    max_attempts: Option<u16>,
    /// Longest run of one attempt.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    attempt_timeout: Option<Duration>,
    /// Crashes of its worker while it runs apart from others, until it is dead as a poison pill.
    #[arg(long, value_name = "NUMBER")]
    rescue_limit: Option<u8>,
    /// Never starts again once its handler was started.
    #[arg(long)]
    at_most_once: bool,
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

fn unique_scope(text: &str) -> Result<UniqueScope, String> {
    match text {
        "until-final" => Ok(UniqueScope::UntilFinal),
        "queued" => Ok(UniqueScope::Queued),
        period => humantime::parse_duration(period)
            .map(UniqueScope::Period)
            .map_err(|_| "use until-final, queued, or a time such as 1h".to_owned()),
    }
}

fn on_conflict(text: &str) -> Result<OnConflict, String> {
    serde_json::from_value(text.into()).map_err(|_| "use ignore, replace or reschedule".to_owned())
}

pub(crate) async fn run(context: &Context, command: JobCommand) -> anyhow::Result<()> {
    match command {
        JobCommand::Enqueue(args) => enqueue(context, *args).await,
        JobCommand::List(args) => Box::pin(list::run(context, args)).await,
        JobCommand::Cancel(args) => Box::pin(cancel::run(context, args)).await,
        JobCommand::Show { id } => {
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
        unique_scope: args.unique_scope,
        on_conflict: args.on_conflict,
        batch: args.batch.map(BatchId),
        idempotency_key: args.idempotency_key,
        max_attempts: args.max_attempts,
        timeout: args.attempt_timeout,
        rescue_limit: args.rescue_limit,
        delivery: args.at_most_once.then_some(Delivery::AtMostOnce),
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
        Some("-") => some_text(std::io::stdin()).context("standard input")?,
        Some(path) => fs::File::open(path)
            .and_then(some_text)
            .map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?,
    };
    RawValue::from_string(text).map_err(|error| Failure::usage(format!("this is no JSON: {error}")))
}

/// The args' own limit is far below this one; more is not even read.
fn some_text(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(2 * 1024 * 1024).read_to_string(&mut text)?;
    Ok(text)
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
    let Accepted { id, kind, queue, .. } = accepted;
    if accepted.created {
        format!("{id} ({kind}) waits in {queue}")
    } else if accepted.replaced {
        format!("{id} ({kind}) stood already, and took over these args")
    } else if accepted.rescheduled {
        format!("{id} ({kind}) stood already, and took over this time")
    } else {
        format!("{id} ({kind}) stood already")
    }
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
            "job {} was not over after {shown}; `windrow jobs show {}` says where it is",
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
    let progress = view.progress.map(|progress| format!("{} of {}", progress.done, progress.total));
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
            ("held back", view.held_by.as_ref().map(list::held).unwrap_or_default()),
            ("running since", time(view.running_since)),
            ("session", cell(view.session.as_ref())),
            ("progress", progress.unwrap_or_default()),
            ("stopping", if view.stopping { "it was told to stop".to_owned() } else { String::new() }),
            ("parked until", time(view.park_deadline)),
            ("batch", cell(view.batch.as_ref())),
            ("closed", time(view.closed_at)),
            ("reason", cell(view.reason.as_ref())),
            ("errors", errors.join("\n")),
        ],
    )
}
