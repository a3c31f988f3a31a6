//! `windrow dead`: fast ones are in Redis, journaled ones in Postgres; here they are one list.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use windrow_api::{
    find::{JobView, unhex16},
    list::{ListQuery, ListState, list},
};
use windrow_queue::{
    JobId, Kind, Tenant,
    id::Member,
    journal::{self, CloseState, Closed, ClosedFilter},
    store::{DeadAct, Filter, JobState, Pace, Redriven, Store, Walk, Walked},
};

use crate::{
    context::Context,
    exit::Failure,
    kinds,
    operate::{self, FilterArgs, Progress, WalkArgs},
    output::{cell, time},
};

/// Jobs that are redriven a second, if nothing is said: no flood for what they failed at.
const REDRIVES: f64 = 100.0;
/// Journaled jobs in one statement.
const BATCH: usize = 500;
/// Groups that are counted at a time; beyond it, what is new is not told apart.
const MAX_GROUPS: usize = 10_000;

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
            let page = list(&store, &database, &kinds::catalog(), &query).await?;
            let header = ["job", "kind", "tenant", "attempts", "died", "reason"];
            context.output.page_jobs(&page, header, |dead: &JobView| {
                let reason: String = dead.reason.as_deref().unwrap_or_default().chars().take(100).collect();
                let (kind, tenant) = (cell(dead.kind.as_ref()), cell(dead.tenant.as_ref()));
                [dead.id.to_string(), kind, tenant, dead.attempt.to_string(), time(dead.closed_at), reason]
            })
        }
        DeadCommand::Groups { kind, tenant, limit } => {
            groups(context, &store, &database, kind.as_ref(), tenant.as_ref(), limit.into()).await
        }
        DeadCommand::Show { id } => show(context, &store, &database, id).await,
        DeadCommand::Redrive { ids, which, walk, all } => {
            let which = Which::new(ids, which, all)?;
            Box::pin(act(context, &store, &database, DeadAct::Redrive, which, &walk)).await
        }
        DeadCommand::Discard { ids, which, walk, all } => {
            let which = Which::new(ids, which, all)?;
            Box::pin(act(context, &store, &database, DeadAct::Discard, which, &walk)).await
        }
    }
}

/// What they died of.
#[derive(Debug, Serialize)]
struct Group {
    fingerprint: String,
    kind: String,
    jobs: u64,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
    sample: String,
}

impl Group {
    fn add(&mut self, jobs: u64, first: Option<DateTime<Utc>>, last: Option<DateTime<Utc>>, sample: String) {
        self.jobs += jobs;
        self.first = [self.first, first].into_iter().flatten().min();
        if last > self.last {
            (self.last, self.sample) = (last, sample);
        }
    }
}

async fn groups(
    context: &Context,
    store: &Store,
    database: &PgPool,
    kind: Option<&Kind>,
    tenant: Option<&Tenant>,
    limit: usize,
) -> anyhow::Result<()> {
    let mut groups: HashMap<(String, String), Group> = HashMap::new();
    let mut untold = 0;
    let mut add = |fingerprint: String, kind: String, jobs: u64, first, last, sample: String| {
        let key = (fingerprint, kind);
        if groups.len() >= MAX_GROUPS && !groups.contains_key(&key) {
            untold += jobs;
            return;
        }
        let (fingerprint, kind) = key.clone();
        let new = Group { fingerprint, kind, jobs: 0, first: None, last: None, sample: String::new() };
        groups.entry(key).or_insert(new).add(jobs, first, last, sample);
    };
    for group in journal::dead_groups(database, kind, tenant, i64::try_from(MAX_GROUPS)?).await? {
        let print = <[u8; 16]>::try_from(&*group.fingerprint).map(|print| digits(&print)).unwrap_or_default();
        let jobs = u64::try_from(group.jobs).unwrap_or(0);
        add(print, group.kind, jobs, Some(group.first), Some(group.last), group.sample);
    }
    let filter = Filter { kind: kind.cloned(), tenant: tenant.cloned(), ..Filter::default() };
    for queue in kinds::catalog().queues() {
        let mut after = None;
        loop {
            let page = store.dead(&queue, &filter, after.as_ref(), windrow_queue::store::MAX_PAGE).await?;
            for dead in page.items {
                let print = digits(&dead.fingerprint());
                let sample = dead.error.map(|error| format!("{}: {}", error.class, error.message));
                add(print, dead.kind.into(), 1, dead.died_at, dead.died_at, sample.unwrap_or_default());
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| (std::cmp::Reverse((group.jobs, group.last)), group.fingerprint.clone()));
    groups.truncate(limit);
    if untold > 0 {
        eprintln!(
            "windrow: {untold} jobs are in none of the {MAX_GROUPS} groups that are told apart: filter by kind or tenant"
        );
    }
    context.output.list(&groups, ["fingerprint", "kind", "jobs", "first", "last", "the last said"], |group| {
        let sample: String = group.sample.chars().take(100).collect();
        let (first, last) = (time(group.first), time(group.last));
        [group.fingerprint.clone(), group.kind.clone(), group.jobs.to_string(), first, last, sample]
    })
}

/// A dead job with all that is known of it.
#[derive(Debug, Serialize)]
struct Dead {
    id: JobId,
    kind: String,
    queue: String,
    tenant: Option<String>,
    journaled: bool,
    attempt: u64,
    died_at: Option<DateTime<Utc>>,
    reason: String,
    args: Value,
    errors: Value,
}

impl Dead {
    fn journaled(mut closed: Closed) -> Self {
        Self {
            id: JobId(closed.id),
            kind: closed.kind,
            queue: closed.queue,
            tenant: closed.tenant,
            journaled: true,
            attempt: closed.job["attempt"].as_u64().unwrap_or(0),
            died_at: Some(closed.closed_at),
            reason: closed.reason,
            args: shown(closed.job["args"].take()),
            errors: closed.job["errors"].take(),
        }
    }
}

/// Sealed args are shown as such, with the key's id only.
fn shown(mut args: Value) -> Value {
    windrow_queue::vault::shown_value(&mut args);
    args
}

async fn show(context: &Context, store: &Store, database: &PgPool, id: JobId) -> anyhow::Result<()> {
    let dead = match journal::show_closed(database, id).await? {
        Some(closed) if closed.state == "dead" && !closed.running => Dead::journaled(closed),
        _ => fast_by_id(store, id).await?.ok_or_else(|| not_dead(id))?,
    };
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    context.output.record(
        &dead,
        &[
            ("job", dead.id.to_string()),
            ("kind", dead.kind.clone()),
            ("queue", dead.queue.clone()),
            ("tenant", cell(dead.tenant.as_ref())),
            ("journaled", dead.journaled.to_string()),
            ("attempts", dead.attempt.to_string()),
            ("died", time(dead.died_at)),
            ("reason", dead.reason.clone()),
            ("args", pretty(&dead.args)),
            ("errors", pretty(&dead.errors)),
        ],
    )
}

async fn fast_by_id(store: &Store, id: JobId) -> anyhow::Result<Option<Dead>> {
    for queue in kinds::catalog().queues() {
        let Some(status) = store.status(&queue, Member::fast(id)).await? else { continue };
        let (JobState::Dead, Some(kind)) = (status.state, status.kind) else { return Ok(None) };
        let reason = status.errors.last().map(|error| format!("{}: {}", error.class, error.message));
        return Ok(Some(Dead {
            id,
            kind: kind.into(),
            queue: queue.to_string(),
            tenant: status.tenant.map(String::from),
            journaled: false,
            attempt: status.attempt.into(),
            died_at: status.died_at,
            reason: reason.unwrap_or_default(),
            args: status.args.and_then(|args| serde_json::from_str(args.get()).ok()).unwrap_or(Value::Null),
            errors: serde_json::to_value(status.errors).unwrap_or(Value::Null),
        }));
    }
    Ok(None)
}

fn not_dead(id: JobId) -> anyhow::Error {
    Failure::not_found(format!("there is no dead job {id}"))
}

/// Which dead jobs are acted on.
enum Which {
    Ids(Vec<JobId>),
    Fitting(DeadArgs),
}

impl Which {
    fn new(ids: Vec<JobId>, which: DeadArgs, all: bool) -> anyhow::Result<Self> {
        match (ids.is_empty(), which.is_empty()) {
            (false, true) if !all => Ok(Self::Ids(ids)),
            (false, _) => Err(Failure::usage("give ids, or a filter, not both")),
            (true, true) if !all => Err(Failure::usage(
                "which jobs? Give ids, or a filter (--kind, --tenant, --queue, --fingerprint, --since, --until), or --all",
            )),
            (true, _) => Ok(Self::Fitting(which)),
        }
    }
}

async fn act(
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
        Which::Ids(ids) if redrive => return redrive_ids(context, store, database, &ids).await,
        Which::Ids(ids) => return discard_ids(context, store, database, &ids).await,
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
    let (mut pace, mut after) = (Pace::new(walk), None);
    loop {
        let page = journal::find_closed(database, &closed, after, pace.batch(BATCH)).await?;
        let ids: Vec<JobId> = page.jobs.iter().map(|job| JobId(job.id)).collect();
        if !ids.is_empty() {
            if !pace.next(ids.len()).await {
                walked.stopped = true;
                return Ok(());
            }
            walked.matched += ids.len() as u64;
            if !walk.dry_run {
                let done = match act {
                    DeadAct::Redrive => journal::redrive_all(database, &ids).await?,
                    DeadAct::Discard => journal::discard_all(database, &ids).await?,
                };
                walked.done += done.len() as u64;
                // What is not back has a key that another job holds; what is not discarded was dealt with.
                let left = (ids.len() - done.len()) as u64;
                *(if act == DeadAct::Redrive { &mut walked.standing } else { &mut walked.gone }) += left;
            }
            tell(walked);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
        if walk.stop.is_cancelled() {
            walked.stopped = true;
            return Ok(());
        }
    }
    for queue in which.jobs.queues() {
        store.each_dead(&queue, act, (&filter, which.fingerprint), walk, walked, tell).await?;
        if walked.stopped || walked.refused.is_some() {
            break;
        }
    }
    Ok(())
}

fn stays_dead(id: JobId, other: Option<JobId>) -> String {
    let other = other.map_or_else(|| "another job".to_owned(), |other| format!("job {other}"));
    format!("job {id} stays dead: {other} with its unique key stands, which does its work")
}

/// Goes through all, and then fails for those that could not be done.
async fn redrive_ids(context: &Context, store: &Store, database: &PgPool, ids: &[JobId]) -> anyhow::Result<()> {
    let (mut done, mut faults) = (Vec::with_capacity(ids.len()), Vec::new());
    for chunk in ids.chunks(BATCH) {
        let back: HashSet<JobId> = journal::redrive_all(database, chunk).await?;
        for &id in chunk {
            if back.contains(&id) {
                done.push((id, id));
                continue;
            }
            match redrive_fast(store, database, id).await? {
                Ok(new) => done.push((id, new)),
                Err(fault) => faults.push(fault),
            }
        }
    }
    operate::audit("dead.redrive", &listed(ids), done.len() as u64);
    if !done.is_empty() || faults.is_empty() {
        context.output.list(&done, ["dead", "runs again as"], |(old, new)| [old.to_string(), new.to_string()])?;
    }
    first_fault(faults)
}

/// The new id, or why there is none.
async fn redrive_fast(store: &Store, database: &PgPool, id: JobId) -> anyhow::Result<Result<JobId, anyhow::Error>> {
    if journal::show_closed(database, id).await?.is_some_and(|closed| closed.state != "discarded" && !closed.running) {
        return Ok(Err(anyhow::anyhow!(stays_dead(id, None))));
    }
    for queue in kinds::catalog().queues() {
        let answer = store.redrive(&queue, &[id]).await?.pop().unwrap_or(Redriven::NotDead);
        return Ok(match answer {
            Redriven::NotDead => continue,
            Redriven::As(new) => Ok(new),
            Redriven::Stands(other) => Err(anyhow::anyhow!(stays_dead(id, Some(other)))),
            Redriven::Refused(refused) => Err(anyhow::anyhow!("job {id} stays dead: {refused}")),
            Redriven::Unreadable => Err(anyhow::anyhow!(
                "job {id} stays dead: this version cannot read its record; use a newer windrow, or discard it"
            )),
        });
    }
    Ok(Err(not_dead(id)))
}

async fn discard_ids(context: &Context, store: &Store, database: &PgPool, ids: &[JobId]) -> anyhow::Result<()> {
    let (mut done, mut left) = (Vec::with_capacity(ids.len()), Vec::new());
    for chunk in ids.chunks(BATCH) {
        let marked = journal::discard_all(database, chunk).await?;
        let (closed, fast): (Vec<JobId>, Vec<JobId>) = chunk.iter().partition(|id| marked.contains(id));
        done.extend(closed);
        let mut fast = fast;
        for queue in kinds::catalog().queues() {
            let gone = store.discard(&queue, &fast).await?;
            let mut gone = gone.into_iter();
            fast.retain(|&id| {
                let is_gone = gone.next().unwrap_or(false);
                if is_gone {
                    done.push(id);
                }
                !is_gone
            });
        }
        left.extend(fast);
    }
    operate::audit("dead.discard", &listed(ids), done.len() as u64);
    if !done.is_empty() || left.is_empty() {
        context.output.list(&done, ["discarded"], |id| [id.to_string()])?;
    }
    first_fault(left.into_iter().map(not_dead).collect())
}

fn first_fault(mut faults: Vec<anyhow::Error>) -> anyhow::Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let others = faults.split_off(1);
    for other in others {
        eprintln!("windrow: {other:#}");
    }
    Err(faults.remove(0))
}

/// Ids for the log, which is not to grow without bound.
fn listed(ids: &[JobId]) -> String {
    let shown: Vec<String> = ids.iter().take(10).map(ToString::to_string).collect();
    let more = ids.len().saturating_sub(10);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("ids={}{rest}", shown.join(","))
}
