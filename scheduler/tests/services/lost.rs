//! R20, R24: journaled jobs whose workers are lost, from the lapse of the lease to `job_closed`, with a real Redis.

use std::time::Duration;

use sqlx::PgPool;
use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    Delivery, Member, NewJob, QueueName,
    error::fingerprint,
    journal::{self, STARTED, STARTED_CLASS},
    metrics::QueueMetrics,
    policy::PolicyOverride,
    store::{self, Reply, Session, SessionId, Store},
};
use windrow_scheduler::{promoter::Promoter, service::Service};

use crate::{
    support::{count, database, enqueue, job, queue, redis_url, until},
    tidying::{metrics, relay_all},
};

/// Redis with a lease so short that a test can wait for its end.
async fn short_lease() -> Store {
    let url = redis_url().await;
    Store::new(&store::Config { url, lease: Duration::from_secs(1), ..store::Config::default() }).unwrap()
}

fn promoter(pool: &PgPool, store: &Store, queue: &QueueName) -> Promoter {
    let queue_metrics = QueueMetrics::new(&prometheus::Registry::new());
    Promoter::new(pool.clone(), store.clone(), vec![queue.clone()], queue_metrics, metrics())
}

/// A worker that claims one job, and is never heard of again. None: there is nothing to claim.
async fn claim_and_die(store: &Store, queue: &QueueName) -> Option<Member> {
    let id = SessionId::from_random(rand::random());
    let session = Session::open(store, queue, id, 1, "test").await.unwrap();
    match session.finish_claim(1, 0, 1, 1 << 20, true, &[]).await.unwrap() {
        Reply::Ok(reply) => reply.claims.first().map(|claim| claim.member),
        other => panic!("{other:?}"),
    }
}

fn with_policy(queue: &QueueName, policy: PolicyOverride) -> NewJob {
    NewJob { policy, ..job(queue) }
}

#[tokio::test]
async fn a_journaled_job_that_kills_its_workers_is_dead_in_postgres_and_forgotten_by_redis() {
    let (pool, store, queue) = (database().await, short_lease().await, queue());
    // Its own limit travels through outbox and relay: one crash among the suspects.
    let killer = with_policy(&queue, PolicyOverride { rescue_limit: Some(1), ..PolicyOverride::default() });
    enqueue(&pool, std::slice::from_ref(&killer)).await;
    relay_all(&pool, &store).await;
    let mut promoter = promoter(&pool, &store, &queue);
    let mut claims = 0;
    until("it is buried", async || {
        claims += usize::from(claim_and_die(&store, &queue).await.is_some());
        promoter.run_once().await.unwrap().count("buried") == 1
    })
    .await;
    assert_eq!(claims, 3, "two rescues make a suspect, one crash there is poison");
    let closed = journal::show_closed(&pool, killer.id).await.unwrap().unwrap();
    assert_eq!(closed.state, "dead");
    assert!(closed.reason.starts_with("poison"), "{}", closed.reason);
    assert_eq!(closed.fingerprint.unwrap(), fingerprint(&killer.kind, "poison", &closed.reason));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);
    assert!(store.status(&queue, Member::journaled(killer.id, 1)).await.unwrap().is_none());

    assert!(journal::redrive(&pool, killer.id).await.unwrap());
    relay_all(&pool, &store).await;
    assert_eq!(claim_and_die(&store, &queue).await, Some(Member::journaled(killer.id, 2)));
}

#[tokio::test]
async fn a_job_that_runs_at_most_once_is_dead_when_its_worker_is_lost_and_goes_on_if_it_never_started() {
    let (pool, store, queue) = (database().await, short_lease().await, queue());
    let once = PolicyOverride { delivery: Some(Delivery::AtMostOnce), ..PolicyOverride::default() };
    let (started, claimed) = (with_policy(&queue, once), with_policy(&queue, once));
    enqueue(&pool, &[started.clone(), claimed.clone()]).await;
    relay_all(&pool, &store).await;
    assert!(claim_and_die(&store, &queue).await.is_some() && claim_and_die(&store, &queue).await.is_some());
    let member = Member::journaled(started.id, 1);
    let begun = journal::start_at_most_once(&pool, &[(member, Duration::from_secs(300))]).await.unwrap();
    assert_eq!(begun, [member].into());
    let mut promoter = promoter(&pool, &store, &queue);
    let mut buried = 0;
    until("Redis gives them up", async || {
        buried += promoter.run_once().await.unwrap().count("buried");
        buried == 1 && count(&pool, "SELECT count(*) FROM job_outbox WHERE gen = 2").await == 1
    })
    .await;
    let closed = journal::show_closed(&pool, started.id).await.unwrap().unwrap();
    assert_eq!((closed.state.as_str(), closed.reason.as_str(), closed.running), ("dead", STARTED, false));
    assert_eq!(closed.fingerprint.unwrap(), fingerprint(&started.kind, STARTED_CLASS, STARTED));
    assert!(store.status(&queue, member).await.unwrap().is_none());
    relay_all(&pool, &store).await;
    assert_eq!(claim_and_die(&store, &queue).await, Some(Member::journaled(claimed.id, 2)), "nothing of it had begun");
}

#[tokio::test]
async fn a_burial_that_redis_did_not_hear_of_is_told_again() {
    let pool = database().await;
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default()).unwrap()).await.unwrap();
    let config = store::Config { url: server.url(), lease: Duration::from_secs(1), ..store::Config::default() };
    let (store, queue) = (Store::new(&config).unwrap(), queue());
    let once = PolicyOverride { delivery: Some(Delivery::AtMostOnce), ..PolicyOverride::default() };
    let job = with_policy(&queue, once);
    enqueue(&pool, std::slice::from_ref(&job)).await;
    relay_all(&pool, &store).await;
    let member = claim_and_die(&store, &queue).await.unwrap();
    journal::start_at_most_once(&pool, &[(member, Duration::from_secs(300))]).await.unwrap();
    let mut to_bury = Vec::new();
    until("Redis gives it up", async || {
        to_bury = store.tick(&queue).await.unwrap().to_bury;
        !to_bury.is_empty()
    })
    .await;
    assert_eq!(to_bury, [member]);
    // Postgres decided, and the scheduler died: the next one finds it decided, and tells Redis.
    sqlx::query("UPDATE job_closed SET runs_until = NULL").execute(&pool).await.unwrap();
    let mut promoter = promoter(&pool, &store, &queue);
    until("Redis has forgotten it", async || {
        promoter.run_once().await.unwrap();
        store.status(&queue, member).await.unwrap().is_none()
    })
    .await;
    assert_eq!(count(&pool, "SELECT count(*) FROM job_closed").await, 1);
    drop(server);
}
