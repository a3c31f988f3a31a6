//! `config/alerts.yml` speaks of metrics that this program exports, by their names.

use std::collections::BTreeSet;

use prometheus::{IntCounter, Registry};
use windrow_api::Deps;
use windrow_queue::{database, health::Health, metrics::QueueMetrics, store::Store};

use crate::{kinds, settings::Settings};

const RULES: &str = include_str!("../../config/alerts.yml");

/// The metrics of every role.
fn registry() -> Registry {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = Registry::new();
    let url = "postgres://nobody@localhost/none".to_owned();
    let database = database::pool(&database::Config { url, ..database::Config::default() }).unwrap();
    let url = "redis://localhost:1".to_owned();
    let store = Store::new(&windrow_queue::store::Config { url, ..windrow_queue::store::Config::default() }).unwrap();
    let metrics = QueueMetrics::new(&registry);
    drop(windrow_scheduler::metrics::Metrics::new(&registry));
    kinds::handlers(&Settings::default(), &database, &registry).unwrap();
    let (catalog, health) = (kinds::catalog(), Health::default());
    let deps = Deps { store, database, catalog, metrics, registry: registry.clone(), health };
    let open = windrow_api::Config { open: true, ..windrow_api::Config::default() };
    drop(windrow_api::router(&open, deps).unwrap());
    registry
}

/// A metric that nothing has touched yet is in no answer, but its name is taken.
fn is_exported(registry: &Registry, name: &str) -> bool {
    registry.register(Box::new(IntCounter::new(name, "Is it taken?").unwrap())).is_err()
}

/// The names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("windrow_")).collect()
}

/// The values of a key, in the order of the rules.
fn values(key: &str) -> Vec<&'static str> {
    let begins = format!("{key}: ");
    RULES.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(&begins)).collect()
}

#[tokio::test]
async fn every_metric_that_an_alert_speaks_of_is_exported() {
    let registry = registry();
    let mut seen = BTreeSet::new();
    for expression in values("expr") {
        let names = names(expression);
        assert!(!names.is_empty(), "{expression}");
        seen.extend(names);
    }
    for name in &seen {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(is_exported(&registry, base), "no role exports {name}");
    }
    assert!(seen.contains("windrow_schedules_failing") && seen.len() > 10, "{seen:?}");
    assert!(!is_exported(&registry, "windrow_none"), "everything passes for exported");
}

#[test]
fn every_alert_has_a_name_of_its_own_a_severity_and_words() {
    let alerts = values("alert");
    let distinct: BTreeSet<_> = alerts.iter().collect();
    assert!(distinct.len() == alerts.len() && !alerts.is_empty(), "{alerts:?}");
    for key in ["expr", "severity", "summary", "description"] {
        assert_eq!(values(key).len(), alerts.len(), "{key}");
    }
    let manual = include_str!("../../docs/OPERATIONS.md");
    for alert in alerts {
        assert!(manual.contains(&format!("`{alert}`")), "docs/OPERATIONS.md does not speak of {alert}");
    }
}
