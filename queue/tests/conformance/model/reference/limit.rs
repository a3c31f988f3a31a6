//! Pauses, concurrency and rates, as the reference sees them: what runs is counted, and starts are remembered.

use std::collections::{BTreeMap, BTreeSet};

use windrow_queue::store::{Limit, Rate};

use super::Lane;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Id {
    Queue,
    Kind(u8),
    Tenant(u8),
    Both(u8, u8),
}

/// What has a limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Scope {
    Queue,
    Kind(u8),
    Tenant(u8),
    EachTenant,
    Both(u8, u8),
    KindEach(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Spec {
    paused: bool,
    limit: Limit,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Limits {
    pub(crate) queue_paused: bool,
    specs: BTreeMap<Scope, Spec>,
    /// Theoretical arrival times in microseconds.
    pub(crate) arrivals: BTreeMap<Id, u64>,
    /// When jobs started, while one rate was in force and the clock went forwards.
    starts: BTreeMap<Id, (Rate, Vec<u64>)>,
}

fn interval(rate: &Rate) -> u64 {
    u64::try_from(rate.per.as_micros().div_ceil(u128::from(rate.count))).unwrap()
}

fn burst(rate: &Rate) -> u64 {
    u64::from(rate.burst.expect("histories give it"))
}

impl Lane {
    pub(crate) fn ids(&self) -> Vec<Id> {
        let mut ids = vec![Id::Queue, Id::Kind(self.kind)];
        if self.tenant > 0 {
            ids.extend([Id::Tenant(self.tenant), Id::Both(self.kind, self.tenant)]);
        }
        ids
    }
}

impl Limits {
    fn spec(&self, id: Id) -> Spec {
        let (own, each) = match id {
            Id::Queue => (Scope::Queue, None),
            Id::Kind(kind) => (Scope::Kind(kind), None),
            Id::Tenant(tenant) => (Scope::Tenant(tenant), Some(Scope::EachTenant)),
            Id::Both(kind, tenant) => (Scope::Both(kind, tenant), Some(Scope::KindEach(kind))),
        };
        let each = || each.and_then(|each| self.specs.get(&each));
        self.specs.get(&own).or_else(each).copied().unwrap_or_default()
    }

    /// Whether that changed anything.
    pub(crate) fn pause(&mut self, scope: Scope, paused: bool) -> bool {
        if scope == Scope::Queue {
            return std::mem::replace(&mut self.queue_paused, paused) != paused;
        }
        self.change(scope, |spec| spec.paused = paused)
    }

    pub(crate) fn set(&mut self, scope: Scope, limit: Limit) -> bool {
        self.change(scope, |spec| spec.limit = limit)
    }

    fn change(&mut self, scope: Scope, change: impl Fn(&mut Spec)) -> bool {
        let spec = self.specs.entry(scope).or_default();
        let old = *spec;
        change(spec);
        let changed = *spec != old;
        self.specs.retain(|_, spec| *spec != Spec::default());
        changed
    }

    pub(crate) fn scopes(&self) -> BTreeSet<Scope> {
        self.specs.keys().copied().collect()
    }

    fn arrival(&self, id: Id, rate: &Rate, now: u64) -> u64 {
        let now = now * 1000;
        self.arrivals.get(&id).copied().unwrap_or(0).min(now + burst(rate) * interval(rate)).max(now)
    }

    /// How many more jobs of an id may start, of which so many run.
    fn room(&self, id: Id, running: usize, now: u64) -> usize {
        let Spec { paused, limit } = self.spec(id);
        if paused {
            return 0;
        }
        let slots = limit.concurrency.map_or(usize::MAX, |most| (most as usize).saturating_sub(running));
        let starts = limit.rate.map_or(usize::MAX, |rate| {
            let ahead = self.arrival(id, &rate, now) - now * 1000;
            usize::try_from((burst(&rate) * interval(&rate) - ahead) / interval(&rate)).unwrap()
        });
        slots.min(starts)
    }

    /// Whether another job of a lane may start.
    pub(crate) fn admits(&self, lane: &Lane, running: &BTreeMap<Id, usize>, now: u64) -> bool {
        !self.queue_paused && lane.ids().iter().all(|id| self.room(*id, running.get(id).copied().unwrap_or(0), now) > 0)
    }

    /// Takes note of jobs that started, so many of each id, which must have been allowed to.
    pub(crate) fn start(&mut self, started: &BTreeMap<Id, usize>, running: &BTreeMap<Id, usize>, now: u64) {
        assert!(!self.queue_paused || started.is_empty(), "a paused queue gives nothing");
        for (&id, &count) in started {
            let room = self.room(id, running.get(&id).copied().unwrap_or(0), now);
            assert!(count <= room, "{count} of {id:?} started, and only {room} may: {:?}", self.spec(id));
            let Some(rate) = self.spec(id).limit.rate else { continue };
            let arrival = self.arrival(id, &rate, now);
            self.arrivals.insert(id, arrival + count as u64 * interval(&rate));
            self.check_window(id, rate, count, now);
        }
    }

    /// The clock steps back: what started before is in no stretch of time that can be told.
    pub(crate) fn step_back(&mut self) {
        self.starts.clear();
    }

    /// In no stretch of time do more start than a burst, and one for each interval in it.
    fn check_window(&mut self, id: Id, rate: Rate, count: usize, now: u64) {
        let (of, starts) = self.starts.entry(id).or_insert((rate, Vec::new()));
        if *of != rate || starts.last().is_some_and(|last| *last > now) {
            (*of, *starts) = (rate, Vec::new());
        }
        starts.extend(vec![now; count]);
        for (i, since) in starts.iter().enumerate() {
            let most = burst(&rate) + (now - since) * 1000 / interval(&rate);
            assert!((starts.len() - i) as u64 <= most, "{id:?}: {starts:?} under {rate:?}");
        }
    }

    /// After a step of the clock, a tick may cut what is further ahead than a full burst.
    pub(crate) fn adopt(&mut self, id: Id, cut: Option<u64>, now: u64) {
        let Some(rate) = self.spec(id).limit.rate else { return };
        let furthest = now * 1000 + burst(&rate) * interval(&rate);
        if let Some(us) = self.arrivals.get_mut(&id)
            && *us > furthest
            && cut == Some(furthest)
        {
            *us = furthest;
        }
    }

    /// Arrival times that are over say nothing.
    pub(crate) fn forget_arrivals(&mut self, now: u64) {
        self.arrivals.retain(|_, us| *us >= (now - 1000) * 1000);
    }
}
