//! The metrics of the queue: names, help and labels in one place. The families of jobs have theirs beside their code.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector};

/// Registers a collector and hands it back.
///
/// # Panics
/// When two collectors of one name are registered: a programming error that the first start shows.
pub fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: Result<C, prometheus::Error>) -> C {
    let collector = collector.expect("metric names and labels are valid constants");
    registry.register(Box::new(collector.clone())).expect("each metric is registered once");
    collector
}

/// 1 ms to 2 minutes and beyond, in steps of about 2.5.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0];

/// The queue's metrics. Cheap to clone; one registration a process.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    /// Jobs put into Redis, by queue and kind: fast ones when they are enqueued, journaled ones when they are relayed.
    pub enqueued: IntCounterVec,
    /// Attempts finished, by queue, kind and outcome.
    pub finished: IntCounterVec,
    /// Failed attempts, by queue, kind and error class.
    pub failed: IntCounterVec,
    /// Seconds from ready to start, deliberate delay excluded.
    pub wait: HistogramVec,
    /// Seconds that an attempt ran.
    pub duration: HistogramVec,
    /// Jobs by queue and state. Several processes export the same value: take the maximum, not the sum.
    pub depth: IntGaugeVec,
    /// Seconds since the oldest ready job became ready. Take the maximum.
    pub oldest_ready: IntGaugeVec,
    /// Bytes of the jobs that a queue holds. Take the maximum.
    pub bytes: IntGaugeVec,
    /// Lanes of a queue that wait for a limit, or are paused. Take the maximum.
    pub lanes_waiting: IntGaugeVec,
    /// Dead fast jobs that were dropped because they were too many or too old. Take the maximum.
    pub dead_dropped: IntCounterVec,
    /// Slots of this process, by queue and whether they are busy.
    pub slots: IntGaugeVec,
    /// Jobs that went back because their worker was lost.
    pub rescued: IntCounterVec,
    /// Jobs that this process ran and no longer owned.
    pub leases_lost: IntCounterVec,
    /// Jobs that were acknowledged unrun, because their journal row was gone.
    pub ghosts: IntCounterVec,
    /// Seconds that a Redis script took, seen from here.
    pub script: HistogramVec,
}

impl QueueMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let counter =
            |name, help, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels));
        let gauge = |name, help, labels: &[&str]| register(registry, IntGaugeVec::new(Opts::new(name, help), labels));
        let seconds = |name, help, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            register(registry, HistogramVec::new(options, labels))
        };
        Self {
            enqueued: counter(
                "windrow_jobs_enqueued_total",
                "Jobs that this process put into Redis: fast ones as they were enqueued, journaled ones as they were relayed.",
                &["queue", "kind"],
            ),
            finished: counter(
                "windrow_jobs_finished_total",
                "Attempts that this process finished, by outcome (complete, retry, snooze, release, park, cancel, dead, gone).",
                &["queue", "kind", "outcome"],
            ),
            failed: counter(
                "windrow_jobs_failed_total",
                "Failed attempts, by class of error.",
                &["queue", "kind", "class"],
            ),
            wait: seconds(
                "windrow_job_wait_seconds",
                "From ready to start; deliberate delay does not count.",
                &["queue", "kind"],
            ),
            duration: seconds("windrow_job_duration_seconds", "How long an attempt ran.", &["queue", "kind"]),
            depth: gauge(
                "windrow_queue_depth",
                "Jobs by state (ready, scheduled, running, parked, dead). Several processes export it: use max.",
                &["queue", "state"],
            ),
            oldest_ready: gauge(
                "windrow_queue_oldest_ready_seconds",
                "Age of the oldest ready job. Several processes export it: use max.",
                &["queue"],
            ),
            bytes: gauge(
                "windrow_queue_bytes",
                "Bytes of the jobs that stand, dead ones left out. Several processes export it: use max.",
                &["queue"],
            ),
            lanes_waiting: gauge(
                "windrow_queue_lanes_waiting",
                "Lanes (band, tenant and kind) that wait for a limit or are paused. Several processes export it: use max.",
                &["queue"],
            ),
            dead_dropped: counter(
                "windrow_dead_dropped_total",
                "Dead fast jobs dropped because they were too many or too old. Several processes export it: use max.",
                &["queue"],
            ),
            slots: gauge("windrow_worker_slots", "Slots of this process, by state (free, busy).", &["queue", "state"]),
            rescued: counter("windrow_jobs_rescued_total", "Jobs given back after their worker was lost.", &["queue"]),
            leases_lost: counter(
                "windrow_leases_lost_total",
                "Jobs that this process ran and no longer owned.",
                &["queue"],
            ),
            ghosts: counter(
                "windrow_jobs_ghost_total",
                "Jobs acknowledged unrun, because the journal no longer held them.",
                &["queue"],
            ),
            script: seconds("windrow_redis_script_seconds", "Round trip of a Redis script.", &["script"]),
        }
    }
}
