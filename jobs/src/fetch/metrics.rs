//! What fetching counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use windrow_queue::metrics::register;

use super::{error::DocumentError, store::Counts};
use crate::outward::OutwardError;

/// The metrics of fetching. Cheap to clone; one registration a process.
#[derive(Clone, Debug)]
pub struct FetchMetrics {
    /// Fetches that came through, by outcome (`fetched`, `not_modified`).
    pub sources: IntCounterVec,
    /// Items by result (`inserted`, `updated`, `duplicate`, `skipped`).
    pub items: IntCounterVec,
    /// Attempts that failed, by class.
    pub errors: IntCounterVec,
    /// Pages downloaded.
    pub pages: IntCounter,
    /// Bytes downloaded, after decompression.
    pub bytes: IntCounter,
    /// Fetches that met a limit on pages, items or text.
    pub cut: IntCounter,
    /// Documents that were parsed: a 304 is none.
    pub parsed: IntCounter,
    /// Seconds that downloading and parsing all pages of a source took.
    pub duration: Histogram,
}

impl FetchMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let counter = |name, help| register(registry, IntCounter::new(name, help));
        let counters =
            |name, help, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels));
        let seconds = vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
        let metrics = Self {
            sources: counters("windrow_fetch_sources_total", "Fetches of sources that came through.", &["outcome"]),
            items: counters(
                "windrow_fetch_items_total",
                "Items in fetched documents, by what became of them.",
                &["result"],
            ),
            errors: counters("windrow_fetch_errors_total", "Attempts to fetch a source that failed.", &["class"]),
            pages: counter("windrow_fetch_pages_total", "Pages downloaded."),
            bytes: counter("windrow_fetch_bytes_total", "Bytes downloaded, after decompression."),
            cut: counter("windrow_fetch_cut_total", "Fetches that met a limit on pages, items or text."),
            parsed: counter("windrow_fetch_parsed_total", "Documents parsed; an answer 304 needs none."),
            duration: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "windrow_fetch_duration_seconds",
                        "Downloading and parsing all pages of a source.",
                    )
                    .buckets(seconds),
                ),
            ),
        };
        for outcome in ["fetched", "not_modified"] {
            metrics.sources.with_label_values(&[outcome]);
        }
        for result in ["inserted", "updated", "duplicate", "skipped"] {
            metrics.items.with_label_values(&[result]);
        }
        for class in OutwardError::CLASSES.iter().chain(DocumentError::CLASSES) {
            metrics.errors.with_label_values(&[class]);
        }
        metrics
    }

    pub(super) fn count(&self, counts: &Counts) {
        for (result, number) in [
            ("inserted", counts.inserted),
            ("updated", counts.updated),
            ("duplicate", counts.duplicate),
            ("skipped", counts.skipped),
        ] {
            self.items.with_label_values(&[result]).inc_by(number);
        }
    }
}
