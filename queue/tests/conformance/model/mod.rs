//! Random histories of a queue against a reference: after every step all keys of the queue are as the reference says.
//!
//! Processes lose answers, send late and twice, lie about tokens, fall silent and come back; the clock jumps; Redis is set
//! back to an earlier state of itself. `WINDROW_TEST_ALL=1` runs for minutes, `WINDROW_TEST_SEED=n` another sequence.
//! Histories that failed once are kept in `model.regressions`.

mod reference;
mod world;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestRng, TestRunner},
};
use windrow_devserver::{RedisOptions, RedisServer};

use world::World;

/// A job to be made.
#[derive(Clone, Debug)]
struct Spec {
    delay: u64,
    unique: Option<u8>,
    idempotency: Option<u8>,
    tenant: u8,
    band: u8,
}

/// How a job ends that a process holds, or believes to hold.
#[derive(Clone, Copy, Debug)]
enum End {
    Complete,
    Keep,
    Cancel,
    Gone,
    Retry(u64),
    Snooze(u64),
    Release,
    Bury,
}

#[derive(Clone, Copy, Debug)]
enum Token {
    Right,
    /// Right, and the same outcome a second time.
    Twice,
    /// Another claim's number.
    Wrong,
    /// A job that another process runs.
    Foreign,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Answered,
    AnswerLost,
    /// It arrives later, or never.
    Delayed,
}

#[derive(Clone, Debug)]
enum Op {
    Enqueue(Vec<Spec>),
    EnqueueAgain(usize),
    Relay {
        count: usize,
        delay: u64,
        tenant: u8,
    },
    RelayAgain(usize),
    Request {
        process: usize,
        want: usize,
        journaled_ok: bool,
        ends: Vec<(usize, End, Token)>,
        fate: Fate,
    },
    Sync {
        process: usize,
        fate: Fate,
    },
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

fn spec() -> impl Strategy<Value = Spec> {
    let delay = prop_oneof![3 => Just(0), 1 => 1..4000_u64];
    let key = || prop_oneof![4 => Just(None), 1 => (0..3_u8).prop_map(Some)];
    (delay, key(), key(), 0..2_u8, 0..4_u8).prop_map(|(delay, unique, idempotency, tenant, band)| Spec {
        delay,
        unique,
        idempotency,
        tenant,
        band,
    })
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => Just(End::Complete),
        1 => Just(End::Keep),
        1 => Just(End::Cancel),
        1 => Just(End::Gone),
        2 => prop_oneof![Just(0), 1..4000_u64].prop_map(End::Retry),
        1 => prop_oneof![Just(0), 1..4000_u64].prop_map(End::Snooze),
        2 => Just(End::Release),
        1 => Just(End::Bury),
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
    (any::<usize>(), 0..6_usize, prop::bool::weighted(0.85), ends, fate())
        .prop_map(|(process, want, journaled_ok, ends, fate)| Op::Request { process, want, journaled_ok, ends, fate })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => vec(spec(), 1..5).prop_map(Op::Enqueue),
        1 => any::<usize>().prop_map(Op::EnqueueAgain),
        2 => (1..4_usize, prop_oneof![Just(0), 1..4000_u64], 0..2_u8)
            .prop_map(|(count, delay, tenant)| Op::Relay { count, delay, tenant }),
        1 => any::<usize>().prop_map(Op::RelayAgain),
        16 => request(),
        2 => (any::<usize>(), fate()).prop_map(|(process, fate)| Op::Sync { process, fate }),
        2 => any::<usize>().prop_map(Op::Arrive),
        2 => any::<usize>().prop_map(Op::Heartbeat),
        1 => any::<usize>().prop_map(Op::Bye),
        3 => Just(Op::Tick),
        3 => (1..6000_u64).prop_map(Op::Advance),
        3 => any::<u8>().prop_map(Op::Lapse),
        1 => (1..60_000_u64).prop_map(Op::StepBack),
        1 => Just(Op::Remember),
        1 => Just(Op::RollBack),
        1 => any::<usize>().prop_map(Op::Redrive),
        1 => any::<usize>().prop_map(Op::Discard),
        1 => Just(Op::Buried),
    ]
}

#[test]
fn every_history_leaves_every_job_in_exactly_one_place() {
    let all = std::env::var_os("WINDROW_TEST_ALL").is_some();
    let (cases, budget) = if all { (3000, 300) } else { (400, 12) };
    let seed = std::env::var("WINDROW_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let config = Config {
        cases,
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/conformance/model.regressions"))),
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let end = Instant::now() + Duration::from_secs(budget);
    let shrinking = AtomicBool::new(false);
    let histories = AtomicU64::new(0);
    let outcome = runner.run(&vec(op(), 1..100), |ops| {
        if Instant::now() > end && !shrinking.load(Ordering::Relaxed) {
            return Ok(());
        }
        histories.fetch_add(1, Ordering::Relaxed);
        shrinking.store(true, Ordering::Relaxed);
        runtime.block_on(async {
            let mut world = World::new(&server.url()).await;
            for op in ops {
                world.step(op).await;
            }
            world.end().await;
        });
        shrinking.store(false, Ordering::Relaxed);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let histories = histories.into_inner();
    println!("{histories} histories");
    assert!(histories >= 5, "too slow to say anything: {histories} histories");
}
