//! `windrow`: every role and every operation in one program.

#[cfg(test)]
mod alerts;
mod api_key;
mod args;
mod batch;
mod check;
mod context;
mod dead;
mod dev;
mod exit;
mod import;
mod job;
mod key;
mod kinds;
mod limit;
mod log;
mod operate;
mod output;
mod pages;
mod payment;
mod probe;
mod project;
mod queue;
mod role;
mod schedule;
mod settings;
mod signal;
mod source;
mod tenant;
mod vacancy;
mod workers;

use std::{env, process::ExitCode};

use anyhow::Context as _;
use args::{Args, Command};
use clap::Parser;
use context::Context;
use output::Output;
use settings::Loaded;

fn main() -> ExitCode {
    // Before anything speaks TLS: the one provider that is compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.context("the runtime does not start").and_then(|runtime| runtime.block_on(run(args)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("windrow: {}", exit::words(&error));
            exit::of(&error).into()
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    // A variable that is not text cannot be a setting of ours; its name would be looked at all the same.
    let variables = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    let output = Output::new(args.json);
    let loaded = match Loaded::read(args.config.as_deref(), variables) {
        Err(error) if matches!(args.command, Command::Check) => return check::unreadable(output, &error),
        loaded => loaded?,
    };
    let context = Context { loaded, output };
    match args.command {
        Command::Dev(args) => Box::pin(dev::run(context, args)).await,
        Command::Worker => Box::pin(role::worker(&context)).await,
        Command::Scheduler => Box::pin(role::scheduler(&context)).await,
        Command::Api => Box::pin(role::api(&context)).await,
        Command::Migrate => migrate(&context).await,
        Command::Check => check::run(&context).await,
        Command::Jobs(command) => Box::pin(job::run(&context, command)).await,
        Command::Dead(command) => Box::pin(dead::run(&context, command)).await,
        Command::Queues(command) => queue::run(&context, command).await,
        Command::Limits(command) => limit::run(&context, command).await,
        Command::Workers(args) => workers::run(&context, args).await,
        Command::Batches(command) => batch::run(&context, command).await,
        Command::Schedules(command) => schedule::run(&context, command).await,
        Command::Tenants(command) => tenant::run(&context, command).await,
        Command::Sources(command) => Box::pin(source::run(&context, command)).await,
        Command::Vacancies(command) => vacancy::run(&context, command).await,
        Command::Projects(command) => project::run(&context, command).await,
        Command::Import(args) => Box::pin(import::run(&context, args)).await,
        Command::Payments(command) => payment::run(&context, command).await,
        Command::ApiKeys(command) => api_key::run(&context, command),
        Command::Keys(command) => key::run(&context, command),
    }
}

async fn migrate(context: &Context) -> anyhow::Result<()> {
    let database = context.migrating_database()?;
    windrow_queue::database::migrate(&database).await?;
    windrow_queue::journal::register_kinds(&database, &kinds::catalog()).await?;
    context.output.show(&serde_json::json!({ "migrated": true }), || "the schema is up to date".to_owned())
}
