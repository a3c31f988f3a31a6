//! What comes from outside of workers: batches, cancels, callbacks.

use windrow_queue::{
    BatchId, Member,
    store::{Callback, Cancelled},
};

use super::{Batch, Came, Final, Job, Key, Lane, Reference};
use crate::support::Place;

impl Reference {
    pub(crate) fn open_batch(&mut self, number: u8, id: BatchId, follow_up: Member, lane: Lane, args: usize) {
        // Header, lane, and `{"follows":"…"}` with its length.
        let bytes = 16 + lane.encode().len() + 2 + 50 + args;
        let follow_up = (follow_up.to_bytes(), Job { lane, bytes, ..Job::default() });
        let batch =
            Batch { id, follow_up, members: 0, completed: 0, dead: 0, cancelled: 0, sealed: false, fired: None };
        self.batches.insert(number, batch);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.jobs.len() as u64 >= self.setup.max_jobs
    }

    pub(crate) fn seal_batch(&mut self, number: u8, now: u64) -> bool {
        let Some(batch) = self.batches.get_mut(&number) else { return false };
        batch.sealed = true;
        self.fire(number, now);
        true
    }

    pub(super) fn fire(&mut self, number: u8, now: u64) {
        let batch = self.batches.get_mut(&number).expect("it is there");
        if batch.sealed && batch.fired.is_none() && batch.completed + batch.dead + batch.cancelled == batch.members {
            batch.fired = Some(now);
            let (key, job) = batch.follow_up.clone();
            let job = Job { ready: now, ..job };
            let before = self.jobs.insert(key, job);
            assert!(before.is_none(), "a follow-up stands before its batch is over");
        }
    }

    /// Cancels jobs, of which some are named twice.
    pub(crate) fn cancel(&mut self, members: &[Member], now: u64) -> Vec<Cancelled> {
        let cancel = |member: &Member| {
            let key = member.to_bytes();
            match self.jobs.get_mut(&key) {
                None => Cancelled::Unknown,
                Some(job) if matches!(job.place, Place::Running { .. }) => {
                    job.stops = true;
                    Cancelled::Stopping
                }
                Some(_) => {
                    self.leave(&key, Final::Cancelled, now);
                    Cancelled::Done
                }
            }
        };
        members.iter().map(cancel).collect()
    }

    /// Whether the token is known from now on.
    pub(crate) fn expect_callback(&mut self, sid: &str, key: &Key, claim_no: u64, token: u8) -> bool {
        let owner = self.waits_for(token);
        let is_own = owner.as_ref() == Some(key);
        let Some(job) = self.holds(sid, key, claim_no) else { return false };
        if owner.is_none() {
            job.wait = Some((token, Came::Nothing));
        }
        owner.is_none() || is_own
    }

    pub(crate) fn waits_for(&self, token: u8) -> Option<Key> {
        let waits = |job: &Job| job.wait.as_ref().is_some_and(|(of, _)| *of == token);
        self.jobs.iter().find(|(_, job)| waits(job)).map(|(key, _)| key.clone())
    }

    pub(crate) fn call_back(&mut self, token: u8, payload: u8, now: u64) -> Callback {
        let Some(key) = self.waits_for(token) else { return Callback::Unknown };
        let job = self.jobs.get_mut(&key).expect("it waits");
        let over = matches!(job.place, Place::Parked { deadline } if deadline <= now);
        match &mut job.wait {
            Some((_, Came::Payload(_) | Came::Read(_))) => return Callback::Duplicate,
            Some((_, came @ Came::Nothing)) if !over => *came = Came::Payload(payload),
            _ => return Callback::Late,
        }
        job.noted = true;
        if matches!(job.place, Place::Parked { .. }) {
            (job.place, job.ready) = (Place::Lane, now);
        }
        Callback::Delivered
    }
}
