//! What producers and operators put into the queue.

use std::collections::{BTreeMap, BTreeSet};

use windrow_queue::{Enqueued, Member, OnConflict, store::Refused};

use super::{Job, Key, Lane, Reference, UniqueScope, id_of};
use crate::support::Place;

/// A job as its producer describes it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) member: Member,
    pub(crate) lane: Lane,
    /// Of its args.
    pub(crate) args: usize,
    pub(crate) delay: u64,
    pub(crate) unique: Option<(u8, UniqueScope, OnConflict)>,
    pub(crate) idempotency: Option<u8>,
    pub(crate) batch: Option<u8>,
    pub(crate) at_most_once: bool,
    pub(crate) rescue_limit: Option<u8>,
}

impl Asked {
    fn job(&self, place: Place, ready: u64) -> Job {
        let keys = usize::from(self.unique.is_some()) + usize::from(self.batch.is_some());
        Job {
            place,
            ready,
            lane: self.lane,
            // Header, lane, digests, and a length of two bytes.
            bytes: 16 + self.lane.encode().len() + 16 * keys + 2 + self.args,
            unique: self.unique.map(|(key, scope, _)| (key, scope)),
            batch: self.batch,
            at_most_once: self.at_most_once,
            rescue_limit: self.rescue_limit,
            ..Job::default()
        }
    }
}

impl Reference {
    /// One request of a producer. `tombs` are cancelled jobs of which Redis still has an entry.
    pub(crate) fn enqueue(
        &mut self,
        asked: &[Asked],
        tombs: &BTreeSet<Key>,
        now: u64,
    ) -> Vec<Result<Enqueued, Refused>> {
        let scheduled = |(key, job): (&Key, &Job)| matches!(job.place, Place::Scheduled { .. }).then(|| key.clone());
        let scheduled: BTreeSet<Key> = self.jobs.iter().filter_map(scheduled).collect();
        let mut changed = BTreeSet::new();
        asked.iter().map(|job| self.enqueue_one(job, tombs, &scheduled, &mut changed, now)).collect()
    }

    /// `scheduled` are those that waited for their time before this request, `changed` those that this request made or moved.
    fn enqueue_one(
        &mut self,
        asked: &Asked,
        tombs: &BTreeSet<Key>,
        scheduled: &BTreeSet<Key>,
        changed: &mut BTreeSet<Key>,
        now: u64,
    ) -> Result<Enqueued, Refused> {
        let key = asked.member.to_bytes();
        if self.jobs.contains_key(&key) || tombs.contains(&key) {
            return Ok(Enqueued::Exists(asked.member.id));
        }
        if let Some(first) = asked.idempotency.and_then(|key| self.idempotency.get(&key)) {
            return Ok(Enqueued::Exists(id_of(first)));
        }
        if let Some((unique, scope, policy)) = asked.unique
            && let Some(stands) = self.keys_of(scope).get(&unique).cloned()
        {
            return Ok(self.conflict(&stands, asked, scope, policy, scheduled, changed, now));
        }
        let place = if asked.delay > 0 { Place::Scheduled { due: now + asked.delay } } else { Place::Lane };
        let job = asked.job(place, now + asked.delay);
        if let Some(batch) = asked.batch {
            match self.batches.get(&batch) {
                Some(batch) if !batch.sealed => {}
                _ => return Err(Refused::BatchClosed),
            }
        }
        self.refuses(&job, tombs.len() as u64 / 8)?;
        changed.insert(key.clone());
        if let Some((unique, scope)) = job.unique {
            self.keys_of_mut(scope).insert(unique, key.clone());
        }
        if let Some(idempotency) = asked.idempotency {
            self.idempotency.insert(idempotency, key.clone());
        }
        if let Some(batch) = asked.batch.and_then(|batch| self.batches.get_mut(&batch)) {
            batch.members += 1;
        }
        self.taken.insert(key.clone());
        self.jobs.insert(key, job);
        Ok(Enqueued::Created(asked.member.id))
    }

    /// Why there is no room for a job, beside what is left of cancelled ones.
    fn refuses(&self, job: &Job, left: u64) -> Result<(), Refused> {
        let setup = self.setup;
        if self.gate {
            return Err(Refused::MemoryGate);
        }
        let (count, bytes) = self.usage(|_| true);
        if count + left >= setup.max_jobs {
            return Err(Refused::QueueFull);
        }
        if setup.max_bytes > 0 && bytes + job.bytes as u64 > setup.max_bytes {
            return Err(Refused::QueueBytes);
        }
        // Jobs of nobody are bounded by the queue's caps only.
        if job.lane.tenant == 0 {
            return Ok(());
        }
        let (count, bytes) = self.usage(|other| other.lane.tenant == job.lane.tenant);
        let is_full = (setup.tenant_jobs > 0 && count >= setup.tenant_jobs)
            || (setup.tenant_bytes > 0 && bytes + job.bytes as u64 > setup.tenant_bytes);
        if is_full { Err(Refused::TenantFull) } else { Ok(()) }
    }

    fn usage(&self, of: impl Fn(&Job) -> bool) -> (u64, u64) {
        let jobs = self.jobs.values().filter(|job| of(job));
        jobs.fold((0, 0), |(count, bytes), job| (count + 1, bytes + job.bytes as u64))
    }

    #[expect(clippy::too_many_arguments, reason = "what a conflict is about")]
    fn conflict(
        &mut self,
        stands: &Key,
        asked: &Asked,
        scope: UniqueScope,
        policy: OnConflict,
        scheduled: &BTreeSet<Key>,
        changed: &mut BTreeSet<Key>,
        now: u64,
    ) -> Enqueued {
        let id = id_of(stands);
        let exists = Enqueued::Exists(id);
        let Some(job) = self.jobs.get_mut(stands) else { return exists };
        let runs = matches!(job.place, Place::Running { .. });
        let made_here = changed.contains(stands) && !scheduled.contains(stands);
        if runs || made_here || job.batch.is_some() || asked.batch.is_some() {
            return exists;
        }
        let waits = scheduled.contains(stands);
        match policy {
            OnConflict::Ignore => exists,
            OnConflict::Replace => {
                if !waits && (scope == UniqueScope::Period || matches!(job.place, Place::Parked { .. })) {
                    return exists;
                }
                let new = asked.job(job.place.clone(), job.ready);
                job.bytes = new.bytes + job.lane.encode().len() - new.lane.encode().len();
                (job.unique, job.at_most_once, job.rescue_limit) = (new.unique, new.at_most_once, new.rescue_limit);
                Enqueued::Replaced(id)
            }
            OnConflict::Reschedule => {
                if !waits || !changed.insert(stands.clone()) {
                    return exists;
                }
                job.place = if asked.delay > 0 { Place::Scheduled { due: now + asked.delay } } else { Place::Lane };
                job.ready = now + asked.delay;
                Enqueued::Rescheduled(id)
            }
        }
    }

    /// A dead job comes back under a new id. Answers the job that stands in its place, or why there is no room.
    pub(crate) fn redrive(
        &mut self,
        key: &Key,
        new: impl FnOnce() -> Member,
        now: u64,
    ) -> Result<Result<(), Key>, Refused> {
        let mut job = Job { ready: now, ..self.dead[key].1.clone() };
        if let Some((unique, scope)) = job.unique
            && let Some(stands) = self.keys_of(scope).get(&unique).filter(|stands| *stands != key)
        {
            return Ok(Err(stands.clone()));
        }
        if job.batch.take().is_some() {
            job.bytes -= 16;
        }
        self.refuses(&job, 0)?;
        let new = new().to_bytes();
        self.dead.remove(key);
        if let Some((unique, scope)) = job.unique {
            self.keys_of_mut(scope).insert(unique, new.clone());
        }
        self.jobs.insert(new, job);
        Ok(Ok(()))
    }

    /// Where keys of a scope stand. Those of a period have a space of their own, and are not forgotten within a history.
    fn keys_of(&self, scope: UniqueScope) -> &BTreeMap<u8, Key> {
        if scope == UniqueScope::Period { &self.periods } else { &self.keys }
    }

    fn keys_of_mut(&mut self, scope: UniqueScope) -> &mut BTreeMap<u8, Key> {
        if scope == UniqueScope::Period { &mut self.periods } else { &mut self.keys }
    }
}
