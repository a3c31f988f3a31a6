//! Jobs of a kind that no worker of their queue knows.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use windrow_queue::{JobArgs, Kind, NewJob, Outcome, QueueName, store::Filter};
use windrow_tests::{Number, Stage, handler, until};
use windrow_worker::{Config, Registry};

#[derive(Serialize, Deserialize)]
struct Newer {}

impl JobArgs for Newer {
    const KIND: Kind = Kind::from_static("test.newer");
    const QUEUE: QueueName = Number::QUEUE;
}

fn registry() -> Registry {
    Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_an_unknown_kind_waits_for_a_program_that_knows_it() {
    let stage = Stage::new().await;
    let worker = stage.worker(registry());
    stage.enqueue(&[NewJob::new(&Newer {}).unwrap()]).await;
    until("it was given back", || async { worker.counted("windrow_jobs_failed_total", "unknown_kind") == 1 }).await;
    until("it waits", || async { stage.store.counts(&Number::QUEUE).await.unwrap().scheduled == 1 }).await;
    worker.stop().await;
    let newer = stage.worker(registry().with(handler(|ctx, _: Newer| async move {
        assert_eq!(ctx.attempt(), 1);
        Ok(Outcome::Done)
    })));
    until("it is done", || async { newer.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    newer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_an_unknown_kind_is_dead_when_it_waited_for_too_long() {
    let stage = Stage::new().await;
    let worker = stage.worker_with(registry(), Config { unknown_after: Duration::ZERO, ..Config::default() });
    stage.enqueue(&[NewJob::new(&Newer {}).unwrap()]).await;
    stage.enqueue_journaled(&[NewJob::new(&Newer {}).unwrap()]).await;
    until("both are dead", || async { stage.is_idle().await }).await;
    let dead = stage.store.dead(&Number::QUEUE, &Filter::default(), None, 10).await.unwrap().items.remove(0);
    let error = dead.error.unwrap();
    assert_eq!(error.class, "unknown_kind");
    let reason = "no worker of its queue knew kind test.newer for ";
    assert!(error.message.starts_with(reason), "{error:?}");
    let closed: String = sqlx::query_scalar("SELECT reason FROM job_closed WHERE state = 'dead'")
        .fetch_one(&stage.database)
        .await
        .unwrap();
    assert!(closed.starts_with(reason), "{closed}");
    worker.stop().await;
}
