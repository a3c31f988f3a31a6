//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    api_key, batch, dead, dev, exit, import, job, key, limit, payment, project, queue, schedule, source, tenant,
    vacancy, workers,
};

/// Background jobs in Redis and Postgres: scheduler, workers, API and operations in one program.
#[derive(Debug, Parser)]
#[command(name = "windrow", version, after_help = exit::HELP, propagate_version = true)]
pub(crate) struct Args {
    /// The file of settings; else config/windrow.toml, else /etc/windrow/windrow.toml, if they are there.
    #[arg(long, global = true, env = "WINDROW_CONFIG", value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Results as JSON, one line each.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process, with private servers and sample data: to see it work, and to develop against.
    Dev(dev::DevArgs),
    /// Executes jobs. Run as many as you like.
    Worker,
    /// Fires schedules, relays journaled jobs and keeps house. Run one or more.
    Scheduler,
    /// Takes jobs in over HTTP.
    Api,
    /// Brings the database's schema up to date.
    Migrate,
    /// Checks settings, Redis, Postgres and schedules, and says what to do about each finding.
    Check,
    /// Enqueues jobs, looks for them, lists and cancels them.
    #[command(subcommand)]
    Jobs(job::JobCommand),
    /// Dead jobs: look at them, run them again, discard them.
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// What is in the queues; hold them back and let them run.
    #[command(subcommand)]
    Queues(queue::QueueCommand),
    /// How many jobs may run at once, and how many may start in a while.
    #[command(subcommand)]
    Limits(limit::LimitCommand),
    /// Who works on which queue, and how much.
    Workers(workers::WorkersArgs),
    /// Sets of jobs with a follow-up.
    #[command(subcommand)]
    Batches(batch::BatchCommand),
    /// What happens by the clock: look, make, pause, resume, trigger.
    #[command(subcommand)]
    Schedules(schedule::ScheduleCommand),
    /// Whom the work is done for.
    #[command(subcommand)]
    Tenants(tenant::TenantCommand),
    /// Where vacancies come from.
    #[command(subcommand)]
    Sources(source::SourceCommand),
    /// What was found, and how it was scored.
    #[command(subcommand)]
    Vacancies(vacancy::VacancyCommand),
    /// Projects, into which phone numbers are imported.
    #[command(subcommand)]
    Projects(project::ProjectCommand),
    /// Imports a CSV file of phone numbers.
    Import(import::ImportArgs),
    /// Recurring payments and the ledger.
    #[command(subcommand)]
    Payments(payment::PaymentCommand),
    /// Keys for the API.
    #[command(subcommand)]
    ApiKeys(api_key::ApiKeyCommand),
    /// Keys with which args are encrypted.
    #[command(subcommand)]
    Keys(key::KeyCommand),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
