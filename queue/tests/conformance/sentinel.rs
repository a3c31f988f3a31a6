//! Behind Redis Sentinel: the same store, the same session, before and after a failover.

use std::{collections::HashSet, sync::Arc, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};

use windrow_devserver::{RedisServer, SentinelGroup, SentinelOptions};
use windrow_queue::{
    Member, QueueName,
    store::{Beat, Config, Layout, Reply, Store, StoreError, Verdict},
};

use crate::support::*;

async fn group(options: SentinelOptions) -> Arc<SentinelGroup> {
    let started = tokio::task::spawn_blocking(move || SentinelGroup::start(&options)).await.unwrap();
    Arc::new(started.unwrap())
}

fn config(group: &SentinelGroup) -> Config {
    Config {
        url: group.url(),
        sentinel_master: group.name().into(),
        sentinel_password: group.sentinel_password().into(),
        nodes: group.nodes(),
        ..Config::default()
    }
}

fn queue() -> QueueName {
    QueueName::new(format!("t{:016x}", random())).unwrap()
}

/// Kills the master without a word, once its replica has all it was told, and waits for the successor.
fn fail_over(group: &SentinelGroup) -> &RedisServer {
    tokio::task::block_in_place(|| {
        group.until_replicated().unwrap();
        let master = group.master().unwrap();
        master.kill().unwrap();
        group.until_failed_over(master).unwrap()
    })
}

async fn rig(store: &Store, queue: &QueueName, master: &RedisServer) -> Rig {
    Rig::around(store, queue, &master.url()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_after_its_master_was_killed_and_nothing_that_was_replicated_is_lost() {
    let group = group(SentinelOptions::default()).await;
    let (store, queue) = (Store::new(&config(&group)).unwrap(), queue());
    let before = rig(&store, &queue, group.master().unwrap()).await;
    let members = before.put_many(40).await;
    let mut worker = Worker::open(&store, &queue).await;
    let first = worker.claim(10).await;
    worker.complete(&first[..4]).await;

    let started = Instant::now();
    let master = fail_over(&group);
    // The first to speak finds the connection broken; it is the heartbeat, so that the hub's request is the second.
    assert!(matches!(patiently(|| worker.session.heartbeat()).await, Reply::Ok(Beat { held: 6, .. })));
    println!("the session was heard again {:?} after the master was killed", started.elapsed());
    let n = worker.next_n();
    let running: Vec<_> = first[4..].iter().map(|claim| (claim.member, claim.claim_no)).collect();
    let reply = ok(patiently(|| worker.session.sync(n, &running, &[])).await);
    worker.prev_n = n;
    assert_eq!((reply.given_back, reply.lost.len()), (0, 0), "every lease stands");
    worker.complete(&first[4..]).await;
    let more = before.put_many(5).await;
    let done: HashSet<Member> = worker.drain().await.into_iter().collect();
    assert_eq!(done, members[10..].iter().chain(&more).copied().collect());

    let tick = patiently(|| store.tick(&queue)).await;
    assert_eq!(tick.rescued, 0);
    let after = rig(&store, &queue, master).await;
    assert!(after.audit().await.jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_the_new_master_never_saw_is_a_rollback_and_its_jobs_run_once() {
    let group = group(SentinelOptions::default()).await;
    let (store, queue) = (Store::new(&config(&group)).unwrap(), queue());
    let master = group.master().unwrap();
    let before = rig(&store, &queue, master).await;
    let members = before.put_many(20).await;
    let mut worker = Worker::open(&store, &queue).await;
    let held = worker.claim(5).await;
    tokio::task::block_in_place(|| {
        group.until_replicated().unwrap();
        // From here on the replica hears nothing of its master.
        let replica = group.servers().iter().find(|server| server.port() != master.port()).unwrap();
        replica.command(&["CONFIG", "SET", "masterauth", "wrong"]).unwrap();
        replica.command(&["CLIENT", "KILL", "TYPE", "master"]).unwrap();
    });
    let finish: Vec<_> = held[..2].iter().map(|claim| outcome(claim, complete())).collect();
    let unseen = worker.serve(5, &finish).await;
    assert_eq!(unseen.claims.len(), 5);
    let forgotten = before.put_many(1).await[0];
    let master = tokio::task::block_in_place(|| {
        master.kill().unwrap();
        group.until_failed_over(master).unwrap()
    });

    let n = worker.next_n();
    let answer = worker.session.finish_claim(n, worker.prev_n, 5, PLENTY, true, &[]).await;
    assert!(answer.unwrap_err().is_unavailable(), "the connection is broken, and is not tried again by itself");
    let n = worker.next_n();
    let reply = patiently(|| worker.session.finish_claim(n, worker.prev_n, 5, PLENTY, true, &[])).await;
    assert!(matches!(reply, Reply::Rollback), "{reply:?}");
    let running: Vec<_> = held[2..].iter().chain(&unseen.claims).map(|claim| (claim.member, claim.claim_no)).collect();
    let n = worker.next_n();
    let reply = ok(worker.session.sync(n, &running, &finish).await.unwrap());
    worker.prev_n = n;
    assert_eq!(reply.verdicts, [Verdict::Applied; 2], "what was lost with the master is told again");
    let lost: Vec<Member> = unseen.claims.iter().map(|claim| claim.member).collect();
    assert_eq!((reply.lost, reply.given_back), (lost, 0));
    worker.complete(&held[2..]).await;
    let done: HashSet<Member> = worker.drain().await.into_iter().collect();
    assert_eq!(done, members[5..].iter().copied().collect());
    patiently(|| store.ping()).await;
    let after = rig(&store, &queue, master).await;
    assert_eq!(after.place(forgotten).await, None, "a fast job within the lag of replication");
    assert!(after.audit().await.jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_frozen_and_replaced_is_not_spoken_to_when_it_wakes() {
    let group = group(SentinelOptions::default()).await;
    let (store, queue) = (Store::new(&config(&group)).unwrap(), queue());
    let idle = store.detached();
    idle.ping().await.unwrap();
    let before = rig(&store, &queue, group.master().unwrap()).await;
    before.put_many(3).await;
    let (old, new) = tokio::task::block_in_place(|| {
        group.until_replicated().unwrap();
        let old = group.master().unwrap();
        old.pause().unwrap();
        (old, group.until_failed_over(old).unwrap())
    });
    let after = rig(&store, &queue, new).await;
    let jobs = after.jobs(2);
    patiently(|| store.enqueue(&jobs)).await;
    assert_eq!(after.audit().await.jobs.len(), 5);
    old.resume().unwrap();
    eventually("the old one is a replica", async || {
        tokio::task::block_in_place(|| old.command(&["ROLE"])).is_ok_and(|role| role.list()[0].text() == "slave")
    })
    .await;
    // Its connection was made when the old one was the master, and nothing was sent over it since.
    let jobs = after.jobs(2);
    for answer in patiently(|| idle.enqueue(&jobs)).await {
        created(answer.unwrap());
    }
    assert_eq!(after.audit().await.jobs.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_with_the_rights_that_the_documentation_lists_can_do_it_all() {
    let group = group(SentinelOptions { sentinels: 1, ..SentinelOptions::default() }).await;
    let with = |rights: &str| format!("ACL SETUSER windrow on >secret ~windrow:* resetchannels {rights}");
    let rights = "+@read +@write -@dangerous +evalsha +script|load +info +time +ping +role";
    let set = |command: &str| command.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for server in group.servers() {
        server.command(&set(&with(rights))).unwrap();
    }
    let asks = "+sentinel|get-master-addr-by-name +sentinel|ckquorum +ping";
    group.sentinels()[0].command(&set(&with(asks))).unwrap();
    let address = group.url().split('@').nth(1).unwrap().to_owned();
    let config = Config {
        url: format!("redis://windrow:secret@{address}"),
        sentinel_user: "windrow".into(),
        sentinel_password: "secret".into(),
        ..config(&group)
    };
    let (store, queue) = (Store::new(&config).unwrap(), queue());
    let rig = rig(&store, &queue, &group.servers()[0]).await;
    rig.put_many(3).await;
    assert_eq!(rig.worker().await.drain().await.len(), 3);
    rig.tick().await;
    let layout = store.layout(&[]).await.unwrap();
    assert!(matches!(&layout, Layout::Sentinel { replicas: Some(1), failing, .. } if failing.is_empty()), "{layout:?}");

    // Who may not ask a server for its role believes the Sentinels.
    group.servers()[0].command(&["ACL", "SETUSER", "windrow", "-role"]).unwrap();
    let store = Store::new(&config).unwrap();
    store.ping().await.unwrap();
    assert!(matches!(store.layout(&[]).await.unwrap(), Layout::Sentinel { replicas: None, .. }));
}

/// A Sentinel that says what a real one could not easily be made to say: that the master is at this port. The first is done
/// before the others begin to answer.
async fn liar(says: u16, first_is_done: watch::Sender<bool>, is_first: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if !is_first {
                first_is_done.subscribe().wait_for(|done| *done).await.unwrap();
            }
            let (mut request, port) = ([0; 1024], says.to_string());
            if stream.read(&mut request).await.is_ok() {
                let answer = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                first_is_done.send_replace(true);
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn most_sentinels_are_believed_and_a_server_that_is_no_master_is_not() {
    let group = group(SentinelOptions { sentinels: 1, ..SentinelOptions::default() }).await;
    let (master, replica) = (group.servers()[0].port(), group.servers()[1].port());
    let password = group.url().split(['@', ':']).nth(2).unwrap().to_owned();
    let store_at = async |says: [u16; 3]| {
        let done = watch::Sender::new(false);
        let mut addresses = Vec::new();
        for (says, number) in says.into_iter().zip(0..) {
            addresses.push(liar(says, done.clone(), number == 0).await);
        }
        let url = format!("redis://:{password}@{}", addresses.remove(0));
        let config = Config { url, sentinel_master: "any".into(), nodes: addresses, ..Config::default() };
        Store::new(&config).unwrap()
    };
    let outvoted = store_at([replica, master, master]).await;
    outvoted.ping().await.unwrap();
    assert_eq!(outvoted.servers().await.unwrap()[0].0, format!("127.0.0.1:{master}"));
    let error = store_at([replica, replica, master]).await.ping().await.unwrap_err();
    let words = format!("127.0.0.1:{replica} is named as the master, and is none");
    assert!(error.is_unavailable() && error.to_string().contains(&words), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sentinel_that_answers_is_enough_and_what_is_wrong_is_said() {
    let group = group(SentinelOptions::default()).await;
    let good = config(&group);
    let ping = async |config: &Config| Store::new(config).unwrap().ping().await;
    let refused = async |config: &Config| ping(config).await.unwrap_err();

    let error = refused(&Config { sentinel_master: "other".into(), ..good.clone() }).await;
    assert!(error.is_unavailable() && error.to_string().contains("knows no master named \"other\""), "{error}");
    let error = refused(&Config { sentinel_password: "hunter2".into(), ..good.clone() }).await.to_string();
    assert!(error.contains("authentication failed") && !error.contains("hunter2"), "{error}");
    let master = group.master().unwrap();
    let password = good.url.split(['@', ':']).nth(2).unwrap().to_owned();
    let no_sentinel = Config { url: master.url(), sentinel_password: password, nodes: Vec::new(), ..good.clone() };
    let error = refused(&no_sentinel).await;
    assert!(matches!(error, StoreError::Config { key: "sentinel_master", .. }), "{error}");
    assert!(error.to_string().contains("is no Sentinel"), "{error}");

    let (name, address) = (group.name().to_owned(), format!("127.0.0.1:{}", master.port()));
    let store = Store::new(&good).unwrap();
    let expected = Layout::Sentinel {
        name: name.clone(),
        master: address.clone(),
        replicas: Some(1),
        sentinels: 3,
        failing: Vec::new(),
    };
    assert_eq!(store.layout(&[]).await.unwrap(), expected);

    tokio::task::block_in_place(|| {
        for sentinel in &group.sentinels()[..2] {
            sentinel.kill().unwrap();
        }
    });
    ping(&good).await.unwrap();
    let Layout::Sentinel { failing, .. } = store.layout(&[]).await.unwrap() else { panic!("no Sentinels") };
    assert_eq!(failing.len(), 2, "{failing:?}");
    tokio::task::block_in_place(|| group.sentinels()[2].kill().unwrap());
    store.ping().await.expect("what is connected stays so");
    let error = refused(&good).await;
    assert!(error.is_unavailable() && error.to_string().contains("nobody says where it is"), "{error}");
    assert!(!error.to_string().contains(group.sentinel_password()), "{error}");
}
