//! What the passage of time does.

use super::{Came, Final, Key, Moved, RESCUE_LIMIT, Reference};
use crate::support::{LEASE, Place};

impl Reference {
    pub(crate) fn tick(&mut self, now: u64) -> Moved {
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
