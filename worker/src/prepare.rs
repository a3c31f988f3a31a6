//! From a claim to a delivery: what the job's journal row says (the row check at start), what waits for it in Redis, and which
//! handler it has.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use rand::RngExt;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio::sync::mpsc;
use windrow_queue::{
    BatchId, Fire, QueueName, Tenant,
    context::Holder,
    journal::{self, StartRow},
    metrics::QueueMetrics,
    policy::{Delivery as DeliveryPolicy, PolicyOverride},
    store::{CalledBack, Claim, Envelope, Extras, Finish, Store, StoreError},
};

use crate::{
    execute::Delivery,
    lease::Lease,
    patience::patiently,
    registry::{KindHandler, Registry},
    unknown::{Fate, Unknown},
};

/// How many jobs are asked about in Redis at a time.
const ASKED_AT_A_TIME: usize = 32;

/// A claim with its lease and what is needed to judge it.
pub(crate) struct Claimed {
    pub(crate) claim: Claim,
    pub(crate) lease: Lease,
    /// Redis' time of the claim.
    pub(crate) now: DateTime<Utc>,
    /// Whose claim it is.
    pub(crate) holder: Arc<Holder>,
}

/// Makes deliveries of claims.
#[derive(Clone)]
pub(crate) struct Preparer {
    pub(crate) queue: QueueName,
    pub(crate) registry: Registry,
    /// Redis, by a connection of the runtime on which handlers run.
    pub(crate) store: Store,
    pub(crate) database: PgPool,
    pub(crate) metrics: QueueMetrics,
    pub(crate) deliveries: mpsc::Sender<Delivery>,
    /// Whether Postgres answers: without it, journaled jobs are not claimed.
    pub(crate) journal_ok: Arc<AtomicBool>,
    /// How long a job waits for a program that knows its kind, before it is dead.
    pub(crate) unknown_after: Duration,
}

/// What is known of a job besides its claim.
struct Known {
    args: Box<RawValue>,
    policy: PolicyOverride,
    at_most_once: bool,
    attempt: u32,
    checkpoint: Option<serde_json::Value>,
    called_back: Option<CalledBack>,
    follows: Option<BatchId>,
    fire: Option<Fire>,
    traceparent: Option<String>,
}

impl Known {
    fn fast(envelope: Envelope, extras: Extras) -> Self {
        Self {
            args: envelope.args.unwrap_or_default(),
            policy: envelope.policy,
            at_most_once: envelope.delivery == DeliveryPolicy::AtMostOnce,
            follows: envelope.follows,
            fire: envelope.fire,
            traceparent: envelope.traceparent,
            attempt: 0,
            // What cannot be read is told to the handler when it asks for it.
            checkpoint: extras.checkpoint.map(|state| serde_json::from_slice(&state).unwrap_or_default()),
            called_back: extras.callback,
        }
    }

    fn journaled(mut row: StartRow) -> Self {
        let missed = row.missed;
        let fire = |(schedule_id, fire_at)| Fire { schedule_id, fire_at, missed };
        Self {
            called_back: row.take_callback(),
            args: row.args.0,
            policy: row.policy.map_or_else(PolicyOverride::default, |policy| policy.0),
            at_most_once: row.at_most_once,
            attempt: u32::try_from(row.attempt).unwrap_or(0),
            checkpoint: row.checkpoint,
            follows: row.follows.map(BatchId),
            fire: row.schedule_id.zip(row.fire_at).map(fire),
            traceparent: row.traceparent,
        }
    }
}

impl Preparer {
    /// Delivers a fast job for which nothing more waits.
    pub(crate) fn deliver_fast(&self, claimed: Claimed) {
        self.deliver_with(claimed, Extras::default());
    }

    /// Delivers what must be asked about first, batch by batch, until the hub ends: journaled jobs are checked against their
    /// rows, and for fast ones Redis is asked what waits for them.
    pub(crate) async fn run(self, mut claims: mpsc::UnboundedReceiver<Claimed>) {
        let mut batch = Vec::new();
        while claims.recv_many(&mut batch, 500).await > 0 {
            let (fast, journaled) = batch.drain(..).partition(|claimed| claimed.claim.member.generation.is_none());
            tokio::join!(self.deliver_journaled(journaled), self.deliver_waiting(fast));
        }
    }

    async fn deliver_waiting(&self, claims: Vec<Claimed>) {
        let deliver = async |claimed: Claimed| match self.store.extras(&self.queue, claimed.claim.member).await {
            Ok(extras) => self.deliver_with(claimed, extras),
            Err(error) => {
                tracing::warn!(job_id = %claimed.claim.member.id, %error, "put off: what waits for it is not known");
                claimed.lease.finish(Finish::Snooze { delay: moment() });
            }
        };
        stream::iter(claims).for_each_concurrent(ASKED_AT_A_TIME, deliver).await;
    }

    async fn deliver_journaled(&self, batch: Vec<Claimed>) {
        if batch.is_empty() {
            return;
        }
        let members: Vec<_> = batch.iter().map(|claimed| claimed.claim.member).collect();
        match patiently(journal::start_check(&self.database, &members)).await {
            Ok(mut rows) => {
                let mut ghosts = 0;
                for claimed in batch {
                    match rows.remove(&claimed.claim.member) {
                        Some(row) => self.deliver_row(claimed, row).await,
                        None => {
                            ghosts += 1;
                            tracing::debug!(job_id = %claimed.claim.member.id, "its journal row is gone: acknowledged unrun");
                            claimed.lease.finish(Finish::Gone);
                        }
                    }
                }
                if ghosts > 0 {
                    // After a restored Redis there may be as many as it had jobs.
                    self.metrics.ghosts.with_label_values(&[self.queue.as_str()]).inc_by(ghosts);
                    tracing::info!(queue = %self.queue, jobs = ghosts, "journal rows are gone: acknowledged unrun");
                }
            }
            Err(error) => {
                if self.journal_ok.swap(false, Ordering::AcqRel) {
                    tracing::warn!(queue = %self.queue, %error, "Postgres does not answer: journaled jobs wait");
                }
                for claimed in batch {
                    claimed.lease.finish(Finish::Snooze { delay: moment() });
                }
            }
        }
    }

    fn deliver_with(&self, mut claimed: Claimed, extras: Extras) {
        match self.known_kind(&mut claimed.claim, None) {
            Ok((mut envelope, handler)) => {
                let tenant = envelope.lane.tenant.take();
                self.deliver(claimed, tenant, Known::fast(envelope, extras), handler);
            }
            Err(unknown) => {
                let claim = &claimed.claim;
                claimed.lease.finish(match self.fate(&unknown, claim, claim.enqueued_at, claimed.now) {
                    Fate::Wait(delay) => Finish::Snooze { delay },
                    Fate::Dead(error) => Finish::Bury { error },
                });
            }
        }
    }

    async fn deliver_row(&self, mut claimed: Claimed, row: StartRow) {
        match self.known_kind(&mut claimed.claim, Some(&row.args)) {
            Ok((envelope, handler)) => self.deliver(claimed, envelope.lane.tenant, Known::journaled(row), handler),
            Err(unknown) => {
                let claim = &claimed.claim;
                claimed.lease.finish(match self.fate(&unknown, claim, row.enqueued_at, claimed.now) {
                    Fate::Wait(delay) => Finish::Snooze { delay },
                    Fate::Dead(error) => unknown.close(&self.database, claim.member, &error).await,
                });
            }
        }
    }

    /// What the job is, with its handler. `journaled`: its args, if its row has them. Sealed ones are opened later, on the runtime
    /// of the handlers; here it is only seen whether the key is known.
    fn known_kind(&self, claim: &mut Claim, journaled: Option<&RawValue>) -> Result<(Envelope, KindHandler), Unknown> {
        let taken = Err(StoreError::Unreadable("a job"));
        let envelope = std::mem::replace(&mut claim.envelope, taken).map_err(Unknown::Version)?;
        let Some(handler) = self.registry.get(&envelope.lane.kind) else {
            return Err(Unknown::Kind(envelope.lane.kind));
        };
        if handler.info().policy.encrypted
            && let Some(args) = journaled.or(envelope.args.as_deref())
            && let Err(error) = self.store.vault().knows_key_of(args)
        {
            return Err(Unknown::Key(envelope.lane.kind, error));
        }
        Ok((envelope, handler))
    }

    fn fate(&self, unknown: &Unknown, claim: &Claim, enqueued: DateTime<Utc>, now: DateTime<Utc>) -> Fate {
        unknown.report(claim, &self.metrics, self.queue.as_str());
        unknown.fate(claim.attempt, enqueued, now, self.unknown_after)
    }

    fn deliver(&self, claimed: Claimed, tenant: Option<Tenant>, known: Known, handler: KindHandler) {
        let Claimed { claim, lease, now, holder } = claimed;
        let mut policy = known.policy.apply(handler.info().policy);
        if known.at_most_once {
            // As it was enqueued; a kind may say otherwise since.
            policy.delivery = DeliveryPolicy::AtMostOnce;
        }
        let delivery = Delivery {
            lease,
            args: known.args,
            tenant,
            // After a wipe the journal remembers more attempts than Redis; else Redis does.
            attempt: claim.attempt.max(known.attempt).saturating_add(1),
            policy,
            keep_result: known.policy.keep_result,
            fire: known.fire,
            traceparent: known.traceparent,
            checkpoint: known.checkpoint,
            called_back: known.called_back,
            follows: known.follows,
            waited: (now - claim.ready_at).to_std().unwrap_or_default(),
            handler,
            holder,
        };
        // There is room: deliveries are bounded by slots. A closed channel is a worker that ended; the lease goes back.
        if let Err(error) = self.deliveries.try_send(delivery) {
            tracing::debug!(%error, "not delivered");
        }
    }
}

/// A job that cannot be judged now is claimed again soon, but not at once.
fn moment() -> Duration {
    Duration::from_millis(rand::rng().random_range(500..1500))
}
