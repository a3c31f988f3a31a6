//! Workers on a Redis Cluster.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use windrow_queue::{JobArgs, NewJob, Outcome};
use windrow_tests::{
    Number, Other, Page, Place, Site, Stage, cluster, handler, long_ones, move_queue, until, until_within,
};
use windrow_worker::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_executes_queues_of_several_nodes_while_the_slot_of_one_moves() {
    const JOBS: u64 = 2000;
    let (nodes, config) = cluster().await;
    let stage = Stage::elsewhere(&config).await;
    let ran = Arc::new(AtomicU64::new(0));
    let (numbers, others) = (Arc::clone(&ran), Arc::clone(&ran));
    let registry = Registry::new()
        .with(handler(move |_, _: Number| {
            numbers.fetch_add(1, Ordering::SeqCst);
            async { Ok(Outcome::Done) }
        }))
        .with(handler(move |_, _: Other| {
            others.fetch_add(1, Ordering::SeqCst);
            async { Ok(Outcome::Done) }
        }));
    let owner = |queue| {
        let slot = nodes.slot_of(&format!("windrow:{{{queue}}}:meta")).unwrap();
        nodes.owner(slot).unwrap().port()
    };
    assert_ne!(owner(Number::QUEUE), owner(Other::QUEUE), "two nodes have work");
    let mut jobs: Vec<NewJob> = Vec::new();
    for n in 0..i64::try_from(JOBS / 2).unwrap() {
        jobs.push(NewJob::new(&Number { n }).unwrap());
        jobs.push(NewJob::new(&Other { n }).unwrap());
    }
    let worker = stage.worker(registry);
    let (early, late) = jobs.split_at(jobs.len() / 2);
    stage.enqueue(early).await;
    until("some ran", || async { ran.load(Ordering::SeqCst) > JOBS / 8 }).await;
    let before = owner(Number::QUEUE);
    move_queue(&nodes, &Number::QUEUE);
    assert_ne!(owner(Number::QUEUE), before);
    stage.enqueue(late).await;
    until("all ran", || async { ran.load(Ordering::SeqCst) >= JOBS }).await;
    until("nothing is left", || async {
        let mut left = 0;
        for queue in [Number::QUEUE, Other::QUEUE] {
            left += stage.store.counts(&queue).await.map_or(1, |counts| counts.ready + counts.running);
        }
        left == 0
    })
    .await;
    until("it is well", || async { worker.health.is_ready() }).await;
    assert_eq!(ran.load(Ordering::SeqCst), JOBS, "some ran twice");
    assert_eq!(worker.counted("windrow_jobs_rescued_total", ""), 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_where_each_queue_is() {
    let ((nodes, config), mut place) = tokio::join!(cluster(), Place::new());
    place.move_elsewhere(&config);
    let ended = place.run(&["check"]).await;
    let slot = nodes.slot_of("windrow:{fetch}:meta").unwrap();
    let fetch = format!("queue fetch in slot {slot} on 127.0.0.1:{}", nodes.owner(slot).unwrap().port());
    assert!(ended.code == 0 && ended.stdout.contains("Redis Cluster of 3 masters"), "{ended:?}");
    assert!(ended.stdout.contains(&fetch), "{fetch}: {ended:?}");
    nodes.nodes()[2].kill().unwrap();
    let ended = place.run(&["check"]).await;
    let away = format!("127.0.0.1:{}: Redis is not available", nodes.nodes()[2].port());
    assert!(ended.code != 0 && ended.stdout.contains(&away), "{away}: {ended:?}");
    place.set("REDIS__CLUSTER", "false");
    place.set("REDIS__NODES", "");
    let ended = place.run(&["check"]).await;
    assert!(ended.code != 0 && ended.stdout.contains("set redis.cluster = true"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_roles_work_on_a_cluster_whose_slots_move() {
    if !long_ones() {
        return;
    }
    let ((nodes, config), mut place, site) = tokio::join!(cluster(), Place::new(), Site::start());
    place.move_elsewhere(&config);
    place.tenant(&site).await;
    for name in ["north", "south"] {
        place.source(&site, name, Page::vacancies(name, 60)).await;
    }
    let (scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    let api = place.start("api").await;
    let answer = Page::new("application/json", r#"{"score": 3, "reason": "slow"}"#).delay(Duration::from_millis(50));
    site.put("/score", answer);
    place.json(&["sources", "fetch", "--all"]).await;
    for scored in [10, 40, 80] {
        until("some are scored", || async { place.count("SELECT count(*) FROM scoring_history").await >= scored })
            .await;
        move_queue(&nodes, &"scoring".parse().unwrap());
    }
    until_within(Duration::from_secs(60), "all is done", || async {
        place.store.ping().await.is_ok() && place.is_idle().await
    })
    .await;
    for role in [&scheduler, &worker, &api] {
        role.await_readiness(200, "").await;
    }
    assert_eq!(worker.metric("windrow_jobs_rescued_total", &[]).await, 0.0);
    place.assert_scored(120).await;
}
