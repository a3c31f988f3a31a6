//! `windrow jobs cancel`.

use std::collections::HashMap;

use clap::{Args, ValueEnum};
use sqlx::PgPool;
use windrow_api::{
    cancel::{CancelOutcome, cancel},
    find::find,
};
use windrow_queue::{
    JobId, Member, QueueName,
    journal::{self, StandingFilter},
    store::{Standing, Store, Walk, Walked},
};

use crate::{
    context::Context,
    exit::Failure,
    kinds,
    operate::{self, FilterArgs, Progress, WalkArgs},
    pages,
};

/// Which jobs to cancel.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// Their ids.
    ids: Vec<JobId>,
    /// Fast jobs in this state only, and no journaled ones but parked. May be given more than once; else in every state. Times
    /// are then those of the state; of journaled jobs, when they were accepted.
    #[arg(long)]
    state: Vec<State>,
    #[command(flatten)]
    which: FilterArgs,
    #[command(flatten)]
    walk: WalkArgs,
    /// All there are: without a filter this must be said.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum State {
    Ready,
    Scheduled,
    Parked,
    Running,
}

impl From<State> for Standing {
    fn from(state: State) -> Self {
        match state {
            State::Ready => Self::Ready,
            State::Scheduled => Self::Scheduled,
            State::Parked => Self::Parked,
            State::Running => Self::Running,
        }
    }
}

pub(super) async fn run(context: &Context, args: CancelArgs) -> anyhow::Result<()> {
    let (store, database) = (context.store()?, context.database()?);
    let has_filter = !args.which.is_empty() || !args.state.is_empty() || args.all;
    match (args.ids.is_empty(), has_filter) {
        (false, true) => return Err(Failure::usage("give ids, or a filter, not both")),
        (true, false) => {
            return Err(Failure::usage(
                "which jobs? Give ids, or a filter (--kind, --tenant, --queue, --state, --since, --until), or --all",
            ));
        }
        (false, false) if args.walk.dry_run => return Err(Failure::usage("--dry-run is for a filter: leave it out")),
        _ => {}
    }
    args.which.check()?;
    operate::begin(context)?;
    if !args.ids.is_empty() {
        return by_id(context, &store, &database, &args.ids).await;
    }
    let (walk, mut walked, progress) = (args.walk.start(None)?, Walked::default(), Progress::new("cancelling"));
    let ended = walk_all(&store, &database, &args, &walk, &mut walked, &progress).await;
    progress.end();
    if !walk.dry_run {
        let states: Vec<String> = args.state.iter().map(|state| format!(" state={state:?}").to_lowercase()).collect();
        operate::audit("jobs.cancel", &(args.which.words() + &states.concat()), walked.done);
    }
    if ended.is_err() {
        eprintln!("windrow: {} were cancelled until then; run it again to go on", walked.done);
    }
    ended?;
    // Those are dealt with in Postgres, and counted there.
    walked.journaled = 0;
    operate::report(context, &walk, &walked, "cancelled")
}

async fn by_id(context: &Context, store: &Store, database: &PgPool, ids: &[JobId]) -> anyhow::Result<()> {
    let (mut done, mut fault) = (Vec::with_capacity(ids.len()), None);
    for &id in ids {
        let outcome = match find(store, database, &kinds::catalog(), id).await? {
            None => Err(Failure::not_found(format!("there is no job {id}, or it is over and its result was not kept"))),
            Some(view) => cancel(store, database, &view, "cancelled by an operator").await.map_err(anyhow::Error::new),
        };
        match outcome {
            Ok(outcome) => done.push((id, outcome)),
            Err(error) => {
                let error = error.context(format!("job {id}"));
                if let Some(before) = fault.replace(error) {
                    eprintln!("windrow: {}", crate::exit::words(&before));
                }
            }
        }
    }
    for (id, _) in &done {
        operate::audit("jobs.cancel", &format!("id={id}"), 1);
    }
    if !done.is_empty() {
        context.output.list(&done, ["job", ""], |(id, outcome)| {
            let words = match outcome {
                CancelOutcome::Cancelled => "cancelled",
                CancelOutcome::Stopping => "runs, and was told to stop",
            };
            [id.to_string(), words.to_owned()]
        })?;
    }
    fault.map_or(Ok(()), Err)
}

async fn walk_all(
    store: &Store,
    database: &PgPool,
    args: &CancelArgs,
    walk: &Walk,
    walked: &mut Walked,
    progress: &Progress,
) -> anyhow::Result<()> {
    let tell = |walked: &Walked| progress.tell(walked);
    let parked = match &args.state[..] {
        [] => Some(None),
        states => states.contains(&State::Parked).then_some(Some(true)),
    };
    if let Some(parked) = parked {
        journaled(store, database, &args.which, parked, walk, walked, progress).await?;
    }
    let filter = args.which.filter();
    let states = if args.state.is_empty() {
        &[State::Scheduled, State::Parked, State::Ready, State::Running][..]
    } else {
        &args.state
    };
    for queue in args.which.queues() {
        for &state in states {
            if walked.stopped {
                return Ok(());
            }
            store.each_standing(&queue, state.into(), &filter, walk, walked, tell).await?;
        }
    }
    Ok(())
}

/// In Postgres first; then Redis is told, so that what waits there is taken out, and what runs is stopped.
async fn journaled(
    store: &Store,
    database: &PgPool,
    which: &FilterArgs,
    parked: Option<bool>,
    walk: &Walk,
    walked: &mut Walked,
    progress: &Progress,
) -> anyhow::Result<()> {
    let FilterArgs { queue, kind, tenant, since, until } = which.clone();
    let filter = StandingFilter { kind, tenant, queue, parked, since, until };
    let find = async |after, limit| {
        let page = journal::find_standing(database, &filter, after, limit).await?;
        Ok((page.jobs.iter().map(|job| JobId(job.id)).collect(), page.next))
    };
    let decide = async |ids: &[JobId], walked: &mut Walked| {
        let mut by_queue: HashMap<QueueName, Vec<Member>> = HashMap::new();
        for answer in journal::cancel(database, ids, "cancelled by an operator").await? {
            match answer {
                journal::Cancelled::Done { member, queue } => {
                    walked.done += 1;
                    if let Ok(queue) = QueueName::new(queue) {
                        by_queue.entry(queue).or_default().push(member);
                    }
                }
                journal::Cancelled::Busy => walked.busy += 1,
                journal::Cancelled::AlreadyFinal | journal::Cancelled::Unknown => walked.gone += 1,
            }
        }
        for (queue, members) in by_queue {
            store.cancel(&queue, &members).await?;
        }
        Ok(())
    };
    pages::each_journaled(walk, walked, progress, find, decide).await
}
