//! Invariant 4: every fire time has exactly one outcome and at most one job.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use windrow_queue::{JobContext, Member, context::ContextParts};
use windrow_scheduler::service::{Pace, Service};

use crate::support::{Ping, catalog, count, cron, database, declare, fire, neglect, outcomes};
use windrow_queue::JobArgs;

fn schedule(lines: &str) -> String {
    format!("[[schedule]]\nname = \"a\"\nkind = \"test.ping\"\nargs = {{ text = \"hi\" }}\n{lines}\n")
}

/// One hundred schedules that were due a moment ago.
async fn hundred_due(pool: &sqlx::PgPool) {
    let many: String = (0..100)
        .map(|number| {
            format!("[[schedule]]\nname = \"s{number}\"\nkind = \"test.ping\"\nevery = \"1h\"\noverlap = \"allow\"\n")
        })
        .collect();
    declare(pool, &many).await;
    neglect(pool, 3600).await;
}

/// Completes the jobs that stand, as a worker does.
async fn complete_all(pool: &sqlx::PgPool) -> usize {
    let jobs: Vec<(uuid::Uuid, i32)> = sqlx::query_as("SELECT id, gen FROM job_journal").fetch_all(pool).await.unwrap();
    for (id, generation) in &jobs {
        let context = JobContext::new(ContextParts {
            member: Member::journaled(windrow_queue::JobId(*id), *generation),
            kind: Ping::KIND,
            queue: Ping::QUEUE,
            tenant: None,
            attempt: 1,
            policy: Ping::POLICY,
            fire: None,
            traceparent: None,
            checkpoint: None,
            cancel: tokio_util::sync::CancellationToken::new(),
            database: pool.clone(),
            called_back: None,
            follows: None,
            holder: None,
        });
        context.begin().await.unwrap().commit().await.unwrap();
    }
    jobs.len()
}

#[tokio::test]
async fn a_due_schedule_makes_one_job_that_knows_its_fire() {
    let pool = database().await;
    declare(&pool, &schedule("every = \"1h\"")).await;
    assert!(fire(&pool).await.is_empty(), "nothing is due yet");
    neglect(&pool, 3600).await;
    let done = fire(&pool).await;
    assert_eq!((done.count("fired"), done.count("jobs"), done.pace), (1, 1, Pace::Again));
    assert!(fire(&pool).await.is_empty());
    let (args, fire_at, recorded, id): (Value, DateTime<Utc>, DateTime<Utc>, uuid::Uuid) = sqlx::query_as(
        "SELECT j.args, j.fire_at, f.fire_at, f.job_id FROM job_journal j
         JOIN schedule_fire f ON f.schedule_id = j.schedule_id AND f.job_id = j.id",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((args["text"].as_str(), fire_at), (Some("hi"), recorded));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 1);
    assert_eq!(fire_at.timestamp() % 3600, 0, "counted from 1970, not from the start of the process");
    assert!(!id.is_nil());
}

#[tokio::test]
async fn schedulers_that_race_fire_each_schedule_exactly_once() {
    let pool = database().await;
    hundred_due(&pool).await;
    let racers: Vec<_> = (0..5)
        .map(|_| {
            let mut cron = cron(&pool);
            tokio::spawn(async move {
                let mut fired = 0;
                loop {
                    let done = cron.run_once().await.unwrap();
                    fired += done.count("fired");
                    if done.is_empty() && !matches!(done.pace, Pace::Sharp(pause) if pause < Duration::from_millis(50))
                    {
                        return fired;
                    }
                }
            })
        })
        .collect();
    let mut fired = 0;
    for racer in racers {
        fired += racer.await.unwrap();
    }
    assert_eq!(fired, 100);
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule_fire WHERE outcome = 'fired'").await, 100);
    assert_eq!(count(&pool, "SELECT count(DISTINCT schedule_id) FROM job_journal").await, 100);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 100);
}

#[tokio::test]
async fn a_crash_before_the_commit_leaves_nothing_and_the_next_pass_fires_once() {
    let pool = database().await;
    hundred_due(&pool).await;
    // The last statement of the transaction fails: everything before it, records and jobs, is rolled back.
    sqlx::raw_sql(
        "CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'crash'; END $$;
         CREATE TRIGGER crash BEFORE UPDATE ON schedule FOR EACH STATEMENT EXECUTE FUNCTION crash()",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert!(cron(&pool).run_once().await.unwrap_err().to_string().contains("crash"));
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule_fire").await, 0);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);
    sqlx::raw_sql("DROP TRIGGER crash ON schedule").execute(&pool).await.unwrap();
    assert_eq!(fire(&pool).await.count("fired"), 100);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 100);
}

#[tokio::test]
async fn a_scheduler_that_dies_while_it_holds_the_rows_does_not_keep_them() {
    let pool = database().await;
    hundred_due(&pool).await;
    let mut dying = pool.begin().await.unwrap();
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid() FROM schedule FOR UPDATE").fetch_one(&mut *dying).await.unwrap();
    assert!(fire(&pool).await.is_empty(), "held rows are skipped, not waited for");
    sqlx::query("SELECT pg_terminate_backend($1, 5000)").bind(pid).execute(&pool).await.unwrap();
    assert_eq!(fire(&pool).await.count("fired"), 100);
}

#[tokio::test]
async fn a_schedule_row_put_back_to_an_older_state_fires_nothing_again() {
    let pool = database().await;
    declare(&pool, &schedule("every = \"1h\"\noverlap = \"allow\"")).await;
    neglect(&pool, 3600).await;
    assert_eq!(fire(&pool).await.count("fired"), 1);
    neglect(&pool, 3600).await;
    assert!(fire(&pool).await.is_empty());
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1);
}

#[tokio::test]
async fn missed_fire_times_are_on_record_and_told_to_the_job_that_stands_for_them() {
    let pool = database().await;
    declare(&pool, &schedule("cron = \"0 0 1 1 *\"\nmissed = \"run_once\"")).await;
    sqlx::query("UPDATE schedule SET handled_until = '2015-06-01T00:00:00Z', due_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    let years = count(&pool, "SELECT extract(year FROM now() AT TIME ZONE 'UTC')::bigint - 2015").await;
    fire(&pool).await;
    let expected = [("missed".to_owned(), i32::try_from(years).unwrap() - 1), ("fired".to_owned(), 1)];
    assert_eq!(outcomes(&pool).await, expected);
    let (missed, fire_at): (i32, DateTime<Utc>) =
        sqlx::query_as("SELECT missed, fire_at FROM job_journal").fetch_one(&pool).await.unwrap();
    assert_eq!(i64::from(missed), years - 1);
    assert_eq!(fire_at.format("%m-%d %H:%M").to_string(), "01-01 00:00");
    let (first, last): (DateTime<Utc>, DateTime<Utc>) =
        sqlx::query_as("SELECT fire_at, through FROM schedule_fire WHERE outcome = 'missed'")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(first.format("%Y").to_string(), "2016");
    assert!(last < fire_at);
}

#[tokio::test]
async fn a_long_outage_is_worked_off_in_bounded_passes_and_told_to_the_next_job() {
    let pool = database().await;
    declare(&pool, &schedule("every = \"1s\"\noverlap = \"allow\"")).await;
    neglect(&pool, 3500).await;
    let mut cron = cron(&pool);
    let first = cron.run_once().await.unwrap();
    assert_eq!((first.count("missed"), first.count("jobs")), (1000, 0));
    while count(&pool, "SELECT count(*) FROM job_journal").await == 0 {
        cron.run_once().await.unwrap();
    }
    let missed: i32 =
        sqlx::query_scalar("SELECT missed FROM job_journal ORDER BY fire_at LIMIT 1").fetch_one(&pool).await.unwrap();
    assert!((3490..=3540).contains(&missed), "{missed}");
    let recorded = count(&pool, "SELECT sum(times)::bigint FROM schedule_fire WHERE outcome = 'missed'").await;
    assert_eq!(recorded, i64::from(missed));
}

#[tokio::test]
async fn overlap_skip_fires_again_when_the_job_and_its_follow_ups_are_over() {
    let pool = database().await;
    declare(&pool, &schedule("every = \"1h\"\noverlap = \"skip\"\nmissed = { catch_up = 500 }")).await;
    neglect(&pool, 3 * 3600).await;
    fire(&pool).await;
    let names: Vec<_> = outcomes(&pool).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["fired", "skipped", "skipped"]);

    // The follow-up stands for the schedule when the job itself is done.
    let (id, generation): (uuid::Uuid, i32) =
        sqlx::query_as("SELECT id, gen FROM job_journal").fetch_one(&pool).await.unwrap();
    sqlx::query("INSERT INTO job_journal (id, kind, queue, args, schedule_id) SELECT gen_random_uuid(), kind, queue, args, schedule_id FROM job_journal")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("DELETE FROM job_journal WHERE id = $1 AND gen = $2")
        .bind(id)
        .bind(generation)
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("UPDATE schedule_fire SET fire_at = fire_at - interval '10 days'").execute(&pool).await.unwrap();
    neglect(&pool, 3600).await;
    assert_eq!(fire(&pool).await.count("skipped"), 1);

    complete_all(&pool).await;
    sqlx::query("UPDATE schedule_fire SET fire_at = fire_at - interval '20 days'").execute(&pool).await.unwrap();
    neglect(&pool, 3600).await;
    assert_eq!(fire(&pool).await.count("fired"), 1);
}

#[tokio::test]
async fn a_dead_job_does_not_block_its_schedule() {
    let pool = database().await;
    declare(&pool, &schedule("every = \"1h\"\noverlap = \"skip\"\nmissed = { catch_up = 1 }")).await;
    neglect(&pool, 3600).await;
    fire(&pool).await;
    sqlx::query("WITH gone AS (DELETE FROM job_journal RETURNING *) INSERT INTO job_closed (id, gen, state, queue, kind, reason, job) SELECT id, gen, 'dead', queue, kind, 'x', '{}' FROM gone")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("UPDATE schedule_fire SET fire_at = fire_at - interval '10 days'").execute(&pool).await.unwrap();
    neglect(&pool, 3600).await;
    assert_eq!(fire(&pool).await.count("fired"), 1);
}

#[tokio::test]
async fn queue_one_remembers_one_fire_and_runs_it_when_nothing_stands() {
    let pool = database().await;
    declare(&pool, &schedule("every = \"1h\"\noverlap = \"queue_one\"\nmissed = { catch_up = 500 }")).await;
    neglect(&pool, 4 * 3600).await;
    fire(&pool).await;
    let names = async || outcomes(&pool).await.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names().await, ["fired", "queued", "skipped", "skipped"]);
    assert!(fire(&pool).await.is_empty(), "the job still stands");
    assert_eq!(complete_all(&pool).await, 1);
    assert_eq!(fire(&pool).await.count("fired"), 1);
    assert_eq!(names().await, ["fired", "fired", "skipped", "skipped"]);
    let queued: DateTime<Utc> = sqlx::query_scalar("SELECT fire_at FROM job_journal").fetch_one(&pool).await.unwrap();
    let second: DateTime<Utc> =
        sqlx::query_scalar("SELECT fire_at FROM schedule_fire ORDER BY fire_at OFFSET 1 LIMIT 1")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(queued, second, "the job is told its own due time");
    complete_all(&pool).await;
    assert!(fire(&pool).await.is_empty(), "there was one");
}

#[tokio::test]
async fn one_schedule_for_each_active_tenant_reaches_all_of_them_once_over_a_crash() {
    let pool = database().await;
    sqlx::query(
        "INSERT INTO tenant (id, name, active) SELECT 't' || n, 'x', n % 10 <> 0 FROM generate_series(1, 1200) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    declare(&pool, &schedule("every = \"1h\"\neach_tenant = true\nmissed = { catch_up = 1 }")).await;
    neglect(&pool, 3600).await;
    let mut first = cron(&pool);
    first.run_once().await.unwrap();
    let half = count(&pool, "SELECT count(*) FROM job_journal").await;
    assert_eq!(half, 500, "one bounded batch");
    drop(first); // and its process with it
    while !fire(&pool).await.is_empty() {}
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1080);
    assert_eq!(count(&pool, "SELECT count(DISTINCT tenant) FROM job_journal").await, 1080);
    assert_eq!(count(&pool, "SELECT jobs::bigint FROM schedule_fire WHERE outcome = 'fired'").await, 1080);
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule WHERE fan_fire_at IS NULL").await, 1);
}

#[tokio::test]
async fn a_schedule_that_cannot_fire_says_why_and_holds_up_no_other() {
    let pool = database().await;
    hundred_due(&pool).await;
    sqlx::query("UPDATE schedule SET kind = 'other.version' WHERE name = 's7'").execute(&pool).await.unwrap();
    let done = fire(&pool).await;
    assert_eq!((done.count("fired"), done.count("in error")), (99, 1));
    let error: String =
        sqlx::query_scalar("SELECT error FROM schedule WHERE name = 's7'").fetch_one(&pool).await.unwrap();
    assert!(error.contains("other.version") && error.contains("test.ping"), "{error}");
    assert!(fire(&pool).await.is_empty(), "not tried again at once");
    // What was due stays due until it can fire.
    sqlx::query("UPDATE schedule SET kind = 'test.ping', due_at = now() WHERE name = 's7'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(fire(&pool).await.count("fired"), 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule WHERE error IS NOT NULL").await, 0);
}

#[tokio::test]
async fn paused_disabled_and_ended_schedules_do_not_fire() {
    let pool = database().await;
    for lines in ["enabled = false", "end = 2020-01-01T00:00:00Z"] {
        declare(&pool, &schedule(&format!("every = \"1h\"\n{lines}"))).await;
        sqlx::query("UPDATE schedule SET due_at = due_at - interval '2 hours'").execute(&pool).await.unwrap();
        assert!(fire(&pool).await.is_empty(), "{lines}");
    }
    declare(&pool, &schedule("every = \"1h\"")).await;
    neglect(&pool, 3600).await;
    sqlx::query("UPDATE schedule SET paused = true").execute(&pool).await.unwrap();
    assert!(fire(&pool).await.is_empty());
}

#[tokio::test]
async fn jitter_puts_a_fire_off_by_its_own_share_and_does_not_change_its_fire_time() {
    let pool = database().await;
    declare(&pool, &schedule("every = \"1h\"\njitter = \"20m\"")).await;
    let share = count(&pool, "SELECT extract(epoch FROM due_at - next_fire_at)::bigint FROM schedule").await;
    assert!((0..=1200).contains(&share), "{share}");
    neglect(&pool, 2 * 3600).await;
    fire(&pool).await;
    let again = count(&pool, "SELECT extract(epoch FROM due_at - next_fire_at)::bigint FROM schedule").await;
    assert_eq!(share, again);
    let fire_at: DateTime<Utc> = sqlx::query_scalar("SELECT fire_at FROM job_journal").fetch_one(&pool).await.unwrap();
    assert_eq!(fire_at.timestamp() % 3600, 0);
}

#[tokio::test]
async fn the_service_sleeps_until_the_next_fire_and_not_longer_than_it_may() {
    let pool = database().await;
    assert_eq!(fire(&pool).await.pace, Pace::After(Duration::from_secs(1)), "nothing is scheduled");
    declare(&pool, &schedule("every = \"1s\"")).await;
    let pace = fire(&pool).await.pace;
    assert!(
        matches!(pace, Pace::Again) || matches!(pace, Pace::Sharp(pause) if pause <= Duration::from_secs(1)),
        "{pace:?}"
    );
    assert!(catalog().get("test.ping").is_ok());
}
