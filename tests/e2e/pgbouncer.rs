//! Everything behind a pgbouncer in transaction mode that knows nothing of prepared statements, as Debian has it.

use std::time::Duration;

use serde_json::{json, value::RawValue};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;
use windrow_queue::{
    BatchId, Due, JobError, NewJob, Outcome, database, journal,
    store::{Callback, CallbackToken, CalledBack, NewBatch},
};
use windrow_tests::{Number, Page, Place, Site, Stage, handler, numbers, pgbouncer, until, until_within};
use windrow_worker::Registry;

const SCHEDULES: &str = r#"
generation = 1
[[schedule]]
name = "often"
kind = "payment.post_due"
every = "1s"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_role_works_behind_it() {
    let (mut place, site) = tokio::join!(Place::with_postgres(), Site::start());
    let postgres = place.postgres.as_ref().unwrap();
    let pooler = pgbouncer(postgres);
    let (through, direct) = (postgres.url_through(pooler.port(), "windrow"), postgres.url("windrow"));
    place.set("DATABASE_URL", &through);
    place.set("DATABASE__PREPARED", "false");
    let refused = place.run(&["migrate"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("database.direct_url"), "{refused:?}");
    place.set("DATABASE__DIRECT_URL", &direct);
    assert_eq!(place.run(&["migrate"]).await.code, 0);
    let checked = place.run(&["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");

    std::fs::write(place.path("schedules.toml"), SCHEDULES).unwrap();
    place.set("SCHEDULER__SCHEDULES", "schedules.toml");
    place.set("IMPORT__BATCH_ROWS", "500");
    place.set("PAYMENTS__BATCH", "2");
    place.tenant(&site).await;
    for name in ["north", "south"] {
        place.source(&site, name, Page::vacancies(name, 12)).await;
    }
    place.payments(60).await;
    place.numbers(5_000).await;
    let (first, second, third) = tokio::join!(place.start("scheduler"), place.start("worker"), place.start("worker"));
    let api = place.start("api").await;
    place.json(&["sources", "fetch", "--all"]).await;
    place.json(&["import", "import/numbers.csv", "--project", "Spring"]).await;
    let (status, _, job) =
        api.post("/api/v1/jobs", "", &json!({"kind": "payment.post_due", "idempotency_key": "x"})).await;
    assert_eq!(status, 201, "{job}");
    until("the schedule fires", || async {
        place.count("SELECT count(*) FROM schedule_fire WHERE outcome = 'fired'").await >= 3
    })
    .await;
    sqlx::query("UPDATE schedule SET paused = true").execute(&place.database).await.unwrap();
    until_within(Duration::from_secs(60), "all is done", || async { place.is_idle().await }).await;
    for role in [&first, &second, &third, &api] {
        assert!(role.is_ready().await);
    }
    let failed = second.finished("retry").await + third.finished("retry").await + second.finished("dead").await;
    assert!(failed.abs() < 0.5, "attempts failed");
    place.assert_scored(24).await;
    place.assert_imported(5_000, 10_000).await;
    place.assert_posted(240).await;
    // Whoever goes past it is the one that listens.
    let past = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%'";
    assert_eq!(place.count(past).await, 1);

    tokio::task::block_in_place(|| pooler.kill().unwrap());
    second.await_readiness(503, "postgres").await;
    tokio::task::block_in_place(|| pooler.restart().unwrap());
    second.await_readiness(200, "").await;
}

/// What a job of the journal may come to, by its number.
fn everything(tokens: mpsc::UnboundedSender<CallbackToken>, came: mpsc::UnboundedSender<i64>) -> Registry {
    Registry::new().with(handler(move |ctx, args: Number| {
        let (tokens, came) = (tokens.clone(), came.clone());
        async move {
            match (args.n, ctx.called_back()) {
                (0, None) => {
                    tokens.send(ctx.callback().await?).unwrap();
                    return Ok(Outcome::Park { deadline: Duration::from_secs(60) });
                }
                (0, Some(CalledBack::Payload(_))) => came.send(0).unwrap(),
                (1, _) => return Err(JobError::bury("broken", anyhow::anyhow!("no"))),
                (2, _) if ctx.attempt() == 1 => return Err(JobError::retry("unlucky", anyhow::anyhow!("once"))),
                (3, _) => {
                    let first: Option<u32> = ctx.checkpoint()?;
                    if first.is_none() {
                        let mut step = ctx.step(first.as_ref(), &1).await?;
                        sqlx::query("INSERT INTO effect VALUES (-3)").execute(&mut *step).await?;
                        step.commit().await?;
                        return Err(JobError::retry("unlucky", anyhow::anyhow!("after its step")));
                    }
                }
                (-1, _) => came.send(-1).unwrap(),
                _ => {}
            }
            let mut tx = ctx.begin().await?;
            sqlx::query("INSERT INTO effect VALUES ($1)").bind(args.n).execute(&mut *tx).await?;
            Ok(Outcome::Committed(tx.commit().await?))
        }
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn parks_retries_steps_batches_and_effects_are_what_they_are_without_it() {
    let stage = Stage::behind_pgbouncer(true).await;
    sqlx::raw_sql("CREATE TABLE effect (n bigint)").execute(&stage.database).await.unwrap();
    let (tokens, mut given) = mpsc::unbounded_channel();
    let (came, mut comes) = mpsc::unbounded_channel();
    let (worker, scheduler) = (stage.worker(everything(tokens, came)), stage.scheduler());
    let id = BatchId(Uuid::from_u128(7));
    let mut tx = stage.database.begin().await.unwrap();
    let follow_up = NewJob::new(&Number { n: -1 }).unwrap();
    journal::open_batch_in(&mut tx, &NewBatch { id, follow_up }).await.unwrap();
    let members: Vec<_> = numbers(300).into_iter().map(|job| job.batch(id)).collect();
    journal::enqueue_in(&mut tx, &members).await.unwrap();
    assert!(journal::seal_batch_in(&mut tx, id).await.unwrap());
    tx.commit().await.unwrap();
    let token = given.recv().await.unwrap();
    let answer = RawValue::from_string("{}".to_owned()).unwrap();
    until("it can be called back", || async {
        let answered = journal::call_back(&stage.database, token.digest(), &answer).await.unwrap();
        answered != Callback::Unknown
    })
    .await;
    let (one, two) = (comes.recv().await.unwrap(), comes.recv().await.unwrap());
    assert_eq!((one, two), (0, -1), "the follow-up when all is over");
    until("nothing is left", || async { stage.is_idle().await }).await;
    let effects = "SELECT count(*) * 1000000 + count(DISTINCT n) FROM effect WHERE n >= -1";
    assert_eq!(stage.count(effects).await, 300_000_300, "each once, but for the dead one's");
    assert_eq!(stage.count("SELECT count(*) FROM effect WHERE n = -3").await, 1, "the step once");
    assert_eq!(stage.count("SELECT count(*) FROM job_closed WHERE state = 'dead'").await, 1);
    worker.stop().await;
    scheduler.stop().await;
}

/// From commit to Redis, the slowest of some, each after the relay has been idle for a while.
async fn slowest(stage: &Stage, jobs: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for n in 0..jobs {
        until("the relay sleeps", || async { stage.count("SELECT idle::int::bigint FROM relay_flag").await == 1 })
            .await;
        // Polls come further and further apart: the next is most of a second away.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let mut tx = stage.database.begin().await.unwrap();
        let job = NewJob::new(&Number { n: i64::try_from(n).unwrap() }).unwrap().due(Due::In(Duration::from_secs(600)));
        journal::enqueue_in(&mut tx, &[job]).await.unwrap();
        tx.commit().await.unwrap();
        let committed = Instant::now();
        let scheduled = u64::try_from(n + 1).unwrap();
        until("it is in Redis", || async {
            stage.store.counts(&"test".parse().unwrap()).await.unwrap().scheduled == scheduled
        })
        .await;
        slowest = slowest.max(committed.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn past_it_the_relay_is_woken_and_without_a_way_past_it_polls() {
    for listens in [true, false] {
        let stage = Stage::behind_pgbouncer(listens).await;
        let scheduler = stage.scheduler();
        until("it is ready", || async { scheduler.health.is_ready() }).await;
        let listening = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%'";
        if listens {
            until("it listens", || async { stage.count(listening).await == 1 }).await;
        }
        let waited = slowest(&stage, 5).await;
        println!("listening: {listens}, slowest {waited:?}");
        if listens {
            assert!(waited < Duration::from_millis(200), "it was not woken: {waited:?}");
        } else {
            assert_eq!(stage.count(listening).await, 0, "nobody listens on a connection that is lent out again");
            assert!(waited < Duration::from_secs(5), "{waited:?}");
        }
        scheduler.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_prepared_do_not_come_through_it_and_those_of_the_bridge_do() {
    let stage = Stage::behind_pgbouncer(false).await;
    let (postgres, pooler) = (stage.postgres.as_ref().unwrap(), stage.pooler.as_ref().unwrap());
    let url = postgres.url_through(pooler.port(), "windrow");
    let naive = database::pool(&database::Config { url: url.clone(), ..database::Config::default() }).unwrap();
    let ask = |pool: sqlx::PgPool, task: i32| async move {
        for n in 0..200 {
            // Texts of one and the same form: a foreign statement would answer without an error.
            let sum: i32 = if task % 2 == 0 {
                sqlx::query_scalar("SELECT $1::int4 + $2::int4").bind(n).bind(task).fetch_one(&pool).await?
            } else {
                -sqlx::query_scalar::<_, i32>("SELECT $1::int4 - $2::int4").bind(-n).bind(task).fetch_one(&pool).await?
            };
            assert_eq!(sum, n + task, "another statement answered");
        }
        Ok::<(), sqlx::Error>(())
    };
    let broken = ask(naive, 0).await.unwrap_err();
    let code = broken.as_database_error().unwrap().code().unwrap().into_owned();
    assert!(["26000", "42P05"].contains(&&*code), "{broken}");
    let tasks: Vec<_> = (0..16).map(|task| tokio::spawn(ask(stage.database.clone(), task))).collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let tls = database::pool(&database::Config {
        url: format!("{url}?sslmode=require"),
        prepared: false,
        ..Default::default()
    });
    assert!(tls.unwrap_err().to_string().contains("TLS"));
    tokio::task::block_in_place(|| pooler.kill().unwrap());
    let away = sqlx::query("SELECT 1").execute(&stage.database).await.unwrap_err();
    assert!(windrow_queue::error::is_transient(&away), "{away}");
}
