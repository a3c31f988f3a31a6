use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use windrow_queue::metrics::register;

/// What the payments report.
#[derive(Clone, Debug)]
pub struct PaymentMetrics {
    /// Due dates posted.
    pub posted: IntCounter,
    /// Payments that became failed.
    pub failed: IntCounter,
    /// Payments that stand failed until somebody resumes them.
    pub blocked: IntGauge,
    /// Seconds from the beginning of a due date to its posting.
    pub lag: Histogram,
    /// Seconds that one transaction of postings took.
    pub batch: Histogram,
}

impl PaymentMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let histogram = |name, help, buckets: &[f64]| {
            register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
        };
        Self {
            posted: register(
                registry,
                IntCounter::new("windrow_payments_posted_total", "Due dates of recurring payments that were posted."),
            ),
            failed: register(
                registry,
                IntCounter::new("windrow_payments_failed_total", "Recurring payments that could not be posted."),
            ),
            blocked: register(
                registry,
                IntGauge::new(
                    "windrow_payments_blocked",
                    "Recurring payments that stand failed until somebody resumes them. Several processes export it: use max.",
                ),
            ),
            lag: histogram(
                "windrow_payments_lag_seconds",
                "From the beginning of the due date to its posting.",
                &[1.0, 10.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0, 604_800.0],
            ),
            batch: histogram(
                "windrow_payments_batch_seconds",
                "How long one transaction of postings took.",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
            ),
        }
    }
}
