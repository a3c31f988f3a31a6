//! Limits and pauses hold over all workers, and what they hold back takes up no slot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use windrow_queue::{
    JobArgs, NewJob, Outcome, Tenant,
    store::{Limit, Rate, Scope},
};
use windrow_tests::{Number, Stage, handler, numbers, until};
use windrow_worker::Registry;

const DONE: (&str, &str) = ("windrow_jobs_finished_total", "complete");

fn of(tenant: &'static str, count: i64) -> Vec<NewJob> {
    numbers(count).into_iter().map(|job| job.tenant(Tenant::from_static(tenant))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_each_tenant_holds_over_all_workers_and_leaves_the_slots_to_the_others() {
    let stage = Stage::new().await;
    let limit = Limit { concurrency: Some(3), rate: None };
    stage.store.set_limit(&Number::QUEUE, &Scope::EachTenant, &limit).await.unwrap();
    let (running, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let registry = || {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        Registry::new().with(handler(move |ctx, _: Number| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                if ctx.tenant().is_some_and(|tenant| tenant.as_str() == "big") {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    sleep(Duration::from_millis(5)).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(Outcome::Done)
            }
        }))
    };
    let workers = [stage.worker(registry()), stage.worker(registry())];
    let done = || workers.iter().map(|worker| worker.counted(DONE.0, DONE.1)).sum::<u64>();
    stage.enqueue(&of("big", 200)).await;
    stage.enqueue(&of("small", 20)).await;
    until("all are done", || async { done() == 220 }).await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_limit_goes_on_as_soon_as_a_slot_is_free() {
    let stage = Stage::new().await;
    let limit = Limit { concurrency: Some(1), rate: None };
    stage.store.set_limit(&Number::QUEUE, &Scope::Queue, &limit).await.unwrap();
    let worker = stage.worker(Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) })));
    let began = Instant::now();
    stage.enqueue(&numbers(100)).await;
    until("all are done", || async { worker.counted(DONE.0, DONE.1) == 100 }).await;
    // One after the other, a round trip or two each: far from the pause of a worker that finds nothing for itself (25 s in all).
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_spreads_starts_over_time() {
    let stage = Stage::new().await;
    let rate = Rate { count: 20, per: Duration::from_secs(1), burst: Some(1) };
    let limit = Limit { concurrency: None, rate: Some(rate) };
    stage.store.set_limit(&Number::QUEUE, &Scope::Kind(Number::KIND), &limit).await.unwrap();
    let worker = stage.worker(Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) })));
    let began = Instant::now();
    stage.enqueue(&numbers(21)).await;
    until("all are done", || async { worker.counted(DONE.0, DONE.1) == 21 }).await;
    let took = began.elapsed();
    assert!((Duration::from_millis(950)..Duration::from_secs(5)).contains(&took), "{took:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_waits_and_goes_on_when_it_is_resumed() {
    let stage = Stage::new().await;
    let scope = Scope::Tenant(Tenant::from_static("big"));
    stage.store.pause(&Number::QUEUE, &scope).await.unwrap();
    let worker = stage.worker(Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) })));
    stage.enqueue(&of("big", 5)).await;
    stage.enqueue(&of("small", 5)).await;
    until("the others are done", || async { worker.counted(DONE.0, DONE.1) == 5 }).await;
    assert_eq!(stage.store.counts(&Number::QUEUE).await.unwrap().ready, 5);
    stage.store.resume(&Number::QUEUE, &scope).await.unwrap();
    until("all are done", || async { worker.counted(DONE.0, DONE.1) == 10 }).await;
    worker.stop().await;
}
