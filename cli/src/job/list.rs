//! `windrow jobs list`.

use clap::{Args, ValueEnum};
use windrow_api::{
    find::JobView,
    list::{ListQuery, ListState},
};
use windrow_queue::store::HeldWhy;

use crate::{
    context::Context,
    operate::FilterArgs,
    output::{cell, time},
    pages,
};

/// Which jobs to list.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// In this state.
    #[arg(long)]
    state: State,
    #[command(flatten)]
    which: FilterArgs,
    /// How many, at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where the page before ended, as it said.
    #[arg(long)]
    cursor: Option<String>,
}

/// The states that are listed; `windrow dead list` has the dead.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// By due time.
    Scheduled,
    /// Lane by lane, in the order of claims.
    Ready,
    /// Session by session.
    Running,
    /// Those that wait for a callback.
    Parked,
    /// Newest first.
    Dead,
    /// Journaled ones, newest first.
    Cancelled,
    /// What finished lately: up to 1,000 jobs of each queue are remembered.
    Finished,
}

impl From<State> for ListState {
    fn from(state: State) -> Self {
        match state {
            State::Scheduled => Self::Scheduled,
            State::Ready => Self::Ready,
            State::Running => Self::Running,
            State::Parked => Self::Parked,
            State::Dead => Self::Dead,
            State::Cancelled => Self::Cancelled,
            State::Finished => Self::Finished,
        }
    }
}

pub(super) async fn run(context: &Context, args: ListArgs) -> anyhow::Result<()> {
    args.which.check()?;
    let FilterArgs { queue, kind, tenant, since, until } = args.which;
    let query = ListQuery {
        queue,
        kind,
        tenant,
        since,
        until,
        cursor: args.cursor,
        ..ListQuery::all(args.state.into(), args.limit.into())
    };
    let page = pages::list(&context.store()?, &context.database()?, query).await?;
    let since = match args.state {
        State::Scheduled => "due",
        State::Ready => "ready since",
        State::Running => "running since",
        State::Parked => "deadline",
        State::Dead | State::Cancelled | State::Finished => "at",
    };
    context.output.page(&page, ["job", "kind", "queue", "tenant", "attempt", since, ""], |job: &JobView| {
        let (kind, tenant) = (cell(job.kind.as_ref()), cell(job.tenant.as_ref()));
        let at = job.closed_at.or(job.park_deadline).or(job.running_since).or(job.ready_at);
        [
            job.id.to_string(),
            kind,
            job.queue.clone(),
            tenant,
            job.attempt.to_string(),
            time(at),
            remark(job, args.state),
        ]
    })
}

fn remark(job: &JobView, state: State) -> String {
    match state {
        State::Ready => job.held_by.as_ref().map(held).unwrap_or_default(),
        State::Running => {
            let progress = job.progress.map(|progress| format!("{} of {} ", progress.done, progress.total));
            let stopping = if job.stopping { "stopping " } else { "" };
            format!("{}{stopping}{}", progress.unwrap_or_default(), cell(job.session.as_ref()))
        }
        State::Finished => job.state.clone(),
        _ => job.reason.as_deref().unwrap_or_default().chars().take(100).collect(),
    }
}

/// In words.
pub(super) fn held(held: &windrow_queue::store::HeldBy) -> String {
    match held.why {
        HeldWhy::Paused => format!("paused: {}", held.scope),
        HeldWhy::Concurrency => format!("waits: as many of {} run as may", held.scope),
        HeldWhy::Rate => format!("waits: as many of {} were started as may", held.scope),
    }
}
