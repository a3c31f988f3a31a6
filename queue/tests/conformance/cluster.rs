//! On Redis Cluster: queues on different nodes through one store, and a slot that moves under load (R9).

mod moving;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use windrow_devserver::{ClusterOptions, RedisCluster, RedisServer};
use windrow_queue::{
    Member, NewJob, QueueName,
    store::{Beat, Config, Layout, Refused, Reply, Store, StoreError, Verdict, Waker},
};

use crate::support::*;

async fn cluster(options: ClusterOptions) -> Arc<RedisCluster> {
    let started = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await.unwrap();
    Arc::new(started.unwrap())
}

/// The settings name one node: the others are found.
fn config(cluster: &RedisCluster) -> Config {
    Config { url: cluster.url(), cluster: true, ..Config::default() }
}

fn slot(cluster: &RedisCluster, queue: &QueueName) -> u16 {
    cluster.slot_of(&format!("windrow:{{{queue}}}:meta")).unwrap()
}

fn owner<'a>(cluster: &'a RedisCluster, queue: &QueueName) -> &'a RedisServer {
    cluster.owner(slot(cluster, queue)).unwrap()
}

/// A queue that lives on this node.
fn queue_on(cluster: &RedisCluster, node: &RedisServer) -> QueueName {
    loop {
        let queue = QueueName::new(format!("t{:016x}", random())).unwrap();
        if owner(cluster, &queue).port() == node.port() {
            return queue;
        }
    }
}

async fn rig(store: &Store, queue: &QueueName, node: &RedisServer) -> Rig {
    Rig::around(store, queue, &node.url()).await
}

/// Moves a slot in one go.
fn move_whole(cluster: &RedisCluster, slot: u16, to: &RedisServer) {
    tokio::task::block_in_place(|| {
        let from = cluster.owner(slot).unwrap();
        cluster.begin_move(slot, from, to).unwrap();
        while cluster.move_keys(slot, from, to, 1000).unwrap() > 0 {}
        cluster.finish_move(slot, to).unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_on_three_nodes_work_at_once_through_one_store() {
    let cluster = cluster(ClusterOptions::default()).await;
    let store = Store::new(&config(&cluster)).unwrap();
    let queues: Vec<QueueName> = cluster.nodes().iter().map(|node| queue_on(&cluster, node)).collect();
    let mut jobs = Vec::new();
    for n in 0..30 {
        let mut job = NewJob::new(&Args { n }).unwrap();
        job.queue = queues[n % 3].clone();
        jobs.push(job);
    }
    for answer in store.enqueue(&jobs).await.unwrap() {
        created(answer.unwrap());
    }
    let work = queues.iter().map(async |queue| {
        let mut worker = Worker::open(&store, queue).await;
        assert!(Waker::new(&store, queue, Duration::from_secs(5)).wait().await.unwrap(), "a token waits");
        let claims = worker.claim(4).await;
        assert_eq!(store.counts(queue).await.unwrap().running, 4);
        store.tick(queue).await.unwrap();
        worker.complete(&claims).await;
        worker.drain().await.len() + claims.len()
    });
    assert_eq!(futures::future::join_all(work).await, [10, 10, 10]);
    for (queue, node) in queues.iter().zip(cluster.nodes()) {
        assert!(rig(&store, queue, node).await.audit().await.jobs.is_empty());
    }

    store.ping().await.unwrap();
    store.refresh_gates(&queues).await.unwrap();
    assert!(store.server().await.unwrap().cluster);
    assert_eq!(store.servers().await.unwrap().len(), 3);
    let Layout::Cluster { masters: 3, failing, queues: places } = store.layout(&queues).await.unwrap() else {
        panic!("no cluster");
    };
    assert_eq!(failing, []);
    for ((place, queue), node) in places.iter().zip(&queues).zip(cluster.nodes()) {
        assert_eq!((&place.queue, place.slot, place.moving), (queue, slot(&cluster, queue), false));
        assert_eq!(place.node.as_deref(), Some(&*format!("127.0.0.1:{}", node.port())));
    }

    // A node that is nearly full closes the gates of its own queues.
    let address = format!("127.0.0.1:{}", cluster.nodes()[1].port());
    let servers: HashMap<String, _> = store.servers().await.unwrap().into_iter().collect();
    let limit = (servers[&address].used_memory * 107 / 100).to_string();
    cluster.nodes()[1].command(&["CONFIG", "SET", "maxmemory", &limit]).unwrap();
    store.refresh_gates(&queues).await.unwrap();
    for (queue, closed) in queues.iter().zip([false, true, false]) {
        let mut job = NewJob::new(&Args { n: 0 }).unwrap();
        job.queue = queue.clone();
        assert_eq!(store.enqueue(&[job]).await.unwrap()[0] == Err(Refused::MemoryGate), closed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_rights_that_the_documentation_lists_can_do_it_all() {
    let cluster = cluster(ClusterOptions::default()).await;
    for node in cluster.nodes() {
        let rights = concat!(
            "ACL SETUSER windrow on >secret ~windrow:* resetchannels +@read +@write -@dangerous +evalsha +script|load +info ",
            "+time +ping +cluster|slots +cluster|info +cluster|nodes"
        );
        node.command(&rights.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let url = cluster.url().split('@').nth(1).unwrap().to_owned();
    let config = Config { url: format!("redis://windrow:secret@{url}"), ..config(&cluster) };
    let (store, queue) = (Store::new(&config).unwrap(), queue_on(&cluster, &cluster.nodes()[1]));
    let rig = rig(&store, &queue, &cluster.nodes()[1]).await;
    rig.put_many(3).await;
    assert_eq!(rig.worker().await.drain().await.len(), 3);
    rig.tick().await;
    store.ping().await.unwrap();
    store.refresh_gates(std::slice::from_ref(&queue)).await.unwrap();
    assert_eq!(store.servers().await.unwrap().len(), 3);
    let layout = store.layout(&[queue]).await.unwrap();
    assert!(matches!(&layout, Layout::Cluster { failing, queues, .. } if failing.is_empty() && !queues[0].moving));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_say_another_arrangement_than_there_is_are_named() {
    let cluster = cluster(ClusterOptions::default()).await;
    let single = Store::new(&Config { cluster: false, ..config(&cluster) }).unwrap();
    let elsewhere = queue_on(&cluster, &cluster.nodes()[1]);
    let error = single.counts(&elsewhere).await.unwrap_err();
    assert!(matches!(error, StoreError::Config { key: "cluster", .. }), "{error}");
    let lone = Rig::new().await;
    let url = windrow_devserver::shared_redis().unwrap().url();
    let error = Store::new(&Config { url, cluster: true, ..Config::default() }).unwrap().counts(&lone.queue).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("redis.cluster: is set, but 127.0.0.1:"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moved_is_found_by_the_next_try_of_producers_and_sessions_alike() {
    let cluster = cluster(ClusterOptions::default()).await;
    let (from, to) = (&cluster.nodes()[0], &cluster.nodes()[2]);
    let (store, queue) = (Store::new(&config(&cluster)).unwrap(), queue_on(&cluster, from));
    let before = rig(&store, &queue, from).await;
    let members = before.put_many(5).await;
    let mut worker = Worker::open(&store, &queue).await;
    let held = worker.claim(2).await;
    let waker = Waker::new(&store, &queue, Duration::from_secs(30));
    waker.wait().await.unwrap();
    let waiting = tokio::spawn(async move {
        let ended = waker.wait().await;
        (waker, ended)
    });
    move_whole(&cluster, slot(&cluster, &queue), to);

    // Redis ends the wait of whoever waits for a key that has gone elsewhere.
    let (waker, ended) = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert!(ended.unwrap_err().is_unavailable());
    // Enqueuing is tried again by itself.
    let more = before.put_many(1).await;
    assert!(waker.wait().await.unwrap(), "and the next wait is at the right place");
    // A request of a session is not: it is answered with an error, and what follows is served.
    let n = worker.next_n();
    let finish = [outcome(&held[0], complete())];
    let error = worker.session.finish_claim(n, worker.prev_n, 1, PLENTY, true, &finish).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(source) if source.code() == Some("MOVED")), "{error}");
    let n = worker.next_n();
    let running = [(held[1].member, held[1].claim_no)];
    let reply = ok(worker.session.sync(n, &running, &finish).await.unwrap());
    worker.prev_n = n;
    assert_eq!((reply.verdicts, reply.given_back, reply.lost), (vec![Verdict::Applied], 0, Vec::new()));
    assert!(matches!(patiently(|| worker.session.heartbeat()).await, Reply::Ok(Beat { held: 1, .. })));
    worker.complete(&held[1..]).await;
    let done: HashSet<Member> = worker.drain().await.into_iter().collect();
    assert_eq!(done, members[2..].iter().chain(&more).copied().collect());
    assert!(rig(&store, &queue, to).await.audit().await.jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_node_is_killed_its_queue_goes_on_at_the_replica_and_the_others_never_stop() {
    let cluster = cluster(ClusterOptions { replicas: 1, ..ClusterOptions::default() }).await;
    let store = Store::new(&config(&cluster)).unwrap();
    let (lost, safe) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    let (struck, spared) = (queue_on(&cluster, lost), queue_on(&cluster, safe));
    let slot = slot(&cluster, &struck);
    let rig = rig(&store, &struck, lost).await;
    let members = rig.put_many(20).await;
    let mut worker = Worker::open(&store, &struck).await;
    let held = worker.claim(5).await;
    let mut beside = Worker::open(&store, &spared).await;
    let run_id = store.server().await.unwrap().run_id;
    tokio::task::block_in_place(|| {
        let replica = cluster.replica_of(lost).unwrap();
        let told = || lost.command(&["INFO", "replication"]).unwrap().text();
        // Both count what the master sent.
        let offset = |text: &str, name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap()
        };
        let sent = offset(&told(), "master_repl_offset:");
        while offset(&replica.command(&["INFO", "replication"]).unwrap().text(), "slave_repl_offset:") < sent {}
        lost.kill().unwrap();
    });
    beside.claim(1).await;
    let new = tokio::task::block_in_place(|| cluster.until_taken_over(slot, lost)).unwrap();
    assert!(matches!(patiently(|| worker.session.heartbeat()).await, Reply::Ok(Beat { held: 5, .. })));
    let n = worker.next_n();
    let running: Vec<_> = held.iter().map(|claim| (claim.member, claim.claim_no)).collect();
    let reply = ok(patiently(|| worker.session.sync(n, &running, &[])).await);
    worker.prev_n = n;
    assert_eq!((reply.given_back, reply.lost.len()), (0, 0));
    worker.complete(&held).await;
    assert_eq!(worker.drain().await, members[5..]);
    beside.claim(1).await;
    eventually("the whole cluster answers again", async || store.ping().await.is_ok()).await;
    assert_ne!(patiently(|| store.server()).await.run_id, run_id, "another one has its slots");
    assert!(Rig::around(&store, &struck, &new.url()).await.audit().await.jobs.is_empty());
}
