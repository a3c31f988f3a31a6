//! A queue of one's own, on a clock of one's own, and sessions that count their requests.

pub(crate) mod audit;
pub(crate) mod proxy;

use std::{
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use chrono::DateTime;
use redis::{FromRedisValue, aio::MultiplexedConnection};
use serde_json::value::RawValue;
use windrow_queue::{
    Band, Due, Enqueued, JobArgs, JobId, Kind, Member, NewJob, QueueName, Tenant,
    journal::RelayJob,
    metrics::QueueMetrics,
    store::{
        Applied, AttemptError, Claim, ClaimReply, Config, Finish, Reply, Session, SessionId, Store, StoreError, Verdict,
    },
};

pub(crate) use audit::{Place, Snapshot};

/// When every manual clock begins.
pub(crate) const START: u64 = 1_700_000_000_000;
/// The lease of the default configuration.
pub(crate) const LEASE: u64 = 10_000;
/// Bytes that no claim of these tests reaches.
pub(crate) const PLENTY: usize = 64 << 20;

/// Args of the jobs of these tests.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Args {
    pub(crate) n: usize,
}

impl JobArgs for Args {
    const KIND: Kind = Kind::from_static("test.run");
    const QUEUE: QueueName = QueueName::from_static("test");
}

/// A queue that nobody else uses.
pub(crate) struct Rig {
    pub(crate) queue: QueueName,
    pub(crate) store: Store,
    raw: MultiplexedConnection,
    now: AtomicU64,
}

pub(crate) fn random() -> u64 {
    rand::random()
}

impl Rig {
    /// On the shared Redis.
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// The same with other settings.
    pub(crate) async fn with(tune: impl FnOnce(&mut Config)) -> Self {
        let server = tokio::task::spawn_blocking(windrow_devserver::shared_redis).await.unwrap().unwrap();
        Self::at(&server.url(), tune).await
    }

    /// On a Redis of the test's own.
    pub(crate) async fn at(url: &str, tune: impl FnOnce(&mut Config)) -> Self {
        let queue = QueueName::new(format!("t{:016x}", random())).unwrap();
        let mut config = Config { url: url.to_owned(), ..Config::default() };
        tune(&mut config);
        let store = Store::with_clock(&config, format!("windrow:{{{queue}}}:clock")).unwrap();
        let raw = connect(url).await;
        let rig = Self { queue, store, raw, now: AtomicU64::new(0) };
        rig.set_clock(START).await;
        rig
    }

    /// A queue that a store of the test's own uses, on the clock of the server that has it.
    pub(crate) async fn around(store: &Store, queue: &QueueName, url: &str) -> Self {
        Self { queue: queue.clone(), store: store.clone(), raw: connect(url).await, now: AtomicU64::new(0) }
    }

    /// The same queue through another address, such as a proxy's.
    pub(crate) fn store_at(&self, url: &str) -> Store {
        let config = Config { url: url.to_owned(), ..Config::default() };
        Store::with_clock(&config, self.key("clock")).unwrap()
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("windrow:{{{}}}:{name}", self.queue)
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) async fn set_clock(&self, ms: u64) {
        self.now.store(ms, Ordering::SeqCst);
        self.raw::<()>(redis::cmd("SET").arg(self.key("clock")).arg(ms)).await;
    }

    pub(crate) async fn advance(&self, ms: u64) {
        self.set_clock(self.now() + ms).await;
    }

    /// Lets time go by, in steps in which nobody lapses, with ticks.
    pub(crate) async fn pass(&self, ms: u64, living: &[&Worker]) {
        let mut left = ms;
        while left > 0 {
            let step = left.min(1000);
            self.advance(step).await;
            left -= step;
            for worker in living {
                assert!(matches!(worker.session.heartbeat().await.unwrap(), Reply::Ok(_)));
            }
            self.tick().await;
        }
    }

    /// A command of the test's own.
    pub(crate) async fn raw<T: FromRedisValue>(&self, cmd: &redis::Cmd) -> T {
        cmd.query_async(&mut self.raw.clone()).await.unwrap()
    }

    /// The same for a command that may be refused.
    pub(crate) async fn try_raw<T: FromRedisValue>(&self, cmd: &redis::Cmd) -> Result<T, redis::RedisError> {
        cmd.query_async(&mut self.raw.clone()).await
    }

    /// With a new connection of the test's own, after a restart of the server. The store finds its own way back.
    pub(crate) async fn reconnect(self, url: &str) -> Self {
        Self { raw: connect(url).await, ..self }
    }

    pub(crate) async fn pipe<T: FromRedisValue>(&self, pipe: &redis::Pipeline) -> T {
        pipe.query_async(&mut self.raw.clone()).await.unwrap()
    }

    /// The same for several commands, one of which may be refused.
    pub(crate) async fn try_pipe<T: FromRedisValue>(&self, pipe: &redis::Pipeline) -> Result<T, redis::RedisError> {
        pipe.query_async(&mut self.raw.clone()).await
    }

    pub(crate) fn job(&self, n: usize) -> NewJob {
        let mut job = NewJob::new(&Args { n }).unwrap();
        job.queue = self.queue.clone();
        job
    }

    pub(crate) fn jobs(&self, count: usize) -> Vec<NewJob> {
        (0..count).map(|n| self.job(n)).collect()
    }

    /// Enqueues jobs, all of which must be created.
    pub(crate) async fn put(&self, jobs: &[NewJob]) -> Vec<Member> {
        let answers = self.store.enqueue(jobs).await.unwrap();
        answers.into_iter().map(|answer| Member::fast(created(answer.unwrap()))).collect()
    }

    /// Enqueues this many fast jobs that differ only in `n`.
    pub(crate) async fn put_many(&self, count: usize) -> Vec<Member> {
        self.put(&self.jobs(count)).await
    }

    pub(crate) fn relay_job(&self) -> RelayJob {
        RelayJob {
            member: Member::journaled(JobId::new(), 1),
            queue: self.queue.clone(),
            tenant: None,
            kind: Args::KIND,
            band: Band::Normal,
            due: Due::Now,
            rescue_limit: None,
            at_most_once: false,
        }
    }

    /// Relays this many journaled jobs.
    pub(crate) async fn relay_many(&self, count: usize) -> Vec<Member> {
        let jobs: Vec<RelayJob> = (0..count).map(|_| self.relay_job()).collect();
        for answer in self.store.relay(&self.queue, &jobs).await.unwrap() {
            answer.unwrap();
        }
        jobs.iter().map(|job| job.member).collect()
    }

    /// Opens a session.
    pub(crate) async fn worker(&self) -> Worker {
        Worker::open(&self.store, &self.queue).await
    }

    /// Lets enough time go by for the session's lease to be over while others live, and for the tick to notice.
    pub(crate) async fn lapse(&self, living: &[&Worker]) -> windrow_queue::store::Tick {
        let mut rescued = windrow_queue::store::Tick::default();
        for _ in 0..=LEASE / 1000 {
            self.advance(1000).await;
            for worker in living {
                assert!(matches!(worker.session.heartbeat().await.unwrap(), Reply::Ok(_)));
            }
            rescued = add(rescued, self.tick().await);
        }
        rescued
    }

    /// Ticks until nothing is left to do now.
    pub(crate) async fn tick(&self) -> windrow_queue::store::Tick {
        let mut sum = windrow_queue::store::Tick::default();
        for _ in 0..10_000 {
            let tick = self.store.tick(&self.queue).await.unwrap();
            let more = tick.more;
            sum = add(sum, tick);
            if !more {
                return sum;
            }
        }
        panic!("ticks ask for more for ever");
    }

    pub(crate) async fn audit(&self) -> Snapshot {
        let snapshot = Snapshot::take(self).await;
        snapshot.check();
        let counts = self.store.counts(&self.queue).await.unwrap();
        snapshot.check_counts(&counts);
        snapshot
    }

    pub(crate) async fn place(&self, member: Member) -> Option<Place> {
        self.audit().await.places.get(&member.to_bytes()).cloned()
    }
}

fn add(a: windrow_queue::store::Tick, b: windrow_queue::store::Tick) -> windrow_queue::store::Tick {
    windrow_queue::store::Tick {
        promoted: a.promoted + b.promoted,
        rescued: a.rescued + b.rescued,
        poisoned: a.poisoned + b.poisoned,
        more: b.more,
        next_due: b.next_due,
        grace: a.grace || b.grace,
        to_bury: b.to_bury,
    }
}

pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    redis::Client::open(url).unwrap().get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

/// How often a script was called.
pub(crate) fn calls_of(metrics: &QueueMetrics, script: &str) -> u64 {
    metrics.script.with_label_values(&[script]).get_sample_count()
}

pub(crate) fn created(answer: Enqueued) -> JobId {
    assert!(answer.is_created(), "{answer:?}");
    answer.id()
}

pub(crate) fn tenant(name: &str) -> Tenant {
    Tenant::new(name).unwrap()
}

pub(crate) fn raw_args(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap()
}

/// A session, and the counter that its process keeps.
pub(crate) struct Worker {
    pub(crate) session: Session,
    pub(crate) n: u64,
    pub(crate) prev_n: u64,
}

impl Worker {
    pub(crate) async fn open(store: &Store, queue: &QueueName) -> Self {
        let session = Session::open(store, queue, SessionId::from_random(random()), 100, "test").await.unwrap();
        Self { session, n: 0, prev_n: 0 }
    }

    pub(crate) fn next_n(&mut self) -> u64 {
        self.n += 1;
        self.n
    }

    /// One request, answered.
    pub(crate) async fn request(&mut self, want: usize, outcomes: &[Applied]) -> Reply<ClaimReply> {
        let n = self.next_n();
        let reply = self.session.finish_claim(n, self.prev_n, want, PLENTY, true, outcomes).await.unwrap();
        self.prev_n = n;
        reply
    }

    /// A request that must be served.
    pub(crate) async fn serve(&mut self, want: usize, outcomes: &[Applied]) -> ClaimReply {
        ok(self.request(want, outcomes).await)
    }

    pub(crate) async fn claim(&mut self, want: usize) -> Vec<Claim> {
        self.serve(want, &[]).await.claims
    }

    pub(crate) async fn claim_members(&mut self, want: usize) -> Vec<Member> {
        self.claim(want).await.iter().map(|claim| claim.member).collect()
    }

    pub(crate) async fn finish(&mut self, outcomes: &[Applied]) -> Vec<Verdict> {
        self.serve(0, outcomes).await.verdicts
    }

    /// Completes all of these, which must be its own.
    pub(crate) async fn complete(&mut self, claims: &[Claim]) {
        for chunk in claims.chunks(500) {
            let outcomes: Vec<Applied> = chunk.iter().map(|claim| outcome(claim, complete())).collect();
            assert_eq!(self.finish(&outcomes).await, vec![Verdict::Applied; chunk.len()]);
        }
    }

    /// Claims and completes until nothing is left; answers what it executed.
    pub(crate) async fn drain(&mut self) -> Vec<Member> {
        let mut done = Vec::new();
        let mut outcomes = Vec::new();
        for _ in 0..10_000 {
            let reply = self.serve(100, &outcomes).await;
            assert!(reply.verdicts.iter().all(|&verdict| verdict == Verdict::Applied));
            done.extend(reply.claims.iter().map(|claim| claim.member));
            outcomes = reply.claims.iter().map(|claim| outcome(claim, complete())).collect();
            if outcomes.is_empty() && !reply.more {
                return done;
            }
        }
        panic!("the queue does not get empty");
    }
}

/// The answer of a request that was served.
pub(crate) fn ok<T: std::fmt::Debug>(reply: Reply<T>) -> T {
    match reply {
        Reply::Ok(answer) => answer,
        other => panic!("not served: {other:?}"),
    }
}

pub(crate) fn complete() -> Finish {
    Finish::Complete { keep: None }
}

pub(crate) fn outcome(claim: &Claim, finish: Finish) -> Applied {
    Applied { member: claim.member, claim_no: claim.claim_no, finish }
}

pub(crate) fn error(attempt: u32, message: &str) -> AttemptError {
    AttemptError {
        attempt,
        class: "test".into(),
        message: message.into(),
        at: DateTime::UNIX_EPOCH,
        ran: Duration::from_millis(5),
    }
}

pub(crate) fn retry(attempt: u32, delay_ms: u64) -> Finish {
    Finish::Retry { delay: Duration::from_millis(delay_ms), attempt, error: error(attempt, "it failed") }
}

pub(crate) fn due_in(ms: u64) -> Due {
    Due::In(Duration::from_millis(ms))
}

/// Asks again while Redis is away: what everybody does who uses the store.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => assert!(error.is_unavailable(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect("Redis is back")
}

/// Asks until the answer is yes, for at most 20 seconds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap_or_else(|_| panic!("it never happened: {what}"));
}
