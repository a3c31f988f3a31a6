//! What Redis must hold after each request: the scripts' contracts once more, over plain collections.
//!
//! Where a contract leaves a choice (which ready jobs a claim gives), the reference takes what Redis did and says whether
//! it was allowed to.

mod enqueue;
mod finish;
mod limit;
mod outside;
mod time;

use std::collections::{BTreeMap, BTreeSet};

use windrow_queue::{
    BatchId, JobId, Member,
    store::{Applied, Verdict},
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
    /// All that producers ever got in, whatever became of it.
    pub(super) taken: BTreeSet<Key>,
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
            taken: BTreeSet::new(),
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
}
