//! The sweep.

use std::time::Duration;

use windrow_queue::{Handler, Outcome, journal};

use super::{Bench, Config, ScoreVacancy};
use crate::{
    scoring::{RequeueUnscored, RequeueUnscoredHandler},
    testing::{self, attempt_of, count, standing},
};

async fn sweep(bench: &Bench) {
    let config = Config { requeue_after: Duration::from_secs(600), max_jobs: 3, ..Config::default() };
    let handler = RequeueUnscoredHandler::new(bench.pool.clone(), config, bench.metrics.clone());
    let (ctx, _) = testing::attempt(&bench.pool, None, &RequeueUnscored {}).await;
    let outcome = handler.run(ctx, RequeueUnscored {}).await.unwrap();
    assert!(matches!(outcome, Outcome::Done));
}

fn requeued(bench: &Bench, result: &str) -> u64 {
    bench.metrics.requeued.with_label_values(&[result]).get()
}

async fn set(bench: &Bench, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&bench.pool).await.unwrap();
}

#[tokio::test]
async fn what_is_new_or_was_queued_long_ago_without_a_job_is_queued_again() {
    let bench = Bench::new().await;
    let (new, lost, recent, scored) =
        (bench.vacancy(1).await, bench.vacancy(2).await, bench.vacancy(3).await, bench.vacancy(4).await);
    bench.score(scored).await;
    set(&bench, "UPDATE vacancy SET status = 'new', score_jobs = 0, queued_at = NULL WHERE url LIKE '%/1'").await;
    set(&bench, "UPDATE vacancy SET queued_at = now() - interval '11 minutes' WHERE url LIKE '%/2'").await;
    sweep(&bench).await;
    let mut queued = Vec::new();
    for job in standing::<ScoreVacancy>(&bench.pool).await {
        let (ctx, args) = attempt_of::<ScoreVacancy>(&bench.pool, job).await;
        assert_eq!(ctx.tenant(), Some(&bench.tenant));
        queued.push(args.vacancy_id);
        bench.handler.run(ctx, args).await.unwrap();
    }
    queued.sort();
    let mut expected = [new, lost];
    expected.sort();
    assert_eq!(queued, expected, "not {recent}, whose job is on its way");
    assert_eq!(bench.history(new).await.len() + bench.history(lost).await.len(), 2);
    assert_eq!((requeued(&bench, "enqueued"), requeued(&bench, "standing")), (2, 0));
}

#[tokio::test]
async fn a_tenants_sweep_leaves_other_tenants_vacancies_alone() {
    let bench = Bench::new().await;
    bench.vacancy(1).await;
    set(&bench, "UPDATE vacancy SET status = 'new', score_jobs = 0, queued_at = NULL").await;
    let handler = RequeueUnscoredHandler::new(bench.pool.clone(), Config::default(), bench.metrics.clone());
    let other = testing::tenant(&bench.pool, "other").await;
    for (tenant, enqueued) in [(&other, 0), (&bench.tenant, 1)] {
        let (ctx, _) = testing::attempt(&bench.pool, Some(tenant), &RequeueUnscored {}).await;
        handler.run(ctx, RequeueUnscored {}).await.unwrap();
        assert_eq!(requeued(&bench, "enqueued"), enqueued, "{tenant}");
    }
}

#[tokio::test]
async fn a_vacancy_whose_job_still_stands_gets_no_second_one() {
    let bench = Bench::new().await;
    let id = bench.vacancy(1).await;
    let job = ScoreVacancy::job(&bench.tenant, id).unwrap();
    let mut tx = bench.pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, &[job]).await.unwrap();
    tx.commit().await.unwrap();
    set(&bench, "UPDATE vacancy SET queued_at = now() - interval '1 day'").await;
    for _ in 0..2 {
        sweep(&bench).await;
        assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 1);
    }
    assert_eq!(
        (requeued(&bench, "enqueued"), requeued(&bench, "standing")),
        (0, 1),
        "asked again only after another while"
    );
    assert_eq!(count(&bench.pool, "SELECT score_jobs::bigint FROM vacancy").await, 1);
}

#[tokio::test]
async fn the_sweep_gives_up_after_so_many_jobs_and_says_so() {
    let bench = Bench::new().await;
    bench.vacancy(1).await;
    for jobs in [2, 3, 3] {
        set(&bench, "UPDATE vacancy SET queued_at = now() - interval '1 day'").await;
        sweep(&bench).await;
        assert_eq!(count(&bench.pool, "SELECT score_jobs::bigint FROM vacancy").await, jobs);
        // As if its job had died.
        set(&bench, "DELETE FROM job_journal WHERE kind = 'vacancy.score'").await;
    }
    assert_eq!(requeued(&bench, "enqueued"), 2);
    assert_eq!(bench.metrics.given_up.get(), 1);
}

#[tokio::test]
async fn the_wait_grows_with_the_jobs_made() {
    let bench = Bench::new().await;
    bench.vacancy(1).await;
    set(&bench, "UPDATE vacancy SET score_jobs = 2, queued_at = now() - interval '15 minutes'").await;
    sweep(&bench).await;
    assert_eq!(requeued(&bench, "enqueued"), 0);
    set(&bench, "UPDATE vacancy SET queued_at = now() - interval '21 minutes'").await;
    sweep(&bench).await;
    assert_eq!(requeued(&bench, "enqueued"), 1);
}

#[tokio::test]
async fn more_than_a_batch_is_swept_and_inactive_tenants_are_left() {
    let bench = Bench::new().await;
    set(
        &bench,
        "INSERT INTO tenant (id, name, active) VALUES ('resting', 'resting', false);
         INSERT INTO vacancy (tenant, url, title) SELECT 'acme', 'https://x/' || n, 'x' FROM generate_series(1, 1203) n;
         INSERT INTO vacancy (tenant, url, title) VALUES ('resting', 'https://x/', 'x')",
    )
    .await;
    sweep(&bench).await;
    assert_eq!(standing::<ScoreVacancy>(&bench.pool).await.len(), 1203);
    assert_eq!(count(&bench.pool, "SELECT count(*) FROM vacancy WHERE status = 'new'").await, 1);
}

#[tokio::test]
async fn a_sweep_and_the_scoring_that_it_finds_do_not_wait_for_each_other_in_a_circle() {
    let bench = Bench::new().await;
    let id = bench.vacancy(1).await;
    let job = ScoreVacancy::job(&bench.tenant, id).unwrap();
    let job_id = job.id;
    let mut tx = bench.pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, &[job]).await.unwrap();
    tx.commit().await.unwrap();
    set(&bench, "UPDATE vacancy SET queued_at = now() - interval '1 day'").await;
    let (ctx, _) = attempt_of::<ScoreVacancy>(&bench.pool, job_id).await;
    // A scoring that has deleted its job and not yet touched its vacancy, while the sweep comes by.
    let mut scoring = ctx.begin().await.unwrap();
    let swept = sweep(&bench);
    let finish = async {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        tokio::time::timeout(Duration::from_secs(10), async {
            while count(&bench.pool, waiting).await == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the sweep waits for the job that is about to complete");
        sqlx::query("UPDATE vacancy SET status = 'scored', score = 5, reason = 'x'")
            .execute(&mut *scoring)
            .await
            .unwrap();
        scoring.commit().await.unwrap();
    };
    tokio::join!(swept, finish);
    assert!(standing::<ScoreVacancy>(&bench.pool).await.is_empty(), "a vacancy just scored is not scored again");
    assert_eq!(count(&bench.pool, "SELECT count(*) FROM vacancy WHERE status = 'scored'").await, 1);
}
