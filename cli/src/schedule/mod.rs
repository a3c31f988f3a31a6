//! `windrow schedules`.

mod add;

use clap::{Args, Subcommand};
use serde_json::json;
use windrow_api::schedule_history;
use windrow_queue::Tenant;
use windrow_schedule::{self as schedule, AdminError, FireState, ListQuery, MAX_NEXT, ScheduleState, ScheduleView};

use crate::{
    context::Context,
    exit::Failure,
    kinds, operate,
    output::{cell, time},
};

/// What happens by the clock.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// A page of them, by name, as they stand in the database.
    List {
        /// Of this tenant.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// In this state: active, paused, disabled or error.
        #[arg(long, value_parser = state)]
        state: Option<ScheduleState>,
        #[command(flatten)]
        page: Page,
    },
    /// All about one.
    Show(Which),
    /// Makes one. Those of schedules.toml are made there.
    Add(Box<add::AddArgs>),
    /// Removes one that was made by `add` or over the API. Jobs that it made stay.
    Remove(Which),
    /// The coming fire times of one, with the changes of its zone's clock marked.
    Next {
        #[command(flatten)]
        which: Which,
        /// How many.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NEXT)))]
        times: u16,
    },
    /// What became of the last fires and triggers of one, newest first.
    #[command(alias = "fires")]
    History {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        page: Page,
    },
    /// It does not fire until it is resumed. Outlives a new file of schedules.
    Pause(Which),
    /// It fires again. What fell into the pause is not made up for.
    Resume(Which),
    /// Makes its job now, apart from its fire times.
    Trigger {
        #[command(flatten)]
        which: Which,
        /// The same key again is answered with the first trigger.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
}

/// Which schedule.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its name.
    name: String,
    /// Whose it is, if it is one tenant's.
    #[arg(long)]
    tenant: Option<Tenant>,
}

/// Which part of a list.
#[derive(Debug, Args)]
pub(crate) struct Page {
    /// How many, at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where the page before ended.
    #[arg(long)]
    cursor: Option<String>,
}

fn state(text: &str) -> Result<ScheduleState, String> {
    [ScheduleState::Active, ScheduleState::Paused, ScheduleState::Disabled, ScheduleState::Error]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| "active, paused, disabled or error is expected".to_owned())
}

pub(crate) async fn run(context: &Context, command: ScheduleCommand) -> anyhow::Result<()> {
    match command {
        ScheduleCommand::List { tenant, state, page } => list(context, tenant, state, page).await,
        ScheduleCommand::Show(Which { name, tenant }) => {
            let view = schedule::show(&context.database()?, &kinds::catalog(), &name, tenant.as_ref()).await;
            let view = view.map_err(refusal)?;
            context.output.record(&view, &rows(&view))
        }
        ScheduleCommand::Add(args) => add::run(context, *args).await,
        ScheduleCommand::Remove(Which { name, tenant }) => {
            operate::begin(context)?;
            schedule::remove(&context.database()?, &name, tenant.as_ref()).await.map_err(refusal)?;
            operate::audit("schedules.remove", &labelled(&name, tenant.as_ref().map(Tenant::as_str)), 1);
            context.output.show(&json!({ "name": name, "removed": true }), || format!("schedule {name} is removed"))
        }
        ScheduleCommand::Next { which, times } => next(context, which, times).await,
        ScheduleCommand::History { which, page } => history(context, which, page).await,
        ScheduleCommand::Pause(which) => set_paused(context, which, true).await,
        ScheduleCommand::Resume(which) => set_paused(context, which, false).await,
        ScheduleCommand::Trigger { which, idempotency_key } => trigger(context, which, idempotency_key).await,
    }
}

async fn list(
    context: &Context,
    tenant: Option<Tenant>,
    state: Option<ScheduleState>,
    Page { limit, cursor }: Page,
) -> anyhow::Result<()> {
    let query = ListQuery { tenant, state, cursor, limit };
    let page = schedule::list(&context.database()?, &kinds::catalog(), &query).await.map_err(refusal)?;
    let header = ["schedule", "origin", "kind", "rule", "time zone", "tenant", "state", "next fire (UTC)", "error"];
    context.output.list(&page.schedules, header, |view| {
        [
            view.name.clone(),
            view.origin.clone(),
            view.kind.clone(),
            view.rule(),
            view.time_zone.clone(),
            view.whose().to_owned(),
            view.state.as_str().to_owned(),
            time(view.next_fire_at),
            cell(view.error.as_ref()),
        ]
    })?;
    say_more(page.next.as_ref());
    Ok(())
}

/// On standard error: what is on standard output is the list and nothing else.
fn say_more(next: Option<&String>) {
    if let Some(next) = next {
        eprintln!("windrow: more: --cursor {next}");
    }
}

async fn next(context: &Context, Which { name, tenant }: Which, times: u16) -> anyhow::Result<()> {
    let fires = schedule::next(&context.database()?, &kinds::catalog(), &name, tenant.as_ref(), times).await;
    context.output.list(&fires.map_err(refusal)?, ["fire time (UTC)", "on its clock", "the clock"], |fire| {
        let change = fire.offset_change.as_ref();
        let change = change.map(|change| {
            format!("changed from {} to {} at {} UTC", change.from, change.to, change.at.format("%Y-%m-%d %H:%M"))
        });
        [time(Some(fire.fire_at)), fire.local.clone(), cell(change.as_ref())]
    })
}

async fn history(context: &Context, which: Which, Page { limit, cursor }: Page) -> anyhow::Result<()> {
    let Which { name, tenant } = which;
    let (store, database) = (context.store()?, context.database()?);
    let page = schedule_history(&store, &database, &name, tenant.as_ref(), (cursor.as_deref(), limit)).await;
    let page = page.map_err(refusal)?;
    let header = ["fire time (UTC)", "outcome", "times", "jobs", "job", "job is", "late ms", "by"];
    context.output.list(&page.fires, header, |fire| {
        [
            time(Some(fire.fire_at)),
            fire.outcome.clone(),
            fire.times.to_string(),
            fire.jobs.to_string(),
            cell(fire.job_id.as_ref()),
            fire.job_state.as_ref().map(FireState::as_str).unwrap_or_default().to_owned(),
            fire.late_ms.to_string(),
            cell(fire.caller.as_ref()),
        ]
    })?;
    say_more(page.next.as_ref());
    Ok(())
}

async fn set_paused(context: &Context, Which { name, tenant }: Which, paused: bool) -> anyhow::Result<()> {
    operate::begin(context)?;
    let (database, catalog) = (context.database()?, kinds::catalog());
    let changed = schedule::set_paused(&database, &catalog, &name, tenant.as_ref(), paused).await.map_err(refusal)?;
    let (action, state) = if paused { ("schedules.pause", "paused") } else { ("schedules.resume", "active") };
    operate::audit(action, &labelled(&name, tenant.as_ref().map(Tenant::as_str)), changed.into());
    context.output.show(&json!({ "name": name, "state": state }), || format!("schedule {name} is {state}"))
}

async fn trigger(context: &Context, Which { name, tenant }: Which, key: Option<String>) -> anyhow::Result<()> {
    operate::begin(context)?;
    if key.as_ref().is_some_and(|key| !(1..=255).contains(&key.len())) {
        return Err(Failure::usage("--idempotency-key: 1 to 255 bytes are expected"));
    }
    let (database, catalog) = (context.database()?, kinds::catalog().with_vault(context.vault()?));
    let who = operate::who();
    let done = schedule::trigger(&database, &catalog, &name, tenant.as_ref(), &who, key.as_deref()).await;
    let done = done.map_err(refusal)?;
    let made = u64::from(done.created);
    operate::audit("schedules.trigger", &labelled(&name, tenant.as_ref().map(Tenant::as_str)), made);
    context.output.show(&done, || match done.job_id {
        Some(job) => job.to_string(),
        None if done.fanning => format!(
            "the schedulers make a job for every active tenant: `windrow schedules history {name}` says how many have theirs"
        ),
        None => format!("every active tenant has its job: {} jobs", done.jobs),
    })
}

/// What the log calls it.
fn labelled(name: &str, tenant: Option<&str>) -> String {
    tenant.map_or_else(|| format!("name={name}"), |tenant| format!("name={name} tenant={tenant}"))
}

fn rows(view: &ScheduleView) -> [(&'static str, String); 19] {
    [
        ("schedule", view.name.clone()),
        ("tenant", view.whose().to_owned()),
        ("origin", view.origin.clone()),
        ("state", view.state.as_str().to_owned()),
        ("error", cell(view.error.as_ref())),
        ("kind", view.kind.clone()),
        ("args", cell(view.args.as_ref())),
        ("rule", view.rule()),
        ("time zone", view.time_zone.clone()),
        ("jitter", cell(view.jitter.as_ref())),
        ("overlap", view.overlap.clone()),
        ("missed", view.missed.as_str().map_or_else(|| view.missed.to_string(), str::to_owned)),
        ("start", time(view.start)),
        ("end", time(view.end)),
        ("next fire (UTC)", time(view.next_fire_at)),
        ("looked at (UTC)", time(view.due_at)),
        ("queued (UTC)", time(view.queued_fire_at)),
        ("fanning out (UTC)", time(view.fanning_fire_at)),
        ("version", view.version.to_string()),
    ]
}

fn refusal(error: AdminError) -> anyhow::Error {
    match error {
        AdminError::Unknown { .. } => Failure::not_found(error.to_string()),
        AdminError::Invalid(_) | AdminError::Cursor(_) => Failure::usage(error.to_string()),
        AdminError::Declared(_) | AdminError::Exists(_) => Failure::failed(error.to_string()),
        AdminError::Database(error) => error.into(),
    }
}
