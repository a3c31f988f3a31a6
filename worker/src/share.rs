//! The bound on all jobs of a process, shared by its queues: a free slot goes to a queue with waiting work, by weight.
//!
//! A queue asks for as many slots as it has work and room for. Those that are free are its own at once; for the rest it waits
//! in line, and whoever frees a slot hands it on. First come queues below their part of the bound (by weight, among the queues
//! that run or want anything), then the others, so that a queue of long jobs holds no more than its part for longer than
//! others have nothing to do. Among equals the one comes next that was served least for its weight.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What a start costs a queue of weight 1. A queue of weight 3 pays a third.
const COST: u64 = 1 << 20;

/// The slots of a process.
#[derive(Debug)]
pub(crate) struct Share {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bound: usize,
    free: usize,
    queues: Vec<Queue>,
}

#[derive(Debug)]
struct Queue {
    weight: u64,
    /// Slots that are taken or offered.
    held: usize,
    /// Of these, those that were handed to it and that it has not picked up yet.
    offered: usize,
    /// More slots that it has work for.
    wants: usize,
    /// The cost of all its starts.
    served: u64,
    turn: Arc<Notify>,
}

impl State {
    /// Who is next in line.
    fn next(&self) -> Option<usize> {
        let busy = |queue: &&Queue| queue.held + queue.wants > 0;
        let weights: u64 = self.queues.iter().filter(busy).map(|queue| queue.weight).sum();
        let part = |queue: &Queue| (self.bound as u64 * queue.weight).div_ceil(weights.max(1));
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| queue.wants > 0);
        waiting.min_by_key(|(_, queue)| (queue.held as u64 >= part(queue), queue.served)).map(|(index, _)| index)
    }

    /// Hands out what is free.
    fn hand_out(&mut self) {
        while self.free > 0
            && let Some(index) = self.next()
        {
            self.free -= 1;
            let queue = &mut self.queues[index];
            queue.wants -= 1;
            queue.held += 1;
            queue.offered += 1;
            queue.served += COST / queue.weight;
            queue.turn.notify_one();
        }
    }

    fn take_back(&mut self, index: usize, count: usize) {
        let queue = &mut self.queues[index];
        queue.held -= count;
        self.free += count;
    }

    /// Takes back what was never used, and its cost.
    fn take_back_unused(&mut self, index: usize, count: usize) {
        self.take_back(index, count);
        let queue = &mut self.queues[index];
        queue.served = queue.served.saturating_sub(count as u64 * (COST / queue.weight));
    }
}

impl Share {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One queue's part in the slots of its process.
#[derive(Clone, Debug)]
pub(crate) struct Portion {
    /// `None`: the process has no common bound.
    share: Option<Arc<Share>>,
    index: usize,
    turn: Arc<Notify>,
}

impl Portion {
    /// The portions of queues with these weights under a common bound; 0 is none.
    pub(crate) fn divide(bound: usize, weights: &[u32]) -> Vec<Self> {
        let turns: Vec<Arc<Notify>> = weights.iter().map(|_| Arc::default()).collect();
        let queue = |(&weight, turn): (&u32, &Arc<Notify>)| Queue {
            weight: u64::from(weight.max(1)),
            held: 0,
            offered: 0,
            wants: 0,
            served: 0,
            turn: Arc::clone(turn),
        };
        let queues = weights.iter().zip(&turns).map(queue).collect();
        let share = (bound > 0).then(|| Arc::new(Share { state: Mutex::new(State { bound, free: bound, queues }) }));
        let portion = |(index, turn)| Self { share: share.clone(), index, turn };
        turns.into_iter().enumerate().map(portion).collect()
    }

    /// Takes up to `want` slots, and waits in line for the rest ([`turn`](Self::turn)), until it is called again. A queue that
    /// has no work, or cannot take any, says 0.
    pub(crate) fn reserve(&self, want: usize) -> Reservation {
        let Some(share) = &self.share else { return Reservation { portion: self.clone(), left: want } };
        let mut state = share.lock();
        let newcomer = state.queues[self.index].held + state.queues[self.index].wants == 0;
        if newcomer && want > 0 {
            // What it did not use while it had no work is not owed to it.
            let others = state.queues.iter().filter(|queue| queue.held + queue.wants > 0);
            let least = others.map(|queue| queue.served).min().unwrap_or(0);
            let queue = &mut state.queues[self.index];
            queue.served = queue.served.max(least);
        }
        let offered = std::mem::take(&mut state.queues[self.index].offered);
        let kept = offered.min(want);
        state.take_back_unused(self.index, offered - kept);
        state.queues[self.index].wants = want - kept;
        state.hand_out();
        let left = kept + std::mem::take(&mut state.queues[self.index].offered);
        Reservation { portion: self.clone(), left }
    }

    /// Resolves when there are slots for a queue that waits in line: [`reserve`](Self::reserve) has them.
    pub(crate) async fn turn(&self) {
        self.turn.notified().await;
    }

    /// Whether no queue of this process may start anything.
    pub(crate) fn is_full(&self) -> bool {
        self.share.as_ref().is_some_and(|share| share.lock().free == 0)
    }

    fn give_back(&self, count: usize, unused: bool) {
        let Some(share) = self.share.as_ref().filter(|_| count > 0) else { return };
        let mut state = share.lock();
        if unused {
            state.take_back_unused(self.index, count);
        } else {
            state.take_back(self.index, count);
        }
        state.hand_out();
    }
}

/// Slots that may be filled; dropped, what is left of them goes back.
#[derive(Debug)]
pub(crate) struct Reservation {
    portion: Portion,
    left: usize,
}

impl Reservation {
    /// Slots that are left.
    pub(crate) const fn left(&self) -> usize {
        self.left
    }

    /// A slot for a job; `None` when all are used.
    pub(crate) fn take(&mut self) -> Option<CommonSlot> {
        self.left = self.left.checked_sub(1)?;
        Some(CommonSlot { portion: self.portion.share.is_some().then(|| self.portion.clone()) })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.portion.give_back(self.left, true);
    }
}

/// A job's slot under the common bound; dropped, it is the next one's.
#[derive(Debug)]
pub(crate) struct CommonSlot {
    portion: Option<Portion>,
}

impl Drop for CommonSlot {
    fn drop(&mut self) {
        if let Some(portion) = &self.portion {
            portion.give_back(1, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    /// Queues that always have work, with as much room as they like; `ends` picks which of the running jobs ends next.
    /// Answers how many jobs of each were started.
    fn run(portions: &[Portion], rounds: usize, mut ends: impl FnMut(&[(usize, CommonSlot)]) -> usize) -> Vec<usize> {
        let mut started = vec![0; portions.len()];
        let mut running = Vec::new();
        for _ in 0..rounds {
            for (index, portion) in portions.iter().enumerate() {
                let mut reservation = portion.reserve(100);
                while let Some(slot) = reservation.take() {
                    started[index] += 1;
                    running.push((index, slot));
                }
            }
            assert!(portions[0].is_full(), "a slot is idle while there is work");
            let end = ends(&running);
            running.swap_remove(end);
        }
        started
    }

    fn assert_three_to_one(started: &[usize]) {
        let (first, second) = (started[0] as f64, started[1] as f64);
        let ratio = first / second;
        assert!((2.85..=3.15).contains(&ratio), "{started:?}: {ratio}");
    }

    #[test]
    fn starts_go_by_weight_whatever_the_bound() {
        for bound in [1, 2, 3, 4, 8, 50] {
            let mut random = SmallRng::seed_from_u64(7);
            let portions = Portion::divide(bound, &[3, 1]);
            assert_three_to_one(&run(&portions, 40_000, |running| random.random_range(0..running.len())));
        }
    }

    #[test]
    fn a_queue_uses_what_others_leave_and_hands_on_what_they_come_for() {
        let portions = Portion::divide(4, &[1, 3]);
        let mut alone = portions[0].reserve(100);
        let mut slots: Vec<_> = std::iter::from_fn(|| alone.take()).collect();
        assert_eq!(slots.len(), 4);
        assert_eq!(portions[1].reserve(10).left(), 0);
        assert!(portions[1].turn().now_or_never().is_none());
        let mut came = Vec::new();
        for _ in 0..3 {
            slots.pop();
            assert!(portions[1].turn().now_or_never().is_some(), "it is told that a slot is its own");
            assert_eq!(portions[0].reserve(100).left(), 0, "what was freed is the other's, who is below its part");
            came.extend(portions[1].reserve(10).take());
        }
        assert_eq!(came.len(), 3);
        slots.pop();
        assert_eq!((portions[1].reserve(10).left(), portions[0].reserve(100).left()), (0, 1));
    }

    #[test]
    fn jobs_that_never_end_leave_the_others_their_part() {
        let portions = Portion::divide(4, &[1, 1]);
        // Those of the second queue end only when nothing else runs.
        let started =
            run(&portions, 1000, |running| running.iter().position(|(queue, _)| *queue == 0).unwrap_or_default());
        assert_eq!(started[1], 2, "its half");
        assert!(started[0] > 990, "{started:?}");
    }

    #[test]
    fn a_queue_that_was_idle_is_owed_nothing() {
        let portions = Portion::divide(1, &[1, 1]);
        assert_eq!(run(&portions[..1], 1000, |_| 0)[0], 1000);
        let started = run(&portions, 100, |_| 0);
        assert!((45..=55).contains(&started[1]), "{started:?}");
    }

    #[test]
    fn what_is_reserved_and_not_used_costs_nothing() {
        let portions = Portion::divide(2, &[1, 1, 1]);
        // While somebody is busy who was served little, newcomers are not lifted to those who were served much.
        let _busy = portions[2].reserve(1).take();
        for _ in 0..100 {
            assert_eq!(portions[0].reserve(2).left(), 1);
            drop(portions[0].reserve(0));
        }
        let started = run(&portions[..2], 100, |_| 0);
        assert!((45..=55).contains(&started[0]), "{started:?}");
    }

    #[test]
    fn an_offer_that_is_not_taken_up_is_the_next_ones() {
        let portions = Portion::divide(1, &[1, 1, 1]);
        let mut reservation = portions[0].reserve(1);
        let slot = reservation.take();
        drop((portions[1].reserve(1), portions[2].reserve(1)));
        drop(slot);
        // One of the two has it; when that one has nothing to do any more, the other does.
        drop(portions[1].reserve(0));
        assert_eq!(portions[2].reserve(1).left(), 1);
    }

    #[test]
    fn without_a_bound_there_is_always_room() {
        let portions = Portion::divide(0, &[1]);
        let mut reservation = portions[0].reserve(1000);
        assert_eq!((reservation.left(), portions[0].is_full()), (1000, false));
        assert!(reservation.take().is_some());
    }

    #[test]
    fn no_slot_is_lost_or_idle_while_somebody_wants_it() {
        let mut random = SmallRng::seed_from_u64(11);
        let portions = Portion::divide(5, &[1, 2, 7]);
        let mut running: Vec<CommonSlot> = Vec::new();
        for _ in 0..20_000 {
            if random.random_bool(0.4) && !running.is_empty() {
                running.swap_remove(random.random_range(0..running.len()));
            } else {
                let mut reservation = portions[random.random_range(0..3)].reserve(random.random_range(0..4));
                let used = random.random_range(0..=reservation.left());
                running.extend((0..used).filter_map(|_| reservation.take()));
            }
            let share = portions[0].share.as_ref().expect("there is a bound");
            let state = share.lock();
            let offered: usize = state.queues.iter().map(|queue| queue.offered).sum();
            assert_eq!(state.free + offered + running.len(), 5);
            assert!(state.free == 0 || state.queues.iter().all(|queue| queue.wants == 0));
        }
    }
}
