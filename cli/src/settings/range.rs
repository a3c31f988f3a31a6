//! Ranges of settings: what lies outside is refused, not quietly brought in.

use std::time::Duration;

use super::Settings;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = seconds(24 * 3600);

/// Each setting outside of its range, with what is expected.
pub(super) fn faults(settings: &Settings) -> Vec<(&'static str, String)> {
    let Settings { redis, database, worker, outward, fetch, scoring, import, payments, .. } = settings;
    let times = [
        ("redis.lease", redis.lease, seconds(1), seconds(600)),
        ("database.acquire_timeout", database.acquire_timeout, MILLISECOND, seconds(600)),
        ("worker.grace", worker.grace, Duration::ZERO, DAY),
        ("worker.unknown_after", worker.unknown_after, seconds(60), 365 * DAY),
        ("outward.connect_timeout", outward.connect_timeout, MILLISECOND, seconds(600)),
        ("outward.timeout", outward.timeout, MILLISECOND, seconds(3600)),
        ("fetch.parse_timeout", fetch.parse_timeout, MILLISECOND, seconds(3600)),
        ("scoring.webhook_timeout", scoring.webhook_timeout, MILLISECOND, seconds(3600)),
        ("scoring.requeue_after", scoring.requeue_after, seconds(1), 365 * DAY),
    ];
    let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let workers = wide(windrow_worker::MAX_CONCURRENCY);
    let numbers: [(&str, u64, u64, u64); 21] = [
        ("redis.rescue_limit", redis.rescue_limit.into(), 1, 255),
        ("redis.max_jobs", redis.max_jobs, 1, u64::MAX),
        ("redis.max_dead", redis.max_dead, 1, u64::MAX),
        ("database.max_connections", database.max_connections.into(), 1, 1000),
        ("worker.concurrency", wide(worker.concurrency), 1, workers),
        ("worker.max_running", wide(worker.max_running), 0, 100 * workers),
        ("outward.max_body_bytes", wide(outward.max_body_bytes), 1, 1 << 30),
        ("outward.max_redirects", wide(outward.max_redirects), 0, 20),
        ("fetch.max_pages", fetch.max_pages.into(), 1, 10_000),
        ("fetch.max_items", wide(fetch.max_items), 1, 1_000_000),
        ("fetch.max_text_bytes", wide(fetch.max_text_bytes), 1024, 1 << 30),
        ("fetch.parse_slots", wide(fetch.parse_slots), 1, 1000),
        ("scoring.webhook_max_bytes", wide(scoring.webhook_max_bytes), 64, 1 << 24),
        ("scoring.max_jobs", u64::try_from(scoring.max_jobs).unwrap_or(0), 1, 1000),
        ("import.max_file_bytes", import.max_file_bytes, 1, u64::MAX),
        ("import.max_row_bytes", wide(import.max_row_bytes), 1024, 16 << 20),
        ("import.batch_rows", wide(import.batch_rows), 100, 500_000),
        ("import.validators", wide(import.validators), 0, 64),
        ("payments.batch", payments.batch.into(), 1, 10_000),
        ("payments.batches_per_job", payments.batches_per_job.into(), 1, u16::MAX.into()),
        ("payments.catch_up", payments.catch_up.into(), 1, u16::MAX.into()),
    ];
    let shown = |time: Duration| humantime::format_duration(time).to_string();
    let times = times
        .into_iter()
        .filter(|(_, time, least, most)| !(*least..=*most).contains(time))
        .map(|(name, _, least, most)| (name, format!("must be {} to {}", shown(least), shown(most))));
    let numbers = numbers.into_iter().filter(|(_, number, least, most)| !(*least..=*most).contains(number)).map(
        |(name, _, least, most)| match most {
            u64::MAX => (name, format!("must be {least} or more")),
            most => (name, format!("must be {least} to {most}")),
        },
    );
    times.chain(numbers).collect()
}
