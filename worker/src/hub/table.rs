//! What a session really runs: the worker's side of the truth that `sync` brings to agreement with Redis.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use windrow_queue::{
    Member,
    store::{Applied, MAX_OUTCOMES},
};

use crate::lease::{Control, Lease, StopReason};

/// How long a sent outcome may have to be said again, after a Redis that lost its last second.
const REPLAY: Duration = Duration::from_secs(2);
/// Outcomes remembered for that, at most.
const MAX_RECENT: usize = 500;
/// Outcomes in one sync: those of the last request and of every slot fit.
const MAX_REPLAY: usize = 2000;

#[derive(Debug)]
struct Running {
    claim_no: u64,
    control: Arc<Control>,
}

/// Jobs in work, and outcomes that Redis has not been told, may have been told, and was told a moment ago.
#[derive(Debug, Default)]
pub(super) struct Table {
    running: HashMap<Member, Running>,
    pending: VecDeque<Applied>,
    /// Sent, and no answer came: said again with every sync until one does.
    unanswered: Vec<Applied>,
    /// Answered a moment ago: said again with a sync, should Redis have lost its last second.
    recent: VecDeque<(Instant, Applied)>,
}

impl Table {
    pub(super) fn claimed(&mut self, lease: &Lease) {
        let running = Running { claim_no: lease.claim_no(), control: Arc::clone(lease.control()) };
        self.running.insert(lease.member(), running);
    }

    /// Takes a job's outcome. One that speaks of a claim which is no longer ours is dropped.
    pub(super) fn finished(&mut self, outcome: Applied) {
        if self.running.get(&outcome.member).is_some_and(|running| running.claim_no == outcome.claim_no) {
            self.running.remove(&outcome.member);
            self.pending.push_back(outcome);
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Leases that this process answers for.
    pub(super) fn held(&self) -> usize {
        self.running.len() + self.pending.len() + self.unanswered.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held() == 0
    }

    /// The outcomes for one request.
    pub(super) fn take_batch(&mut self) -> Vec<Applied> {
        let count = self.pending.len().min(MAX_OUTCOMES);
        self.pending.drain(..count).collect()
    }

    /// No answer came to these.
    pub(super) fn unanswered(&mut self, batch: Vec<Applied>) {
        self.unanswered.extend(batch);
    }

    /// Redis has answered to these.
    pub(super) fn answered(&mut self, batch: impl IntoIterator<Item = Applied>) {
        let now = Instant::now();
        self.recent.extend(batch.into_iter().map(|outcome| (now, outcome)));
        while self.recent.len() > MAX_RECENT
            || self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > REPLAY)
        {
            self.recent.pop_front();
        }
    }

    /// What really runs here, for a sync.
    pub(super) fn running(&self) -> Vec<(Member, u64)> {
        self.running.iter().map(|(member, running)| (*member, running.claim_no)).collect()
    }

    /// Outcomes for a sync: those answered lately, those unanswered, and as many of the waiting ones as fit beside them.
    pub(super) fn replay(&mut self) -> Vec<Applied> {
        self.answered([]);
        let room = MAX_REPLAY.saturating_sub(self.recent.len() + self.unanswered.len());
        let waiting = self.pending.len().min(room);
        self.unanswered.extend(self.pending.drain(..waiting));
        self.recent.iter().map(|(_, outcome)| outcome).chain(&self.unanswered).take(MAX_REPLAY).cloned().collect()
    }

    /// A sync was answered: Redis knows every outcome that it carried.
    pub(super) fn synced(&mut self) {
        let told = std::mem::take(&mut self.unanswered);
        self.answered(told);
    }

    /// A job that is no longer ours: its handler is told, and its outcome will count for nothing.
    pub(super) fn lose(&mut self, member: Member) -> bool {
        let lost = self.running.remove(&member);
        if let Some(running) = &lost {
            running.control.stop(StopReason::Lost);
        }
        lost.is_some()
    }

    /// Somebody asked for this job to stop. False: it does not run here any more.
    pub(super) fn cancel(&self, member: Member) -> bool {
        let running = self.running.get(&member);
        if let Some(running) = running {
            running.control.stop(StopReason::Cancelled);
        }
        running.is_some()
    }

    /// The session is doomed: nothing is ours any more. Returns how many jobs were in work.
    pub(super) fn lose_all(&mut self) -> usize {
        let lost = self.held();
        for running in self.running.values() {
            running.control.stop(StopReason::Lost);
        }
        *self = Self::default();
        lost
    }

    /// Tells all handlers that the process ends.
    pub(super) fn stop_all(&self) {
        for running in self.running.values() {
            running.control.stop(StopReason::Shutdown);
        }
    }

    /// Gives back what did not end in time, whatever its handler still does; what must not start again is buried.
    pub(super) fn release_all(&mut self) {
        for (member, running) in self.running.drain() {
            running.control.stop(StopReason::Lost);
            let finish = running.control.unfinished();
            self.pending.push_back(Applied { member, claim_no: running.claim_no, finish });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lease::Slot, share::Portion};
    use tokio::sync::{Semaphore, mpsc};
    use windrow_queue::{JobId, store::Finish};

    fn slot(slots: &Arc<Semaphore>) -> Slot {
        let own = Arc::clone(slots).try_acquire_owned().expect("it is free");
        Slot::new(own, Portion::divide(0, &[1])[0].reserve(1).take().expect("there is no bound"))
    }

    fn lease(claim_no: u64, outcomes: &mpsc::UnboundedSender<Applied>) -> Lease {
        let slot = slot(&Arc::new(Semaphore::new(1)));
        Lease::new(Member::fast(JobId::new()), claim_no, outcomes.clone(), slot)
    }

    #[test]
    fn a_dropped_lease_gives_its_job_back_and_a_lost_one_only_its_slot() {
        let (tx, mut rx) = mpsc::unbounded_channel();
        let mut table = Table::default();
        let (dropped, lost) = (lease(1, &tx), lease(2, &tx));
        table.claimed(&dropped);
        table.claimed(&lost);
        assert!(table.lose(lost.member()));
        drop(lost);
        table.finished(rx.try_recv().expect("a slot is free"));
        assert_eq!((table.held(), table.has_pending()), (1, false));
        drop(dropped);
        let outcome = rx.try_recv().expect("the drop was told");
        assert!(matches!(outcome.finish, Finish::Release) && outcome.claim_no == 1);
        table.finished(outcome);
        assert_eq!((table.held(), table.take_batch().len()), (1, 1));
    }

    #[test]
    fn a_job_that_must_not_start_again_does_not_go_back_however_it_is_dropped() {
        let (tx, mut rx) = mpsc::unbounded_channel();
        let mut table = Table::default();
        let (dropped, left) = (lease(1, &tx), lease(2, &tx));
        for lease in [&dropped, &left] {
            table.claimed(lease);
            lease.control().must_not_start_again(Finish::Gone);
        }
        drop(dropped);
        assert!(matches!(rx.try_recv().expect("the drop was told").finish, Finish::Gone));
        table.release_all();
        assert!(table.take_batch().iter().all(|outcome| matches!(outcome.finish, Finish::Gone)));
    }

    #[test]
    fn the_gravest_reason_to_stop_is_the_one_that_counts() {
        let (tx, _rx) = mpsc::unbounded_channel();
        let mut table = Table::default();
        let lease = lease(1, &tx);
        table.claimed(&lease);
        for (reason, counts) in [
            (StopReason::Shutdown, StopReason::Shutdown),
            (StopReason::Cancelled, StopReason::Cancelled),
            (StopReason::Shutdown, StopReason::Cancelled),
            (StopReason::Lost, StopReason::Lost),
            (StopReason::Cancelled, StopReason::Lost),
        ] {
            lease.control().stop(reason);
            assert_eq!(lease.control().reason(), counts);
        }
        assert!(table.cancel(lease.member()) && table.lose(lease.member()));
        assert!(!table.cancel(lease.member()), "it is no longer here");
    }

    #[test]
    fn a_slot_is_free_when_the_hub_hears_of_the_outcome() {
        let (tx, mut rx) = mpsc::unbounded_channel();
        let slots = Arc::new(Semaphore::new(1));
        // The lease itself is still there: what frees the slot is the telling.
        let mut lease = Lease::new(Member::fast(JobId::new()), 1, tx.clone(), slot(&slots));
        lease.tell(Finish::Gone);
        assert!(rx.try_recv().is_ok());
        assert_eq!(slots.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_outcome_is_said_again_however_long_redis_is_away() {
        let (tx, _rx) = mpsc::unbounded_channel();
        let mut table = Table::default();
        let lease = lease(1, &tx);
        table.claimed(&lease);
        table.finished(Applied { member: lease.member(), claim_no: 1, finish: Finish::Gone });
        let batch = table.take_batch();
        table.unanswered(batch);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((table.replay().len(), table.held()), (1, 1));
        table.synced();
        assert_eq!((table.replay().len(), table.held()), (1, 0));
        tokio::time::advance(REPLAY * 2).await;
        assert_eq!(table.replay().len(), 0);
    }

    #[test]
    fn an_outcome_of_an_earlier_claim_is_dropped() {
        let (tx, _rx) = mpsc::unbounded_channel();
        let mut table = Table::default();
        let lease = lease(2, &tx);
        table.claimed(&lease);
        table.finished(Applied { member: lease.member(), claim_no: 1, finish: Finish::Gone });
        assert!(!table.has_pending());
        assert_eq!(table.running(), [(lease.member(), 2)]);
    }
}
