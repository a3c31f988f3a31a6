//! The one module that knows apalis.
//!
//! apalis is the shell around execution: a [`Monitor`] with one worker a queue. Its worker ends for good when a backend or a
//! service reports an error, and drops all running handlers with it; so this backend is a channel that is always ready,
//! never fails and never ends, and this service spawns each job and always succeeds. Outcomes, timeouts, panics and leases
//! are handled inside the spawned job (`execute`) and by the hub; draining is ours too, and is over before the monitor is
//! told to stop. Pinned to one version: what it does to the unwary was read in its source.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use apalis::prelude::{Monitor, WorkerBuilder};
use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{Task, task_id::RandomId},
    worker::context::WorkerContext,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tower::{Service, layer::util::Identity};
use windrow_queue::QueueName;

use crate::execute::{Delivery, Executor};

/// Where a queue's deliveries come from.
pub(crate) struct Deliveries {
    rx: mpsc::Receiver<Delivery>,
}

impl Backend for Deliveries {
    type Task = Task<Delivery>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Delivery>, Infallible>>> {
        match self.rx.poll_recv(cx) {
            Poll::Ready(Some(delivery)) => Poll::Ready(Some(Ok(Task::new(delivery)))),
            // The hub has ended. The monitor is told to stop right after; an end of the stream would be taken for an error.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        // What was delivered and never started is dropped here; its guard gives it back.
        self.rx.close();
        while self.rx.try_recv().is_ok() {}
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Deliveries {
    type Args = Delivery;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// The innermost service: spawns each job, so that none runs on the task that polls all workers.
#[derive(Clone)]
struct Spawn {
    executor: Arc<Executor>,
}

impl Service<Task<Delivery>> for Spawn {
    type Response = ();
    type Error = Infallible;
    type Future = Spawned;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Delivery>) -> Spawned {
        Spawned(tokio::spawn(Arc::clone(&self.executor).execute(task.args)))
    }
}

/// A job that runs as a task of its own, and is aborted if nobody waits for it any more.
struct Spawned(JoinHandle<()>);

impl Future for Spawned {
    type Output = Result<(), Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A panic outside the handler's own guard is logged by the runtime; the job's guard has given it back.
        Pin::new(&mut self.0).poll(cx).map(|_| Ok(()))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs one apalis worker a queue until `stop` resolves.
///
/// # Errors
/// When apalis ends by itself, which it should not.
pub(crate) async fn run(
    queues: Vec<(QueueName, mpsc::Receiver<Delivery>)>,
    executor: Arc<Executor>,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let mut monitor = Monitor::new();
    for (queue, rx) in queues {
        // The factory is called again after a crash of the worker, which none of our parts causes; the receiver is gone
        // then, and the restart ends the process's role with an error instead of an idle worker.
        let rx = std::sync::Mutex::new(Some(rx));
        let executor = Arc::clone(&executor);
        monitor = monitor.register(move |_| {
            let rx = rx.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            let rx = rx.expect("the worker of a queue is built once: neither backend nor service can fail");
            WorkerBuilder::new(queue.as_str())
                .backend(Deliveries { rx })
                .build(Spawn { executor: Arc::clone(&executor) })
        });
    }
    let signal = async {
        stop.await;
        Ok(())
    };
    monitor.run_with_signal(signal).await.map_err(|error| anyhow::anyhow!("apalis ended: {error}"))
}
