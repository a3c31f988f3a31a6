//! Redis away, set back, or full (R3, R5), on servers of the tests' own.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    JobId, Member,
    store::{Beat, Finish, Redriven, Refused, Reply, Store, Verdict},
};

use crate::support::*;

async fn server(options: RedisOptions) -> RedisServer {
    tokio::task::spawn_blocking(|| RedisServer::start(options)).await.unwrap().unwrap()
}

async fn durable() -> RedisServer {
    server(RedisOptions { aof: true, ..RedisOptions::default() }).await
}

/// Restarts a server in which `meanwhile` happens while it is down. Everything it was told is on disk before.
async fn restart(rig: &Rig, server: &RedisServer, meanwhile: impl FnOnce()) {
    written(rig).await;
    tokio::task::block_in_place(|| {
        server.kill().unwrap();
        meanwhile();
        server.restart().unwrap();
    });
}

/// Waits until all that was acknowledged was written to the append-only file.
async fn written(rig: &Rig) {
    eventually("it is written", async || {
        let info: String = rig.raw(redis::cmd("INFO").arg("persistence")).await;
        info.lines().any(|line| line == "aof_buffer_length:0")
    })
    .await;
}

fn append_only_file(dir: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir.join("appendonlydir")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(".incr.aof"));
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// A rig whose connection follows its server over restarts.
async fn reconnected(rig: Rig, url: &str) -> Rig {
    let now = rig.now();
    let rig = rig.reconnect(url).await;
    rig.set_clock(now).await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_down_for_half_a_minute_has_lost_nothing_and_rescues_nothing() {
    let server = durable().await;
    let rig = Rig::at(&server.url(), |_| ()).await;
    let members = rig.put_many(10).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(4).await;
    rig.tick().await;
    restart(&rig, &server, || ()).await;
    let rig = reconnected(rig, &server.url()).await;
    rig.advance(30_000).await;

    let tick = patiently(|| rig.store.tick(&rig.queue)).await;
    assert!(tick.grace && tick.rescued == 0, "{tick:?}");
    assert!(matches!(patiently(|| worker.session.heartbeat()).await, Reply::Ok(Beat { held: 4, n: 1, .. })));
    let running: Vec<_> = claims.iter().map(|claim| (claim.member, claim.claim_no)).collect();
    let n = worker.next_n();
    let reply = ok(patiently(|| worker.session.sync(n, &running, &[])).await);
    worker.prev_n = n;
    assert_eq!((reply.given_back, reply.lost.len()), (0, 0));
    worker.complete(&claims).await;
    assert_eq!(worker.drain().await, members[4..]);
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgot_its_last_second_loses_no_job_that_it_had_before() {
    // Cut between two requests, and in the middle of one.
    for inside in [0, 40] {
        let server = durable().await;
        let rig = Rig::at(&server.url(), |_| ()).await;
        let mut members = rig.put_many(6).await;
        members.extend(rig.relay_many(6).await);
        let mut worker = rig.worker().await;
        let first = worker.claim(3).await;
        rig.tick().await;
        written(&rig).await;
        let file = append_only_file(server.dir());
        let length = std::fs::metadata(&file).unwrap().len();

        let finished = [outcome(&first[0], complete()), outcome(&first[1], retry(1, 0))];
        let second = worker.serve(4, &finished).await;
        assert_eq!((second.claims.len(), second.verdicts.len()), (4, 2));
        let forgotten = rig.put_many(1).await[0];
        restart(&rig, &server, || {
            let file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
            assert!(file.metadata().unwrap().len() > length + inside);
            file.set_len(length + inside).unwrap();
        })
        .await;
        let rig = reconnected(rig, &server.url()).await;
        patiently(|| rig.store.ping()).await;
        assert_eq!(rig.audit().await.jobs.len(), 12);
        assert_eq!(rig.place(forgotten).await, None, "the window of a fast job under everysec");

        let n = worker.next_n();
        let reply = patiently(|| worker.session.finish_claim(n, worker.prev_n, 5, PLENTY, true, &[])).await;
        assert!(matches!(reply, Reply::Rollback), "{reply:?}");
        let n = worker.next_n();
        let running: Vec<_> =
            first[2..].iter().chain(&second.claims).map(|claim| (claim.member, claim.claim_no)).collect();
        let reply = ok(worker.session.sync(n, &running, &finished).await.unwrap());
        worker.prev_n = n;
        assert_eq!(reply.verdicts, [Verdict::Applied; 2], "what it forgot is told again");
        let lost: Vec<Member> = second.claims.iter().map(|claim| claim.member).collect();
        assert_eq!((reply.lost, reply.given_back), (lost, 0), "what it gave away again is not ours");
        rig.audit().await;

        worker.complete(&first[2..]).await;
        let done: HashSet<Member> = worker.drain().await.into_iter().collect();
        let expected: HashSet<Member> = members
            .iter()
            .filter(|member| **member != first[0].member && **member != first[2].member)
            .copied()
            .collect();
        assert_eq!(done, expected);
        assert!(rig.audit().await.jobs.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_times_out_and_nothing_is_told_twice() {
    let server = server(RedisOptions::default()).await;
    let rig = Rig::at(&server.url(), |_| ()).await;
    rig.put_many(4).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(2).await;
    server.pause().unwrap();
    let n = worker.next_n();
    let finish = [outcome(&claims[0], complete())];
    let error = worker.session.finish_claim(n, worker.prev_n, 2, PLENTY, true, &finish).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    server.resume().unwrap();
    let n = worker.next_n();
    let reply = ok(worker.session.sync(n, &[(claims[1].member, claims[1].claim_no)], &finish).await.unwrap());
    worker.prev_n = n;
    // The request was in the server's socket all the time: it is served before or dies as stale after the sync.
    assert!(reply.lost.is_empty());
    worker.complete(&claims[1..]).await;
    assert_eq!(worker.drain().await.len(), 2);
    assert!(rig.audit().await.jobs.is_empty());
}

async fn oom(rig: &Rig) -> bool {
    let set: Result<(), redis::RedisError> = rig.try_raw(redis::cmd("SET").arg(rig.key("clock")).arg(rig.now())).await;
    set.is_err_and(|error| error.code() == Some("OOM"))
}

/// Enqueues until Redis takes no more; answers what it took.
async fn fill(rig: &Rig, store: &Store) -> (HashSet<JobId>, Refused) {
    let mut taken = HashSet::new();
    loop {
        let mut jobs = rig.jobs(20);
        for job in &mut jobs {
            job.args = raw_args(format!("\"{}\"", "x".repeat(2000)));
            job.due = due_in(0);
        }
        for (job, answer) in jobs.iter().zip(store.enqueue(&jobs).await.unwrap()) {
            match answer {
                Ok(_) => taken.insert(job.id),
                Err(refused) => return (taken, refused),
            };
        }
        assert!(taken.len() < 100_000, "it never gets full");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_new_jobs_whole_and_drains_completely() {
    let settings = vec![("maxmemory".to_owned(), "8mb".to_owned())];
    let server = server(RedisOptions { settings, ..RedisOptions::default() }).await;
    let rig = Rig::at(&server.url(), |_| ()).await;
    rig.worker().await.claim(1).await;
    let early = rig.jobs(3);
    rig.put(&early).await;
    let (mut taken, refused) = fill(&rig, &rig.store).await;
    assert_eq!(refused, Refused::MemoryGate);
    taken.extend(early.iter().map(|job| job.id));

    // From here on Redis has far more than it may have, whatever is freed.
    rig.raw::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb")).await;
    assert!(oom(&rig).await);
    let before = rig.audit().await;
    let answers = rig.store.enqueue(&[rig.job(1), early[0].clone()]).await.unwrap();
    assert_eq!(answers[0], Err(Refused::MemoryGate));
    assert!(answers[1].is_ok(), "what it has it does not refuse: the producer may be asking again");
    assert_eq!(rig.audit().await.jobs, before.jobs, "refused before its first write");

    // All that finishes jobs works, also on a server that has forgotten the scripts.
    rig.raw::<()>(redis::cmd("SCRIPT").arg("FLUSH")).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(6).await;
    let outcomes = [
        outcome(&claims[0], complete()),
        outcome(&claims[1], retry(1, 0)),
        outcome(&claims[2], Finish::Snooze { delay: Duration::ZERO }),
        outcome(&claims[3], Finish::Release),
        outcome(&claims[4], Finish::Bury { error: error(1, &"x".repeat(1000)) }),
    ];
    assert_eq!(worker.finish(&outcomes).await, [Verdict::Applied; 5]);
    assert!(matches!(worker.session.heartbeat().await.unwrap(), Reply::Ok(_)));
    let n = worker.next_n();
    assert_eq!(ok(worker.session.sync(n, &[], &[]).await.unwrap()).given_back, 1);
    worker.prev_n = n;
    rig.tick().await;
    assert!(oom(&rig).await);
    let dead = [claims[4].member.id];
    let refused = [Redriven::Refused(Refused::MemoryGate)];
    assert_eq!(rig.store.redrive(&rig.queue, &dead).await.unwrap(), refused);
    assert_eq!(rig.store.discard(&rig.queue, &dead).await.unwrap(), [true]);
    rig.audit().await;

    let done = worker.drain().await;
    assert_eq!(done.len(), taken.len() - 2, "one was completed, one buried before");
    assert!(rig.audit().await.jobs.is_empty());
    rig.raw::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("8mb")).await;
    rig.put_many(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_closes_before_redis_is_full_and_opens_again() {
    let settings = vec![("maxmemory".to_owned(), "8mb".to_owned())];
    let server = server(RedisOptions { settings, ..RedisOptions::default() }).await;
    let rig = Rig::at(&server.url(), |_| ()).await;
    let gate = async || rig.store.refresh_gates(std::slice::from_ref(&rig.queue)).await.unwrap();
    loop {
        gate().await;
        let mut jobs = rig.jobs(20);
        for job in &mut jobs {
            job.args = raw_args(format!("\"{}\"", "x".repeat(2000)));
        }
        if rig.store.enqueue(&jobs).await.unwrap()[0] == Err(Refused::MemoryGate) {
            break;
        }
    }
    assert!(!oom(&rig).await, "there is room left for what runs");
    rig.worker().await.drain().await;
    gate().await;
    rig.put_many(1).await;
    rig.audit().await;
}
