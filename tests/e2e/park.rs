//! Parking until a callback comes, or its deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use windrow_queue::{
    Outcome, QueueName, journal,
    store::{Callback, CallbackToken, CalledBack, Store},
};
use windrow_tests::{Number, Stage, Worker, handler, numbers, until};
use windrow_worker::{Config, Registry};

const QUEUE: QueueName = QueueName::from_static("test");
const DONE: (&str, &str) = ("windrow_jobs_finished_total", "complete");

fn answer() -> Box<RawValue> {
    RawValue::from_string(r#"{"score":7}"#.into()).unwrap()
}

async fn call_back(store: &Store, token: &CallbackToken) -> Callback {
    store.call_back(&token.queue(), token.digest(), &answer()).await.unwrap()
}

/// Parks number 0 once, and tells what came; the other numbers are done at once.
fn parking(deadline: Duration, early: Option<Store>) -> (Registry, mpsc::UnboundedReceiver<CallbackToken>, Came) {
    let (tokens, given) = mpsc::unbounded_channel();
    let (came, comes) = mpsc::unbounded_channel();
    let registry = Registry::new().with(handler(move |ctx, args: Number| {
        let (tokens, came, early) = (tokens.clone(), came.clone(), early.clone());
        async move {
            assert_eq!(ctx.attempt(), 1, "a park counts no attempt");
            if args.n > 0 {
                return Ok(Outcome::Done);
            }
            match ctx.called_back() {
                None => {
                    let token = ctx.callback().await?;
                    if let Some(store) = early {
                        assert_eq!(call_back(&store, &token).await, Callback::Delivered);
                    }
                    tokens.send(token).unwrap();
                    Ok(Outcome::Park { deadline })
                }
                Some(CalledBack::Payload(payload)) => {
                    came.send(Some(payload.get().to_owned())).unwrap();
                    Ok(Outcome::Done)
                }
                Some(CalledBack::TimedOut) => {
                    came.send(None).unwrap();
                    Ok(Outcome::Done)
                }
            }
        }
    }));
    (registry, given, comes)
}

type Came = mpsc::UnboundedReceiver<Option<String>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_job_holds_no_slot_and_goes_on_with_what_was_called_back() {
    let stage = Stage::new().await;
    let (registry, mut tokens, mut came) = parking(Duration::from_secs(60), None);
    let worker = stage.worker_with(registry, Config { concurrency: 1, ..Config::default() });
    stage.enqueue(&numbers(2)).await;
    let token = tokens.recv().await.unwrap();
    until("the other one is done in the only slot", || async { worker.counted(DONE.0, DONE.1) == 1 }).await;
    until("it is parked", || async { stage.store.counts(&QUEUE).await.unwrap().parked == 1 }).await;
    assert!(came.try_recv().is_err());
    assert_eq!(call_back(&stage.store, &token).await, Callback::Delivered);
    assert_eq!(came.recv().await.unwrap().as_deref(), Some(r#"{"score":7}"#));
    until("it is done", || async { worker.counted(DONE.0, DONE.1) == 2 }).await;
    assert_eq!(worker.counted(DONE.0, "park"), 1);
    worker.stop().await;
    assert_eq!(call_back(&stage.store, &token).await, Callback::Unknown, "its job is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_comes_before_the_job_parks_is_not_lost() {
    let stage = Stage::new().await;
    let (registry, mut tokens, mut came) = parking(Duration::from_secs(60), Some(stage.store.clone()));
    let worker = stage.worker(registry);
    stage.enqueue(&numbers(1)).await;
    tokens.recv().await.unwrap();
    assert_eq!(came.recv().await.unwrap().as_deref(), Some(r#"{"score":7}"#));
    until("it is done", || async { worker.counted(DONE.0, DONE.1) == 1 }).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_that_race_with_the_park_all_arrive() {
    let stage = Stage::new().await;
    let (tokens, mut given) = mpsc::unbounded_channel();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, _: Number| {
        let tokens = tokens.clone();
        async move {
            if let Some(called) = ctx.called_back() {
                assert!(matches!(called, CalledBack::Payload(_)));
                return Ok(Outcome::Done);
            }
            tokens.send(ctx.callback().await?).unwrap();
            Ok(Outcome::Park { deadline: Duration::from_secs(60) })
        }
    })));
    stage.enqueue(&numbers(200)).await;
    for _ in 0..200 {
        let token = given.recv().await.unwrap();
        let store = stage.store.clone();
        tokio::spawn(async move { assert_eq!(call_back(&store, &token).await, Callback::Delivered) });
    }
    until("all are done", || async { worker.counted(DONE.0, DONE.1) == 200 }).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_calls_back_goes_on_when_its_deadline_is_over() {
    let stage = Stage::new().await;
    let (registry, mut tokens, mut came) = parking(Duration::from_millis(300), None);
    let worker = stage.worker(registry);
    stage.enqueue(&numbers(1)).await;
    let token = tokens.recv().await.unwrap();
    assert_eq!(came.recv().await.unwrap(), None);
    until("it is done", || async { worker.counted(DONE.0, DONE.1) == 1 }).await;
    assert_ne!(call_back(&stage.store, &token).await, Callback::Delivered, "nobody waits for it any more");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_comes_once_and_a_released_job_runs_again_at_once() {
    let stage = Stage::new().await;
    let (registry, mut tokens, _came) = parking(Duration::from_secs(60), None);
    let worker = stage.worker(registry);
    stage.enqueue(&numbers(1)).await;
    let token = tokens.recv().await.unwrap();
    until("it is parked", || async { stage.store.counts(&QUEUE).await.unwrap().parked == 1 }).await;
    worker.stop().await;
    assert_eq!(call_back(&stage.store, &token).await, Callback::Delivered);
    assert_eq!(call_back(&stage.store, &token).await, Callback::Duplicate);
    let released = Arc::new(AtomicBool::new(false));
    let worker = stage.worker(Registry::new().with(handler(move |ctx, _: Number| {
        let first = !released.swap(true, Ordering::Relaxed);
        async move {
            assert!(ctx.attempt() == 1 && matches!(ctx.called_back(), Some(CalledBack::Payload(_))));
            Ok(if first { Outcome::Release } else { Outcome::Done })
        }
    })));
    until("it is done", || async { worker.counted(DONE.0, DONE.1) == 1 }).await;
    assert_eq!(worker.counted(DONE.0, "release"), 1);
    worker.stop().await;
}

/// A journaled job comes back through the outbox: somebody relays until it is done.
async fn relay_until_done(stage: &Stage, worker: &Worker, jobs: u64) {
    until("all are done", || async {
        stage.relay().await;
        worker.counted(DONE.0, DONE.1) == jobs
    })
    .await;
    until("nothing is left", || async { stage.is_idle().await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_journaled_job_waits_in_postgres_and_goes_on_with_what_was_called_back() {
    let stage = Stage::new().await;
    let (registry, mut tokens, mut came) = parking(Duration::from_secs(60), None);
    let worker = stage.worker(registry);
    stage.enqueue_journaled(&numbers(1)).await;
    let token = tokens.recv().await.unwrap();
    let parked = "SELECT count(*) FROM job_journal WHERE state = 'parked'";
    until("it is parked", || async { stage.count(parked).await == 1 }).await;
    until("Redis has forgotten it", || async { stage.store.counts(&QUEUE).await.unwrap().running == 0 }).await;
    assert_eq!(stage.store.counts(&QUEUE).await.unwrap().parked, 0, "it waits in one place");
    stage.flush().await;
    assert_eq!(
        journal::call_back(&stage.database, token.digest(), &answer()).await.unwrap(),
        Callback::Delivered,
        "a wiped Redis takes no park away"
    );
    relay_until_done(&stage, &worker, 1).await;
    assert_eq!(came.recv().await.unwrap().as_deref().map(without_spaces), Some(r#"{"score":7}"#.into()));
    assert_eq!(worker.counted(DONE.0, "park"), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_of_journaled_jobs_arrive_before_while_and_after_they_park() {
    let stage = Stage::new().await;
    let (tokens, mut given) = mpsc::unbounded_channel();
    let database = stage.database.clone();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, args: Number| {
        let (tokens, database) = (tokens.clone(), database.clone());
        async move {
            if let Some(called) = ctx.called_back() {
                assert!(matches!(called, CalledBack::Payload(_)));
                return Ok(Outcome::Done);
            }
            let token = ctx.callback().await?;
            if args.n % 2 == 0 {
                let answer = journal::call_back(&database, token.digest(), &answer()).await.unwrap();
                assert_eq!(answer, Callback::Delivered);
            } else {
                tokens.send(token).unwrap();
            }
            Ok(Outcome::Park { deadline: Duration::from_secs(60) })
        }
    })));
    stage.enqueue_journaled(&numbers(50)).await;
    for _ in 0..25 {
        let token = given.recv().await.unwrap();
        let answer = journal::call_back(&stage.database, token.digest(), &answer()).await.unwrap();
        assert_eq!(answer, Callback::Delivered);
    }
    relay_until_done(&stage, &worker, 50).await;
    assert_eq!(worker.counted(DONE.0, "park"), 50);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journaled_job_that_nobody_calls_back_goes_on_when_its_deadline_is_over() {
    let stage = Stage::new().await;
    let (registry, mut tokens, mut came) = parking(Duration::from_millis(50), None);
    let worker = stage.worker(registry);
    stage.enqueue_journaled(&numbers(1)).await;
    let token = tokens.recv().await.unwrap();
    until("its deadline was seen", || async { journal::unpark_due(&stage.database, 100).await.unwrap().1 == 1 }).await;
    relay_until_done(&stage, &worker, 1).await;
    assert_eq!(came.recv().await.unwrap(), None);
    let late = journal::call_back(&stage.database, token.digest(), &answer()).await.unwrap();
    assert_ne!(late, Callback::Delivered, "nobody waits for it any more");
    worker.stop().await;
}

/// PostgreSQL writes JSON its own way.
fn without_spaces(json: &str) -> String {
    json.replace(' ', "")
}
