//! The queue in Redis: what is ready, running, scheduled and dead.
//!
//! [`Store`] is the handle for producers, services and operators; [`Session`] is a worker's. Each script under `lua/` has one
//! typed wrapper here. `docs/job-lifecycle.md` has the states, the token, and which test proves what.

mod batch;
mod bulk;
mod callback;
mod cancel;
mod checkpoint;
mod cursor;
mod dead;
mod durable;
mod enqueue;
mod envelope;
mod epoch;
mod gather;
mod hold;
mod inspect;
mod keys;
mod layout;
mod limits;
mod link;
mod links;
mod list;
mod plain;
mod recent;
mod script;
mod server;
mod session;
mod sessions;
mod tick;
mod topology;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use redis::{ErrorKind, RedisError};
use serde::{Deserialize, Serialize};

use crate::{
    metrics::QueueMetrics,
    name::{Kind, QueueName},
    vault::Vault,
};

use links::Links;
use topology::Topology;

pub use batch::{BatchStatus, NewBatch};
pub use bulk::{DeadAct, Pace, Walk, Walked};
pub use callback::{Callback, CallbackToken, CalledBack, InvalidToken, MAX_CALLBACK_BYTES, TokenDigest};
pub use cancel::Cancelled;
pub use checkpoint::{Extras, MAX_CHECKPOINT_BYTES};
pub use cursor::{Cursor, InvalidCursor};
pub use dead::{DeadJob, Redriven};
pub use durable::Durability;
pub use enqueue::Refused;
pub use envelope::{AttemptError, Envelope, Lane};
pub use epoch::{Begun, Pulse};
pub use hold::Hold;
pub use inspect::{Counts, JobState, JobStatus, Usage, kept_result};
pub use layout::{Layout, QueuePlace};
pub use limits::{InvalidScope, Limit, LimitState, MAX_LIMITS, Rate, Scope};
pub use list::{Filter, HeldBy, HeldWhy, Listed, MAX_PAGE, Page, Progress, Standing, Unreadable};
pub use recent::{Ended, Finished, RECENT};
pub use server::{MIN_REDIS, ServerInfo};
pub use session::{
    Applied, Beat, Claim, ClaimReply, Finish, MAX_OUTCOMES, Reply, Session, SessionId, SyncReply, Verdict, Waker,
};
pub use sessions::SessionInfo;
pub use tick::{LOST, POISON, Tick};

/// Where Redis is and how the queue uses it.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `redis://user:password@host:port/db`, or `rediss://` for TLS.
    pub url: String,
    /// PEM file of the authority that signed the server's certificate; empty: the system's.
    pub tls_ca: PathBuf,
    /// The name of a master that Redis Sentinels watch over. Set, the address in `url` and `nodes` are those of Sentinels, while
    /// user, password and database are Redis'.
    pub sentinel_master: String,
    /// The Sentinels' own user; mostly there is none.
    pub sentinel_user: String,
    /// The Sentinels' own password, if they have one.
    pub sentinel_password: String,
    /// Whether `url` and `nodes` name nodes of a Redis Cluster.
    pub cluster: bool,
    /// More Sentinels, or more nodes of the cluster, beside the one in `url`: `host:port`. Those that are away when a process
    /// starts do not matter as long as one answers.
    pub nodes: Vec<String>,
    /// How long a worker may be silent before its jobs go back.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Crashes of a job that ran alone among suspects, until it is dead as a poison pill.
    pub rescue_limit: u8,
    /// Jobs that one queue may hold; more are refused.
    pub max_jobs: u64,
    /// Bytes of jobs (envelopes with args) that one queue may hold; more are refused. 0: no cap.
    pub max_bytes: u64,
    /// Jobs that one tenant may have in one queue; more are refused. 0: no cap.
    pub max_tenant_jobs: u64,
    /// Bytes of jobs that one tenant may have in one queue; more are refused. 0: no cap.
    pub max_tenant_bytes: u64,
    /// Dead fast jobs that one queue keeps; the oldest beyond it are dropped and counted.
    pub max_dead: u64,
    /// How long dead fast jobs are kept; older ones are dropped and counted.
    #[serde(with = "humantime_serde")]
    pub max_dead_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            tls_ca: PathBuf::new(),
            sentinel_master: String::new(),
            sentinel_user: String::new(),
            sentinel_password: String::new(),
            cluster: false,
            nodes: Vec::new(),
            lease: Duration::from_secs(10),
            rescue_limit: 2,
            max_jobs: 5_000_000,
            max_bytes: 4 * 1024 * 1024 * 1024,
            max_tenant_jobs: 0,
            max_tenant_bytes: 0,
            max_dead: 10_000,
            max_dead_age: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl fmt::Debug for Config {
    /// Leaves the URL out, and whatever else may carry a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("lease", &self.lease)
            .field("rescue_limit", &self.rescue_limit)
            .field("max_jobs", &self.max_jobs)
            .field("max_dead", &self.max_dead)
            .finish_non_exhaustive()
    }
}

/// What can go wrong between us and Redis.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The settings are not usable.
    #[error("redis.{key}: {reason}")]
    Config {
        /// The key of the setting.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Redis is away, loading, failing over or out of memory: waiting helps.
    #[error("Redis is not available: {0}")]
    Unavailable(RedisError),
    /// Redis refused: waiting does not help.
    #[error("Redis refused{}: {source}", script.map(|name| format!(" {name}")).unwrap_or_default())]
    Refused {
        /// The script, if it was one.
        script: Option<&'static str>,
        /// What it said.
        source: RedisError,
    },
    /// What was asked for is not possible: what is wrong, and what to do.
    #[error("{0}")]
    Invalid(String),
    /// The jobs stand, but not as safely as was asked for.
    #[error("the jobs are enqueued, but not as safely as asked: {0}")]
    NotDurable(String),
    /// Redis holds what this program cannot read.
    #[error("Redis holds {0} that this version cannot read")]
    Unreadable(&'static str),
}

impl StoreError {
    /// The same, said of a script.
    fn of_script(self, name: &'static str) -> Self {
        match self {
            Self::Refused { source, .. } => Self::Refused { script: Some(name), source },
            other => other,
        }
    }

    /// Whether waiting helps.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        // MOVED and ASK as well: the next connection leads to the right node, or waits until a slot has moved.
        const WAITS: [&str; 11] = [
            "LOADING",
            "READONLY",
            "TRYAGAIN",
            "MISCONF",
            "NOREPLICAS",
            "MASTERDOWN",
            "CLUSTERDOWN",
            "UNBLOCKED",
            "MOVED",
            "ASK",
            "OOM",
        ];
        if error.is_io_error()
            || error.is_timeout()
            || error.is_connection_dropped()
            || error.is_connection_refusal()
            || is_cut_off(&error)
            || error.code().is_some_and(|code| WAITS.contains(&code))
        {
            Self::Unavailable(error)
        } else {
            Self::Refused { script: None, source: error }
        }
    }
}

/// Whether an answer began and did not end, because its connection did. redis-rs has the same kind of error for an answer that
/// is complete and is not what was expected.
fn is_cut_off(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Parse && error.detail().is_some_and(|detail| detail.contains("end of input"))
}

/// The handle to Redis. Cheap to clone; connects when first used, and again after a break.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    vault: Vault,
}

struct Inner {
    links: Links,
    config: Config,
    /// Empty, or in tests the key of a manual clock.
    clock: String,
    metrics: Metrics,
    gathering: enqueue::Gathering,
    clocks: plain::Clocks,
}

/// Where the store counts, once it was told; shared by all handles and connections that came of one [`Store::new`].
type Metrics = Arc<OnceLock<QueueMetrics>>;

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Store {
    /// A handle; does not connect yet.
    ///
    /// # Errors
    /// [`StoreError::Config`] when an address or the certificate file is not usable.
    pub fn new(config: &Config) -> Result<Self, StoreError> {
        Self::with_clock(config, String::new())
    }

    /// A handle whose scripts read the time from a key (milliseconds), for tests. Every queue used with it must have that
    /// key on its slot.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_clock(config: &Config, clock: String) -> Result<Self, StoreError> {
        let metrics = Metrics::default();
        let links = Links::new(Arc::new(Topology::new(config)?), &metrics);
        let inner = Arc::new(Inner {
            links,
            config: config.clone(),
            metrics,
            gathering: enqueue::gathering(),
            clocks: plain::Clocks::new(&clock),
            clock,
        });
        Ok(Self { inner, vault: Vault::default() })
    }

    /// The same handle with keys: it seals the args of encrypted kinds, and whoever has it may take its
    /// [`vault`](Self::vault) along to PostgreSQL. Without keys it refuses such jobs.
    #[must_use]
    pub fn with_vault(self, vault: Vault) -> Self {
        Self { vault, ..self }
    }

    /// The keys that it was given.
    #[must_use]
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The same Redis over a connection of its own. A connection lives and dies with the runtime on which it was made:
    /// whoever runs on another one detaches first.
    #[must_use]
    pub fn detached(&self) -> Self {
        let Inner { links, config, clock, metrics, .. } = &*self.inner;
        Self {
            inner: Arc::new(Inner {
                links: links.detached(),
                config: config.clone(),
                clock: clock.clone(),
                metrics: Arc::clone(metrics),
                gathering: enqueue::gathering(),
                clocks: plain::Clocks::new(clock),
            }),
            vault: self.vault.clone(),
        }
    }

    /// Tells the store where to count what it takes in and how long its scripts run. Only the first call has an effect.
    pub fn observe(&self, metrics: &QueueMetrics) {
        // A second call means the same registry: a process has one.
        let _ = self.inner.metrics.set(metrics.clone());
    }

    fn count_enqueued(&self, queue: &QueueName, kind: &Kind) {
        if let Some(metrics) = self.inner.metrics.get() {
            metrics.enqueued.with_label_values(&[queue.as_str(), kind.as_str()]).inc();
        }
    }

    /// How long a worker may be silent before its jobs go back.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.inner.config.lease
    }

    fn link(&self) -> &Links {
        &self.inner.links
    }

    fn clock(&self) -> &str {
        &self.inner.clock
    }

    fn config(&self) -> &Config {
        &self.inner.config
    }
}

/// A duration in whole milliseconds, as scripts count.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
