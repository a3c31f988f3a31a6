//! Random histories of a queue against a reference: after every step all keys of the queue are as the reference says.
//!
//! Processes lose answers, send late and twice, lie about tokens, fall silent and come back; the clock jumps; Redis is set
//! back to an earlier state of itself. Operators limit, pause, cancel and redrive; jobs wait for callbacks, leave checkpoints, hold
//! unique keys and belong to batches; queues are full. `WINDROW_TEST_ALL=1` runs for minutes, `WINDROW_TEST_SEED=n` another sequence.
//! Histories that failed once are kept in `model.regressions`.

mod corners;
mod op;
mod reference;
mod world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestRng, TestRunner},
};
use windrow_devserver::{RedisOptions, RedisServer};

use op::{op, setup};
use world::{Ways, World};

/// Histories that run beside each other: most of their time they wait for Redis.
const THREADS: u64 = 4;

#[test]
fn every_history_leaves_every_job_in_exactly_one_place() {
    let seed = std::env::var("WINDROW_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let url = server.url();
    let (histories, ways) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                scope.spawn({
                    let url = &url;
                    move || histories(seed * THREADS + i, url)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|ran| ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).fold(
            (0, Ways::default()),
            |(histories, mut all), (more, ways)| {
                all.add(ways);
                (histories + more, all)
            },
        )
    });
    println!("{histories} histories, {ways:?}");
    assert!(histories >= 20, "too slow to say anything: {histories} histories");
    assert!(ways.short * 4 > ways.short + ways.refused + ways.long, "hardly a producer takes the short way: {ways:?}");
    assert!(ways.refused > 0, "the short way is never refused: {ways:?}");
}

/// Runs histories until the time is over; answers how many, and by which ways their jobs came in. Every other thread's are
/// mostly of plain jobs.
fn histories(seed: u64, url: &str) -> (u64, Ways) {
    let all = std::env::var_os("WINDROW_TEST_ALL").is_some();
    let (cases, budget) = if all { (800, 300) } else { (60, 10) };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let config = Config {
        cases,
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/conformance/model.regressions"))),
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let end = Instant::now() + Duration::from_secs(budget);
    let shrinking = AtomicBool::new(false);
    let (histories, ways) = (AtomicU64::new(0), Mutex::new(Ways::default()));
    let mostly_plain = !seed.is_multiple_of(2);
    let outcome = runner.run(&(setup(mostly_plain), vec(op(mostly_plain), 1..120)), |(setup, ops)| {
        if Instant::now() > end && !shrinking.load(Ordering::Relaxed) {
            return Ok(());
        }
        histories.fetch_add(1, Ordering::Relaxed);
        shrinking.store(true, Ordering::Relaxed);
        runtime.block_on(async {
            let mut world = World::new(url, setup).await;
            for op in ops {
                world.step(op).await;
            }
            let took = world.end().await;
            ways.lock().unwrap().add(took);
        });
        shrinking.store(false, Ordering::Relaxed);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    (histories.into_inner(), ways.into_inner().unwrap())
}
