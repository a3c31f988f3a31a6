//! What operators, the scheduler and the outside do, and what may happen to Redis itself.

use windrow_queue::{
    Kind, Member, Tenant,
    store::{Redriven, Scope as Limited},
};

use super::{World, digest, member};
use crate::{
    model::{
        op::Change,
        reference::{Id, KINDS, Reference, Scope, id_of},
    },
    support::{Place, raw_args, tenant},
};

/// All keys as Redis dumps them, with their times to live, and the reference of that moment.
#[derive(Clone)]
pub(super) struct Memory {
    dump: Vec<(Vec<u8>, Vec<u8>, i64)>,
    reference: Reference,
}

fn scope(scope: Scope) -> Limited {
    let kind = |kind: u8| Kind::from_static(KINDS[usize::from(kind)]);
    let tenant = |number: u8| tenant(&format!("t{number}"));
    match scope {
        Scope::Queue => Limited::Queue,
        Scope::Kind(of) => Limited::Kind(kind(of)),
        Scope::Tenant(of) => Limited::Tenant(tenant(of)),
        Scope::EachTenant => Limited::EachTenant,
        Scope::Both(of, number) => Limited::KindTenant(kind(of), tenant(number)),
        Scope::KindEach(of) => Limited::KindEachTenant(kind(of)),
    }
}

/// What a scope counts, if it counts one thing.
fn counted_by(scope: &Limited) -> Option<Id> {
    let kind = |kind: &Kind| u8::from(kind.as_str() == KINDS[1]);
    let tenant = |tenant: &Tenant| tenant.as_str()[1..].parse().unwrap();
    match scope {
        Limited::Queue => Some(Id::Queue),
        Limited::Kind(of) => Some(Id::Kind(kind(of))),
        Limited::Tenant(of) => Some(Id::Tenant(tenant(of))),
        Limited::KindTenant(of, name) => Some(Id::Both(kind(of), tenant(name))),
        Limited::EachTenant | Limited::KindEachTenant(_) => None,
    }
}

impl World {
    pub(super) async fn limit(&mut self, of: Scope, change: Change) {
        let (store, queue, scope) = (&self.rig.store, &self.rig.queue, scope(of));
        let limits = &mut self.reference.limits;
        let (changed, expected) = match change {
            Change::Pause => (store.pause(queue, &scope).await, limits.pause(of, true)),
            Change::Resume => (store.resume(queue, &scope).await, limits.pause(of, false)),
            Change::Set(limit) => (store.set_limit(queue, &scope, &limit).await, limits.set(of, limit)),
            Change::Clear => (store.clear_limit(queue, &scope).await, limits.set(of, Default::default())),
        };
        assert_eq!(changed.unwrap(), expected, "{change:?} of {of:?}");
        // It ends with ticks, as many as there is something to do.
        self.reference.tick(self.rig.now());
        self.adopt_arrivals().await;
        let (store, queue) = (&self.rig.store, &self.rig.queue);
        let running = self.reference.running();
        for state in store.limits(queue).await.unwrap() {
            let Some(id) = counted_by(&state.scope).filter(|_| state.limit.concurrency.is_some()) else { continue };
            let runs = running.get(&id).copied().unwrap_or(0) as u64;
            assert_eq!(state.running, runs, "what runs of {:?}", state.scope);
        }
    }

    pub(super) async fn gate(&mut self, closed: bool) {
        self.reference.gate = closed;
        let mut cmd = redis::cmd(if closed { "HSET" } else { "HDEL" });
        cmd.arg(self.rig.key("meta")).arg("gate");
        self.rig.raw::<i64>(if closed { cmd.arg(1) } else { &cmd }).await;
    }

    pub(super) async fn cancel(&mut self, picks: &[usize]) {
        // Mostly what still stands.
        let standing: Vec<Member> = self.reference.jobs.keys().map(|key| member(key)).collect();
        let from = |pick: usize| if pick.is_multiple_of(8) || standing.is_empty() { &self.known } else { &standing };
        let members: Vec<Member> =
            picks.iter().filter_map(|&pick| from(pick).get(pick / 8 % from(pick).len().max(1)).copied()).collect();
        let expected = self.reference.cancel(&members, self.rig.now());
        assert_eq!(self.rig.store.cancel(&self.rig.queue, &members).await.unwrap(), expected);
    }

    pub(super) async fn call_back(&mut self, token: u8, payload: u8) {
        let expected = self.reference.call_back(token, payload, self.rig.now());
        let payload = raw_args(payload.to_string());
        let answer = self.rig.store.call_back(&self.rig.queue, digest(token), &payload).await.unwrap();
        assert_eq!(answer, expected);
    }

    pub(super) async fn remember(&mut self) {
        let keys: Vec<Vec<u8>> = self.rig.raw(redis::cmd("KEYS").arg(self.rig.key("*"))).await;
        let mut dump = Vec::new();
        for key in keys.into_iter().filter(|key| !key.ends_with(b":clock")) {
            let value: Vec<u8> = self.rig.raw(redis::cmd("DUMP").arg(&key)).await;
            let ttl: i64 = self.rig.raw(redis::cmd("PTTL").arg(&key)).await;
            dump.push((key, value, ttl.max(0)));
        }
        self.remembered = Some(Memory { dump, reference: self.reference.clone() });
    }

    pub(super) async fn roll_back(&mut self) {
        let Some(Memory { dump, reference }) = self.remembered.clone() else { return };
        let keys: Vec<Vec<u8>> = self.rig.raw(redis::cmd("KEYS").arg(self.rig.key("*"))).await;
        for key in keys.iter().filter(|key| !key.ends_with(b":clock")) {
            self.rig.raw::<()>(redis::cmd("DEL").arg(key)).await;
        }
        for (key, value, ttl) in &dump {
            self.rig.raw::<()>(redis::cmd("RESTORE").arg(key).arg(ttl).arg(value)).await;
        }
        self.reference = reference;
    }

    pub(super) async fn redrive(&mut self, i: usize) {
        let dead: Vec<_> = self.reference.dead.keys().cloned().collect();
        let Some(key) = dead.get(i % dead.len().max(1)) else { return };
        let answer = self.rig.store.redrive(&self.rig.queue, &[member(key).id]).await.unwrap()[0];
        let new = || match answer {
            Redriven::As(id) => Member::fast(id),
            _ => panic!("nothing keeps it dead: {answer:?}"),
        };
        match self.reference.redrive(key, new, self.rig.now()) {
            Ok(Ok(())) => self.known.push(new()),
            Ok(Err(stands)) => assert_eq!(answer, Redriven::Stands(id_of(&stands))),
            Err(refused) => assert_eq!(answer, Redriven::Refused(refused)),
        }
    }

    pub(super) async fn discard(&mut self, i: usize) {
        let dead: Vec<_> = self.reference.dead.keys().cloned().collect();
        if let Some(key) = dead.get(i % dead.len().max(1)) {
            self.reference.dead.remove(key);
            assert_eq!(self.rig.store.discard(&self.rig.queue, &[member(key).id]).await.unwrap(), [true]);
        }
    }

    pub(super) async fn buried(&mut self) {
        let all: Vec<Member> = self.reference.jobs.keys().map(|key| member(key)).collect();
        self.rig.store.buried(&self.rig.queue, &all).await.unwrap();
        self.reference.jobs.retain(|_, job| job.place != Place::ToBury);
    }
}
