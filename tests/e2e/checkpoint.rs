//! What an attempt leaves for the next, and for whoever looks on.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, mpsc};
use windrow_queue::{Decision, JobError, Member, Outcome, QueueName, store::JobState};
use windrow_tests::{Number, Stage, handler, numbers, until};
use windrow_worker::Registry;

const QUEUE: QueueName = QueueName::from_static("test");

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_fast_job_is_there_for_the_next_attempt_however_the_last_one_ended() {
    let stage = Stage::new().await;
    let worker = stage.worker(Registry::new().with(handler(|ctx, _: Number| async move {
        let seen: Option<u32> = ctx.checkpoint()?;
        let next = seen.unwrap_or(0) + 1;
        ctx.save_checkpoint(&next).await?;
        match next {
            1 => Err(JobError::retry("unlucky", anyhow::anyhow!("after the first step"))),
            2 => Ok(Outcome::Snooze(Duration::from_millis(1))),
            3 => panic!("after the third step"),
            4 => Ok(Outcome::Release),
            _ => {
                assert_eq!((next, ctx.attempt()), (5, 3));
                Ok(Outcome::Done)
            }
        }
    })));
    stage.enqueue(&numbers(1)).await;
    until("it is done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 1 }).await;
    assert_eq!(worker.counted("windrow_jobs_failed_total", ""), 2);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_kept_is_refused_with_advice() {
    let stage = Stage::new().await;
    let (said, mut says) = mpsc::unbounded_channel();
    let worker = stage.worker(Registry::new().with(handler(move |ctx, _: Number| {
        let said = said.clone();
        async move {
            let state = "x".repeat(if ctx.is_journaled() { 10 } else { 64 * 1024 });
            let error = ctx.save_checkpoint(&state).await.unwrap_err();
            assert_eq!(error.decision(), Decision::Bury);
            said.send(error.to_string()).unwrap();
            Ok(Outcome::Done)
        }
    })));
    stage.enqueue(&numbers(1)).await;
    let large = says.recv().await.unwrap();
    assert!(large.contains("65538 bytes, more than 65536: put the state into a table or a file"), "{large}");
    stage.enqueue_journaled(&numbers(1)).await;
    let journaled = says.recv().await.unwrap();
    assert!(journaled.contains("test.number is journaled") && journaled.contains("with step"), "{journaled}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_shows_in_the_status_while_the_job_runs_and_after_an_attempt_failed() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let at_gate = Arc::clone(&gate);
    let worker = stage.worker(Registry::new().with(handler(move |ctx, _: Number| {
        let gate = Arc::clone(&at_gate);
        async move {
            if ctx.attempt() == 1 {
                // Far more often than anything is written.
                for done in 0..=100_000 {
                    ctx.progress(done, 200_000);
                }
                gate.acquire().await.unwrap().forget();
                return Err(JobError::retry_after(Duration::from_secs(60), "unlucky", anyhow::anyhow!("half way")));
            }
            Ok(Outcome::Done)
        }
    })));
    let jobs = numbers(1);
    stage.enqueue(&jobs).await;
    let progress = || async {
        let status = stage.store.status(&QUEUE, Member::fast(jobs[0].id)).await.unwrap().unwrap();
        (status.state, status.progress.map(|progress| (progress.done, progress.total)))
    };
    until("the last figures are there", || async { progress().await == (JobState::Running, Some((100_000, 200_000))) })
        .await;
    gate.add_permits(1);
    until("it waits for its next attempt", || async { progress().await.0 == JobState::Scheduled }).await;
    assert_eq!(progress().await.1, Some((100_000, 200_000)));
    worker.stop().await;
}
