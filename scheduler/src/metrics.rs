//! The scheduler's metrics: names, help and labels in one place.

use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use windrow_queue::metrics::register;

/// Half a millisecond to a minute and beyond.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

/// Cheap to clone; one registration a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Fire times by outcome.
    pub fires: IntCounterVec,
    /// From due (jitter included) to committed.
    pub lag: Histogram,
    /// Schedules by state.
    pub schedules: IntGaugeVec,
    /// Seconds by which the next fire is overdue; 0 when none is.
    pub overdue: IntGauge,
    /// When the next fire is due, in seconds since 1970; 0 when none is.
    pub next_due: Gauge,
    /// Schedules whose jobs keep dying.
    pub failing: IntGauge,
    /// Journaled jobs by what became of them on the way into Redis.
    pub relayed: IntCounterVec,
    /// From accepted to in Redis.
    pub relay_seconds: Histogram,
    /// Rows of the journal.
    pub journal_rows: IntGauge,
    /// Age of the oldest row of the outbox.
    pub outbox_oldest: IntGauge,
    /// Rows and jobs that services put right or took away.
    pub tidied: IntCounterVec,
    /// Findings by queue and what was found.
    pub redis_found: IntCounterVec,
    /// From a finding to the new epoch.
    pub redis_heal_seconds: Histogram,
    /// Batches by service.
    pub service_runs: IntCounterVec,
    /// Seconds a batch took.
    pub service_seconds: HistogramVec,
}

impl Metrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let options = |name, help| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let counter =
            |name, help, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels));
        let metrics = Self {
            fires: counter(
                "windrow_schedule_fires_total",
                "Fire times by outcome (fired, skipped, queued, missed).",
                &["outcome"],
            ),
            lag: register(
                registry,
                Histogram::with_opts(options(
                    "windrow_schedule_lag_seconds",
                    "From the due time of a fire, jitter included, to its job being committed.",
                )),
            ),
            schedules: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "windrow_schedules",
                        "Schedules by state (active, paused, disabled, error); active ones estimated when there are very many. Several processes export it: use max.",
                    ),
                    &["state"],
                ),
            ),
            overdue: register(
                registry,
                IntGauge::new(
                    "windrow_schedule_overdue_seconds",
                    "How long the schedule that waits longest has been due. Several processes export it: use max.",
                ),
            ),
            next_due: register(
                registry,
                Gauge::new(
                    "windrow_schedule_next_due_timestamp_seconds",
                    "When the next fire is due, jitter included, in seconds since 1970; 0: nothing is. Use max.",
                ),
            ),
            failing: register(
                registry,
                IntGauge::new(
                    "windrow_schedules_failing",
                    "Schedules whose last jobs died, three at least, with none in between that came through. Use max.",
                ),
            ),
            relayed: counter(
                "windrow_relay_jobs_total",
                "Journaled jobs taken from the outbox, by outcome (relayed, refused, unavailable, invalid).",
                &["queue", "outcome"],
            ),
            relay_seconds: register(
                registry,
                Histogram::with_opts(options(
                    "windrow_relay_seconds",
                    "From the begin of the enqueuing transaction to the job being in Redis.",
                )),
            ),
            journal_rows: register(
                registry,
                IntGauge::new(
                    "windrow_journal_rows",
                    "Journaled jobs that still have to happen, as Postgres estimates them. Use max.",
                ),
            ),
            outbox_oldest: register(
                registry,
                IntGauge::new(
                    "windrow_outbox_oldest_seconds",
                    "How long the oldest job has waited to be relayed. Use max.",
                ),
            ),
            tidied: counter(
                "windrow_tidied_total",
                "Jobs put back or buried and records pruned, by what was done (promoted, rescued, buried, put_back, …).",
                &["outcome"],
            ),
            redis_found: counter(
                "windrow_redis_found_total",
                "Times that Redis or PostgreSQL came back from an earlier time (wiped, rolled_back, postgres_behind, restarted).",
                &["queue", "outcome"],
            ),
            redis_heal_seconds: register(
                registry,
                Histogram::with_opts(options(
                    "windrow_redis_heal_seconds",
                    "From such a finding to Redis having what the journal holds.",
                )),
            ),
            service_runs: counter("windrow_service_runs_total", "Batches by service.", &["service", "outcome"]),
            service_seconds: register(
                registry,
                HistogramVec::new(options("windrow_service_seconds", "How long a batch took."), &["service"]),
            ),
        };
        for outcome in ["fired", "skipped", "queued", "missed"] {
            metrics.fires.with_label_values(&[outcome]);
        }
        metrics
    }

    /// Adds to what was tidied.
    pub(crate) fn tidy(&self, what: &str, count: u64) {
        if count > 0 {
            self.tidied.with_label_values(&[what]).inc_by(count);
        }
    }
}
