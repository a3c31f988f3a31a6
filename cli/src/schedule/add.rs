//! `windrow schedules add`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use windrow_queue::Tenant;
use windrow_schedule::{self as schedule, AdminError, Declared, DeclaredMissed, Overlap};

use super::{labelled, refusal, rows};
use crate::{context::Context, exit::Failure, job::read_json, kinds, operate};

/// A schedule to make.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Its name, unique for a tenant.
    name: String,
    /// The kind of its jobs; `windrow jobs kinds` lists them.
    kind: String,
    /// When it is due: five fields (minute, hour, day, month, weekday), six with seconds first, or @daily and the like.
    #[arg(long, required_unless_present = "every", conflicts_with = "every")]
    cron: Option<String>,
    /// Its period, such as 15m.
    #[arg(long, value_parser = humantime::parse_duration)]
    every: Option<Duration>,
    /// The IANA zone in which the cron expression is read, such as Europe/Berlin. UTC if left out.
    #[arg(long)]
    time_zone: Option<String>,
    /// The args of its jobs as JSON; `@FILE` or `@-` (standard input) reads them from there.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    args: String,
    /// Fires are put off by a share of this, the same for each fire.
    #[arg(long, value_parser = humantime::parse_duration)]
    jitter: Option<Duration>,
    /// When a job of it still stands: skip, allow or queue-one.
    #[arg(long, default_value = "skip", value_parser = overlap)]
    overlap: Overlap,
    /// When nobody noticed in time: run-once, skip, or a number: so many of the last have a job each.
    #[arg(long, default_value = "run-once", value_parser = missed)]
    missed: DeclaredMissed,
    /// Not due before this, such as 2030-01-31T08:00:00Z.
    #[arg(long)]
    start: Option<DateTime<Utc>>,
    /// Not due after this.
    #[arg(long)]
    end: Option<DateTime<Utc>>,
    /// Whom its jobs are done for.
    #[arg(long, conflicts_with = "each_tenant")]
    tenant: Option<Tenant>,
    /// One job for every active tenant.
    #[arg(long)]
    each_tenant: bool,
    /// In the place of the schedule that has the name, if it is not one of schedules.toml.
    #[arg(long)]
    replace: bool,
}

fn overlap(text: &str) -> Result<Overlap, String> {
    match text {
        "allow" => Ok(Overlap::Allow),
        "skip" => Ok(Overlap::Skip),
        "queue-one" | "queue_one" => Ok(Overlap::QueueOne),
        _ => Err("skip, allow or queue-one is expected".to_owned()),
    }
}

fn missed(text: &str) -> Result<DeclaredMissed, String> {
    match text {
        "skip" => Ok(DeclaredMissed::Skip),
        "run-once" | "run_once" => Ok(DeclaredMissed::RunOnce),
        number => number
            .parse()
            .map(DeclaredMissed::CatchUp)
            .map_err(|_| "run-once, skip or a number (how many are caught up) is expected".to_owned()),
    }
}

pub(super) async fn run(context: &Context, asked: AddArgs) -> anyhow::Result<()> {
    operate::begin(context)?;
    let args = read_json(&asked.args)?;
    let args = serde_json::from_str(args.get())
        .map_err(|error| Failure::usage(format!("--args: this is no JSON that can be kept: {error}")))?;
    let declared = Declared {
        name: asked.name,
        kind: asked.kind,
        args: Some(args),
        cron: asked.cron,
        every: asked.every,
        time_zone: asked.time_zone,
        jitter: asked.jitter,
        overlap: asked.overlap,
        missed: asked.missed,
        start: asked.start,
        end: asked.end,
        tenant: asked.tenant.map(String::from),
        each_tenant: asked.each_tenant,
        enabled: None,
    };
    let (database, catalog) = (context.database()?, kinds::catalog());
    let (view, changed) = if asked.replace {
        schedule::replace(&database, &catalog, declared).await
    } else {
        schedule::add(&database, &catalog, declared).await
    }
    .map_err(|error| match error {
        AdminError::Exists(_) => Failure::failed(format!("{error}; --replace puts this one in its place")),
        other => refusal(other),
    })?;
    if changed {
        operate::audit("schedules.add", &labelled(&view.name, view.tenant.as_deref()), 1);
    }
    context.output.record(&view, &rows(&view))
}
