//! Enqueueing that waits for replicas or for the file (R14).

use std::time::Duration;

use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::store::{Durability, Store, StoreError};

use crate::support::*;

const WITHIN: Duration = Duration::from_millis(300);

async fn server(settings: Vec<(String, String)>) -> RedisServer {
    let password = Some("secret".to_owned());
    let options = RedisOptions { password, settings, ..Default::default() };
    tokio::task::spawn_blocking(|| RedisServer::start(options)).await.unwrap().unwrap()
}

async fn refusal(store: &Store, job: &windrow_queue::NewJob, durability: Durability) -> String {
    match store.enqueue_durable(std::slice::from_ref(job), durability).await {
        Err(StoreError::NotDurable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_job_counts_as_durable_when_a_replica_has_it_and_not_before() {
    let master = server(Vec::new()).await;
    let of = |value: &str| value.to_owned();
    let settings = vec![
        (of("replicaof"), format!("127.0.0.1 {}", master.port())),
        (of("masterauth"), of("secret")),
        (of("repl-diskless-sync-delay"), of("0")),
    ];
    let replica = server(settings).await;
    let rig = Rig::at(&master.url(), |_| ()).await;
    let one = Durability { replicas: 1, file: false, within: Duration::from_secs(10) };
    let jobs = [rig.job(1), rig.job(2)];
    let answers = rig.store.enqueue_durable(&jobs, one).await.unwrap();
    assert!(answers.iter().all(|answer| answer.unwrap().is_created()));
    let copy = redis::Client::open(replica.url()).unwrap();
    let mut copy = copy.get_multiplexed_async_connection().await.unwrap();
    let held: u64 = redis::cmd("HLEN").arg(rig.key("jobs")).query_async(&mut copy).await.unwrap();
    assert_eq!(held, 2, "the replica has them");

    let two = Durability { replicas: 2, within: WITHIN, ..one };
    assert!(refusal(&rig.store, &rig.job(3), two).await.starts_with("1 of 2 replicas"));
    drop(replica);
    assert!(refusal(&rig.store, &rig.job(4), Durability { within: WITHIN, ..one }).await.starts_with("0 of 1"));
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().ready, 4, "the jobs stand all the same");
    // Asked again, it is the same job, and nothing makes it durable but a replica.
    assert!(refusal(&rig.store, &jobs[0], Durability { within: WITHIN, ..one }).await.starts_with("0 of 1"));
}

#[tokio::test]
async fn a_redis_that_cannot_say_when_its_file_has_a_job_is_named() {
    let master = server(Vec::new()).await;
    let rig = Rig::at(&master.url(), |_| ()).await;
    let why = refusal(&rig.store, &rig.job(1), Durability { replicas: 0, file: true, within: WITHIN }).await;
    assert!(why.contains("appendonly yes"), "{why}");
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().ready, 1);
}
