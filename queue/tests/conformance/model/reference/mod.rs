//! What Redis must hold after each request: the scripts' contracts once more, over plain collections.
//!
//! Where a contract leaves a choice (which ready jobs a claim gives), the reference takes what Redis did and says whether
//! it was allowed to.

mod enqueue;
mod limit;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use windrow_queue::{
    BatchId, JobId, Member,
    store::{Applied, Callback, Cancelled, Finish, Verdict},
};

use super::op::Setup;
use crate::support::{LEASE, Place};

pub(super) use enqueue::Asked;
pub(super) use limit::{Id, Limits, Scope};

pub(super) type Key = Vec<u8>;

pub(super) const KINDS: [&str; 2] = ["a", "b"];
pub(super) const RESCUE_LIMIT: u8 = 2;

/// Where a job waits. Tenant 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Lane {
    pub(super) band: u8,
    pub(super) tenant: u8,
    pub(super) kind: u8,
}

impl Lane {
    pub(super) fn tenant_name(self) -> Option<String> {
        (self.tenant > 0).then(|| format!("t{}", self.tenant))
    }

    pub(super) fn encode(self) -> Key {
        let tenant = self.tenant_name().unwrap_or_default();
        format!("{}\x1f{tenant}\x1f{}", self.band, KINDS[usize::from(self.kind)]).into_bytes()
    }
}

/// As the store's, without how long a period is: longer than a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum UniqueScope {
    Queued,
    UntilFinal,
    Period,
}

/// What a wait for a callback came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Came {
    Nothing,
    Payload(u8),
    /// The same, and an attempt has seen it: it ends no other park.
    Read(u8),
    TooLate,
}

/// A job that stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Job {
    pub(super) place: Place,
    /// When it became ready, or will.
    pub(super) ready: u64,
    pub(super) attempt: u32,
    pub(super) rescues: u8,
    pub(super) lane: Lane,
    pub(super) bytes: usize,
    pub(super) unique: Option<(u8, UniqueScope)>,
    pub(super) batch: Option<u8>,
    pub(super) at_most_once: bool,
    pub(super) rescue_limit: Option<u8>,
    /// Somebody cancelled it while it ran.
    pub(super) stops: bool,
    pub(super) checkpoint: Option<u8>,
    pub(super) progress: Option<u8>,
    /// Under which token it is to be called back.
    pub(super) wait: Option<(u8, Came)>,
    /// It was parked, or called back: whoever runs it next looks.
    pub(super) noted: bool,
}

impl Job {
    /// For another attempt. It has come to an outcome: its rescues are forgotten.
    fn wait_again(&mut self, delay: Duration, now: u64) {
        self.ready = now + millis(delay);
        self.place = if delay.is_zero() { Place::Lane } else { Place::Scheduled { due: self.ready } };
        self.rescues = 0;
    }
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap()
}

impl Default for Job {
    fn default() -> Self {
        Self {
            place: Place::Lane,
            ready: 0,
            attempt: 0,
            rescues: 0,
            lane: Lane::default(),
            bytes: 0,
            unique: None,
            batch: None,
            at_most_once: false,
            rescue_limit: None,
            stops: false,
            checkpoint: None,
            progress: None,
            wait: None,
            noted: false,
        }
    }
}

/// A session that is not doomed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Open {
    pub(super) n: u64,
    pub(super) deadline: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) id: BatchId,
    pub(super) follow_up: (Key, Job),
    pub(super) members: u64,
    pub(super) completed: u64,
    pub(super) dead: u64,
    pub(super) cancelled: u64,
    pub(super) sealed: bool,
    pub(super) fired: Option<u64>,
}

/// How a job became final.
#[derive(Clone, Copy)]
enum Final {
    Completed,
    Dead,
    Cancelled,
}

/// One queue in Redis.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    setup: Setup,
    pub(super) jobs: BTreeMap<Key, Job>,
    /// The dead: since when, and what they come back as.
    pub(super) dead: BTreeMap<Key, (u64, Job)>,
    pub(super) trimmed: u64,
    pub(super) sessions: BTreeMap<String, Open>,
    pub(super) idempotency: BTreeMap<u8, Key>,
    /// Who stands for a unique key.
    pub(super) keys: BTreeMap<u8, Key>,
    periods: BTreeMap<u8, Key>,
    pub(super) batches: BTreeMap<u8, Batch>,
    pub(super) limits: Limits,
    pub(super) gate: bool,
    last_tick: u64,
}

/// What a session is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer<T> {
    Ok(T),
    Gone,
    Stale,
    Rollback,
}

/// What a tick did.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Moved {
    pub(super) promoted: u64,
    pub(super) rescued: u64,
    pub(super) poisoned: u64,
    pub(super) grace: bool,
}

pub(super) fn id_of(key: &Key) -> JobId {
    Member::from_bytes(key).expect("keys are members").id
}

impl Reference {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            setup,
            jobs: BTreeMap::new(),
            dead: BTreeMap::new(),
            trimmed: 0,
            sessions: BTreeMap::new(),
            idempotency: BTreeMap::new(),
            keys: BTreeMap::new(),
            periods: BTreeMap::new(),
            batches: BTreeMap::new(),
            limits: Limits::default(),
            gate: false,
            last_tick: 0,
        }
    }

    pub(super) fn hello(&mut self, sid: &str, now: u64) {
        self.sessions.insert(sid.to_owned(), Open { n: 0, deadline: now + LEASE });
    }

    /// Leases, requests, and jobs that are to stop.
    pub(super) fn heartbeat(&mut self, sid: &str, now: u64) -> Answer<(u64, u64, BTreeSet<Key>)> {
        let held = self.held(sid).count() as u64;
        let stop = self.held(sid).filter(|(key, _)| self.jobs[*key].stops).map(|(key, _)| key.clone()).collect();
        match self.sessions.get_mut(sid) {
            None => Answer::Gone,
            Some(session) => {
                session.deadline = now + LEASE;
                Answer::Ok((held, session.n, stop))
            }
        }
    }

    pub(super) fn bye(&mut self, sid: &str) -> bool {
        let idle = self.held(sid).next().is_none();
        if idle {
            self.sessions.remove(sid);
        }
        idle
    }

    fn held<'a>(&'a self, sid: &'a str) -> impl Iterator<Item = (&'a Key, u64)> {
        self.jobs.iter().filter_map(move |(key, job)| match &job.place {
            Place::Running { sid: holder, claim_no, .. } if holder == sid => Some((key, *claim_no)),
            _ => None,
        })
    }

    /// The job, if this very claim of a session that lives holds it.
    pub(super) fn holds(&mut self, sid: &str, key: &Key, claim_no: u64) -> Option<&mut Job> {
        let is_held = self.sessions.contains_key(sid) && self.held(sid).any(|held| held == (key, claim_no));
        self.jobs.get_mut(key).filter(|_| is_held)
    }

    pub(super) fn suspect_of(&self, sid: &str) -> Option<&Key> {
        self.jobs
            .iter()
            .find(|(_, job)| matches!(&job.place, Place::Running { sid: holder, suspect: true, .. } if holder == sid))
            .map(|(key, _)| key)
    }

    /// How many run, of each id.
    pub(super) fn running(&self) -> BTreeMap<Id, usize> {
        let mut running = BTreeMap::new();
        for job in self.jobs.values().filter(|job| matches!(job.place, Place::Running { .. })) {
            for id in job.lane.ids() {
                *running.entry(id).or_default() += 1;
            }
        }
        running
    }

    /// Jobs that are ready, and that no limit and no pause holds back.
    pub(super) fn claimable(&self, now: u64) -> impl Iterator<Item = (&Key, &Job)> {
        let running = self.running();
        self.jobs.iter().filter(move |(_, job)| {
            matches!(job.place, Place::Lane | Place::Suspect) && self.limits.admits(&job.lane, &running, now)
        })
    }

    /// Whether a request is served; then its number counts.
    pub(super) fn request(&mut self, sid: &str, n: u64, prev_n: u64) -> Answer<()> {
        match self.sessions.get_mut(sid) {
            None => Answer::Gone,
            Some(session) if n <= session.n => Answer::Stale,
            Some(session) if session.n < prev_n => Answer::Rollback,
            Some(session) => {
                session.n = n;
                Answer::Ok(())
            }
        }
    }

    /// Takes note of what a claim gave, which must have been ready, within all limits, and alone of its kind if suspect.
    pub(super) fn claimed(
        &mut self,
        sid: &str,
        n: u64,
        members: &[Member],
        journaled_ok: bool,
        suspect_free: bool,
        now: u64,
    ) {
        let running = self.running();
        let (mut suspects, mut started) = (0, BTreeMap::new());
        for member in members {
            assert!(journaled_ok || member.generation.is_none(), "a journaled job was claimed without a journal");
            let key = member.to_bytes();
            let job = self.jobs.get_mut(&key).expect("only jobs that stand are claimed");
            let suspect = match job.place {
                Place::Lane => false,
                Place::Suspect => true,
                _ => panic!("{job:?} was claimed"),
            };
            suspects += usize::from(suspect);
            job.place = Place::Running { sid: sid.to_owned(), claim_no: n, suspect };
            for id in job.lane.ids() {
                *started.entry(id).or_default() += 1;
            }
            if let Some((unique, UniqueScope::Queued)) = job.unique {
                self.keys.retain(|other, stands| *other != unique || *stands != key);
            }
        }
        assert!(suspects <= usize::from(suspect_free), "{suspects} suspects at once");
        self.limits.start(&started, &running, now);
    }

    pub(super) fn finish(&mut self, sid: &str, outcomes: &[Applied], now: u64) -> Vec<Verdict> {
        let mut done = BTreeSet::new();
        outcomes.iter().map(|outcome| self.finish_one(sid, outcome, now, &mut done)).collect()
    }

    fn finish_one(&mut self, sid: &str, outcome: &Applied, now: u64, done: &mut BTreeSet<Key>) -> Verdict {
        let key = outcome.member.to_bytes();
        let Some(job) = self.jobs.get_mut(&key) else { return Verdict::Already };
        let Place::Running { sid: holder, claim_no, suspect } = &job.place else { return Verdict::Already };
        if holder != sid || done.contains(&key) {
            return Verdict::Already;
        }
        if *claim_no != outcome.claim_no {
            return Verdict::NotYours;
        }
        done.insert(key.clone());
        let suspect = *suspect;
        let is_fast = outcome.member.generation.is_none();
        match &outcome.finish {
            Finish::Complete { .. } => self.leave(&key, Final::Completed, now),
            Finish::Bury { .. } if !is_fast || !job.stops => self.leave(&key, Final::Dead, now),
            // One that somebody cancelled does not come back, whatever its attempt came to.
            _ if job.stops => self.leave(&key, Final::Cancelled, now),
            Finish::Cancel { .. } | Finish::Gone | Finish::Bury { .. } => self.leave(&key, Final::Cancelled, now),
            Finish::Release => job.place = if suspect { Place::Suspect } else { Place::Lane },
            Finish::Snooze { delay } => job.wait_again(*delay, now),
            Finish::Retry { delay, attempt, .. } => {
                job.wait_again(*delay, now);
                job.attempt = *attempt;
            }
            Finish::Park { delay } => {
                (job.rescues, job.noted) = (0, true);
                let came = matches!(job.wait, Some((_, Came::Payload(_))));
                job.ready = if came { now } else { now + millis(*delay).max(1) };
                job.place = if came { Place::Lane } else { Place::Parked { deadline: job.ready } };
            }
        }
        Verdict::Applied
    }

    /// A job is final.
    fn leave(&mut self, key: &Key, end: Final, now: u64) {
        let job = self.jobs.remove(key).expect("it stands");
        if let Some((unique, scope)) = job.unique
            && scope != UniqueScope::Period
        {
            self.keys.retain(|other, stands| *other != unique || stands != key);
        }
        if matches!(end, Final::Dead) && key.len() == 16 {
            let Job { lane, bytes, unique, batch, at_most_once, rescue_limit, .. } = job;
            let again = Job { lane, bytes, unique, batch, at_most_once, rescue_limit, ..Job::default() };
            self.dead.insert(key.clone(), (now, again));
            self.trim_dead();
        }
        if let Some(number) = job.batch {
            let batch = self.batches.get_mut(&number).expect("it has members");
            match end {
                Final::Completed => batch.completed += 1,
                Final::Dead => batch.dead += 1,
                Final::Cancelled => batch.cancelled += 1,
            }
            self.fire(number, now);
        }
    }

    fn trim_dead(&mut self) {
        while self.dead.len() as u64 > self.setup.max_dead {
            let (_, oldest) = self.dead.iter().map(|(key, (at, _))| (*at, key.clone())).min().expect("there are some");
            self.dead.remove(&oldest);
            self.trimmed += 1;
        }
    }

    pub(super) fn open_batch(&mut self, number: u8, id: BatchId, follow_up: Member, lane: Lane, args: usize) {
        // Header, lane, and `{"follows":"…"}` with its length.
        let bytes = 16 + lane.encode().len() + 2 + 50 + args;
        let follow_up = (follow_up.to_bytes(), Job { lane, bytes, ..Job::default() });
        let batch =
            Batch { id, follow_up, members: 0, completed: 0, dead: 0, cancelled: 0, sealed: false, fired: None };
        self.batches.insert(number, batch);
    }

    pub(super) fn is_full(&self) -> bool {
        self.jobs.len() as u64 >= self.setup.max_jobs
    }

    pub(super) fn seal_batch(&mut self, number: u8, now: u64) -> bool {
        let Some(batch) = self.batches.get_mut(&number) else { return false };
        batch.sealed = true;
        self.fire(number, now);
        true
    }

    fn fire(&mut self, number: u8, now: u64) {
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
    pub(super) fn cancel(&mut self, members: &[Member], now: u64) -> Vec<Cancelled> {
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
    pub(super) fn expect_callback(&mut self, sid: &str, key: &Key, claim_no: u64, token: u8) -> bool {
        let owner = self.waits_for(token);
        let is_own = owner.as_ref() == Some(key);
        let Some(job) = self.holds(sid, key, claim_no) else { return false };
        if owner.is_none() {
            job.wait = Some((token, Came::Nothing));
        }
        owner.is_none() || is_own
    }

    pub(super) fn waits_for(&self, token: u8) -> Option<Key> {
        let waits = |job: &Job| job.wait.as_ref().is_some_and(|(of, _)| *of == token);
        self.jobs.iter().find(|(_, job)| waits(job)).map(|(key, _)| key.clone())
    }

    pub(super) fn call_back(&mut self, token: u8, payload: u8, now: u64) -> Callback {
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

    /// Answers the verdicts, how many went back, and what is lost.
    pub(super) fn sync(
        &mut self,
        sid: &str,
        n: u64,
        running: &[(Member, u64)],
        recent: &[Applied],
        now: u64,
    ) -> Answer<(Vec<Verdict>, u64, Vec<Member>)> {
        match self.request(sid, n, 0) {
            Answer::Ok(()) => {}
            Answer::Gone => return Answer::Gone,
            Answer::Stale | Answer::Rollback => return Answer::Stale,
        }
        self.sessions.get_mut(sid).expect("it was served").deadline = now + LEASE;
        let verdicts = self.finish(sid, recent, now);
        let held: BTreeMap<Key, u64> = self.held(sid).map(|(key, claim_no)| (key.clone(), claim_no)).collect();
        let (kept, lost): (Vec<_>, Vec<_>) =
            running.iter().partition(|(member, claim_no)| held.get(&member.to_bytes()) == Some(claim_no));
        let kept: BTreeSet<Key> = kept.iter().map(|(member, _)| member.to_bytes()).collect();
        let mut given_back = 0;
        for key in held.keys().filter(|key| !kept.contains(*key)) {
            self.put_back(key, now);
            given_back += 1;
        }
        Answer::Ok((verdicts, given_back, lost.into_iter().map(|(member, _)| member).collect()))
    }

    /// A lease that nobody executes. What must not run twice may have run.
    fn put_back(&mut self, key: &Key, now: u64) {
        let job = self.jobs.get_mut(key).expect("it is held");
        if job.stops {
            self.leave(key, Final::Cancelled, now);
        } else if job.at_most_once && key.len() == 16 {
            self.leave(key, Final::Dead, now);
        } else {
            let suspect = matches!(job.place, Place::Running { suspect: true, .. });
            job.place = if suspect { Place::Suspect } else { Place::Lane };
        }
    }

    pub(super) fn tick(&mut self, now: u64) -> Moved {
        let mut moved = Moved::default();
        for job in self.jobs.values_mut() {
            let is_due = match job.place {
                Place::Scheduled { due } => due <= now,
                Place::Parked { deadline } if deadline <= now => {
                    if let Some((_, came)) = &mut job.wait {
                        *came = Came::TooLate;
                    }
                    true
                }
                _ => false,
            };
            if is_due {
                job.place = Place::Lane;
                moved.promoted += 1;
            }
        }
        let last = self.last_tick;
        if now >= last && now - last < 800 {
            return moved;
        }
        self.last_tick = now;
        moved.grace = last > 0 && (now < last || now - last > 5000);
        if moved.grace {
            for session in self.sessions.values_mut() {
                session.deadline = now + LEASE;
            }
        } else {
            self.doom(now, &mut moved);
        }
        let old = now.saturating_sub(self.setup.dead_age);
        let before = self.dead.len();
        self.dead.retain(|_, (at, _)| *at > old);
        self.trimmed += (before - self.dead.len()) as u64;
        self.limits.forget_arrivals(now);
        moved
    }

    fn doom(&mut self, now: u64, moved: &mut Moved) {
        let lapsed: Vec<String> =
            self.sessions.iter().filter(|(_, session)| session.deadline <= now).map(|(sid, _)| sid.clone()).collect();
        for sid in lapsed {
            self.sessions.remove(&sid);
            let held: Vec<Key> = self.held(&sid).map(|(key, _)| key.clone()).collect();
            for key in held {
                self.rescue(&key, now, moved);
            }
        }
    }

    fn rescue(&mut self, key: &Key, now: u64, moved: &mut Moved) {
        let job = self.jobs.get_mut(key).expect("it is held");
        let alone = matches!(job.place, Place::Running { suspect: true, .. });
        if job.stops {
            self.leave(key, Final::Cancelled, now);
        } else if job.at_most_once || (alone && job.rescues > job.rescue_limit.unwrap_or(RESCUE_LIMIT)) {
            moved.poisoned += 1;
            if key.len() > 16 {
                job.place = Place::ToBury;
            } else {
                self.leave(key, Final::Dead, now);
            }
        } else {
            moved.rescued += 1;
            job.place = if job.rescues >= 1 { Place::Suspect } else { Place::Lane };
            job.ready = now;
            job.rescues += 1;
        }
    }
}
