//! Waking (R8): one token, passed on from claim to claim, and healed by ticks.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    Member,
    store::{Config, Finish, Session, SessionId, Store, Waker},
};

use crate::support::*;

async fn tokens(rig: &Rig) -> usize {
    rig.audit().await.tokens
}

#[tokio::test]
async fn any_number_of_enqueues_leaves_one_token() {
    let rig = Rig::new().await;
    let mut later = rig.job(1);
    later.due = due_in(1000);
    rig.put(&[later]).await;
    assert_eq!(tokens(&rig).await, 0, "what is not ready wakes nobody");
    for _ in 0..3 {
        rig.put_many(10).await;
        assert_eq!(tokens(&rig).await, 1);
    }
}

#[tokio::test]
async fn a_claim_that_took_all_clears_the_token_and_one_that_left_some_passes_it_on() {
    let rig = Rig::new().await;
    rig.put_many(3).await;
    let mut worker = rig.worker().await;
    let take = async || rig.raw::<()>(redis::cmd("DEL").arg(rig.key("wake"))).await;
    take().await;
    let reply = worker.serve(2, &[]).await;
    assert_eq!((reply.claims.len(), reply.more, tokens(&rig).await), (2, true, 1));
    let reply = worker.serve(2, &[]).await;
    assert_eq!((reply.claims.len(), reply.more, tokens(&rig).await), (1, false, 0));
    worker.finish(&[outcome(&reply.claims[0], Finish::Release)]).await;
    assert_eq!(tokens(&rig).await, 1, "what was given back wakes somebody");
}

#[tokio::test]
async fn exactly_as_many_as_wanted_leaves_nothing_behind() {
    let rig = Rig::new().await;
    rig.put_many(32).await;
    let mut worker = rig.worker().await;
    let reply = worker.serve(32, &[]).await;
    assert_eq!((reply.claims.len(), reply.more, tokens(&rig).await), (32, false, 0));
}

#[tokio::test]
async fn promotion_and_rescue_wake_and_a_lost_token_is_healed_by_a_tick() {
    let rig = Rig::new().await;
    let mut later = rig.job(1);
    later.due = due_in(1000);
    rig.put(&[later]).await;
    rig.advance(1000).await;
    rig.tick().await;
    assert_eq!(tokens(&rig).await, 1);
    rig.raw::<()>(redis::cmd("DEL").arg(rig.key("wake"))).await;
    rig.tick().await;
    assert_eq!(tokens(&rig).await, 1);
    let mut worker = rig.worker().await;
    worker.claim(5).await;
    assert_eq!(tokens(&rig).await, 0);
    rig.tick().await;
    assert_eq!(tokens(&rig).await, 0, "nothing is ready");
    rig.lapse(&[]).await;
    assert_eq!(tokens(&rig).await, 1);
}

#[tokio::test]
async fn what_a_session_may_not_have_neither_keeps_it_asking_nor_wakes_it() {
    let rig = Rig::new().await;
    for i in 0..100 {
        let mut job = rig.relay_job();
        job.tenant = Some(tenant(&format!("t{i}")));
        rig.store.relay(&rig.queue, &[job]).await.unwrap();
    }
    rig.raw::<()>(redis::cmd("DEL").arg(rig.key("wake"))).await;
    let mut worker = rig.worker().await;
    for _ in 0..5 {
        let n = worker.next_n();
        let reply = ok(worker.session.finish_claim(n, n - 1, 10, PLENTY, false, &[]).await.unwrap());
        assert_eq!((reply.claims.len(), reply.more, tokens(&rig).await), (0, false, 0));
    }
    assert_eq!(worker.drain().await.len(), 100);
}

/// Serves a queue for two seconds as a worker does; answers how many scripts and pops that took.
async fn cost(fill: impl AsyncFnOnce(&Rig), journaled_ok: bool) -> u64 {
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default())).await.unwrap().unwrap();
    let rig = Rig::at(&server.url(), |_| ()).await;
    fill(&rig).await;
    let store = Store::new(&Config { url: server.url(), ..Config::default() }).unwrap();
    let session = Session::open(&store, &rig.queue, SessionId::from_random(random()), 10, "test").await.unwrap();
    let waker = Waker::new(&store, &rig.queue, Duration::from_secs(5));
    let calls = async || -> u64 {
        let stats: String = rig.raw(redis::cmd("INFO").arg("commandstats")).await;
        let of = |name: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":calls="));
            line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
        };
        of("cmdstat_evalsha") + of("cmdstat_blpop")
    };
    let before = calls().await;
    let serve = async {
        let mut n = 0;
        loop {
            n += 1;
            if !ok(session.finish_claim(n, n - 1, 10, PLENTY, journaled_ok, &[]).await.unwrap()).more {
                waker.wait().await.unwrap();
            }
        }
    };
    let ticks = async {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            store.tick(&rig.queue).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(2), async { tokio::join!(serve, ticks) }).await.unwrap_err();
    calls().await - before
}

#[tokio::test]
async fn an_idle_queue_and_one_full_of_what_nobody_may_have_cost_next_to_nothing() {
    let idle = cost(async |_| (), true);
    let unclaimable = cost(
        async |rig| {
            for i in 0..50 {
                let mut job = rig.relay_job();
                job.tenant = Some(tenant(&format!("t{i}")));
                rig.store.relay(&rig.queue, &[job]).await.unwrap();
            }
        },
        false,
    );
    let (idle, unclaimable) = tokio::join!(idle, unclaimable);
    assert!(idle <= 10, "{idle} calls in two seconds");
    assert!(unclaimable <= 20, "{unclaimable} calls in two seconds");
}

#[tokio::test]
async fn one_enqueue_wakes_as_many_waiting_workers_as_it_has_work_for() {
    let rig = Rig::new().await;
    let claims = (0..4).map(|_| async {
        let mut worker = rig.worker().await;
        let waker = Waker::new(&rig.store, &rig.queue, Duration::from_secs(20));
        let mut claimed = Vec::new();
        while claimed.is_empty() {
            assert!(waker.wait().await.unwrap(), "nobody ticks here: the chain alone wakes it");
            claimed = worker.claim_members(1).await;
        }
        claimed
    });
    let enqueue = async {
        // All of them wait when it comes; otherwise each would find a job by itself.
        eventually("four are blocked", async || {
            let clients: String = rig.raw(redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("NORMAL")).await;
            clients.lines().filter(|line| line.contains("cmd=blpop") && line.contains("flags=b")).count() >= 4
        })
        .await;
        rig.put_many(4).await
    };
    let (claimed, members) = tokio::join!(futures::future::join_all(claims), enqueue);
    let claimed: HashSet<Member> = claimed.into_iter().flatten().collect();
    assert_eq!(claimed, members.into_iter().collect());
}

#[tokio::test]
async fn a_waiting_worker_is_woken_in_no_time_and_a_wait_without_work_ends() {
    let rig = Rig::new().await;
    let waker = Waker::new(&rig.store, &rig.queue, Duration::from_millis(50));
    assert!(!waker.wait().await.unwrap());
    let waker = Waker::new(&rig.store, &rig.queue, Duration::from_secs(20));
    let started = Instant::now();
    let (woken, _) = tokio::join!(waker.wait(), rig.put_many(1));
    assert!(woken.unwrap());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    waker.pass_on().await.unwrap();
    assert_eq!(tokens(&rig).await, 1);
}
