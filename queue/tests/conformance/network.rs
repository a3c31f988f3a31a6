//! What a network does to requests and answers (R1), and what a dropped wait leaves behind.

use std::time::Duration;

use windrow_queue::{
    Decision, Enqueued, JobError,
    store::{Applied, Verdict, Waker},
};

use crate::support::{
    proxy::{Proxy, Weather},
    *,
};

/// A queue, and the same queue through a proxy.
async fn behind_proxy() -> (Rig, Proxy, windrow_queue::store::Store) {
    let rig = Rig::new().await;
    let server = windrow_devserver::shared_redis().unwrap();
    let proxy = Proxy::new(server.port()).await;
    let store = rig.store_at(&server.url_through(proxy.port));
    (rig, proxy, store)
}

#[tokio::test]
async fn the_jobs_of_a_claim_whose_answer_was_lost_run_once_all_the_same() {
    let (rig, proxy, store) = behind_proxy().await;
    let members = rig.put_many(6).await;
    let mut worker = Worker::open(&store, &rig.queue).await;
    let held = worker.claim(2).await;

    proxy.set(Weather::LoseAnswers);
    let n = worker.next_n();
    let finish = [outcome(&held[0], complete())];
    let error = worker.session.finish_claim(n, worker.prev_n, 2, PLENTY, true, &finish).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    let executed = |snapshot: &Snapshot| snapshot.places.values().filter(|place| **place != Place::Lane).count();
    assert_eq!(executed(&rig.audit().await), 3, "Redis did as it was asked: three are leased, one of them is run");

    proxy.set(Weather::Fair);
    let n = worker.next_n();
    let running = [(held[1].member, held[1].claim_no)];
    let reply = ok(worker.session.sync(n, &running, &finish).await.unwrap());
    worker.prev_n = n;
    assert_eq!((reply.verdicts, reply.given_back, reply.lost.len()), (vec![Verdict::Already], 2, 0));
    worker.complete(&held[1..]).await;
    assert_eq!(worker.drain().await, members[2..], "those that nobody ran are run now, by the same session");
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_request_that_arrives_after_the_sync_is_stale() {
    let (rig, proxy, store) = behind_proxy().await;
    rig.put_many(6).await;
    let mut worker = Worker::open(&store, &rig.queue).await;
    let held = worker.claim(2).await;

    proxy.set(Weather::HoldRequests);
    let n = worker.next_n();
    let late: [Applied; 1] = [outcome(&held[0], windrow_queue::store::Finish::Release)];
    let (answer, ()) =
        tokio::join!(worker.session.finish_claim(n, worker.prev_n, 4, PLENTY, true, &late), proxy.until_held());
    assert!(answer.unwrap_err().is_unavailable(), "its time is over");
    proxy.set(Weather::Fair);
    let n = worker.next_n();
    let running: Vec<_> = held.iter().map(|claim| (claim.member, claim.claim_no)).collect();
    let reply = ok(worker.session.sync(n, &running, &[]).await.unwrap());
    worker.prev_n = n;
    assert_eq!((reply.given_back, reply.lost.len()), (0, 0));

    proxy.release();
    eventually("the late request is answered", async || !proxy.late_answers().is_empty()).await;
    assert!(proxy.late_answers().contains("STALE"), "{}", proxy.late_answers());
    assert_eq!(ok(worker.session.heartbeat().await.unwrap()).held, 2, "it claimed nothing and released nothing");
    rig.audit().await;
    worker.complete(&held).await;
    assert_eq!(worker.drain().await.len(), 4);
}

#[tokio::test]
async fn an_enqueue_whose_answer_was_lost_or_cut_off_is_asked_again_and_taken_once() {
    for weather in [Weather::LoseAnswers, Weather::CutAnswers(5)] {
        let (rig, proxy, store) = behind_proxy().await;
        let job = rig.job(1).idempotent("k").unique("u");
        rig.put_many(1).await;
        store.ping().await.unwrap();
        proxy.set(weather);
        let fair = async {
            eventually("it arrives", async || rig.raw::<u64>(redis::cmd("HLEN").arg(rig.key("jobs"))).await == 2).await;
            proxy.set(Weather::Fair);
        };
        let batch = [job.clone()];
        let (answers, ()) = tokio::join!(store.enqueue(&batch), fair);
        assert_eq!(answers.unwrap(), [Ok(Enqueued::Exists(job.id))]);
        assert_eq!(rig.audit().await.jobs.len(), 2);
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_a_redis_that_is_away() {
    let (rig, proxy, store) = behind_proxy().await;
    // Of an answer that is text, and of one that is a list.
    for bytes in 0..7 {
        store.ping().await.unwrap();
        store.counts(&rig.queue).await.unwrap();
        proxy.set(Weather::CutAnswers(bytes));
        let error =
            if bytes % 2 == 0 { store.ping().await.unwrap_err() } else { store.counts(&rig.queue).await.unwrap_err() };
        assert!(error.is_unavailable(), "{error}");
        let error = JobError::from(error);
        assert!(matches!(error.decision(), Decision::Snooze(_)), "{error}");
        proxy.set(Weather::Fair);
    }
}

#[tokio::test]
async fn a_wait_that_is_dropped_leaves_nobody_behind_who_takes_the_next_token() {
    let rig = Rig::new().await;
    let waker = Waker::new(&rig.store, &rig.queue, Duration::from_secs(30));
    for _ in 0..20 {
        tokio::time::timeout(Duration::from_millis(5), waker.wait()).await.unwrap_err();
    }
    // Redis hands a token to whoever has waited longest.
    let (woken, _) = tokio::join!(tokio::time::timeout(Duration::from_secs(5), waker.wait()), rig.put_many(1));
    assert!(woken.expect("the token was for this wait").unwrap());
}
