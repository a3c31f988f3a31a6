//! Running dead jobs again, or giving them up: all that a filter names.

use sqlx::PgPool;
use windrow_queue::{
    JobId, journal,
    store::{DeadAct, Store, Walk, Walked},
};

use super::{DeadArgs, ids};
use crate::{
    context::Context,
    exit::Failure,
    operate::{self, Progress, WalkArgs},
    pages,
};

/// Jobs that are redriven a second, if nothing is said: no flood for what they failed at.
const REDRIVES: f64 = 100.0;
/// Which dead jobs are acted on.
pub(super) enum Which {
    Ids(Vec<JobId>),
    Fitting(DeadArgs),
}

impl Which {
    pub(super) fn new(ids: Vec<JobId>, which: DeadArgs, all: bool) -> anyhow::Result<Self> {
        match (ids.is_empty(), which.is_empty()) {
            (false, true) if !all => Ok(Self::Ids(ids)),
            (false, _) => Err(Failure::usage("give ids, or a filter, not both")),
            (true, true) if !all => Err(Failure::usage(
                "which jobs? Give ids, or a filter (--kind, --tenant, --queue, --fingerprint, --since, --until), or --all",
            )),
            (true, _) => {
                which.jobs.check()?;
                Ok(Self::Fitting(which))
            }
        }
    }
}

pub(super) async fn act(
    context: &Context,
    store: &Store,
    database: &PgPool,
    act: DeadAct,
    which: Which,
    args: &WalkArgs,
) -> anyhow::Result<()> {
    operate::begin(context)?;
    let redrive = act == DeadAct::Redrive;
    let which = match which {
        Which::Fitting(which) => which,
        Which::Ids(_) if args.dry_run => return Err(Failure::usage("--dry-run is for a filter: leave it out")),
        Which::Ids(ids) if redrive => return ids::redrive(context, store, database, &ids).await,
        Which::Ids(ids) => return ids::discard(context, store, database, &ids).await,
    };
    let (walk, mut walked) = (args.start(redrive.then_some(REDRIVES))?, Walked::default());
    let progress = Progress::new(if redrive { "redriving" } else { "discarding" });
    let ended = walk_dead(store, database, act, &which, &walk, &mut walked, &progress).await;
    progress.end();
    let (action, done) = if redrive { ("dead.redrive", "redriven") } else { ("dead.discard", "discarded") };
    if !walk.dry_run {
        operate::audit(action, &which.words(), walked.done);
    }
    if ended.is_err() {
        eprintln!("windrow: {} were {done} until then; run it again to go on", walked.done);
    }
    ended?;
    operate::report(context, &walk, &walked, done)
}

async fn walk_dead(
    store: &Store,
    database: &PgPool,
    act: DeadAct,
    which: &DeadArgs,
    walk: &Walk,
    walked: &mut Walked,
    progress: &Progress,
) -> anyhow::Result<()> {
    let tell = |walked: &Walked| progress.tell(walked);
    let (filter, closed) = (which.jobs.filter(), which.closed());
    let find = async |after, limit| {
        let page = journal::find_closed(database, &closed, after, limit).await?;
        Ok((page.jobs.iter().map(|job| JobId(job.id)).collect(), page.next))
    };
    let decide = async |ids: &[JobId], walked: &mut Walked| {
        let done = match act {
            DeadAct::Redrive => journal::redrive_all(database, ids).await?,
            DeadAct::Discard => journal::discard_all(database, ids).await?,
        };
        walked.done += done.len() as u64;
        // What is not back has a key that another job holds; what is not discarded was dealt with.
        let left = (ids.len() - done.len()) as u64;
        *(if act == DeadAct::Redrive { &mut walked.standing } else { &mut walked.gone }) += left;
        Ok(())
    };
    pages::each_journaled(walk, walked, progress, find, decide).await?;
    for queue in which.jobs.queues() {
        if walked.stopped || walked.refused.is_some() {
            break;
        }
        store.each_dead(&queue, act, (&filter, which.fingerprint), walk, walked, tell).await?;
    }
    Ok(())
}
