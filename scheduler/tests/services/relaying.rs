//! The relay: every journaled job into Redis once, and no queue holds up another.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::sync::Notify;
use windrow_queue::{
    Band, Due, JobId, Member, NewJob, OnConflict, QueueName, Tenant, UniqueScope, journal,
    store::{self, Store},
};
use windrow_scheduler::{
    metrics::Metrics,
    relay::{Config, Relay},
    service::{Done, Pace, Service},
};

use crate::support::{count, database, enqueue, job, queue, redis, redis_url};

fn relay(pool: &PgPool, store: &Store) -> Relay {
    let metrics = Metrics::new(&prometheus::Registry::new());
    Relay::new(Config::default(), pool.clone(), store.clone(), metrics, Arc::new(Notify::new()))
}

/// Relays until there is nothing left that it could.
async fn drain(relay: &mut Relay) -> Vec<Done> {
    let mut batches = Vec::new();
    loop {
        let done = relay.run_once().await.unwrap();
        if done.is_empty() && done.pace != Pace::Again {
            return batches;
        }
        batches.push(done);
    }
}

#[tokio::test]
async fn journaled_jobs_are_in_redis_with_band_tenant_and_generation() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let mut first = job(&queue);
    first.tenant = Some(Tenant::new("acme").unwrap());
    first.band = Band::High;
    enqueue(&pool, &[first.clone(), job(&queue), job(&queue)]).await;
    drain(&mut relay(&pool, &store)).await;
    assert_eq!(store.counts(&queue).await.unwrap().ready, 3);
    let status = store.status(&queue, Member::journaled(first.id, 1)).await.unwrap().unwrap();
    assert_eq!(status.tenant, first.tenant);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 0);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 3, "they still have to happen");
}

#[tokio::test]
async fn a_relay_that_dies_between_redis_and_its_commit_delivers_once() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    enqueue(&pool, &(0..50).map(|_| job(&queue)).collect::<Vec<_>>()).await;
    // What a relay does, up to the point where it dies.
    let mut tx = pool.begin().await.unwrap();
    let lanes = journal::lanes(&pool, None, 10, &[]).await.unwrap();
    let rows = journal::take(&mut tx, &lanes, 500).await.unwrap();
    let jobs: Vec<_> = rows.iter().map(|row| row.job().unwrap()).collect();
    store.relay(&queue, &jobs).await.unwrap();
    assert_eq!(store.counts(&queue).await.unwrap().ready, 50);
    drop(tx);

    let batches = drain(&mut relay(&pool, &store)).await;
    assert_eq!(batches.iter().map(|done| done.count("relayed")).sum::<u64>(), 50);
    assert_eq!(store.counts(&queue).await.unwrap().ready, 50, "Redis knew them");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 0);
}

#[tokio::test]
async fn several_relays_share_the_work() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    enqueue(&pool, &(0..3000).map(|_| job(&queue)).collect::<Vec<_>>()).await;
    let relays: Vec<_> = (0..3)
        .map(|_| {
            let mut relay = relay(&pool, &store);
            tokio::spawn(async move { drain(&mut relay).await.iter().map(|done| done.count("relayed")).sum::<u64>() })
        })
        .collect();
    let mut relayed = 0;
    for relay in relays {
        relayed += relay.await.unwrap();
    }
    // One that finds all rows held stops early; what it saw is done by the others, and what is left by the next.
    relayed += drain(&mut relay(&pool, &store)).await.iter().map(|done| done.count("relayed")).sum::<u64>();
    assert_eq!(relayed, 3000);
    assert_eq!(store.counts(&queue).await.unwrap().ready, 3000);
}

#[tokio::test]
async fn a_small_tenant_does_not_wait_behind_the_rows_of_a_large_one() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let mut jobs: Vec<_> = (0..2000).map(|_| job(&queue)).collect();
    for job in &mut jobs {
        job.tenant = Some(Tenant::new("large").unwrap());
    }
    let mut small = job(&queue);
    small.tenant = Some(Tenant::new("small").unwrap());
    jobs.push(small.clone());
    enqueue(&pool, &jobs).await;
    relay(&pool, &store).run_once().await.unwrap();
    assert!(store.status(&queue, Member::journaled(small.id, 1)).await.unwrap().is_some(), "in the first batch");
}

#[tokio::test]
async fn urgent_jobs_go_first() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let mut jobs: Vec<_> = (0..1500).map(|_| job(&queue)).collect();
    let mut urgent = job(&queue);
    urgent.band = Band::Critical;
    jobs.push(urgent.clone());
    enqueue(&pool, &jobs).await;
    let done = relay(&pool, &store).run_once().await.unwrap();
    assert_eq!(done.count("relayed"), 1);
    assert!(store.status(&queue, Member::journaled(urgent.id, 1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_batch_is_bounded_and_takes_the_oldest_of_a_lane_first() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let jobs: Vec<_> = (0..30).map(|_| job(&queue)).collect();
    enqueue(&pool, &jobs).await;
    // Older by their numbers, in an order that is not that of their rows.
    for (age, job) in jobs.iter().enumerate() {
        sqlx::query("UPDATE job_outbox SET relay_at = now() - make_interval(secs => $2) WHERE id = $1")
            .bind(job.id.0)
            .bind(f64::from(u8::try_from(age * 7 % 30).unwrap()) + 1.0)
            .execute(&pool)
            .await
            .unwrap();
    }
    let metrics = Metrics::new(&prometheus::Registry::new());
    let config = Config { batch: 10, ..Config::default() };
    let mut relay = Relay::new(config, pool.clone(), store.clone(), metrics, Arc::new(Notify::new()));
    for batch in 1..=3 {
        assert_eq!(relay.run_once().await.unwrap().count("relayed"), 10);
        for (age, job) in jobs.iter().enumerate() {
            let is_there = store.status(&queue, Member::journaled(job.id, 1)).await.unwrap().is_some();
            assert_eq!(is_there, age * 7 % 30 >= 30 - 10 * batch, "batch {batch}, job {age}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_redis_hangs_holds_up_no_other_and_is_served_when_it_answers() {
    let pool = database().await;
    let cluster = tokio::task::spawn_blocking(|| {
        windrow_devserver::RedisCluster::start(&windrow_devserver::ClusterOptions::default()).unwrap()
    })
    .await
    .unwrap();
    let config =
        store::Config { url: cluster.url(), cluster: true, nodes: cluster.addresses(), ..store::Config::default() };
    let store = Store::new(&config).unwrap();
    let port = |queue: &QueueName| {
        let slot = cluster.slot_of(&format!("windrow:{{{queue}}}:meta")).unwrap();
        cluster.owner(slot).unwrap().port()
    };
    // A queue that is somewhere else than another one.
    let (slow, other) = tokio::task::block_in_place(|| {
        let slow = queue();
        let other = std::iter::repeat_with(queue).find(|other| port(other) != port(&slow)).unwrap();
        (slow, other)
    });
    let metrics = Metrics::new(&prometheus::Registry::new());
    let config = Config { timeout: Duration::from_millis(500), ..Config::default() };
    let mut relay = Relay::new(config, pool.clone(), store.clone(), metrics, Arc::new(Notify::new()));
    // Both are known by now.
    enqueue(&pool, &[job(&slow), job(&other)]).await;
    drain(&mut relay).await;
    let node = cluster.nodes().iter().find(|node| node.port() == port(&slow)).unwrap();
    tokio::task::block_in_place(|| node.pause().unwrap());

    let begun = tokio::time::Instant::now();
    for round in 1..=40 {
        enqueue(&pool, &(0..5).map(|_| job(&slow)).collect::<Vec<_>>()).await;
        enqueue(&pool, &(0..5).map(|_| job(&other)).collect::<Vec<_>>()).await;
        let committed = tokio::time::Instant::now();
        while store.counts(&other).await.unwrap().ready < 1 + 5 * round {
            relay.run_once().await.unwrap();
            assert!(committed.elapsed() < Duration::from_secs(5), "held up in round {round}");
        }
    }
    // It had something to do in each round; asked was it a few times, further and further apart.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    tokio::task::block_in_place(|| node.resume().unwrap());
    crate::support::until("all jobs are relayed", async || {
        relay.run_once().await.unwrap();
        count(&pool, "SELECT count(*) FROM job_outbox").await == 0
    })
    .await;
    assert_eq!(store.counts(&slow).await.unwrap().ready, 201);
}

#[tokio::test]
async fn a_full_queue_keeps_its_jobs_in_the_outbox_and_holds_up_no_other() {
    let pool = database().await;
    let url = tokio::task::spawn_blocking(|| windrow_devserver::shared_redis().unwrap().url()).await.unwrap();
    let store = Store::new(&store::Config { url, max_jobs: 10, ..store::Config::default() }).unwrap();
    let (full, other) = (queue(), queue());
    let mut jobs: Vec<_> = (0..30).map(|_| job(&full)).collect();
    enqueue(&pool, &jobs).await;
    let mut relay = relay(&pool, &store);
    let batches = drain(&mut relay).await;
    assert_eq!(batches.iter().map(|done| done.count("relayed")).sum::<u64>(), 10);
    let said = |done: &Done| done.degraded.as_deref().is_some_and(|reason| reason.contains(full.as_str()));
    assert!(batches.iter().any(said), "{batches:?}");

    jobs = (0..5).map(|_| job(&other)).collect();
    enqueue(&pool, &jobs).await;
    let batches = drain(&mut relay).await;
    assert_eq!(batches.iter().map(|done| done.count("relayed")).sum::<u64>(), 5);
    assert_eq!(store.counts(&other).await.unwrap().ready, 5);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 20, "refused, not lost");
}

/// The same job, for a time so many seconds from now.
fn unique(queue: &QueueName, on_conflict: OnConflict, seconds: u64) -> NewJob {
    job(queue).unique_for("same", UniqueScope::UntilFinal, on_conflict).due(Due::In(Duration::from_secs(seconds)))
}

/// Generations of a job that Redis knows, of the first ten.
async fn generations(store: &Store, queue: &QueueName, id: JobId) -> Vec<i32> {
    let mut known = Vec::new();
    for generation in 1..=10 {
        if store.status(queue, Member::journaled(id, generation)).await.unwrap().is_some() {
            known.push(generation);
        }
    }
    known
}

#[tokio::test]
async fn of_a_job_that_is_replaced_and_rescheduled_redis_knows_the_last_generation_only() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let mut relay = relay(&pool, &store);
    let first = unique(&queue, OnConflict::Ignore, 3600);
    enqueue(&pool, &[first.clone(), job(&queue)]).await;
    drain(&mut relay).await;
    assert_eq!(generations(&store, &queue, first.id).await, [1]);

    enqueue(&pool, &[unique(&queue, OnConflict::Replace, 60)]).await;
    drain(&mut relay).await;
    assert_eq!(generations(&store, &queue, first.id).await, [2]);

    // Two generations that no relay has seen.
    for seconds in [7200, 9000] {
        enqueue(&pool, &[unique(&queue, OnConflict::Reschedule, seconds)]).await;
    }
    let batches = drain(&mut relay).await;
    assert_eq!(batches.iter().map(|done| done.count("relayed")).sum::<u64>(), 1, "what is over already is not sent");
    assert_eq!(generations(&store, &queue, first.id).await, [4]);
    let counts = store.counts(&queue).await.unwrap();
    assert_eq!((counts.scheduled, counts.ready), (1, 1), "the other job is as it was");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 0);
}

#[tokio::test]
async fn a_relay_that_dies_after_it_took_an_old_generation_out_loses_nothing() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let first = unique(&queue, OnConflict::Ignore, 3600);
    enqueue(&pool, std::slice::from_ref(&first)).await;
    drain(&mut relay(&pool, &store)).await;
    enqueue(&pool, &[unique(&queue, OnConflict::Replace, 3600)]).await;
    let mut tx = pool.begin().await.unwrap();
    let lanes = journal::lanes(&pool, None, 10, &[]).await.unwrap();
    assert_eq!(journal::take(&mut tx, &lanes, 500).await.unwrap().len(), 1);
    assert_eq!(store.take_out(&queue, &[Member::journaled(first.id, 1)]).await.unwrap(), 1);
    drop(tx);
    assert_eq!(generations(&store, &queue, first.id).await, [0; 0]);
    drain(&mut relay(&pool, &store)).await;
    assert_eq!(generations(&store, &queue, first.id).await, [2]);
}

#[tokio::test]
async fn in_a_full_queue_a_replaced_job_has_the_room_of_the_one_it_was() {
    let pool = database().await;
    let url = redis_url().await;
    let store = Store::new(&store::Config { url, max_jobs: 1, ..store::Config::default() }).unwrap();
    let (queue, mut relay) = (queue(), relay(&pool, &store));
    let first = unique(&queue, OnConflict::Ignore, 3600);
    enqueue(&pool, std::slice::from_ref(&first)).await;
    drain(&mut relay).await;
    enqueue(&pool, &[unique(&queue, OnConflict::Replace, 3600)]).await;
    drain(&mut relay).await;
    assert_eq!(generations(&store, &queue, first.id).await, [2]);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 0, "it was not refused");
}

#[tokio::test]
async fn with_redis_away_the_rows_stay_and_go_over_when_it_is_back() {
    let pool = database().await;
    let server = tokio::task::spawn_blocking(|| {
        windrow_devserver::RedisServer::start(windrow_devserver::RedisOptions::default()).unwrap()
    })
    .await
    .unwrap();
    let store = Store::new(&store::Config { url: server.url(), ..store::Config::default() }).unwrap();
    let queue = queue();
    let server = tokio::task::spawn_blocking(move || {
        server.kill().unwrap();
        server
    })
    .await
    .unwrap();
    enqueue(&pool, &(0..20).map(|_| job(&queue)).collect::<Vec<_>>()).await;
    let metrics = Metrics::new(&prometheus::Registry::new());
    let config = Config { timeout: Duration::from_millis(500), ..Config::default() };
    let mut relay = Relay::new(config, pool.clone(), store.clone(), metrics, Arc::new(Notify::new()));
    let done = relay.run_once().await.unwrap();
    assert_eq!((done.count("relayed"), done.count("not taken")), (0, 20));
    assert!(done.degraded.unwrap().contains(queue.as_str()));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 20);

    let server = tokio::task::spawn_blocking(move || {
        server.restart().unwrap();
        server
    })
    .await
    .unwrap();
    crate::support::until("all jobs are relayed", async || {
        relay.run_once().await.unwrap();
        count(&pool, "SELECT count(*) FROM job_outbox").await == 0
    })
    .await;
    assert_eq!(store.counts(&queue).await.unwrap().ready, 20);
    drop(server);
}

#[tokio::test]
async fn a_row_that_redis_cannot_take_is_buried_with_its_reason_and_blocks_nothing() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    enqueue(&pool, &[job(&queue), job(&queue)]).await;
    sqlx::query("UPDATE job_outbox SET queue = 'no}such{queue' WHERE seq = (SELECT min(seq) FROM job_outbox)")
        .execute(&pool)
        .await
        .unwrap();
    let batches = drain(&mut relay(&pool, &store)).await;
    assert_eq!(batches.iter().map(|done| done.count("invalid")).sum::<u64>(), 1);
    assert_eq!(store.counts(&queue).await.unwrap().ready, 1);
    let reason: String = sqlx::query_scalar("SELECT reason FROM job_closed").fetch_one(&pool).await.unwrap();
    assert!(reason.contains("no}such{queue"), "{reason}");
}

#[tokio::test]
async fn the_relay_says_that_it_sleeps_and_that_it_is_busy() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let mut relay = relay(&pool, &store);
    let idle = async || sqlx::query_scalar::<_, bool>("SELECT idle FROM relay_flag").fetch_one(&pool).await.unwrap();
    sqlx::query("UPDATE relay_flag SET idle = false").execute(&pool).await.unwrap();
    drain(&mut relay).await;
    assert!(idle().await);
    enqueue(&pool, &(0..2500).map(|_| job(&queue)).collect::<Vec<_>>()).await;
    for _ in 0..4 {
        relay.run_once().await.unwrap();
    }
    assert!(!idle().await, "with a backlog nobody needs to wake it");
    drain(&mut relay).await;
    assert!(idle().await);
}
