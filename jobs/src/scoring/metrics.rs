//! What scoring counts.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use windrow_queue::metrics::register;

use super::{profile::Scorer, webhook::RefusedAnswer};

/// The metrics of scoring. Cheap to clone; one registration a process.
#[derive(Clone, Debug)]
pub struct ScoringMetrics {
    /// Vacancies scored, by scorer and score.
    pub scored: IntCounterVec,
    /// Answers of webhooks that were no verdict, by class.
    pub refused: IntCounterVec,
    /// What the sweep found, by result: `enqueued` (a new job), `standing` (its job stands already).
    pub requeued: IntCounterVec,
    /// Vacancies without a score for which no more jobs are made.
    pub given_up: IntGauge,
}

impl ScoringMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let counters =
            |name, help, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels));
        let metrics = Self {
            scored: counters("windrow_scoring_scored_total", "Vacancies scored.", &["scorer", "score"]),
            refused: counters(
                "windrow_scoring_refused_total",
                "Answers of scoring webhooks that were no verdict.",
                &["class"],
            ),
            requeued: counters(
                "windrow_scoring_requeued_total",
                "Unscored vacancies that the sweep found (enqueued: a new job; standing: its job stands already).",
                &["result"],
            ),
            given_up: register(
                registry,
                IntGauge::new(
                    "windrow_scoring_given_up",
                    "Vacancies without a score for which no more jobs are made: redrive their dead letters. Use max.",
                ),
            ),
        };
        for scorer in [Scorer::Rules, Scorer::Webhook] {
            for score in 1..=10 {
                metrics.scored.with_label_values(&[scorer.as_str(), &score.to_string()]);
            }
        }
        for class in RefusedAnswer::CLASSES {
            metrics.refused.with_label_values(&[class]);
        }
        for result in ["enqueued", "standing"] {
            metrics.requeued.with_label_values(&[result]);
        }
        metrics
    }
}
