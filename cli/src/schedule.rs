//! `windrow schedules`.

use clap::{Args, Subcommand};
use windrow_queue::Tenant;
use windrow_schedule::admin::{self, AdminError};

use crate::{
    context::Context,
    exit::Failure,
    kinds,
    output::{cell, time},
};

/// What happens by the clock.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// All of them, as they stand in the database.
    List {
        /// How many, at most.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(i64).range(0..=100_000))]
        limit: i64,
    },
    /// The coming fire times of one.
    Next {
        #[command(flatten)]
        which: Which,
        /// How many.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
        times: u16,
    },
    /// What became of the last fires of one.
    Fires {
        #[command(flatten)]
        which: Which,
        /// How many, at most.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(0..=100_000))]
        limit: i64,
    },
    /// It does not fire until it is resumed. Outlives a new file of schedules.
    Pause(Which),
    /// It fires again. What fell into the pause is not made up for.
    Resume(Which),
    /// Makes its job now, apart from its fire times.
    Trigger(Which),
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

pub(crate) async fn run(context: &Context, command: ScheduleCommand) -> anyhow::Result<()> {
    let (database, catalog, output) = (context.database()?, kinds::catalog(), context.output);
    match command {
        ScheduleCommand::List { limit } => {
            let rows = admin::list(&database, limit).await?;
            let header = ["schedule", "kind", "rule", "time zone", "tenant", "state", "next fire", "error"];
            output.list(&rows, header, |row| {
                [
                    row.name.clone(),
                    row.kind.clone(),
                    row.rule.clone(),
                    row.time_zone.clone(),
                    cell(row.tenant.as_ref()),
                    row.state.to_owned(),
                    time(row.next_fire_at),
                    cell(row.error.as_ref()),
                ]
            })
        }
        ScheduleCommand::Next { which: Which { name, tenant }, times } => {
            let fires =
                admin::next(&database, &catalog, &name, tenant.as_ref(), times.into()).await.map_err(refusal)?;
            output.list(&fires, ["fire time (UTC)"], |at| [time(Some(*at))])
        }
        ScheduleCommand::Fires { which: Which { name, tenant }, limit } => {
            let fires = admin::history(&database, &name, tenant.as_ref(), limit).await.map_err(refusal)?;
            output.list(&fires, ["fire time (UTC)", "outcome", "times", "jobs", "job", "late ms"], |fire| {
                [
                    time(Some(fire.fire_at)),
                    fire.outcome.clone(),
                    fire.times.to_string(),
                    fire.jobs.to_string(),
                    cell(fire.job_id.as_ref()),
                    fire.late_ms.to_string(),
                ]
            })
        }
        ScheduleCommand::Pause(which) => set_paused(context, which, true).await,
        ScheduleCommand::Resume(which) => set_paused(context, which, false).await,
        ScheduleCommand::Trigger(Which { name, tenant }) => {
            let catalog = catalog.with_vault(context.vault()?);
            let jobs = admin::trigger(&database, &catalog, &name, tenant.as_ref()).await.map_err(refusal)?;
            let ids: Vec<_> = jobs.iter().map(|job| job.id()).collect();
            output.list(&ids, ["job"], |id| [id.to_string()])
        }
    }
}

async fn set_paused(context: &Context, which: Which, paused: bool) -> anyhow::Result<()> {
    let Which { name, tenant } = which;
    let (database, catalog) = (context.database()?, kinds::catalog());
    admin::set_paused(&database, &catalog, &name, tenant.as_ref(), paused).await.map_err(refusal)?;
    let state = if paused { "paused" } else { "active" };
    context.output.show(&serde_json::json!({ "name": name, "state": state }), || format!("schedule {name} is {state}"))
}

fn refusal(error: AdminError) -> anyhow::Error {
    match error {
        AdminError::Unknown(_) => Failure::not_found(error.to_string()),
        other => other.into(),
    }
}
