//! The queue, its reference, and the processes around it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::DateTime;
use windrow_queue::{
    Band, Due, Enqueued, JobId, Member, NewJob,
    store::{
        Applied, ClaimReply, Finish, JobState, Redriven, Reply, Session, SessionId, SyncReply, Verdict, kept_result,
    },
};

use super::{
    End, Fate, Op, Spec, Token,
    reference::{Answer, Reference},
};
use crate::support::{LEASE, PLENTY, Place, Rig, due_in, error, random, tenant};

/// Processes that a history has.
const PROCESSES: usize = 3;
const RESCUE_LIMIT: u8 = 2;

/// What a process remembers.
struct Process {
    session: Arc<Session>,
    n: u64,
    answered: u64,
    running: BTreeMap<Vec<u8>, u64>,
    /// Outcomes whose fate it does not know, and the last that it knows.
    recent: Vec<Applied>,
    /// Something was lost: it must sync first.
    dirty: bool,
}

/// A request that is still on its way.
struct Late {
    session: Arc<Session>,
    n: u64,
    answered: u64,
    what: What,
}

enum What {
    Request { want: usize, journaled_ok: bool, outcomes: Vec<Applied> },
    Sync { running: Vec<(Member, u64)>, recent: Vec<Applied> },
}

/// All keys as Redis dumps them, with their times to live, and the reference of that moment.
#[derive(Clone)]
struct Memory {
    dump: Vec<(Vec<u8>, Vec<u8>, i64)>,
    reference: Reference,
}

pub(super) struct World {
    rig: Rig,
    reference: Reference,
    processes: Vec<Process>,
    late: Vec<Late>,
    jobs: Vec<(NewJob, Spec)>,
    remembered: Option<Memory>,
}

fn member(key: &[u8]) -> Member {
    Member::from_bytes(key).expect("keys are members")
}

impl World {
    pub(super) async fn new(url: &str) -> Self {
        let rig = Rig::at(url, |config| config.rescue_limit = RESCUE_LIMIT).await;
        let mut world = Self {
            rig,
            reference: Reference::default(),
            processes: Vec::new(),
            late: Vec::new(),
            jobs: Vec::new(),
            remembered: None,
        };
        for _ in 0..PROCESSES {
            let process = world.open().await;
            world.processes.push(process);
        }
        world
    }

    async fn open(&mut self) -> Process {
        let id = SessionId::from_random(random());
        self.reference.hello(id.as_str(), self.rig.now());
        let session = Session::open(&self.rig.store, &self.rig.queue, id, 10, "model").await.unwrap();
        Process {
            session: Arc::new(session),
            n: 0,
            answered: 0,
            running: BTreeMap::new(),
            recent: Vec::new(),
            dirty: false,
        }
    }

    pub(super) async fn step(&mut self, op: Op) {
        match op {
            Op::Enqueue(specs) => self.enqueue(specs).await,
            Op::EnqueueAgain(i) => self.enqueue_again(i).await,
            Op::Relay { count, delay, tenant } => self.relay(count, delay, tenant).await,
            Op::RelayAgain(i) => self.relay_again(i).await,
            Op::Request { process, want, journaled_ok, ends, fate } => {
                self.request(process % PROCESSES, want, journaled_ok, &ends, fate).await;
            }
            Op::Sync { process, fate } => self.sync(process % PROCESSES, fate).await,
            Op::Arrive(i) => self.arrive(i).await,
            Op::Heartbeat(process) => self.heartbeat(process % PROCESSES).await,
            Op::Bye(process) => self.bye(process % PROCESSES).await,
            Op::Tick => self.tick().await,
            Op::Advance(ms) => self.rig.advance(ms).await,
            Op::Lapse(living) => self.lapse(living).await,
            Op::StepBack(ms) => self.rig.set_clock(self.rig.now() - ms).await,
            Op::Remember => self.remember().await,
            Op::RollBack => self.roll_back().await,
            Op::Redrive(i) => self.redrive(i).await,
            Op::Discard(i) => self.discard(i).await,
            Op::Buried => self.buried().await,
        }
        self.compare().await;
    }

    /// All keys are as the reference says.
    async fn compare(&self) {
        let snapshot = self.rig.audit().await;
        let places: BTreeMap<_, _> =
            self.reference.jobs.iter().map(|(key, job)| (key.clone(), job.place.clone())).collect();
        assert_eq!(snapshot.places, places, "places");
        assert!(snapshot.dead.iter().eq(self.reference.dead.keys()), "the dead");
        for (key, job) in &self.reference.jobs {
            let (attempt, rescues) = snapshot
                .mutable
                .get(key)
                .map_or((0, 0), |bytes| (u32::from_be_bytes(*bytes.first_chunk().expect("eleven bytes")), bytes[4]));
            assert_eq!((attempt, rescues), (job.attempt, job.rescues), "attempt and rescues of {key:02x?}");
        }
        let sessions: BTreeMap<_, _> =
            self.reference.sessions.iter().map(|(sid, open)| (sid.clone(), open.n)).collect();
        let stored: BTreeMap<_, _> =
            snapshot.sessions.iter().map(|(sid, fields)| (sid.clone(), fields["n"].parse().unwrap())).collect();
        assert_eq!(stored, sessions, "sessions");
        let deadlines: BTreeMap<_, _> =
            self.reference.sessions.iter().map(|(sid, open)| (sid.clone(), open.deadline)).collect();
        assert_eq!(snapshot.deadlines, deadlines, "deadlines");
    }

    async fn tokens(&self) -> usize {
        self.rig.raw(redis::cmd("LLEN").arg(self.rig.key("wake"))).await
    }

    async fn enqueue(&mut self, specs: Vec<Spec>) {
        let jobs: Vec<NewJob> = specs
            .iter()
            .enumerate()
            .map(|(n, spec)| {
                let mut job = self.rig.job(n);
                job.band = Band::from_number(spec.band).unwrap();
                job.due = due_in(spec.delay);
                if let Some(key) = spec.unique {
                    job = job.unique(&key.to_string());
                }
                if let Some(key) = spec.idempotency {
                    job = job.idempotent(&key.to_string());
                }
                // Behind the keys: those are to meet over tenants here.
                job.tenant(tenant(&format!("t{}", spec.tenant)))
            })
            .collect();
        let now = self.rig.now();
        let mut ready = false;
        let expected: Vec<_> = jobs
            .iter()
            .zip(&specs)
            .map(|(job, spec)| {
                let first = spec.idempotency.and_then(|key| self.reference.idempotency.get(&key));
                let stands = spec.unique.and_then(|key| self.reference.standing(key));
                if let Some(key) = first.or(stands) {
                    return Ok(Enqueued::Exists(member(key).id));
                }
                self.reference.admit(Member::fast(job.id), now + spec.delay, now, spec.unique);
                ready |= spec.delay == 0;
                if let Some(key) = spec.idempotency {
                    self.reference.idempotency.insert(key, Member::fast(job.id).to_bytes());
                }
                Ok(Enqueued::Created(job.id))
            })
            .collect();
        assert_eq!(self.rig.store.enqueue(&jobs).await.unwrap(), expected);
        self.jobs.extend(jobs.into_iter().zip(specs));
        if ready {
            assert_eq!(self.tokens().await, 1, "what is ready wakes somebody");
        }
    }

    async fn enqueue_again(&mut self, i: usize) {
        let standing: Vec<&(NewJob, Spec)> = self
            .jobs
            .iter()
            .filter(|(job, _)| self.reference.jobs.contains_key(&Member::fast(job.id).to_bytes()))
            .collect();
        if let Some((job, _)) = standing.get(i % standing.len().max(1)) {
            let answer = self.rig.store.enqueue(std::slice::from_ref(job)).await.unwrap();
            assert_eq!(answer, [Ok(Enqueued::Exists(job.id))]);
        }
    }

    async fn relay(&mut self, count: usize, delay: u64, of: u8) {
        let now = self.rig.now();
        let due = now + delay;
        let jobs: Vec<_> = (0..count)
            .map(|_| {
                let mut job = self.rig.relay_job();
                job.tenant = Some(tenant(&format!("t{of}")));
                job.due = Due::At(DateTime::from_timestamp_millis(i64::try_from(due).unwrap()).unwrap());
                self.reference.admit(job.member, due, now, None);
                job
            })
            .collect();
        assert!(self.rig.store.relay(&self.rig.queue, &jobs).await.unwrap().iter().all(Result::is_ok));
    }

    async fn relay_again(&mut self, i: usize) {
        let standing: Vec<Member> =
            self.reference.jobs.keys().map(|key| member(key)).filter(|member| member.generation.is_some()).collect();
        if let Some(member) = standing.get(i % standing.len().max(1)) {
            let mut job = self.rig.relay_job();
            job.member = *member;
            assert_eq!(self.rig.store.relay(&self.rig.queue, &[job]).await.unwrap(), [Ok(())]);
        }
    }

    /// The outcomes that a process tells, true ones and false ones.
    fn outcomes(&self, process: usize, ends: &[(usize, End, Token)]) -> Vec<Applied> {
        let mine: Vec<(Member, u64)> =
            self.processes[process].running.iter().map(|(key, claim_no)| (member(key), *claim_no)).collect();
        let foreign: Vec<(Member, u64)> = self
            .processes
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != process)
            .flat_map(|(_, other)| other.running.iter().map(|(key, claim_no)| (member(key), *claim_no)))
            .collect();
        let mut outcomes: Vec<Applied> = Vec::new();
        for (pick, end, token) in ends {
            let from = if matches!(token, Token::Foreign) { &foreign } else { &mine };
            let Some(&(member, claim_no)) = from.get(pick % from.len().max(1)) else { continue };
            let claim_no = claim_no + u64::from(matches!(token, Token::Wrong));
            let outcome = Applied { member, claim_no, finish: finish(*end, &self.rig) };
            outcomes.push(outcome.clone());
            if matches!(token, Token::Twice) {
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    async fn request(&mut self, i: usize, want: usize, journaled_ok: bool, ends: &[(usize, End, Token)], fate: Fate) {
        // Nothing but a sync may follow what was lost.
        for _ in 0..2 {
            if self.processes[i].dirty {
                self.sync(i, Fate::Answered).await;
            }
        }
        let outcomes = self.outcomes(i, ends);
        let process = &mut self.processes[i];
        process.n += 1;
        let (session, n, answered) = (Arc::clone(&process.session), process.n, process.answered);
        for outcome in &outcomes {
            // What it has told it does not run any more, unless it told a lie.
            if process.running.get(&outcome.member.to_bytes()) == Some(&outcome.claim_no) {
                process.running.remove(&outcome.member.to_bytes());
            }
        }
        process.recent.extend(outcomes.iter().cloned());
        if fate == Fate::Delayed {
            process.dirty = true;
            let what = What::Request { want, journaled_ok, outcomes };
            self.late.push(Late { session, n, answered, what });
            return;
        }
        let reply = self.send_request(&session, n, answered, want, journaled_ok, &outcomes).await;
        let process = &mut self.processes[i];
        if fate == Fate::AnswerLost {
            process.dirty = true;
            return;
        }
        match reply {
            Reply::Ok(reply) => {
                process.answered = n;
                process.running.extend(reply.claims.iter().map(|claim| (claim.member.to_bytes(), claim.claim_no)));
                let known = process.recent.len().saturating_sub(10);
                process.recent.drain(..known);
            }
            Reply::Gone => self.processes[i] = self.open().await,
            Reply::Stale | Reply::Rollback => process.dirty = true,
        }
    }

    /// Sends a request, and compares the answer with the reference's.
    async fn send_request(
        &mut self,
        session: &Session,
        n: u64,
        answered: u64,
        want: usize,
        journaled_ok: bool,
        outcomes: &[Applied],
    ) -> Reply<ClaimReply> {
        let (sid, now) = (session.id().as_str(), self.rig.now());
        let ready_before = self.claimable(journaled_ok);
        let reply = session.finish_claim(n, answered, want, PLENTY, journaled_ok, outcomes).await.unwrap();
        let expected = self.reference.request(sid, n, answered);
        let Reply::Ok(answer) = &reply else {
            assert_eq!(expected, status(&reply));
            return reply;
        };
        assert_eq!(expected, Answer::Ok(()));
        let members: Vec<Member> = answer.claims.iter().map(|claim| claim.member).collect();
        assert!(members.len() <= want);
        let suspect = self.reference.suspect_of(sid).cloned();
        let mut before = self.reference.clone();
        let verdicts = self.reference.finish(sid, outcomes, now);
        assert_eq!(answer.verdicts, verdicts);
        let freed = suspect.as_ref().is_none_or(|key| {
            outcomes.iter().zip(&verdicts).any(|(o, v)| *v == Verdict::Applied && o.member.to_bytes() == *key)
        });
        // Claims are read before outcomes are applied: what this request gave back, it did not get.
        before.claimed(sid, n, &members, journaled_ok, freed);
        self.reference.claimed(sid, n, &members, journaled_ok, freed);
        for claim in &answer.claims {
            let job = &self.reference.jobs[&claim.member.to_bytes()];
            assert_eq!((claim.claim_no, claim.attempt, claim.rescues), (n, job.attempt, job.rescues));
        }
        let of = |place: &Place| self.reference.jobs.values().any(|job| job.place == *place);
        if journaled_ok {
            let left = of(&Place::Lane) || (of(&Place::Suspect) && self.reference.suspect_of(sid).is_none());
            assert_eq!(answer.more, left, "more");
        }
        if want > 0 && ready_before.0 + usize::from(freed && ready_before.1 > 0) > 0 {
            assert!(!members.is_empty(), "there was something to claim");
        }
        let tokens = self.tokens().await;
        if !self.reference.any_ready() {
            assert_eq!(tokens, 0, "a drained claim clears the token");
        } else if want > 0 && members.len() == want && of(&Place::Lane) && journaled_ok {
            assert_eq!(tokens, 1, "a claim that leaves something wakes the next");
        }
        reply
    }

    /// How many jobs in lanes, and how many suspects, may be claimed.
    fn claimable(&self, journaled_ok: bool) -> (usize, usize) {
        // A journaled job at the head of a lane hides the fast ones behind it.
        if !journaled_ok {
            return (0, 0);
        }
        let of = |place: &Place| self.reference.jobs.values().filter(|job| job.place == *place).count();
        (of(&Place::Lane), of(&Place::Suspect))
    }

    async fn sync(&mut self, i: usize, fate: Fate) {
        let process = &mut self.processes[i];
        process.n += 1;
        let (session, n) = (Arc::clone(&process.session), process.n);
        let running: Vec<(Member, u64)> = process.running.iter().map(|(key, no)| (member(key), *no)).collect();
        let recent = process.recent.clone();
        if fate == Fate::Delayed {
            process.dirty = true;
            self.late.push(Late { session, n, answered: 0, what: What::Sync { running, recent } });
            return;
        }
        let reply = self.send_sync(&session, n, &running, &recent).await;
        let process = &mut self.processes[i];
        if fate == Fate::AnswerLost {
            process.dirty = true;
            return;
        }
        match reply {
            Reply::Ok(reply) => {
                process.answered = n;
                process.dirty = false;
                for member in reply.lost {
                    process.running.remove(&member.to_bytes());
                }
            }
            Reply::Gone => self.processes[i] = self.open().await,
            Reply::Stale | Reply::Rollback => process.dirty = true,
        }
    }

    async fn send_sync(
        &mut self,
        session: &Session,
        n: u64,
        running: &[(Member, u64)],
        recent: &[Applied],
    ) -> Reply<SyncReply> {
        let expected = self.reference.sync(session.id().as_str(), n, running, recent, self.rig.now());
        let reply = session.sync(n, running, recent).await.unwrap();
        match (&reply, expected) {
            (Reply::Ok(reply), Answer::Ok((verdicts, given_back, lost))) => {
                assert_eq!((&reply.verdicts, reply.given_back, &reply.lost), (&verdicts, given_back, &lost));
                assert!(!reply.more);
            }
            (_, Answer::Ok(_)) => panic!("the sync was served as {reply:?}"),
            (_, Answer::Gone) => assert!(matches!(reply, Reply::Gone), "{reply:?}"),
            (_, Answer::Stale | Answer::Rollback) => assert!(matches!(reply, Reply::Stale), "{reply:?}"),
        }
        reply
    }

    /// A request arrives that nobody waits for any more; some arrive twice.
    async fn arrive(&mut self, i: usize) {
        if self.late.is_empty() {
            return;
        }
        let at = i % self.late.len();
        let Late { session, n, answered, what } = self.late.swap_remove(at);
        match &what {
            What::Request { want, journaled_ok, outcomes } => {
                self.send_request(&session, n, answered, *want, *journaled_ok, outcomes).await;
            }
            What::Sync { running, recent } => {
                self.send_sync(&session, n, running, recent).await;
            }
        }
        if i.is_multiple_of(3) {
            self.late.push(Late { session, n, answered, what });
        }
    }

    async fn heartbeat(&mut self, i: usize) {
        let session = Arc::clone(&self.processes[i].session);
        let expected = self.reference.heartbeat(session.id().as_str(), self.rig.now());
        match session.heartbeat().await.unwrap() {
            Reply::Ok(beat) => assert_eq!(Answer::Ok((beat.held, beat.n)), expected),
            Reply::Gone => {
                assert_eq!(expected, Answer::Gone);
                self.processes[i] = self.open().await;
            }
            other => panic!("{other:?}"),
        }
    }

    async fn bye(&mut self, i: usize) {
        let session = Arc::clone(&self.processes[i].session);
        let closed = self.reference.bye(session.id().as_str());
        assert_eq!(session.bye().await.unwrap(), closed);
        // One that could not close is left to lapse, and still has requests on their way.
        self.processes[i] = self.open().await;
    }

    async fn tick(&mut self) {
        let expected = self.reference.tick(self.rig.now(), RESCUE_LIMIT);
        let tick = self.rig.store.tick(&self.rig.queue).await.unwrap();
        let moved = super::reference::Moved {
            promoted: tick.promoted,
            rescued: tick.rescued,
            poisoned: tick.poisoned,
            grace: tick.grace,
        };
        assert_eq!(moved, expected);
        assert!(!tick.more);
        let to_bury = self.reference.jobs.values().filter(|job| job.place == Place::ToBury).count();
        assert_eq!(tick.to_bury.len(), to_bury);
        if self.reference.any_ready() {
            assert_eq!(self.tokens().await, 1, "a tick heals a lost token");
        }
    }

    async fn lapse(&mut self, living: u8) {
        for _ in 0..=LEASE / 1000 {
            self.rig.advance(1000).await;
            for i in 0..PROCESSES {
                if living & (1 << i) != 0 {
                    self.heartbeat(i).await;
                }
            }
            self.tick().await;
        }
    }

    async fn remember(&mut self) {
        let keys: Vec<Vec<u8>> = self.rig.raw(redis::cmd("KEYS").arg(self.rig.key("*"))).await;
        let mut dump = Vec::new();
        for key in keys.into_iter().filter(|key| !key.ends_with(b":clock")) {
            let value: Vec<u8> = self.rig.raw(redis::cmd("DUMP").arg(&key)).await;
            let ttl: i64 = self.rig.raw(redis::cmd("PTTL").arg(&key)).await;
            dump.push((key, value, ttl.max(0)));
        }
        self.remembered = Some(Memory { dump, reference: self.reference.clone() });
    }

    async fn roll_back(&mut self) {
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

    async fn redrive(&mut self, i: usize) {
        let dead: Vec<_> = self.reference.dead.iter().map(|(key, unique)| (key.clone(), *unique)).collect();
        let Some((key, unique)) = dead.get(i % dead.len().max(1)) else {
            let none = self.rig.store.redrive(&self.rig.queue, &[JobId::new()]).await.unwrap();
            assert_eq!(none, [Redriven::NotDead]);
            return;
        };
        let new = match self.rig.store.redrive(&self.rig.queue, &[member(key).id]).await.unwrap()[..] {
            [Redriven::As(id) | Redriven::Stands(id)] => id,
            ref other => panic!("it is dead: {other:?}"),
        };
        if let Some(stands) = unique.and_then(|unique| self.reference.standing(unique)) {
            assert_eq!(new, member(stands).id);
        } else {
            self.reference.dead.remove(key);
            self.reference.admit(Member::fast(new), 0, 0, *unique);
        }
    }

    async fn discard(&mut self, i: usize) {
        let dead: Vec<_> = self.reference.dead.keys().cloned().collect();
        if let Some(key) = dead.get(i % dead.len().max(1)) {
            self.reference.dead.remove(key);
            assert_eq!(self.rig.store.discard(&self.rig.queue, &[member(key).id]).await.unwrap(), [true]);
        }
    }

    async fn buried(&mut self) {
        let all: Vec<Member> = self.reference.jobs.keys().map(|key| member(key)).collect();
        self.rig.store.buried(&self.rig.queue, &all).await.unwrap();
        self.reference.jobs.retain(|_, job| job.place != Place::ToBury);
    }

    /// All processes die; a new one executes all that is left.
    pub(super) async fn end(mut self) {
        // Beyond all that the clock was set back: then the first lapse is under grace, the second is not.
        self.rig.advance(100 * 60_000).await;
        for _ in 0..2 {
            self.lapse(0).await;
        }
        self.compare().await;
        for i in 0..PROCESSES {
            self.processes[i] = self.open().await;
        }
        for round in 0.. {
            assert!(round < 200, "what is left is never executed: {:?}", self.reference.jobs);
            let ends = [(0, End::Complete, Token::Right); 8];
            self.request(0, 6, true, &ends, Fate::Answered).await;
            self.heartbeat(0).await;
            self.rig.advance(1000).await;
            self.tick().await;
            self.buried().await;
            if self.reference.jobs.is_empty() {
                break;
            }
        }
        self.compare().await;
        let keys: Vec<Vec<u8>> = self.rig.raw(redis::cmd("KEYS").arg(self.rig.key("*"))).await;
        self.rig.raw::<()>(redis::cmd("DEL").arg(keys)).await;
    }
}

fn status<T>(reply: &Reply<T>) -> Answer<()> {
    match reply {
        Reply::Ok(_) => Answer::Ok(()),
        Reply::Gone => Answer::Gone,
        Reply::Stale => Answer::Stale,
        Reply::Rollback => Answer::Rollback,
    }
}

fn finish(end: End, rig: &Rig) -> Finish {
    let delay = Duration::from_millis;
    let keep = |state| Some(kept_result(state, &rig.job(0).kind, None, 1, None));
    match end {
        End::Complete => Finish::Complete { keep: None },
        End::Keep => Finish::Complete { keep: keep(JobState::Completed) },
        End::Cancel => Finish::Cancel { keep: keep(JobState::Cancelled) },
        End::Gone => Finish::Gone,
        End::Retry(ms) => Finish::Retry { delay: delay(ms), attempt: 3, error: error(3, "it failed") },
        End::Snooze(ms) => Finish::Snooze { delay: delay(ms) },
        End::Release => Finish::Release,
        End::Bury => Finish::Bury { error: error(1, "enough") },
    }
}
