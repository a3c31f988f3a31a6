use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use windrow_queue::metrics::register;

/// What imports report. Rows count when their transaction is committed.
#[derive(Clone, Debug)]
pub struct ImportMetrics {
    /// Rows by result: inserted, duplicate, rejected.
    pub rows: IntCounterVec,
    /// Bytes of files that are imported.
    pub bytes: IntCounter,
    /// Imports that reached the end of their file.
    pub finished: IntCounter,
    /// Seconds that the transaction of a batch took.
    pub batch: Histogram,
}

impl ImportMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let rows = register(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "windrow_import_rows_total",
                    "Rows of imported files, by result (inserted, duplicate, rejected).",
                ),
                &["result"],
            ),
        );
        for result in ["inserted", "duplicate", "rejected"] {
            rows.with_label_values(&[result]).reset();
        }
        let buckets = vec![0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        Self {
            rows,
            bytes: register(
                registry,
                IntCounter::new("windrow_import_bytes_total", "Bytes of files that are imported."),
            ),
            finished: register(
                registry,
                IntCounter::new("windrow_imports_finished_total", "Imports that reached the end of their file."),
            ),
            batch: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "windrow_import_batch_seconds",
                        "How long the transaction of a batch of rows took.",
                    )
                    .buckets(buckets),
                ),
            ),
        }
    }
}
