//! The guard that travels with a running job: dropped without an outcome, it gives the job back, or buries it if it must not
//! start again.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU8, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use windrow_queue::{
    Member,
    store::{Applied, Finish},
};

use crate::share::CommonSlot;

/// Why a running job was told to stop. Each overrules those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum StopReason {
    /// It was not.
    None = 0,
    /// The process ends: a job that did not finish goes back, with no attempt counted.
    Shutdown = 1,
    /// Somebody asked for it: a job that did not finish is cancelled.
    Cancelled = 2,
    /// It is no longer ours: whatever it comes to counts for nothing.
    Lost = 3,
}

/// How the hub reaches a running job.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) cancel: CancellationToken,
    reason: AtomicU8,
    /// What the job comes to if nobody says how it ended. Unset: it goes back.
    last_word: OnceLock<Box<Finish>>,
}

impl Control {
    fn new() -> Self {
        Self { cancel: CancellationToken::new(), reason: AtomicU8::new(0), last_word: OnceLock::new() }
    }

    pub(crate) fn stop(&self, reason: StopReason) {
        self.reason.fetch_max(reason as u8, Ordering::AcqRel);
        self.cancel.cancel();
    }

    pub(crate) fn reason(&self) -> StopReason {
        match self.reason.load(Ordering::Acquire) {
            0 => StopReason::None,
            1 => StopReason::Shutdown,
            2 => StopReason::Cancelled,
            _ => StopReason::Lost,
        }
    }

    /// From now on the job does not go back: without an outcome of its own it comes to this.
    pub(crate) fn must_not_start_again(&self, otherwise: Finish) {
        // One attempt says so once.
        let _ = self.last_word.set(Box::new(otherwise));
    }

    /// What the job comes to if nobody says how it ended.
    pub(crate) fn unfinished(&self) -> Finish {
        self.last_word.get().map_or(Finish::Release, |finish| (**finish).clone())
    }
}

/// What a running job takes up: a slot of its queue, and one of its process.
#[derive(Debug)]
pub(crate) struct Slot {
    _own: OwnedSemaphorePermit,
    _common: CommonSlot,
}

impl Slot {
    pub(crate) const fn new(own: OwnedSemaphorePermit, common: CommonSlot) -> Self {
        Self { _own: own, _common: common }
    }
}

/// The hold on one job, with the slot that it takes.
#[derive(Debug)]
pub(crate) struct Lease {
    member: Member,
    claim_no: u64,
    control: Arc<Control>,
    outcomes: mpsc::UnboundedSender<Applied>,
    finished: bool,
    slot: Option<Slot>,
}

impl Lease {
    pub(crate) fn new(member: Member, claim_no: u64, outcomes: mpsc::UnboundedSender<Applied>, slot: Slot) -> Self {
        Self { member, claim_no, control: Arc::new(Control::new()), outcomes, finished: false, slot: Some(slot) }
    }

    pub(crate) const fn member(&self) -> Member {
        self.member
    }

    pub(crate) const fn claim_no(&self) -> u64 {
        self.claim_no
    }

    pub(crate) const fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Says how it ended. The slot is free from now on; whether the outcome counts is for Redis to say.
    pub(crate) fn finish(mut self, finish: Finish) {
        self.tell(finish);
    }

    pub(crate) fn tell(&mut self, finish: Finish) {
        self.finished = true;
        // First: the hub counts the free slots when it hears of this, and nothing else tells it.
        self.slot = None;
        // Without a hub nobody is told: the session lapses, and the job is rescued.
        let _ = self.outcomes.send(Applied { member: self.member, claim_no: self.claim_no, finish });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Of a job that was lost, too: the hub drops what speaks of a claim that is no longer ours, and has learnt that a slot
        // is free. A hub that lost jobs in all its slots would wait for ever otherwise.
        if !self.finished {
            self.tell(self.control.unfinished());
        }
    }
}
