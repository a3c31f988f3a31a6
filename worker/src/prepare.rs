//! From a claim to a delivery: what the job's journal row says (the row check at start), and which handler it has.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use rand::RngExt;
use sqlx::PgPool;
use tokio::sync::mpsc;
use windrow_queue::{
    Fire, QueueName,
    journal::{self, StartRow},
    metrics::QueueMetrics,
    policy::PolicyOverride,
    store::{Claim, Envelope, Finish},
};

use crate::{execute::Delivery, lease::Lease, patience::patiently, registry::Registry};

/// An envelope of a version that this program cannot read waits so long for a program that can.
const UNREADABLE_SNOOZE: Duration = Duration::from_secs(60);

/// A claim with its lease and what is needed to judge it.
pub(crate) struct Claimed {
    pub(crate) claim: Claim,
    pub(crate) lease: Lease,
    /// Redis' time of the claim.
    pub(crate) now: DateTime<Utc>,
}

/// Makes deliveries of claims.
#[derive(Clone)]
pub(crate) struct Preparer {
    pub(crate) queue: QueueName,
    pub(crate) registry: Registry,
    pub(crate) database: PgPool,
    pub(crate) metrics: QueueMetrics,
    pub(crate) deliveries: mpsc::Sender<Delivery>,
    /// Whether Postgres answers: without it, journaled jobs are not claimed.
    pub(crate) journal_ok: Arc<AtomicBool>,
}

impl Preparer {
    /// Delivers a fast job.
    pub(crate) fn deliver_fast(&self, claimed: Claimed) {
        self.deliver(claimed, None);
    }

    /// Checks journaled jobs against their rows, batch by batch, until the hub ends.
    pub(crate) async fn run(self, mut claims: mpsc::UnboundedReceiver<Claimed>) {
        let mut batch = Vec::new();
        while claims.recv_many(&mut batch, 500).await > 0 {
            self.deliver_journaled(&mut batch).await;
        }
    }

    async fn deliver_journaled(&self, batch: &mut Vec<Claimed>) {
        let members: Vec<_> = batch.iter().map(|claimed| claimed.claim.member).collect();
        match patiently(journal::start_check(&self.database, &members)).await {
            Ok(mut rows) => {
                for claimed in batch.drain(..) {
                    match rows.remove(&claimed.claim.member) {
                        Some(row) => self.deliver(claimed, Some(row)),
                        None => {
                            self.metrics.ghosts.with_label_values(&[self.queue.as_str()]).inc();
                            tracing::info!(job_id = %claimed.claim.member.id, "its journal row is gone: acknowledged unrun");
                            claimed.lease.finish(Finish::Gone);
                        }
                    }
                }
            }
            Err(error) => {
                if self.journal_ok.swap(false, Ordering::AcqRel) {
                    tracing::warn!(queue = %self.queue, %error, "Postgres does not answer: journaled jobs wait");
                }
                for claimed in batch.drain(..) {
                    let delay = Duration::from_millis(rand::rng().random_range(500..1500));
                    claimed.lease.finish(Finish::Snooze { delay });
                }
            }
        }
    }

    fn deliver(&self, claimed: Claimed, row: Option<StartRow>) {
        let Claimed { claim, lease, now } = claimed;
        let envelope = match claim.envelope {
            Ok(envelope) => envelope,
            Err(error) => {
                self.metrics.failed.with_label_values(&[self.queue.as_str(), "unknown", "unreadable"]).inc();
                tracing::warn!(job_id = %claim.member.id, %error, "given back for a program that can read it");
                return lease.finish(Finish::Snooze { delay: UNREADABLE_SNOOZE });
            }
        };
        let Some(handler) = self.registry.get(&envelope.lane.kind) else {
            self.metrics.failed.with_label_values(&[self.queue.as_str(), "unknown", "unknown_kind"]).inc();
            tracing::warn!(job_id = %claim.member.id, kind = %envelope.lane.kind, "no handler here: given back");
            return lease.finish(Finish::Snooze { delay: unknown_kind_delay(&envelope, now) });
        };
        let attempt = claim.attempt;
        let lane = envelope.lane;
        let (args, overrides, attempt, checkpoint, fire, traceparent) = match row {
            Some(row) => {
                let fire = row.schedule_id.zip(row.fire_at).map(|(schedule_id, fire_at)| Fire {
                    schedule_id,
                    fire_at,
                    missed: row.missed,
                });
                let overrides = row.policy.map_or_else(PolicyOverride::default, |policy| policy.0);
                // After a wipe the journal remembers more attempts than Redis; else Redis does.
                let attempt = attempt.max(u32::try_from(row.attempt).unwrap_or(0));
                (row.args.0, overrides, attempt, row.checkpoint, fire, row.traceparent)
            }
            None => {
                let args = envelope.args.unwrap_or_default();
                (args, envelope.policy, attempt, None, envelope.fire, envelope.traceparent)
            }
        };
        let delivery = Delivery {
            lease,
            args,
            tenant: lane.tenant,
            attempt: attempt.saturating_add(1),
            policy: overrides.apply(handler.info().policy),
            keep_result: overrides.keep_result,
            fire,
            traceparent,
            checkpoint,
            waited: (now - claim.ready_at).to_std().unwrap_or_default(),
            handler,
        };
        // There is room: deliveries are bounded by slots. A closed channel is a worker that ended; the lease goes back.
        if let Err(error) = self.deliveries.try_send(delivery) {
            tracing::debug!(%error, "not delivered");
        }
    }
}

/// A job of a kind that nobody here knows waits for a program that does: as long as it has waited already, at least 5 s, at
/// most 10 minutes.
fn unknown_kind_delay(envelope: &Envelope, now: DateTime<Utc>) -> Duration {
    let age_ms = now.timestamp_millis().saturating_sub(i64::try_from(envelope.enqueued_ms).unwrap_or(i64::MAX));
    Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)).clamp(Duration::from_secs(5), Duration::from_secs(600))
}
