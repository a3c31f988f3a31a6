//! What producers do: jobs, and batches of jobs.

use std::{collections::BTreeSet, time::Duration};

use chrono::DateTime;
use uuid::Uuid;
use windrow_queue::{
    Band, BatchId, Delivery, Due, Enqueued, Kind, Member, NewJob, UniqueScope as Scope,
    journal::RelayJob,
    store::{NewBatch, Refused},
};

use super::World;
use crate::{
    model::{
        op::Spec,
        reference::{Asked, KINDS, Key, Lane, UniqueScope},
    },
    support::{calls_of, due_in, raw_args, tenant},
};

/// A job as it was sent.
pub(super) type Made = (NewJob, Asked);

fn lane_of(spec: &Spec) -> Lane {
    Lane { band: spec.band, tenant: spec.tenant, kind: spec.kind }
}

impl World {
    fn make(&mut self, spec: &Spec) -> Made {
        let args = format!("{{\"x\":\"{}\"}}", "x".repeat(spec.padding));
        let mut job = self.rig.job(0);
        job.id = self.id();
        if let Some((key, scope, policy)) = spec.unique {
            let scope = match scope {
                UniqueScope::Queued => Scope::Queued,
                UniqueScope::UntilFinal => Scope::UntilFinal,
                UniqueScope::Period => Scope::Period(Duration::from_secs(3600)),
            };
            job = job.unique_for(&key.to_string(), scope, policy);
        }
        if let Some(key) = spec.idempotency {
            job = job.idempotent(&key.to_string());
        }
        // Behind the keys: those are to meet over kinds and tenants here.
        let lane = lane_of(spec);
        job.band = Band::from_number(lane.band).unwrap();
        job.kind = Kind::from_static(KINDS[usize::from(lane.kind)]);
        job.tenant = lane.tenant_name().map(|name| tenant(&name));
        job.due = due_in(spec.delay);
        job.batch = spec.batch.map(|batch| self.batch(batch));
        job.kind_policy.rescue_limit = spec.rescue_limit;
        if spec.at_most_once {
            job.kind_policy.delivery = Delivery::AtMostOnce;
        }
        let asked = Asked {
            member: Member::fast(job.id),
            lane,
            args: args.len(),
            delay: spec.delay,
            unique: spec.unique,
            idempotency: spec.idempotency,
            batch: spec.batch,
            at_most_once: spec.at_most_once,
            rescue_limit: spec.rescue_limit,
        };
        job.args = raw_args(args);
        (job, asked)
    }

    /// The batch of this number: one that nobody opened, if it is not open.
    fn batch(&self, number: u8) -> BatchId {
        self.reference.batches.get(&number).map_or(BatchId(Uuid::from_u128(number.into())), |batch| batch.id)
    }

    pub(super) async fn enqueue(&mut self, specs: &[Spec]) {
        let made: Vec<Made> = specs.iter().map(|spec| self.make(spec)).collect();
        self.send(&made).await;
        self.known.extend(made.iter().map(|(_, asked)| asked.member));
        self.calls.push(made);
    }

    /// Takes note of the way of a call; `before` is what the scripts had been called.
    fn note_way(&mut self, before: (u64, u64)) {
        let (plain, long) = self.script_calls();
        match (plain - before.0, long - before.1) {
            (1, 0) => self.ways.short += 1,
            (1, 1) => self.ways.refused += 1,
            (0, 1) => self.ways.long += 1,
            other => panic!("one call of a producer came to {other:?} calls of the scripts"),
        }
    }

    fn script_calls(&self) -> (u64, u64) {
        (calls_of(&self.metrics, "ENQUEUE_PLAIN"), calls_of(&self.metrics, "ENQUEUE"))
    }

    async fn send(&mut self, made: &[Made]) {
        let (jobs, asked): (Vec<NewJob>, Vec<Asked>) = made.iter().cloned().unzip();
        let tombs = self.tombs().await;
        let expected = self.reference.enqueue(&asked, &tombs, self.rig.now());
        let before = self.script_calls();
        let answers = self.rig.store.enqueue(&jobs).await.unwrap();
        self.note_way(before);
        assert_eq!(answers, expected);
        for (answer, asked) in answers.iter().zip(&asked) {
            if matches!(answer, Ok(Enqueued::Created(_))) && asked.delay == 0 {
                self.learn_when_ready(&asked.member.to_bytes()).await;
            }
        }
        // Nobody is woken for lanes that wait for a limit.
        let ringed = self.ringed().await;
        let is_ready = |(answer, asked): (&Result<Enqueued, Refused>, &Asked)| {
            matches!(answer, Ok(Enqueued::Created(_))) && asked.delay == 0 && ringed.contains(&asked.lane.encode())
        };
        if answers.iter().zip(&asked).any(is_ready) && !self.reference.limits.queue_paused {
            assert_eq!(self.tokens().await, 1, "what is ready wakes somebody");
        }
    }

    /// The producer reckons what Redis' clock shows: the time of a job may be behind it by as much as it goes uncorrected.
    async fn learn_when_ready(&mut self, key: &Key) {
        let stored: Vec<u8> = self.rig.raw(redis::cmd("HGET").arg(self.rig.key("jobs")).arg(key)).await;
        let ready = stored[6..12].iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
        let now = self.rig.now();
        assert!((now - 1000..=now).contains(&ready), "ready at {ready}, enqueued at {now}");
        self.reference.jobs.get_mut(key).expect("it was created").ready = ready;
    }

    async fn tombs(&self) -> BTreeSet<Key> {
        self.rig.raw::<Vec<Key>>(redis::cmd("HKEYS").arg(self.rig.key("tomb"))).await.into_iter().collect()
    }

    /// A producer that had no answer asks again: for a job that stands or that was cancelled meanwhile, or for the whole call,
    /// of which some may never have been taken, or be forgotten by a Redis that was set back.
    pub(super) async fn enqueue_again(&mut self, i: usize) {
        let tombs = self.tombs().await;
        let stands = |(_, asked): &&Made| {
            let key = asked.member.to_bytes();
            self.reference.jobs.contains_key(&key) || tombs.contains(&key)
        };
        let standing: Vec<(usize, Made)> = self
            .calls
            .iter()
            .enumerate()
            .flat_map(|(call, made)| made.iter().filter(stands).map(move |made| (call, made.clone())))
            .collect();
        let Some((call, made)) = standing.get(i % standing.len().max(1)) else { return };
        if (i / standing.len()).is_multiple_of(2) {
            return self.send(std::slice::from_ref(made)).await;
        }
        // What is over would begin anew; and the reference knows batches by their numbers, which others have by now.
        let may_come = |(job, asked): &Made| {
            !self.reference.taken.contains(&asked.member.to_bytes())
                && job.batch == asked.batch.map(|number| self.batch(number))
        };
        let call = self.calls[*call].iter().filter(|made| stands(made) || may_come(made)).cloned().collect::<Vec<_>>();
        self.send(&call).await;
    }

    pub(super) async fn relay(&mut self, specs: &[Spec]) {
        let now = self.rig.now();
        let (jobs, asked): (Vec<RelayJob>, Vec<Asked>) = specs
            .iter()
            .map(|spec| {
                let lane = lane_of(spec);
                let mut job = self.rig.relay_job();
                job.member.id = self.id();
                job.band = Band::from_number(lane.band).unwrap();
                job.kind = Kind::from_static(KINDS[usize::from(lane.kind)]);
                job.tenant = lane.tenant_name().map(|name| tenant(&name));
                job.due = if spec.delay > 0 {
                    Due::At(DateTime::from_timestamp_millis(i64::try_from(now + spec.delay).unwrap()).unwrap())
                } else {
                    Due::Now
                };
                (job.at_most_once, job.rescue_limit) = (spec.at_most_once, spec.rescue_limit);
                let asked = Asked {
                    member: job.member,
                    lane,
                    args: 0,
                    delay: spec.delay,
                    unique: None,
                    idempotency: None,
                    batch: None,
                    at_most_once: spec.at_most_once,
                    rescue_limit: spec.rescue_limit,
                };
                (job, asked)
            })
            .unzip();
        let tombs = self.tombs().await;
        let answers = self.reference.enqueue(&asked, &tombs, now);
        let expected: Vec<Result<bool, Refused>> =
            answers.iter().map(|answer| answer.map(|it| it.is_created())).collect();
        let before = self.script_calls();
        assert_eq!(self.rig.store.relay(&self.rig.queue, &jobs).await.unwrap(), expected);
        self.note_way(before);
        for (_, asked) in answers.iter().zip(&asked).filter(|(answer, asked)| answer.is_ok() && asked.delay == 0) {
            self.learn_when_ready(&asked.member.to_bytes()).await;
        }
        self.known.extend(asked.iter().map(|asked| asked.member));
    }

    pub(super) async fn relay_again(&mut self, i: usize) {
        let standing: Vec<Member> = self
            .reference
            .jobs
            .keys()
            .map(|key| super::member(key))
            .filter(|member| member.generation.is_some())
            .collect();
        if let Some(member) = standing.get(i % standing.len().max(1)) {
            let mut job = self.rig.relay_job();
            job.member = *member;
            assert_eq!(self.rig.store.relay(&self.rig.queue, &[job]).await.unwrap(), [Ok(false)]);
        }
    }

    /// Opens a batch; one that fired gives its number to another.
    pub(super) async fn open_batch(&mut self, number: u8) {
        let new = self.number();
        let stands = self.reference.batches.get(&number).filter(|batch| batch.fired.is_none());
        let id = stands.map_or_else(|| BatchId(Uuid::from_u128((1 << 64) + u128::from(new))), |batch| batch.id);
        let stands = stands.map(|batch| super::member(&batch.follow_up.0).id);
        let lane = Lane { band: 1, tenant: number, kind: number };
        let mut follow_up = self.rig.job(0);
        follow_up.id = self.id();
        follow_up.band = Band::from_number(lane.band).unwrap();
        follow_up.kind = Kind::from_static(KINDS[usize::from(number)]);
        follow_up.tenant = lane.tenant_name().map(|name| tenant(&name));
        let (member, args) = (Member::fast(follow_up.id), follow_up.args.get().len());
        let answer = self.rig.store.open_batch(&NewBatch { id, follow_up }).await.unwrap();
        if let Some(stands) = stands {
            assert_eq!(answer, Ok(Enqueued::Exists(stands)));
        } else if self.reference.gate {
            assert_eq!(answer, Err(Refused::MemoryGate));
        } else if self.reference.is_full() {
            assert_eq!(answer, Err(Refused::QueueFull));
        } else {
            assert_eq!(answer, Ok(Enqueued::Created(member.id)));
            self.reference.open_batch(number, id, member, lane, args);
            self.known.push(member);
        }
    }

    pub(super) async fn seal_batch(&mut self, number: u8) {
        let now = self.rig.now();
        let id = self.batch(number);
        let expected = self.reference.seal_batch(number, now);
        assert_eq!(self.rig.store.seal_batch(&self.rig.queue, id).await.unwrap(), expected);
    }
}
