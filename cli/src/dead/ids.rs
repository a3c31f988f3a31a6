//! Running dead jobs again, or giving them up: those with these ids.

use std::collections::HashSet;

use sqlx::PgPool;
use windrow_queue::{
    JobId, journal,
    store::{Redriven, Store},
};

use super::not_dead;
use crate::{context::Context, kinds, operate, pages};

fn stays_dead(id: JobId, other: Option<JobId>) -> String {
    let other = other.map_or_else(|| "another job".to_owned(), |other| format!("job {other}"));
    format!("job {id} stays dead: {other} with its unique key stands, which does its work")
}

/// Goes through all, and then fails for those that could not be done.
pub(super) async fn redrive(context: &Context, store: &Store, database: &PgPool, ids: &[JobId]) -> anyhow::Result<()> {
    let (mut done, mut faults) = (Vec::with_capacity(ids.len()), Vec::new());
    for chunk in ids.chunks(pages::BATCH) {
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

pub(super) async fn discard(context: &Context, store: &Store, database: &PgPool, ids: &[JobId]) -> anyhow::Result<()> {
    let (mut done, mut left) = (Vec::with_capacity(ids.len()), Vec::new());
    for chunk in ids.chunks(pages::BATCH) {
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
