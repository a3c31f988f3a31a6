//! How attempts end, and what a job leaves when it is final.

use std::{collections::BTreeSet, time::Duration};

use windrow_queue::store::{Applied, Finish, Verdict};

use super::{Came, Final, Job, Key, Reference, UniqueScope};
use crate::support::Place;

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

impl Reference {
    pub(crate) fn finish(&mut self, sid: &str, outcomes: &[Applied], now: u64) -> Vec<Verdict> {
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
    pub(super) fn leave(&mut self, key: &Key, end: Final, now: u64) {
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
}
