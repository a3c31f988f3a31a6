//! Every benchmark runs to its end with few jobs, finds all of them executed, and prints its figures as one JSON object. What
//! the figures are is not looked at here.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use serde_json::Value;

fn figures(arguments: &[&str]) -> serde_json::Map<String, Value> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_windrow-bench")).args(arguments).arg("--json").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed with {}:\n{text}\n{errors}", output.status);
    let figures: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    figures.as_object().unwrap().clone()
}

/// The figures are there, and each is a number above nothing, but for these.
fn assert_figures(figures: &serde_json::Map<String, Value>, above_zero: &[&str], zero: &[&str]) {
    for name in above_zero {
        assert!(figures[*name].as_f64().unwrap() > 0.0, "{name} in {figures:?}");
    }
    for name in zero {
        assert_eq!(figures[*name], 0, "{name} in {figures:?}");
    }
    assert_eq!(figures.len(), above_zero.len() + zero.len(), "{figures:?}");
}

#[test]
fn throughput() {
    let rates = ["executed_per_s", "raw_executed_per_s", "ratio", "executed_per_s_aof", "jobs"];
    assert_figures(&figures(&["throughput", "--jobs", "2000"]), &rates, &["lost", "duplicated"]);
}

#[test]
fn enqueue() {
    let rates = ["batched_per_s", "raw_batched_per_s", "single_per_s", "raw_single_per_s"];
    assert_figures(&figures(&["enqueue", "--jobs", "2000", "--single", "500", "--tasks", "10"]), &rates, &[]);
}

#[test]
fn latency() {
    let percentiles = ["idle_p50_ms", "idle_p99_ms", "loaded_p50_ms", "loaded_p99_ms"];
    let few = ["latency", "--samples", "20", "--rate", "200", "--seconds", "1"];
    assert_figures(&figures(&few), &percentiles, &[]);
}

#[test]
fn memory() {
    assert_figures(&figures(&["memory", "--jobs", "2000"]), &["bytes_per_job", "overhead_bytes_per_job"], &[]);
}

#[test]
fn idle() {
    let few = ["idle", "--seconds", "1", "--warm-up", "0"];
    assert_figures(&figures(&few), &["rss_mb", "redis_commands_per_s"], &[]);
}

#[test]
fn journal() {
    let rates = ["committed_per_s", "committed_per_s_single", "pgbench_per_s"];
    let few = ["journal", "--jobs", "300", "--single", "200", "--connections", "4"];
    assert_figures(&figures(&few), &rates, &["lost", "duplicated"]);
}

#[test]
fn schedules() {
    let few = ["schedules", "--schedules", "500", "--due", "100"];
    assert_figures(&figures(&few), &["schedules", "due", "fired", "lag_p99_ms"], &["duplicates", "missed"]);
}
