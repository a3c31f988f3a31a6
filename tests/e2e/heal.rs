//! R21: Redis or PostgreSQL comes back from an earlier time in the middle of a run. The roles are processes and are told
//! nothing; every effect is there once, and the run goes on by itself.
//!
//! With `cargo xtask test --all` each run has 100,000 jobs, and prints how long everything took.

use std::time::Duration;

use tokio::time::Instant;
use windrow_queue::Due;
use windrow_tests::{Place, Role, TENANT, until, until_within};

/// How soon work goes on after a fault, with no hand put to it.
const SOON: Duration = Duration::from_secs(15);

/// Slots of all workers together: as many jobs may still end after a fault without anything having been put back.
const SLOTS: i64 = 2 * 8;

/// For this many jobs to be done.
const LIMIT: Duration = Duration::from_secs(900);

const EFFECTS: &str = "SELECT count(*) FROM scoring_history";

/// A run with two schedulers and two workers.
struct Run {
    place: Place,
    jobs: i64,
    schedulers: [Role; 2],
    workers: [Role; 2],
}

impl Run {
    async fn begin(place: Place) -> Self {
        let jobs = if std::env::var_os("WINDROW_TEST_ALL").is_some() { 100_000 } else { 4_000 };
        place.json(&["tenants", "add", TENANT.as_str()]).await;
        // The constraint would keep a second effect out by itself; here it is to show.
        let evidence = "ALTER TABLE scoring_history DROP CONSTRAINT scoring_history_job_id_key";
        sqlx::query(evidence).execute(&place.database).await.unwrap();
        place.enqueue_scoring(jobs, Due::Now).await;
        let (first, second) = tokio::join!(place.start("scheduler"), place.start("scheduler"));
        until_within(LIMIT, "everything is relayed", || async {
            place.count("SELECT count(*) FROM job_outbox").await == 0
        })
        .await;
        let workers = tokio::join!(place.start("worker"), place.start("worker"));
        let run = Self { place, jobs, schedulers: [first, second], workers: workers.into() };
        run.reach(jobs / 5).await;
        run
    }

    async fn reach(&self, effects: i64) {
        until_within(LIMIT, "some jobs are done", || async { self.place.count(EFFECTS).await >= effects }).await;
    }

    /// Redis and PostgreSQL see each other a few times more, so that who is set back to before shows it. Nothing is done meanwhile.
    async fn beat_on(&self) {
        let beat = || self.place.count("SELECT beat FROM redis_watch WHERE queue = 'scoring'");
        self.workers.iter().for_each(Role::freeze);
        let known = beat().await;
        until("the stores saw each other", || async { beat().await >= known + 3 }).await;
        self.workers.iter().for_each(Role::thaw);
    }

    /// After a fault at this moment, from which on `known` effects stand: work goes on with jobs that nobody had in hand, and soon.
    async fn goes_on(&self, fault: Instant, back: Instant, known: i64) {
        self.reach(known + SLOTS + 1).await;
        let (since_fault, since_back) = (fault.elapsed(), back.elapsed());
        println!(
            "the first effect of a job that nobody had in hand: {since_fault:?} after the fault, {since_back:?} after the server was back"
        );
        assert!(since_back < SOON, "{since_back:?}");
    }

    /// Everything is done, once, and nothing is left over.
    async fn ends(&self, what: &str, fault: Instant) {
        until_within(LIMIT, "the journal is empty", || async { self.place.is_idle().await }).await;
        println!("{} jobs: all done {:?} after the fault", self.jobs, fault.elapsed());
        let (rows, jobs): (i64, i64) = sqlx::query_as("SELECT count(*), count(DISTINCT job_id) FROM scoring_history")
            .fetch_one(&self.place.database)
            .await
            .unwrap();
        println!("lost {}, duplicated {}", self.jobs - jobs, rows - jobs);
        assert_eq!((rows, jobs), (self.jobs, self.jobs), "effects, and jobs that had one");
        assert_eq!(self.place.count("SELECT count(*) FROM job_closed").await, 0, "something died");
        let (mut found, mut put_back, mut ghosts, mut healing) = (0.0, 0.0, 0.0, 0.0);
        for scheduler in &self.schedulers {
            let outcome = format!("outcome=\"{what}\"");
            found += scheduler.metric("windrow_redis_found_total", &[r#"queue="scoring""#, &outcome]).await;
            healing += scheduler.metric("windrow_redis_heal_seconds_sum", &[]).await;
            put_back += scheduler.metric("windrow_tidied_total", &[r#"outcome="put_back""#]).await;
        }
        for worker in &self.workers {
            ghosts += worker.metric("windrow_jobs_ghost_total", &[]).await;
        }
        println!(
            "found {found} times, put back {put_back}, acknowledged unrun {ghosts}; {healing:.1} s from findings to all being back, of all queues"
        );
        assert_eq!(found, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_flushed_in_the_middle_of_a_run_loses_no_effect_and_doubles_none() {
    let run = Run::begin(Place::new().await).await;
    // One worker stands still over it, with jobs in hand: what it goes on with is somebody else's by then.
    run.workers[1].freeze();
    run.place.flush().await;
    let (fault, known) = (Instant::now(), run.place.count(EFFECTS).await);
    run.goes_on(fault, fault, known).await;
    run.workers[1].thaw();
    run.ends("wiped", fault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_with_an_old_snapshot_loses_no_effect_and_doubles_none() {
    let run = Run::begin(Place::without_aof().await).await;
    let kept = run.place.keep_redis().await;
    run.beat_on().await;
    run.reach(run.jobs / 2).await;
    // Not in the snapshot.
    run.place.enqueue_scoring(run.jobs / 10, Due::Now).await;
    let run = Run { jobs: run.jobs + run.jobs / 10, ..run };
    until("they are relayed", || async { run.place.count("SELECT count(*) FROM job_outbox").await == 0 }).await;
    run.place.redis.kill().unwrap();
    let (fault, known) = (Instant::now(), run.place.count(EFFECTS).await);
    run.place.restore_redis(&kept);
    let back = Instant::now();
    run.goes_on(fault, back, known).await;
    run.ends("rolled_back", fault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_set_back_takes_its_effects_along_and_has_each_again_once() {
    let run = Run::begin(Place::with_postgres().await).await;
    let kept = run.place.keep_postgres();
    until("it answers", || async { sqlx::query(EFFECTS).execute(&run.place.database).await.is_ok() }).await;
    let then = run.place.count(EFFECTS).await;
    run.beat_on().await;
    run.reach(run.jobs / 2).await;
    // This PostgreSQL will not know of these: some that are ready and behind all others, and some for later.
    run.place.enqueue_scoring(run.jobs / 10, Due::Now).await;
    run.place.enqueue_scoring(10, Due::In(Duration::from_secs(3600))).await;
    until("they are relayed", || async { run.place.count("SELECT count(*) FROM job_outbox").await == 0 }).await;
    // What was snoozed while PostgreSQL was away is back.
    until("the ten alone are scheduled", || async { run.place.counts().await.scheduled == 10 }).await;
    // One worker stands still over it: what it has committed it tells Redis only afterwards.
    run.workers[1].freeze();
    let fault = Instant::now();
    run.place.restore_postgres(&kept);
    let back = Instant::now();
    until("it answers", || async { sqlx::query(EFFECTS).execute(&run.place.database).await.is_ok() }).await;
    run.goes_on(fault, back, then).await;
    run.workers[1].thaw();
    run.ends("postgres_behind", fault).await;
    assert_eq!(run.place.counts().await.scheduled, 0);
}
