//! A failover of Redis under running workers.

use std::time::{Duration, Instant};

use windrow_queue::NewJob;
use windrow_tests::{Number, Page, Place, Site, Stage, handler, long_ones, sentinels, until, until_within};
use windrow_worker::Registry;

fn registry() -> Registry {
    Registry::new().with(handler(|ctx, args: Number| async move {
        let mut tx = ctx.begin().await?;
        sqlx::query("INSERT INTO effect VALUES ($1)").bind(args.n).execute(&mut *tx).await?;
        Ok(tx.commit().await?.into())
    }))
}

fn numbered(from: i64, count: i64) -> Vec<NewJob> {
    (from..from + count).map(|n| NewJob::new(&Number { n }).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_after_a_failover_and_every_effect_is_there_once() {
    const EFFECTS: &str = "SELECT count(*) FROM effect";
    let (group, config) = sentinels().await;
    let stage = Stage::elsewhere(&config).await;
    sqlx::query("CREATE TABLE effect (n bigint)").execute(&stage.database).await.unwrap();
    stage.enqueue_journaled(&numbered(0, 1500)).await;
    tokio::task::block_in_place(|| group.until_replicated().unwrap());
    let worker = stage.worker(registry());
    until("some are done", || async { stage.count(EFFECTS).await >= 100 }).await;

    let started = Instant::now();
    let lost = group.master().unwrap();
    lost.kill().unwrap();
    assert!(stage.count(EFFECTS).await < 1400, "it was killed in the middle");
    tokio::task::block_in_place(|| group.until_failed_over(lost).unwrap());
    println!("another master after {:?}", started.elapsed());
    until_within(Duration::from_secs(30), "all is done", || async {
        stage.store.ping().await.is_ok() && stage.is_idle().await
    })
    .await;
    println!("all is done after {:?}", started.elapsed());
    // What is new goes the same way, over the connections of before.
    stage.enqueue_journaled(&numbered(1500, 50)).await;
    until("what is new is done", || async { stage.is_idle().await }).await;
    assert_eq!((stage.count(EFFECTS).await, stage.count("SELECT count(DISTINCT n) FROM effect").await), (1550, 1550));
    until("it is well", || async { worker.health.is_ready() }).await;
    assert_eq!(worker.counted("windrow_jobs_rescued_total", ""), 0, "its session was given time");

    // The old master comes back as a replica, and the next failover is as harmless.
    lost.restart().unwrap();
    tokio::task::block_in_place(|| group.settled(1).unwrap());
    stage.enqueue_journaled(&numbered(1550, 50)).await;
    until("what is new is done", || async { stage.is_idle().await }).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_stands_behind_the_sentinels() {
    let ((group, config), mut place) = tokio::join!(sentinels(), Place::new());
    place.move_elsewhere(&config);
    let ended = place.run(&["check"]).await;
    let master = format!("\"windrow\" is 127.0.0.1:{}, which has 1 replicas", group.servers()[0].port());
    assert!(ended.code == 0 && ended.stdout.contains(&master), "{ended:?}");
    tokio::task::block_in_place(|| group.sentinels()[1].kill().unwrap());
    let ended = place.run(&["check"]).await;
    let port = group.sentinels()[1].port();
    let missing = format!("the Sentinel 127.0.0.1:{port} would take no part in a failover");
    assert!(ended.code == 0 && ended.stdout.contains(&missing), "{ended:?}");
    place.set("REDIS__SENTINEL_MASTER", "other");
    let ended = place.run(&["check"]).await;
    assert!(ended.code != 0 && ended.stdout.contains("knows no master named \"other\""), "{ended:?}");
    let secrets = [group.sentinel_password(), config.url.split(['@', ':']).nth(2).unwrap()];
    for secret in secrets {
        assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(secret), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_roles_go_on_after_failovers_and_every_vacancy_is_scored_once() {
    if !long_ones() {
        return;
    }
    let ((group, config), mut place, site) = tokio::join!(sentinels(), Place::new(), Site::start());
    place.move_elsewhere(&config);
    place.set("SCHEDULER__RECONCILER__PERIOD", "1s");
    place.set("SCHEDULER__RECONCILER__AGE", "2s");
    place.tenant(&site).await;
    for name in ["north", "south"] {
        place.source(&site, name, Page::vacancies(name, 60)).await;
    }
    let (scheduler, worker) = tokio::join!(place.start("scheduler"), place.start("worker"));
    let api = place.start("api").await;
    let answer = Page::new("application/json", r#"{"score": 3, "reason": "slow"}"#).delay(Duration::from_millis(100));
    site.put("/score", answer);
    place.json(&["sources", "fetch", "--all"]).await;
    for scored in [10, 60] {
        until("some are scored", || async { place.count("SELECT count(*) FROM scoring_history").await >= scored })
            .await;
        let lost = group.master().unwrap();
        lost.kill().unwrap();
        tokio::task::block_in_place(|| {
            group.until_failed_over(lost).unwrap();
            lost.restart().unwrap();
            group.settled(1).unwrap();
        });
    }
    until_within(Duration::from_secs(60), "all is done", || async {
        place.store.ping().await.is_ok() && place.is_idle().await
    })
    .await;
    for role in [&scheduler, &worker, &api] {
        role.await_readiness(200, "").await;
    }
    place.assert_scored(120).await;
}
