//! What operators do to many fast jobs at a time: a walk over a list by pages, and an act on each batch of what fits the filter.
//!
//! A walk goes on behind what it has seen, so a job that dies again, or is enqueued, while it goes is not met twice. It can be
//! stopped between two batches, and says how far it came.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Cancelled, Cursor, Filter, MAX_PAGE, Page, Redriven, Refused, Standing, Store, StoreError};
use crate::{
    id::{JobId, Member},
    name::QueueName,
};

/// Jobs in one act: what is done cannot be stopped within it.
const BATCH: usize = 100;

/// How a walk goes.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Only count what fits.
    pub dry_run: bool,
    /// Most jobs a second that are acted on; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// Ends the walk between two batches.
    pub stop: CancellationToken,
}

/// How far a walk came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Walked {
    /// Jobs that fit the filter.
    pub matched: u64,
    /// Jobs that were redriven, discarded or cancelled (or, when running, told to stop).
    pub done: u64,
    /// Jobs that stay as they are because another job stands for their unique key.
    pub standing: u64,
    /// Jobs that stay as they are because their tenant has as much in the queue as it may.
    pub tenant_full: u64,
    /// Jobs that somebody else dealt with meanwhile.
    pub gone: u64,
    /// Journaled jobs about which another transaction decided at that moment; run it again for those.
    pub busy: u64,
    /// Journaled jobs, which are dealt with in Postgres.
    pub journaled: u64,
    /// Entries that this version cannot read.
    pub unreadable: u64,
    /// Why there was no room for more; the walk ended there.
    #[serde(serialize_with = "words")]
    pub refused: Option<Refused>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

fn words<S: serde::Serializer>(refused: &Option<Refused>, serializer: S) -> Result<S::Ok, S::Error> {
    match refused {
        Some(refused) => serializer.collect_str(refused),
        None => serializer.serialize_none(),
    }
}

/// Keeps a walk to its rate.
#[derive(Debug)]
pub struct Pace {
    started: Instant,
    rate: Option<f64>,
    stop: CancellationToken,
    count: u64,
}

impl Pace {
    /// Begins now.
    #[must_use]
    pub fn new(walk: &Walk) -> Self {
        let rate = walk.rate.filter(|rate| rate.is_finite() && *rate > 0.0 && !walk.dry_run);
        Self { started: Instant::now(), rate, stop: walk.stop.clone(), count: 0 }
    }

    /// How many jobs to act on at once, at most `most`: a quarter of a second's worth, so that a rate is one from second to
    /// second.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number, clamped")]
    pub fn batch(&self, most: usize) -> usize {
        self.rate.map_or(most, |rate| ((rate / 4.0) as usize).clamp(1, most))
    }

    /// Waits until another `jobs` may be acted on; false if the walk is to stop.
    pub async fn next(&mut self, jobs: usize) -> bool {
        if let Some(rate) = self.rate {
            #[expect(clippy::cast_precision_loss, reason = "a count of jobs")]
            let due = Duration::try_from_secs_f64(self.count as f64 / rate).unwrap_or(Duration::MAX);
            let Some(at) = self.started.checked_add(due) else { return false };
            if self.stop.run_until_cancelled(tokio::time::sleep_until(at)).await.is_none() {
                return false;
            }
        }
        self.count += jobs as u64;
        !self.stop.is_cancelled()
    }
}

/// What is done to the dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadAct {
    /// They become ready again.
    Redrive,
    /// They are given up for good.
    Discard,
}

impl Store {
    /// Redrives or discards the dead fast jobs of a queue that fit the filter and, if one is given, the fingerprint of their
    /// last error. Newest first. `walked` is right at every `tell`, and after an error.
    ///
    /// # Errors
    /// When Redis is away: `walked` says how far it came; the batch on its way may have been done.
    pub async fn each_dead(
        &self,
        queue: &QueueName,
        act: DeadAct,
        (filter, print): (&Filter, Option<[u8; 16]>),
        walk: &Walk,
        walked: &mut Walked,
        mut tell: impl FnMut(&Walked),
    ) -> Result<(), StoreError> {
        let (mut pace, mut after): (Pace, Option<Cursor>) = (Pace::new(walk), None);
        loop {
            let page = self.dead(queue, filter, after.as_ref(), MAX_PAGE).await?;
            walked.unreadable += page.unreadable.len() as u64;
            let fits = page.items.iter().filter(|dead| print.is_none_or(|print| dead.fingerprint() == print));
            let ids: Vec<JobId> = fits.map(|dead| dead.id).collect();
            for batch in ids.chunks(pace.batch(BATCH)) {
                if !pace.next(batch.len()).await {
                    walked.stopped = true;
                    return Ok(());
                }
                walked.matched += batch.len() as u64;
                if !walk.dry_run {
                    self.act(queue, act, batch, walked).await?;
                }
                tell(walked);
                if walked.refused.is_some() {
                    return Ok(());
                }
            }
            if walk.stop.is_cancelled() && page.next.is_some() {
                walked.stopped = true;
                return Ok(());
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn act(&self, queue: &QueueName, act: DeadAct, ids: &[JobId], walked: &mut Walked) -> Result<(), StoreError> {
        if act == DeadAct::Discard {
            let done = self.discard(queue, ids).await?.into_iter().filter(|&done| done).count() as u64;
            walked.done += done;
            walked.gone += ids.len() as u64 - done;
            return Ok(());
        }
        for answer in self.redrive(queue, ids).await? {
            match answer {
                Redriven::As(_) => walked.done += 1,
                Redriven::Stands(_) => walked.standing += 1,
                Redriven::NotDead => walked.gone += 1,
                Redriven::Unreadable => walked.unreadable += 1,
                // A tenant that is full does not keep the others from their turn.
                Redriven::Refused(Refused::TenantFull) => walked.tenant_full += 1,
                Redriven::Refused(refused) => walked.refused = Some(refused),
            }
        }
        Ok(())
    }

    /// Cancels the fast jobs of a queue that stand in a state and fit the filter; journaled ones are counted and left alone:
    /// Postgres decides about those. `walked` is right at every `tell`, and after an error.
    ///
    /// # Errors
    /// When Redis is away: `walked` says how far it came; the batch on its way may have been done.
    pub async fn each_standing(
        &self,
        queue: &QueueName,
        standing: Standing,
        filter: &Filter,
        walk: &Walk,
        walked: &mut Walked,
        mut tell: impl FnMut(&Walked),
    ) -> Result<(), StoreError> {
        let (mut pace, mut after): (Pace, Option<Cursor>) = (Pace::new(walk), None);
        loop {
            let Page { items, unreadable, next } = self.list(queue, standing, filter, after.as_ref(), MAX_PAGE).await?;
            walked.unreadable += unreadable.len() as u64;
            let (journaled, fast): (Vec<Member>, Vec<Member>) =
                items.iter().map(|job| job.member).partition(|member| member.generation.is_some());
            walked.journaled += journaled.len() as u64;
            for batch in fast.chunks(pace.batch(BATCH)) {
                if !pace.next(batch.len()).await {
                    walked.stopped = true;
                    return Ok(());
                }
                walked.matched += batch.len() as u64;
                if !walk.dry_run {
                    for answer in self.cancel(queue, batch).await? {
                        match answer {
                            Cancelled::Done | Cancelled::Stopping => walked.done += 1,
                            Cancelled::Unknown => walked.gone += 1,
                        }
                    }
                }
                tell(walked);
            }
            if walk.stop.is_cancelled() && next.is_some() {
                walked.stopped = true;
                return Ok(());
            }
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
