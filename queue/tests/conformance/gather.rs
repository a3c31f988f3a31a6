//! Single enqueues that come while another one is on its way go out together, and whoever goes away takes nobody along.

use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{Enqueued, metrics::QueueMetrics};

use crate::support::{
    proxy::{Proxy, Weather},
    *,
};

#[tokio::test]
async fn fifty_producers_at_a_slow_redis_share_a_few_calls_even_if_the_first_one_leaves() {
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let rig = Rig::at(&server.url(), |_| {}).await;
    let metrics = QueueMetrics::new(&prometheus::Registry::new());
    rig.store.observe(&metrics);
    let calls = || calls_of(&metrics, "ENQUEUE") + calls_of(&metrics, "ENQUEUE_PLAIN");
    // Connected, and the script is known.
    rig.put_many(1).await;
    let before = calls();

    server.pause().unwrap();
    let mut producers = rig.jobs(50).into_iter().map(|job| {
        let store = rig.store.clone();
        tokio::spawn(async move { (job.id, store.enqueue(&[job]).await) })
    });
    let first = producers.next().unwrap();
    // One thread: whatever can be done is done after some turns, and the first call is on its way.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = producers.collect();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    server.resume().unwrap();

    for other in others {
        let (id, answers) = other.await.unwrap();
        assert_eq!(answers.unwrap(), [Ok(Enqueued::Created(id))]);
    }
    assert_eq!(rig.audit().await.jobs.len(), 51, "the first one's job was on its way already");
    assert!(calls() - before <= 5, "{} calls for 50 jobs", calls() - before);
}

#[tokio::test]
async fn an_error_reaches_every_producer_and_the_next_one_is_served() {
    let rig = Rig::new().await;
    let server = windrow_devserver::shared_redis().unwrap();
    let proxy = Proxy::new(server.port()).await;
    let store = rig.store_at(&server.url_through(proxy.port));
    proxy.set(Weather::LoseAnswers);
    let producers: Vec<_> = rig
        .jobs(50)
        .into_iter()
        .map(|job| {
            let store = store.clone();
            tokio::spawn(async move { store.enqueue(&[job]).await })
        })
        .collect();
    for producer in producers {
        assert!(producer.await.unwrap().unwrap_err().is_unavailable());
    }
    proxy.set(Weather::Fair);
    let jobs = rig.jobs(1);
    assert_eq!(store.enqueue(&jobs).await.unwrap(), [Ok(Enqueued::Created(jobs[0].id))]);
}
