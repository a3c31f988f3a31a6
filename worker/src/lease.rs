//! The guard that travels with a running job: dropped without an outcome, it gives the job back.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use windrow_queue::{
    Member,
    store::{Applied, Finish},
};

/// Why a running job was told to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StopReason {
    /// It was not.
    None,
    /// It is no longer ours: whatever it comes to counts for nothing.
    Lost,
    /// The process ends: a job that did not finish goes back, with no attempt counted.
    Shutdown,
}

/// How the hub reaches a running job.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) cancel: CancellationToken,
    reason: AtomicU8,
}

impl Control {
    fn new() -> Self {
        Self { cancel: CancellationToken::new(), reason: AtomicU8::new(0) }
    }

    pub(crate) fn stop(&self, reason: StopReason) {
        let code = match reason {
            StopReason::None => 0,
            StopReason::Lost => 1,
            StopReason::Shutdown => 2,
        };
        // Lost is final: a shutdown that comes after it changes nothing.
        if self.reason.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire).is_err()
            && reason == StopReason::Lost
        {
            self.reason.store(code, Ordering::Release);
        }
        self.cancel.cancel();
    }

    pub(crate) fn reason(&self) -> StopReason {
        match self.reason.load(Ordering::Acquire) {
            0 => StopReason::None,
            1 => StopReason::Lost,
            _ => StopReason::Shutdown,
        }
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
    slot: Option<OwnedSemaphorePermit>,
}

impl Lease {
    pub(crate) fn new(
        member: Member,
        claim_no: u64,
        outcomes: mpsc::UnboundedSender<Applied>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
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
            self.tell(Finish::Release);
        }
    }
}
