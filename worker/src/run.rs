//! Puts a worker process together.

use std::sync::{Arc, atomic::AtomicBool};

use sqlx::PgPool;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use windrow_queue::{health::Health, journal, metrics::QueueMetrics, shutdown::Shutdown, store::Store};

use crate::{
    Config, Registry, adapter,
    clock::RedisClock,
    complete::Completer,
    config::Served,
    execute::Executor,
    hub::{Hub, HubParts},
    mirror,
    prepare::Preparer,
    probe,
    share::Portion,
};

/// What a worker needs from outside.
#[derive(Debug)]
pub struct Deps {
    /// Redis.
    pub store: Store,
    /// Postgres.
    pub database: PgPool,
    /// What executes each kind.
    pub handlers: Registry,
    /// Where it counts.
    pub metrics: QueueMetrics,
    /// Where it says what is out of order.
    pub health: Health,
}

/// Executes jobs until told to stop: softly, running jobs finish within the grace period and the rest is given back with no
/// attempt counted; hard, it returns at once and what ran is rescued by others when its lease is over.
///
/// # Errors
/// When the settings are wrong. A store that is away is waited for.
pub async fn run(config: Config, deps: Deps, shutdown: Shutdown) -> anyhow::Result<()> {
    let served = config.served(&deps.handlers.catalog().queues())?;
    deps.store.observe(&deps.metrics);
    let clock = RedisClock::default();
    let journal_ok = Arc::new(AtomicBool::new(true));
    // Everything that lives as long as this role; dropped, and so aborted, when it ends.
    let mut tasks = JoinSet::new();
    tasks.spawn(probe::run(deps.database.clone(), Arc::clone(&journal_ok), deps.health.part("postgres (worker)")));
    tasks.spawn(journal::keep_registering(deps.database.clone(), deps.handlers.catalog()));
    let (mirror, mirrored) = mpsc::channel(mirror::BACKLOG);
    tasks.spawn(mirror::run(deps.database.clone(), mirrored));

    let info = format!("{}:{}", hostname(), std::process::id());
    let (mut hubs, mut queues) = (Vec::new(), Vec::new());
    report_zeroes(&deps.metrics, &deps.handlers);
    let weights: Vec<u32> = served.iter().map(|served| served.weight).collect();
    for (served, portion) in served.into_iter().zip(Portion::divide(config.max_running, &weights)) {
        let Served { queue, concurrency, weight: _ } = served;
        let (deliveries, rx) = mpsc::channel(concurrency);
        let (claims, unprepared) = mpsc::unbounded_channel();
        let preparer = Preparer {
            queue: queue.clone(),
            registry: deps.handlers.clone(),
            store: deps.store.clone(),
            unknown_after: config.unknown_after,
            database: deps.database.clone(),
            metrics: deps.metrics.clone(),
            deliveries,
            journal_ok: Arc::clone(&journal_ok),
        };
        tasks.spawn(preparer.clone().run(unprepared));
        queues.push((queue.clone(), rx));
        hubs.push(Hub::new(HubParts {
            health: deps.health.part(format!("redis (queue {queue})")),
            queue,
            concurrency,
            portion,
            // Hubs live on a runtime of their own.
            store: deps.store.detached(),
            grace: config.grace,
            preparer,
            claims,
            mirror: mirror.clone(),
            metrics: deps.metrics.clone(),
            clock: clock.clone(),
            shutdown: shutdown.clone(),
            info: info.clone(),
        }));
    }
    let executor = Arc::new(Executor {
        completer: Completer::start(deps.database.clone()),
        database: deps.database,
        metrics: deps.metrics,
        clock,
    });
    let mut drained = start_lease_thread(hubs, shutdown.clone())?;
    let mut ended = Ok(());
    let until_drained = async {
        ended = (&mut drained).await.unwrap_or_else(|_| Err(anyhow::anyhow!("the lease thread ended by itself")));
    };
    tokio::select! {
        result = adapter::run(queues, executor, until_drained) => result?,
        () = shutdown.hard.cancelled() => {}
    }
    ended
}

/// Starts the thread on which all hubs live, apart from the handlers: a handler that blocks every core of the runtime must
/// not keep heartbeats from being sent. Resolves when all hubs have ended. One that crashed ends the role: a process that
/// serves only some of its queues looks well and is not.
fn start_lease_thread(hubs: Vec<Hub>, shutdown: Shutdown) -> std::io::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, drained) = oneshot::channel();
    std::thread::Builder::new().name("windrow-lease".into()).spawn(move || {
        let result = runtime.block_on(async {
            let mut running: JoinSet<()> = hubs.into_iter().map(Hub::run).collect();
            let mut result = Ok(());
            while let Some(hub) = running.join_next().await {
                if let Err(error) = hub {
                    tracing::error!(%error, "a hub crashed: this worker stops");
                    shutdown.stop();
                    result = Err(anyhow::anyhow!("a hub crashed: {error}"));
                }
            }
            result
        });
        // Nobody listens after a hard stop.
        let _ = ended.send(result);
    })?;
    Ok(drained)
}

/// What has not happened yet is zero, not absent: an alert on a counter needs its first increase.
fn report_zeroes(metrics: &QueueMetrics, handlers: &Registry) {
    for info in handlers.catalog().iter() {
        let queue = info.queue.as_str();
        for counter in [&metrics.rescued, &metrics.leases_lost, &metrics.ghosts] {
            counter.with_label_values(&[queue]).inc_by(0);
        }
        for outcome in ["complete", "retry", "snooze", "release", "park", "cancel", "dead", "gone"] {
            metrics.finished.with_label_values(&[queue, info.kind.as_str(), outcome]).inc_by(0);
        }
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}
