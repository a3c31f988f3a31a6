//! The queue, its reference, and the processes around it.

mod operator;
mod process;
mod producer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;
use windrow_queue::{
    JobId, Member, NewJob,
    metrics::QueueMetrics,
    store::{Finish, JobState, TokenDigest, kept_result},
};

use super::{
    op::{Change, End, Fate, Op, Setup, Token, Want},
    reference::{Came, Id, KINDS, Key, RESCUE_LIMIT, Reference, Scope, UniqueScope},
};
use crate::support::{LEASE, PLENTY, Place, Rig, Snapshot, error};

use operator::Memory;
use process::{Late, Process};
use producer::Made;

/// By which ways the calls of producers and of the relay came in.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Ways {
    /// By `enqueue_plain.lua` alone.
    pub(super) short: u64,
    /// By `enqueue.lua` after the other had left it alone.
    pub(super) refused: u64,
    /// By `enqueue.lua` at once.
    pub(super) long: u64,
}

impl Ways {
    pub(super) fn add(&mut self, other: Self) {
        self.short += other.short;
        self.refused += other.refused;
        self.long += other.long;
    }
}

/// Processes that a history has.
const PROCESSES: usize = 3;

pub(super) struct World {
    rig: Rig,
    metrics: QueueMetrics,
    ways: Ways,
    reference: Reference,
    processes: Vec<Process>,
    late: Vec<Late>,
    /// The calls of producers.
    calls: Vec<Vec<Made>>,
    /// All jobs that ever were.
    known: Vec<Member>,
    remembered: Option<Memory>,
    /// The last number given to a job, session or batch. They are counted: a history that is run again takes the same course.
    last: u64,
}

fn member(key: &[u8]) -> Member {
    Member::from_bytes(key).expect("keys are members")
}

impl World {
    pub(super) async fn new(url: &str, setup: Setup) -> Self {
        let rig = Rig::at(url, |config| {
            config.rescue_limit = RESCUE_LIMIT;
            config.max_jobs = setup.max_jobs;
            config.max_bytes = setup.max_bytes;
            config.max_tenant_jobs = setup.tenant_jobs;
            config.max_tenant_bytes = setup.tenant_bytes;
            config.max_dead = setup.max_dead;
            config.max_dead_age = Duration::from_millis(setup.dead_age);
        })
        .await;
        let metrics = QueueMetrics::new(&prometheus::Registry::new());
        rig.store.observe(&metrics);
        let mut world = Self {
            rig,
            metrics,
            ways: Ways::default(),
            reference: Reference::new(setup),
            processes: Vec::new(),
            late: Vec::new(),
            calls: Vec::new(),
            known: Vec::new(),
            remembered: None,
            last: 0,
        };
        for _ in 0..PROCESSES {
            let process = world.open().await;
            world.processes.push(process);
        }
        world
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn id(&mut self) -> JobId {
        JobId(Uuid::from_u128(self.number().into()))
    }

    pub(super) async fn step(&mut self, op: Op) {
        match op {
            Op::Enqueue(specs) => self.enqueue(&specs).await,
            Op::Burst(calls) => {
                for specs in calls {
                    self.enqueue(&specs).await;
                    self.compare().await;
                }
            }
            Op::EnqueueAgain(i) => self.enqueue_again(i).await,
            Op::Relay(specs) => self.relay(&specs).await,
            Op::RelayAgain(i) => self.relay_again(i).await,
            Op::Request { process, want, journaled_ok, ends, fate } => {
                self.request(process % PROCESSES, want, journaled_ok, &ends, fate).await;
            }
            Op::Sync { process, fate } => self.sync(process % PROCESSES, fate).await,
            Op::Hungry { process, rounds, pause } => self.hungry(process % PROCESSES, rounds, pause).await,
            Op::Note(process, pick, token, note) => self.note(process % PROCESSES, pick, token, note).await,
            Op::Extras(pick) => self.extras(pick).await,
            Op::CallBack(token, payload) => self.call_back(token, payload).await,
            Op::Cancel(picks) => self.cancel(&picks).await,
            Op::Limit(scope, change) => self.limit(scope, change).await,
            Op::Gate(closed) => self.gate(closed).await,
            Op::OpenBatch(number) => self.open_batch(number).await,
            Op::SealBatch(number) => self.seal_batch(number).await,
            Op::Arrive(i) => self.arrive(i).await,
            Op::Heartbeat(process) => self.heartbeat(process % PROCESSES).await,
            Op::Bye(process) => self.bye(process % PROCESSES).await,
            Op::Tick => self.tick().await,
            Op::Advance(ms) => self.rig.advance(ms).await,
            Op::Lapse(living) => self.lapse(living).await,
            Op::StepBack(ms) => {
                self.reference.limits.step_back();
                self.rig.set_clock(self.rig.now() - ms).await;
            }
            Op::Remember => self.remember().await,
            Op::RollBack => self.roll_back().await,
            Op::Redrive(i) => self.redrive(i).await,
            Op::Discard(i) => self.discard(i).await,
            Op::Buried => self.buried().await,
        }
        self.compare().await;
    }

    /// All keys are as the reference says.
    async fn compare(&self) {
        let snapshot = self.rig.audit().await;
        let reference = &self.reference;
        let places: BTreeMap<_, _> = reference.jobs.iter().map(|(key, job)| (key.clone(), job.place.clone())).collect();
        assert_eq!(snapshot.places, places, "places");
        assert!(snapshot.dead.iter().eq(reference.dead.keys()), "the dead");
        let trimmed: u64 = snapshot.meta.get("dead_trimmed").map_or(0, |count| count.parse().unwrap());
        assert_eq!(trimmed, reference.trimmed, "dead jobs that were dropped");
        self.compare_jobs(&snapshot);
        self.compare_keys(&snapshot);
        let sessions: BTreeMap<_, _> = reference.sessions.iter().map(|(sid, open)| (sid.clone(), open.n)).collect();
        let stored: BTreeMap<_, _> =
            snapshot.sessions.iter().map(|(sid, fields)| (sid.clone(), fields["n"].parse().unwrap())).collect();
        assert_eq!(stored, sessions, "sessions");
        let deadlines: BTreeMap<_, _> =
            reference.sessions.iter().map(|(sid, open)| (sid.clone(), open.deadline)).collect();
        assert_eq!(snapshot.deadlines, deadlines, "deadlines");
        let arrivals: BTreeMap<_, _> = reference.limits.arrivals.iter().map(|(id, us)| (encode(*id), *us)).collect();
        assert_eq!(snapshot.arrivals, arrivals, "arrival times");
        assert!(!reference.limits.queue_paused || snapshot.tokens == 0, "nobody is woken for a paused queue");
        for batch in reference.batches.values() {
            let status = self.rig.store.batch(&self.rig.queue, batch.id).await.unwrap().unwrap();
            let counts = (status.members, status.completed, status.dead, status.cancelled);
            assert_eq!(counts, (batch.members, batch.completed, batch.dead, batch.cancelled), "a batch");
            assert_eq!(status.follow_up, member(&batch.follow_up.0).id);
            let fired = status.fired_at.map(|at| u64::try_from(at.timestamp_millis()).unwrap());
            assert_eq!((status.sealed, fired), (batch.sealed, batch.fired), "the end of a batch");
        }
    }

    fn compare_jobs(&self, snapshot: &Snapshot) {
        for (key, job) in &self.reference.jobs {
            let fresh = [&[0; 5], &snapshot.jobs[key][6..12]].concat();
            let bytes = snapshot.mutable.get(key).unwrap_or(&fresh);
            let attempt = u32::from_be_bytes(*bytes.first_chunk().expect("eleven bytes"));
            let ready = bytes[5..11].iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
            assert_eq!((attempt, bytes[4], ready), (job.attempt, job.rescues, job.ready), "what changes of {job:?}");
            assert_eq!(snapshot.jobs[key].len(), job.bytes, "size of {job:?}");
            assert_eq!(snapshot.stopping.contains(key), job.stops, "whether it is to stop: {job:?}");
            assert_eq!(snapshot.checkpoints.get(key), job.checkpoint.map(|state| vec![state]).as_ref(), "{job:?}");
            let progress = job.progress.map(|done| [0, 0, 0, 0, 0, done, 0, 0, 0, 0, 0, 255].to_vec());
            assert_eq!(snapshot.progress.get(key), progress.as_ref(), "{job:?}");
            let wait = job.wait.as_ref().map(|(token, came)| {
                let (state, payload) = match came {
                    Came::Nothing => (b'w', String::new()),
                    Came::Payload(payload) => (b'p', payload.to_string()),
                    Came::Read(payload) => (b's', payload.to_string()),
                    Came::TooLate => (
                        b't',
                        snapshot
                            .callbacks
                            .get(key)
                            .map_or_else(String::new, |wait| String::from_utf8_lossy(&wait[17..]).into_owned()),
                    ),
                };
                [&[state][..], &digest(*token).0, payload.as_bytes()].concat()
            });
            assert_eq!(snapshot.callbacks.get(key), wait.as_ref(), "{job:?}");
        }
    }

    fn compare_keys(&self, snapshot: &Snapshot) {
        let stands = |(number, key): (&u8, &Key)| {
            let job = &self.reference.jobs[key];
            let runs = matches!(job.place, Place::Running { .. });
            assert_ne!(job.unique, Some((*number, UniqueScope::Period)));
            let digest = self.rig.job(0).unique(&number.to_string()).unique.unwrap().digest.0;
            (digest.to_vec(), if runs { [&key[..], b"r"].concat() } else { key.clone() })
        };
        let keys: BTreeMap<_, _> = self.reference.keys.iter().map(stands).collect();
        assert_eq!(snapshot.unique, keys, "unique keys");
    }

    async fn tokens(&self) -> usize {
        self.rig.raw(redis::cmd("LLEN").arg(self.rig.key("wake"))).await
    }

    /// The lanes that claims come by.
    async fn ringed(&self) -> BTreeSet<Key> {
        let mut pipe = redis::pipe();
        for band in 0..4 {
            pipe.cmd("LRANGE").arg(self.rig.key(&format!("ring:{band}"))).arg(0).arg(-1);
        }
        self.rig.pipe::<Vec<Vec<Key>>>(&pipe).await.into_iter().flatten().collect()
    }

    /// Whether claims come by anything: lanes in rings, or suspects.
    async fn in_reach(&self) -> bool {
        let mut cmd = redis::cmd("EXISTS");
        cmd.arg(self.rig.key("suspect"));
        for band in 0..4 {
            cmd.arg(self.rig.key(&format!("ring:{band}")));
        }
        self.rig.raw::<u64>(&cmd).await > 0
    }

    async fn tick(&mut self) {
        let expected = self.reference.tick(self.rig.now());
        let tick = self.rig.store.tick(&self.rig.queue).await.unwrap();
        let moved = super::reference::Moved {
            promoted: tick.promoted,
            rescued: tick.rescued,
            poisoned: tick.poisoned,
            grace: tick.grace,
        };
        assert_eq!(moved, expected);
        assert!(!tick.more);
        let to_bury = self.reference.jobs.values().filter(|job| job.place == Place::ToBury).count();
        assert_eq!(tick.to_bury.len(), to_bury);
        self.adopt_arrivals().await;
        if self.in_reach().await && !self.reference.limits.queue_paused {
            assert_eq!(self.tokens().await, 1, "a tick heals a lost token");
        }
    }

    /// What a tick may do or not.
    async fn adopt_arrivals(&mut self) {
        let now = self.rig.now();
        let stored: BTreeMap<Vec<u8>, u64> = self.rig.raw(redis::cmd("HGETALL").arg(self.rig.key("tat"))).await;
        let ids: Vec<Id> = self.reference.limits.arrivals.keys().copied().collect();
        for id in ids {
            self.reference.limits.adopt(id, stored.get(&encode(id)).copied(), now);
        }
    }

    async fn lapse(&mut self, living: u8) {
        for _ in 0..=LEASE / 1000 {
            self.rig.advance(1000).await;
            for i in 0..PROCESSES {
                if living & (1 << i) != 0 {
                    self.heartbeat(i).await;
                }
            }
            self.tick().await;
        }
    }

    /// All processes die, and nothing is limited any more; a new one executes all that is left. Answers how the jobs came in.
    pub(super) async fn end(mut self) -> Ways {
        // Beyond all that the clock was set back: then the first lapse is under grace, the second is not.
        self.rig.advance(200 * 60_000).await;
        for _ in 0..2 {
            self.lapse(0).await;
        }
        self.compare().await;
        for scope in self.reference.limits.scopes().into_iter().chain([Scope::Queue]) {
            self.limit(scope, Change::Resume).await;
            self.limit(scope, Change::Clear).await;
        }
        for number in [0, 1] {
            self.seal_batch(number).await;
        }
        for i in 0..PROCESSES {
            self.processes[i] = self.open().await;
        }
        for round in 0.. {
            assert!(round < 200, "what is left is never executed: {:?}", self.reference.jobs);
            let ends = [(0, End::Complete, Token::Right); 60];
            self.request(0, Want { jobs: 60, bytes: PLENTY }, true, &ends, Fate::Answered).await;
            self.heartbeat(0).await;
            self.rig.advance(1000).await;
            self.tick().await;
            self.buried().await;
            if self.reference.jobs.is_empty() {
                break;
            }
        }
        self.compare().await;
        assert!(self.reference.batches.values().all(|batch| batch.fired.is_some()), "a batch that never fired");
        let keys: Vec<Vec<u8>> = self.rig.raw(redis::cmd("KEYS").arg(self.rig.key("*"))).await;
        self.rig.raw::<()>(redis::cmd("DEL").arg(keys)).await;
        self.ways
    }
}

fn encode(id: Id) -> Vec<u8> {
    let kind = |kind: u8| KINDS[usize::from(kind)];
    match id {
        Id::Queue => "q".into(),
        Id::Kind(of) => format!("k\x1f{}", kind(of)),
        Id::Tenant(of) => format!("t\x1ft{of}"),
        Id::Both(of, tenant) => format!("b\x1f{}\x1ft{tenant}", kind(of)),
    }
    .into_bytes()
}

fn digest(token: u8) -> TokenDigest {
    TokenDigest([token; 16])
}

fn finish(end: End, job: &NewJob) -> Finish {
    let delay = Duration::from_millis;
    let keep = |state| Some(kept_result(state, &job.kind, None, 1, None));
    match end {
        End::Complete => Finish::Complete { keep: None },
        End::Keep => Finish::Complete { keep: keep(JobState::Completed) },
        End::Cancel => Finish::Cancel { keep: keep(JobState::Cancelled) },
        End::Gone => Finish::Gone,
        End::Retry(ms) => Finish::Retry { delay: delay(ms), attempt: 3, error: error(3, "it failed") },
        End::Snooze(ms) => Finish::Snooze { delay: delay(ms) },
        End::Release => Finish::Release,
        End::Bury => Finish::Bury { error: error(1, "enough") },
        End::Park(ms) => Finish::Park { delay: delay(ms) },
    }
}
