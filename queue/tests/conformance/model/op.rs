//! What histories are made of.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use windrow_queue::{
    OnConflict,
    store::{Limit, Rate},
};

use super::reference::{Scope, UniqueScope};
use crate::support::PLENTY;

/// The settings under which a history runs; 0 is no cap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) max_jobs: u64,
    pub(super) max_bytes: u64,
    pub(super) tenant_jobs: u64,
    pub(super) tenant_bytes: u64,
    pub(super) max_dead: u64,
    pub(super) dead_age: u64,
}

/// A job to be made.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) delay: u64,
    pub(super) unique: Option<(u8, UniqueScope, OnConflict)>,
    pub(super) idempotency: Option<u8>,
    /// 0: none.
    pub(super) tenant: u8,
    pub(super) kind: u8,
    pub(super) band: u8,
    pub(super) batch: Option<u8>,
    pub(super) at_most_once: bool,
    pub(super) rescue_limit: Option<u8>,
    /// More bytes of args.
    pub(super) padding: usize,
}

/// How a job ends that a process holds, or believes to hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Complete,
    Keep,
    Cancel,
    Gone,
    Retry(u64),
    Snooze(u64),
    Release,
    Bury,
    Park(u64),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Token {
    Right,
    /// Right, and the same outcome a second time.
    Twice,
    /// Another claim's number.
    Wrong,
    /// A job that another process runs.
    Foreign,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Answered,
    AnswerLost,
    /// It arrives later, or never.
    Delayed,
}

/// What a request asks for, at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) jobs: usize,
    pub(super) bytes: usize,
}

/// What a running job writes about itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    Checkpoint(u8),
    Progress(u8),
    /// The number of the token under which it is to be called back.
    Expect(u8),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Pause,
    Resume,
    Set(Limit),
    Clear,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Enqueue(Vec<Spec>),
    /// A producer's calls that follow upon each other: those behind the first know what the clock shows.
    Burst(Vec<Vec<Spec>>),
    /// A producer that had no answer asks again, as a whole or for one job.
    EnqueueAgain(usize),
    Relay(Vec<Spec>),
    RelayAgain(usize),
    Request {
        process: usize,
        want: Want,
        journaled_ok: bool,
        ends: Vec<(usize, End, Token)>,
        fate: Fate,
    },
    Sync {
        process: usize,
        fate: Fate,
    },
    /// A process does all that it can: a tick, and requests until it is told that there is no more. Then it completes what it
    /// has, time goes by, and so on.
    Hungry {
        process: usize,
        rounds: u8,
        pause: u64,
    },
    Note(usize, usize, Token, Note),
    /// What waits for a job is read.
    Extras(usize),
    CallBack(u8, u8),
    Cancel(Vec<usize>),
    Limit(Scope, Change),
    Gate(bool),
    OpenBatch(u8),
    SealBatch(u8),
    Arrive(usize),
    Heartbeat(usize),
    Bye(usize),
    Tick,
    Advance(u64),
    /// A lease goes by; only the processes whose bit is set say that they live.
    Lapse(u8),
    StepBack(u64),
    Remember,
    RollBack,
    Redrive(usize),
    Discard(usize),
    Buried,
}

/// `roomy`: caps are rare, and most jobs are taken.
pub(super) fn setup(roomy: bool) -> impl Strategy<Value = Setup> {
    let cap = |none: u64, of: std::ops::Range<u64>| prop_oneof![if roomy { 12 } else { 2 } => Just(none), 1 => of];
    let caps = (cap(1000, 4..30), cap(0, 300..3000), cap(0, 2..10), cap(0, 150..1000));
    (caps, cap(1000, 1..6), cap(1 << 40, 5000..60_000)).prop_map(
        |((max_jobs, max_bytes, tenant_jobs, tenant_bytes), max_dead, dead_age)| Setup {
            max_jobs,
            max_bytes,
            tenant_jobs,
            tenant_bytes,
            max_dead,
            dead_age,
        },
    )
}

fn unique() -> impl Strategy<Value = (u8, UniqueScope, OnConflict)> {
    let scope =
        prop_oneof![2 => Just(UniqueScope::Queued), 2 => Just(UniqueScope::UntilFinal), 1 => Just(UniqueScope::Period)];
    let policy = prop_oneof![Just(OnConflict::Ignore), Just(OnConflict::Replace), Just(OnConflict::Reschedule)];
    (0..2_u8, scope, policy)
}

fn spec() -> impl Strategy<Value = Spec> {
    let delay = prop_oneof![3 => Just(0), 1 => 1..4000_u64];
    let lane = (0..3_u8, 0..2_u8, 0..4_u8);
    let policy = (
        prop::bool::weighted(0.15),
        prop::option::weighted(0.2, 0..3_u8),
        prop_oneof![4 => Just(0), 1 => 0..100_usize],
    );
    let keys = (
        prop::option::weighted(0.3, unique()),
        prop::option::weighted(0.1, 0..3_u8),
        prop::option::weighted(0.2, 0..2_u8),
    );
    (delay, keys, lane, policy).prop_map(
        |(delay, (unique, idempotency, batch), (tenant, kind, band), (at_most_once, rescue_limit, padding))| Spec {
            delay,
            unique,
            idempotency,
            tenant,
            kind,
            band,
            batch,
            at_most_once,
            rescue_limit,
            padding,
        },
    )
}

fn end() -> impl Strategy<Value = End> {
    let delay = || prop_oneof![Just(0), 1..4000_u64];
    prop_oneof![
        4 => Just(End::Complete),
        1 => Just(End::Keep),
        1 => Just(End::Cancel),
        1 => Just(End::Gone),
        2 => delay().prop_map(End::Retry),
        1 => delay().prop_map(End::Snooze),
        2 => Just(End::Release),
        1 => Just(End::Bury),
        2 => (0..8000_u64).prop_map(End::Park),
    ]
}

fn token() -> impl Strategy<Value = Token> {
    prop_oneof![
        8 => Just(Token::Right),
        1 => Just(Token::Twice),
        1 => Just(Token::Wrong),
        1 => Just(Token::Foreign),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Answered), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::Delayed)]
}

fn request() -> impl Strategy<Value = Op> {
    let ends = vec((any::<usize>(), end(), token()), 0..4);
    let bytes = prop_oneof![4 => Just(PLENTY), 1 => 0..400_usize];
    let want = (0..6_usize, bytes).prop_map(|(jobs, bytes)| Want { jobs, bytes });
    (any::<usize>(), want, prop::bool::weighted(0.85), ends, fate())
        .prop_map(|(process, want, journaled_ok, ends, fate)| Op::Request { process, want, journaled_ok, ends, fate })
}

fn note() -> impl Strategy<Value = Op> {
    let note = prop_oneof![
        1 => any::<u8>().prop_map(Note::Checkpoint),
        1 => any::<u8>().prop_map(Note::Progress),
        3 => (0..3_u8).prop_map(Note::Expect),
    ];
    (any::<usize>(), any::<usize>(), token(), note)
        .prop_map(|(process, pick, token, note)| Op::Note(process, pick, token, note))
}

fn limit() -> impl Strategy<Value = Op> {
    let scope = prop_oneof![
        Just(Scope::Queue),
        (0..2_u8).prop_map(Scope::Kind),
        (1..3_u8).prop_map(Scope::Tenant),
        Just(Scope::EachTenant),
        (0..2_u8, 1..3_u8).prop_map(|(kind, tenant)| Scope::Both(kind, tenant)),
        (0..2_u8).prop_map(Scope::KindEach),
    ];
    let rate = (1..5_u32, 1..4_u64, 1..4_u32).prop_map(|(count, seconds, burst)| Rate {
        count,
        per: Duration::from_secs(seconds),
        burst: Some(burst),
    });
    let concurrency = 1..4_u32;
    let limit = prop_oneof![
        2 => concurrency.clone().prop_map(|most| Limit { concurrency: Some(most), rate: None }),
        2 => rate.clone().prop_map(|rate| Limit { concurrency: None, rate: Some(rate) }),
        1 => (concurrency, rate).prop_map(|(most, rate)| Limit { concurrency: Some(most), rate: Some(rate) }),
    ];
    let change = prop_oneof![
        1 => Just(Change::Pause),
        2 => Just(Change::Resume),
        4 => limit.prop_map(Change::Set),
        2 => Just(Change::Clear),
    ];
    (scope, change).prop_map(|(scope, change)| Op::Limit(scope, change))
}

/// A job that is ready at once, with no key and no batch.
fn plain() -> impl Strategy<Value = Spec> {
    spec().prop_map(|spec| Spec { delay: 0, unique: None, idempotency: None, batch: None, ..spec })
}

/// `mostly_plain`: producers mostly send what may go in the short way.
pub(super) fn op(mostly_plain: bool) -> BoxedStrategy<Op> {
    if mostly_plain {
        prop_oneof![
            8 => vec(vec(plain(), 1..5), 2..5).prop_map(Op::Burst),
            3 => vec(plain(), 1..4).prop_map(Op::Relay),
            3 => any::<usize>().prop_map(Op::EnqueueAgain),
            70 => any_op(),
        ]
        .boxed()
    } else {
        any_op().boxed()
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => vec(spec(), 1..7).prop_map(Op::Enqueue),
        1 => any::<usize>().prop_map(Op::EnqueueAgain),
        2 => vec(spec(), 1..4).prop_map(Op::Relay),
        1 => any::<usize>().prop_map(Op::RelayAgain),
        16 => request(),
        2 => (any::<usize>(), fate()).prop_map(|(process, fate)| Op::Sync { process, fate }),
        5 => (any::<usize>(), 1..5_u8, 0..2500_u64)
            .prop_map(|(process, rounds, pause)| Op::Hungry { process, rounds, pause }),
        4 => note(),
        2 => any::<usize>().prop_map(Op::Extras),
        4 => (0..3_u8, any::<u8>()).prop_map(|(token, payload)| Op::CallBack(token, payload)),
        3 => vec(any::<usize>(), 1..4).prop_map(Op::Cancel),
        4 => limit(),
        1 => prop::bool::weighted(0.3).prop_map(Op::Gate),
        2 => (0..2_u8).prop_map(Op::OpenBatch),
        1 => (0..2_u8).prop_map(Op::SealBatch),
        2 => any::<usize>().prop_map(Op::Arrive),
        2 => any::<usize>().prop_map(Op::Heartbeat),
        1 => any::<usize>().prop_map(Op::Bye),
        3 => Just(Op::Tick),
        6 => (1..6000_u64).prop_map(Op::Advance),
        3 => any::<u8>().prop_map(Op::Lapse),
        1 => (1..60_000_u64).prop_map(Op::StepBack),
        1 => Just(Op::Remember),
        1 => Just(Op::RollBack),
        1 => any::<usize>().prop_map(Op::Redrive),
        1 => any::<usize>().prop_map(Op::Discard),
        1 => Just(Op::Buried),
    ]
}
