//! Batches: a follow-up when all members are final.

use tokio::sync::mpsc;
use uuid::Uuid;
use windrow_queue::{BatchId, JobArgs, JobError, NewJob, Outcome, journal, store::NewBatch};
use windrow_tests::{Number, Stage, handler, numbers, until};
use windrow_worker::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_runs_once_when_all_members_are_final_and_knows_how_they_ended() {
    let stage = Stage::new().await;
    let (fired, mut fires) = mpsc::unbounded_channel();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, args: Number| {
        let fired = fired.clone();
        async move {
            match args.n {
                0 => Err(JobError::bury("broken", anyhow::anyhow!("no"))),
                1 => Ok(Outcome::Cancel("not wanted".into())),
                2 if ctx.attempt() == 1 => Err(JobError::retry("unlucky", anyhow::anyhow!("once"))),
                -1 => {
                    fired.send(ctx.batch().await?.unwrap()).unwrap();
                    Ok(Outcome::Done)
                }
                _ => {
                    assert!(ctx.batch().await?.is_none(), "a member follows no batch");
                    Ok(Outcome::Done)
                }
            }
        }
    })));
    let id = BatchId(Uuid::from_u128(7));
    let follow_up = NewJob::new(&Number { n: -1 }).unwrap();
    stage.store.open_batch(&NewBatch { id, follow_up: follow_up.clone() }).await.unwrap().unwrap();
    let members: Vec<_> = numbers(50).into_iter().map(|job| job.batch(id)).collect();
    stage.enqueue(&members).await;
    assert!(stage.store.seal_batch(&Number::QUEUE, id).await.unwrap());
    let status = fires.recv().await.unwrap();
    assert_eq!((status.members, status.completed, status.dead, status.cancelled), (50, 48, 1, 1));
    assert_eq!((status.sealed, status.follow_up), (true, follow_up.id));
    until("nothing is left", || async { stage.is_idle().await }).await;
    assert!(fires.try_recv().is_err(), "it ran twice");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_of_journaled_jobs_knows_how_they_ended() {
    let stage = Stage::new().await;
    let (fired, mut fires) = mpsc::unbounded_channel();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, args: Number| {
        let fired = fired.clone();
        async move {
            match args.n {
                0 => Err(JobError::bury("broken", anyhow::anyhow!("no"))),
                -1 => {
                    fired.send(ctx.batch().await?.unwrap()).unwrap();
                    Ok(Outcome::Done)
                }
                _ => Ok(Outcome::Done),
            }
        }
    })));
    let id = BatchId(Uuid::from_u128(7));
    let mut tx = stage.database.begin().await.unwrap();
    let follow_up = NewJob::new(&Number { n: -1 }).unwrap();
    journal::open_batch_in(&mut tx, &NewBatch { id, follow_up }).await.unwrap();
    let members: Vec<_> = numbers(50).into_iter().map(|job| job.batch(id)).collect();
    journal::enqueue_in(&mut tx, &members).await.unwrap();
    assert!(journal::seal_batch_in(&mut tx, id).await.unwrap());
    tx.commit().await.unwrap();
    until("it fired", || async {
        stage.relay().await;
        journal::fire_batches(&stage.database, None, 100).await.unwrap();
        !fires.is_empty()
    })
    .await;
    let status = fires.recv().await.unwrap();
    assert_eq!((status.members, status.completed, status.dead, status.cancelled), (50, 49, 1, 0));
    until("nothing is left", || async { stage.is_idle().await }).await;
    worker.stop().await;
}
