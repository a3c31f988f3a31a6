//! `windrow dead`: fast ones are in Redis, journaled ones in Postgres; here they are one list.

mod act;
mod groups;
mod ids;
mod show;

use clap::{Args, Subcommand};
use windrow_api::{
    find::{JobView, unhex16},
    list::{ListQuery, ListState},
};
use windrow_queue::{
    JobId, Kind, Tenant,
    journal::{CloseState, ClosedFilter},
    store::DeadAct,
};

use crate::{
    context::Context,
    exit::Failure,
    operate::{FilterArgs, WalkArgs},
    output::{cell, time},
    pages,
};
use act::Which;

/// Dead jobs: look at them, run them again, discard them.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// The newest first.
    List {
        #[command(flatten)]
        which: DeadArgs,
        /// How many, at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Where the page before ended, as it said.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// What they died of, the largest group first.
    Groups {
        /// Of this kind.
        #[arg(long)]
        kind: Option<Kind>,
        /// Of this tenant.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// How many groups, at most.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// One, with its args and every attempt's error.
    Show {
        /// Its id.
        id: JobId,
    },
    /// Runs jobs again, with fresh attempts: those with these ids, or all that fit the filter, newest first.
    Redrive {
        /// Their ids.
        ids: Vec<JobId>,
        #[command(flatten)]
        which: DeadArgs,
        #[command(flatten)]
        walk: WalkArgs,
        /// All there are: without a filter this must be said.
        #[arg(long)]
        all: bool,
    },
    /// Gives jobs up for good: those with these ids, or all that fit the filter, newest first.
    Discard {
        /// Their ids.
        ids: Vec<JobId>,
        #[command(flatten)]
        which: DeadArgs,
        #[command(flatten)]
        walk: WalkArgs,
        /// All there are: without a filter this must be said.
        #[arg(long)]
        all: bool,
    },
}

/// Which of them. Times are those of death.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeadArgs {
    #[command(flatten)]
    jobs: FilterArgs,
    /// Dead of this: a fingerprint, as lists and groups show it.
    #[arg(long, value_parser = fingerprint)]
    fingerprint: Option<[u8; 16]>,
}

fn fingerprint(text: &str) -> Result<[u8; 16], String> {
    unhex16(text).ok_or_else(|| "use the 32 hexadecimal digits that `windrow dead groups` shows".to_owned())
}

fn digits(print: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*print))
}

impl DeadArgs {
    fn words(&self) -> String {
        let print = self.fingerprint.as_ref().map(|print| format!(" fingerprint={}", digits(print)));
        self.jobs.words() + &print.unwrap_or_default()
    }

    const fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.fingerprint.is_none()
    }

    fn closed(&self) -> ClosedFilter {
        let FilterArgs { queue, kind, tenant, since, until } = self.jobs.clone();
        ClosedFilter { state: CloseState::Dead, kind, tenant, queue, fingerprint: self.fingerprint, since, until }
    }
}

pub(crate) async fn run(context: &Context, command: DeadCommand) -> anyhow::Result<()> {
    let (store, database) = (context.store()?, context.database()?);
    match command {
        DeadCommand::List { which, limit, cursor } => {
            which.jobs.check()?;
            let FilterArgs { queue, kind, tenant, since, until } = which.jobs;
            let fingerprint = which.fingerprint;
            let query = ListQuery {
                queue,
                kind,
                tenant,
                fingerprint,
                since,
                until,
                cursor,
                ..ListQuery::all(ListState::Dead, limit.into())
            };
            let page = pages::list(&store, &database, query).await?;
            let header = ["job", "kind", "tenant", "attempts", "died", "reason"];
            context.output.page_jobs(&page, header, |dead: &JobView| {
                let reason: String = dead.reason.as_deref().unwrap_or_default().chars().take(100).collect();
                let (kind, tenant) = (cell(dead.kind.as_ref()), cell(dead.tenant.as_ref()));
                [dead.id.to_string(), kind, tenant, dead.attempt.to_string(), time(dead.closed_at), reason]
            })
        }
        DeadCommand::Groups { kind, tenant, limit } => {
            groups::groups(context, &store, &database, kind.as_ref(), tenant.as_ref(), limit.into()).await
        }
        DeadCommand::Show { id } => show::show(context, &store, &database, id).await,
        DeadCommand::Redrive { ids, which, walk, all } => {
            let which = Which::new(ids, which, all)?;
            Box::pin(act::act(context, &store, &database, DeadAct::Redrive, which, &walk)).await
        }
        DeadCommand::Discard { ids, which, walk, all } => {
            let which = Which::new(ids, which, all)?;
            Box::pin(act::act(context, &store, &database, DeadAct::Discard, which, &walk)).await
        }
    }
}

fn not_dead(id: JobId) -> anyhow::Error {
    Failure::not_found(format!("there is no dead job {id}"))
}
