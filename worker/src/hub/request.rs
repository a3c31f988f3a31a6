//! What the hub says to Redis: outcomes and claims in one round trip, and sync when the two may disagree.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};
use windrow_queue::store::{Applied, Claim, Finish, Reply, Session, Verdict};

use super::{Ended, Hub, MAX_DELAY, backoff};
use crate::{
    lease::{Lease, Slot},
    prepare::Claimed,
    share::Reservation,
};

/// Bytes of envelopes that one answer may carry.
const WANT_BYTES: usize = 4 * 1024 * 1024;
/// How long to wait when ready jobs are left that this process may not have.
const UNSERVABLE_PAUSE: Duration = Duration::from_millis(250);

impl Hub {
    /// One round trip. Answers until when there is nothing to claim for us, although jobs are ready.
    pub(super) async fn request(
        &mut self,
        session: &Arc<Session>,
        mut slots: Reservation,
    ) -> Result<Option<Instant>, Ended> {
        self.n += 1;
        let want = slots.left();
        let batch = self.table.take_batch();
        // What these outcomes free is given out after the claim: what waited for it is there for the next request, at once.
        let frees = !batch.is_empty();
        let journal_ok = self.parts.preparer.journal_ok.load(Ordering::Acquire);
        let reply = session.finish_claim(self.n, self.answered, want, WANT_BYTES, journal_ok, &batch).await;
        match reply {
            Ok(Reply::Ok(reply)) => {
                self.answered = self.n;
                self.parts.health.ok();
                self.parts.clock.saw(reply.now);
                self.settle(&batch, &reply.verdicts);
                self.table.answered(batch);
                let got = reply.claims.len();
                // Fewer than we wanted and none left: the next one comes with a wake-up.
                self.may_claim = reply.more;
                for claim in reply.claims {
                    self.deliver(claim, &mut slots, reply.now);
                }
                let unservable = reply.more && want > 0 && got == 0 && !frees;
                Ok(unservable.then(|| Instant::now() + UNSERVABLE_PAUSE))
            }
            Ok(Reply::Gone) => {
                // Their jobs are lost like those that still run, and are counted with them.
                self.table.unanswered(batch);
                Err(Ended::Gone)
            }
            Ok(Reply::Stale | Reply::Rollback) => {
                tracing::warn!(queue = %self.parts.queue, "Redis and this session disagree");
                self.table.unanswered(batch);
                self.resync(session).await.map(|()| None)
            }
            Err(error) => {
                self.unavailable(&error);
                self.table.unanswered(batch);
                self.resync(session).await.map(|()| None)
            }
        }
    }

    /// Tells Redis what really runs here until it agrees. Handlers go on meanwhile: silence is no reason to stop them.
    pub(super) async fn resync(&mut self, session: &Arc<Session>) -> Result<(), Ended> {
        // What it waits in line for is the other queues' meanwhile.
        drop(self.parts.portion.reserve(0));
        let mut delays = backoff();
        let mut give_up = None;
        loop {
            while let Ok(outcome) = self.outcomes.try_recv() {
                self.table.finished(outcome);
            }
            self.n += 1;
            let replay = self.table.replay();
            match session.sync(self.n, &self.table.running(), &replay).await {
                Ok(Reply::Ok(reply)) => {
                    self.answered = self.n;
                    self.parts.health.ok();
                    self.settle(&replay, &reply.verdicts);
                    self.table.synced();
                    let lost = reply.lost.iter().filter(|member| self.table.lose(**member)).count();
                    self.parts.metrics.leases_lost.with_label_values(&[self.parts.queue.as_str()]).inc_by(lost as u64);
                    tracing::info!(
                        queue = %self.parts.queue, replayed = replay.len(), given_back = reply.given_back, lost, "in agreement with Redis"
                    );
                    self.may_claim = true;
                    if !reply.more {
                        return Ok(());
                    }
                }
                Ok(Reply::Gone) => return Err(Ended::Gone),
                Ok(Reply::Stale | Reply::Rollback) => {}
                Err(error) => {
                    self.unavailable(&error);
                    // While Redis is away, a process that was told to stop waits for it no longer than its grace.
                    if self.parts.shutdown.soft.is_cancelled() {
                        let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.parts.grace);
                        if Instant::now() >= give_up {
                            tracing::warn!(queue = %self.parts.queue, "Redis stayed away: what ran here is rescued by others");
                            return Err(Ended::Killed);
                        }
                    }
                    tokio::select! {
                        () = sleep(delays.next().unwrap_or(MAX_DELAY)) => {}
                        () = self.parts.shutdown.hard.cancelled() => return Err(Ended::Killed),
                    }
                }
            }
        }
    }

    fn settle(&self, batch: &[Applied], verdicts: &[Verdict]) {
        for (outcome, verdict) in batch.iter().zip(verdicts) {
            match verdict {
                Verdict::Applied => {
                    if outcome.member.generation.is_some()
                        && matches!(outcome.finish, Finish::Retry { .. } | Finish::Snooze { .. })
                    {
                        // Postgres is behind: without a mirror the retry still stands in Redis.
                        if self.parts.mirror.try_send(outcome.clone()).is_err() {
                            tracing::debug!(job_id = %outcome.member.id, "not mirrored");
                        }
                    }
                }
                Verdict::Already => {}
                Verdict::NotYours => {
                    self.parts.metrics.leases_lost.with_label_values(&[self.parts.queue.as_str()]).inc();
                    tracing::warn!(job_id = %outcome.member.id, "it was somebody else's already: its outcome does not count");
                }
            }
        }
    }

    fn deliver(&mut self, claim: Claim, slots: &mut Reservation, now: DateTime<Utc>) {
        // The hub alone takes permits, and asked for no more than were free.
        let (Ok(own), Some(common)) = (Arc::clone(&self.slots).try_acquire_owned(), slots.take()) else {
            tracing::error!(job_id = %claim.member.id, "claimed without a free slot; it is given back by the next sync");
            self.signals.mismatch.notify_one();
            return;
        };
        let lease = Lease::new(claim.member, claim.claim_no, self.outcomes_tx.clone(), Slot::new(own, common));
        self.table.claimed(&lease);
        let Some(holder) = self.holder.clone() else { return };
        let claimed = Claimed { claim, lease, now, holder };
        if claimed.claim.member.generation.is_none() && !claimed.claim.extras {
            self.parts.preparer.deliver_fast(claimed);
        } else if let Err(error) = self.parts.claims.send(claimed) {
            // The role is ending; the lease in the error gives the job back.
            drop(error);
        }
    }
}
