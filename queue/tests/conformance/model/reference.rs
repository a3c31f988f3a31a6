//! What Redis must hold after each request: the scripts' contracts once more, over plain collections.
//!
//! Where a contract leaves a choice (which ready jobs a claim gives), the reference takes what Redis did and says whether
//! it was allowed to.

use std::collections::{BTreeMap, BTreeSet};

use windrow_queue::{
    Member,
    store::{Applied, Finish, Verdict},
};

use crate::support::{LEASE, Place};

pub(super) type Key = Vec<u8>;

/// A job that stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Job {
    pub(super) place: Place,
    pub(super) attempt: u32,
    pub(super) rescues: u8,
    pub(super) unique: Option<u8>,
}

/// A session that is not doomed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Open {
    pub(super) n: u64,
    pub(super) deadline: u64,
}

/// One queue in Redis.
#[derive(Clone, Default, Debug)]
pub(super) struct Reference {
    pub(super) jobs: BTreeMap<Key, Job>,
    /// The dead, with their unique keys.
    pub(super) dead: BTreeMap<Key, Option<u8>>,
    pub(super) sessions: BTreeMap<String, Open>,
    pub(super) idempotency: BTreeMap<u8, Key>,
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

impl Reference {
    pub(super) fn standing(&self, unique: u8) -> Option<&Key> {
        self.jobs.iter().find(|(_, job)| job.unique == Some(unique)).map(|(key, _)| key)
    }

    pub(super) fn any_ready(&self) -> bool {
        self.jobs.values().any(|job| matches!(job.place, Place::Lane | Place::Suspect))
    }

    pub(super) fn admit(&mut self, member: Member, due: u64, now: u64, unique: Option<u8>) {
        let place = if due > now { Place::Scheduled { due } } else { Place::Lane };
        self.jobs.insert(member.to_bytes(), Job { place, attempt: 0, rescues: 0, unique });
    }

    pub(super) fn hello(&mut self, sid: &str, now: u64) {
        self.sessions.insert(sid.to_owned(), Open { n: 0, deadline: now + LEASE });
    }

    pub(super) fn heartbeat(&mut self, sid: &str, now: u64) -> Answer<(u64, u64)> {
        let held = self.held(sid).count() as u64;
        match self.sessions.get_mut(sid) {
            None => Answer::Gone,
            Some(session) => {
                session.deadline = now + LEASE;
                Answer::Ok((held, session.n))
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

    pub(super) fn suspect_of(&self, sid: &str) -> Option<&Key> {
        self.jobs
            .iter()
            .find(|(_, job)| matches!(&job.place, Place::Running { sid: holder, suspect: true, .. } if holder == sid))
            .map(|(key, _)| key)
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

    /// Takes note of what a claim gave, which must have been ready, and alone of its kind if suspect.
    pub(super) fn claimed(&mut self, sid: &str, n: u64, members: &[Member], journaled_ok: bool, suspect_free: bool) {
        let mut suspects = 0;
        for member in members {
            assert!(journaled_ok || member.generation.is_none(), "a journaled job was claimed without a journal");
            let job = self.jobs.get_mut(&member.to_bytes()).expect("only jobs that stand are claimed");
            let suspect = match job.place {
                Place::Lane => false,
                Place::Suspect => true,
                _ => panic!("{job:?} was claimed"),
            };
            suspects += usize::from(suspect);
            job.place = Place::Running { sid: sid.to_owned(), claim_no: n, suspect };
        }
        assert!(suspects <= usize::from(suspect_free), "{suspects} suspects at once");
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
        let later = |delay: std::time::Duration| match u64::try_from(delay.as_millis()).unwrap() {
            0 => Place::Lane,
            delay => Place::Scheduled { due: now + delay },
        };
        match &outcome.finish {
            Finish::Release => job.place = if suspect { Place::Suspect } else { Place::Lane },
            Finish::Park { delay } | Finish::Snooze { delay } => {
                job.place = later(*delay);
                job.rescues = 0;
            }
            Finish::Retry { delay, attempt, .. } => {
                job.place = later(*delay);
                (job.attempt, job.rescues) = (*attempt, 0);
            }
            Finish::Bury { .. } if outcome.member.generation.is_none() => {
                let unique = job.unique;
                self.jobs.remove(&key);
                self.dead.insert(key, unique);
            }
            Finish::Bury { .. } | Finish::Complete { .. } | Finish::Cancel { .. } | Finish::Gone => {
                self.jobs.remove(&key);
            }
        }
        Verdict::Applied
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
            self.put_back(key);
            given_back += 1;
        }
        Answer::Ok((verdicts, given_back, lost.into_iter().map(|(member, _)| member).collect()))
    }

    fn put_back(&mut self, key: &Key) {
        let job = self.jobs.get_mut(key).expect("it is held");
        let suspect = matches!(job.place, Place::Running { suspect: true, .. });
        job.place = if suspect { Place::Suspect } else { Place::Lane };
    }

    pub(super) fn tick(&mut self, now: u64, rescue_limit: u8) -> Moved {
        let mut moved = Moved::default();
        for job in self.jobs.values_mut() {
            if matches!(job.place, Place::Scheduled { due } if due <= now) {
                job.place = Place::Lane;
                moved.promoted += 1;
            }
        }
        let last = self.last_tick;
        if now >= last && now - last < 800 {
            return moved;
        }
        self.last_tick = now;
        if last > 0 && (now < last || now - last > 5000) {
            moved.grace = true;
            for session in self.sessions.values_mut() {
                session.deadline = now + LEASE;
            }
            return moved;
        }
        let lapsed: Vec<String> =
            self.sessions.iter().filter(|(_, session)| session.deadline <= now).map(|(sid, _)| sid.clone()).collect();
        for sid in lapsed {
            self.sessions.remove(&sid);
            let held: Vec<Key> = self.held(&sid).map(|(key, _)| key.clone()).collect();
            for key in held {
                self.rescue(key, rescue_limit, &mut moved);
            }
        }
        moved
    }

    fn rescue(&mut self, key: Key, rescue_limit: u8, moved: &mut Moved) {
        let job = self.jobs.get_mut(&key).expect("it is held");
        let alone = matches!(job.place, Place::Running { suspect: true, .. });
        if alone && job.rescues > rescue_limit {
            moved.poisoned += 1;
            if key.len() > 16 {
                job.place = Place::ToBury;
            } else {
                let unique = job.unique;
                self.jobs.remove(&key);
                self.dead.insert(key, unique);
            }
        } else {
            moved.rescued += 1;
            job.place = if job.rescues >= 1 { Place::Suspect } else { Place::Lane };
            job.rescues += 1;
        }
    }
}
