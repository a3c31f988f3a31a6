//! Rows do not pile up: journal and outbox stay small however many jobs go through them, with a backlog standing beside.

use std::time::Duration;

use tokio::time::Instant;
use windrow_queue::{Due, NewJob, Outcome, journal};
use windrow_scheduler::vacuum;
use windrow_tests::{Number, Stage, handler, long_ones, until, until_within};
use windrow_worker::{Config as WorkerConfig, Registry};

/// What a table takes with its indexes and what is stored out of line.
const SIZES: &str = "SELECT pg_total_relation_size('job_journal'), pg_total_relation_size('job_outbox')";

/// How often both tables were vacuumed.
const ROUNDS: &str = "SELECT min(vacuum_count) FROM pg_stat_user_tables WHERE relid IN ('job_journal'::regclass, 'job_outbox'::regclass)";

const MIB: i64 = 1024 * 1024;

/// How much goes through, and what it may take.
struct Soak {
    backlog: usize,
    jobs: usize,
    /// Jobs that are on their way at a time, at most.
    on_the_way: i64,
    /// After so many jobs a round of VACUUM is waited for: fewer than that are through before the first one comes by itself.
    round: Option<usize>,
    /// Time between two rounds of VACUUM.
    vacuum: Duration,
    /// What either table may take, the rows of the backlog not counted.
    bound: i64,
}

/// The journal and the outbox, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    journal: i64,
    outbox: i64,
}

async fn sizes(stage: &Stage) -> Sizes {
    let (journal, outbox): (i64, i64) = sqlx::query_as(SIZES).fetch_one(&stage.database).await.unwrap();
    Sizes { journal, outbox }
}

fn job(n: usize) -> NewJob {
    NewJob::new(&Number { n: i64::try_from(n).unwrap() }).unwrap()
}

async fn enqueue(stage: &Stage, jobs: &[NewJob]) {
    let mut tx = stage.database.begin().await.unwrap();
    journal::enqueue_in(&mut tx, jobs).await.unwrap();
    tx.commit().await.unwrap();
}

impl Soak {
    async fn run(self) {
        let stage = Stage::with_postgres().await;
        let vacuum = vacuum::Config { period: self.vacuum, ..vacuum::Config::default() };
        let scheduler = stage.scheduler_with(windrow_scheduler::Config { vacuum, ..Default::default() });
        // Far in the future: they stand in the journal, and in Redis, for as long as this takes.
        for from in (0..self.backlog).step_by(1000) {
            let later = (from..self.backlog.min(from + 1000)).map(|n| job(n).due(Due::In(Duration::from_secs(86_400))));
            enqueue(&stage, &later.collect::<Vec<_>>()).await;
        }
        let outbox = "SELECT count(*) FROM job_outbox";
        until_within(Duration::from_secs(600), "the backlog is relayed", || async { stage.count(outbox).await == 0 })
            .await;
        let alone = sizes(&stage).await;

        let done = Registry::new().with(handler(|_, _: Number| async { Ok(Outcome::Done) }));
        let worker =
            stage.worker_with(done, WorkerConfig { concurrency: 500, max_running: 500, ..WorkerConfig::default() });
        let started = Instant::now();
        let mut peak = alone;
        let mut looked = Instant::now();
        let standing = i64::try_from(self.backlog).unwrap();
        let on_the_way = |stage: &Stage| {
            let pool = stage.database.clone();
            async move {
                // Counting half a million rows takes longer than the jobs do.
                let rows: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM (SELECT FROM job_journal WHERE run_at <= now() + interval '1 h' LIMIT 100000) AS due",
                )
                .fetch_one(&pool)
                .await
                .unwrap();
                rows
            }
        };
        let completed = || worker.counted("windrow_jobs_finished_total", "complete");
        for from in (0..self.jobs).step_by(500) {
            let batch: Vec<_> = (from..self.jobs.min(from + 500)).map(job).collect();
            enqueue(&stage, &batch).await;
            let sent = u64::try_from(from + batch.len()).unwrap();
            let limit = u64::try_from(self.on_the_way).unwrap();
            until_within(Duration::from_secs(120), "the worker keeps up", || async { sent - completed() <= limit })
                .await;
            if self.round.is_some_and(|round| (from + batch.len()).is_multiple_of(round)) {
                let before = stage.count(ROUNDS).await;
                until("the tables are vacuumed", || async { stage.count(ROUNDS).await > before }).await;
            }
            if self.round.is_some() || looked.elapsed() > Duration::from_millis(250) {
                looked = Instant::now();
                let now = sizes(&stage).await;
                peak = Sizes { journal: peak.journal.max(now.journal), outbox: peak.outbox.max(now.outbox) };
            }
        }
        until_within(Duration::from_secs(300), "all are done", || async { on_the_way(&stage).await == 0 }).await;
        assert_eq!(
            stage.count("SELECT count(*) FROM job_journal").await,
            standing,
            "the backlog stands, and nothing else"
        );
        let end = sizes(&stage).await;
        let jobs = self.jobs;
        println!(
            "{jobs} jobs in {:?}, {standing} standing beside: {alone:?} before, {peak:?} at most, {end:?} after",
            started.elapsed()
        );
        let peak = Sizes { journal: peak.journal.max(end.journal), outbox: peak.outbox.max(end.outbox) };
        let beside = peak.journal - alone.journal;
        assert!(beside < self.bound, "the journal took {beside} bytes beside its backlog, of {} in all", peak.journal);
        assert!(peak.outbox < self.bound, "the outbox took {} bytes", peak.outbox);
        worker.stop().await;
        scheduler.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_jobs_leave_journal_and_outbox_small() {
    Soak {
        backlog: 5_000,
        jobs: 20_000,
        on_the_way: 1_000,
        round: Some(4_000),
        vacuum: Duration::from_secs(1),
        bound: 2 * MIB,
    }
    .run()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_million_jobs_leave_journal_and_outbox_under_64_mib() {
    if long_ones() {
        Soak {
            backlog: 500_000,
            jobs: 2_000_000,
            on_the_way: 10_000,
            round: None,
            vacuum: vacuum::Config::default().period,
            bound: 64 * MIB,
        }
        .run()
        .await;
    }
}
