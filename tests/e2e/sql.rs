//! An application that is no Rust program enqueues in its own transaction, with the right to do so and no other.

use std::process::{Output, Stdio};

use tokio::process::Command;
use windrow_queue::Outcome;
use windrow_tests::{Number, Stage, handler, until};
use windrow_worker::Registry;

/// What the operator of the database grants, and a table of the application's own.
const GRANTS: &str = "
    CREATE ROLE shop LOGIN PASSWORD 'shop';
    GRANT EXECUTE ON FUNCTION windrow_enqueue TO shop;
    CREATE TABLE sale (n bigint); ALTER TABLE sale OWNER TO shop;
    CREATE TABLE effect (n bigint, job uuid)";

/// The application: psql, as its role.
async fn psql(stage: &Stage, script: &str) -> Output {
    let options = stage.database.connect_options();
    let program = tokio::task::spawn_blocking(|| windrow_devserver::find::postgres().unwrap().psql).await.unwrap();
    let port = options.get_port().to_string();
    let mut command = Command::new(program);
    command.args([
        "--no-psqlrc",
        "--quiet",
        "--tuples-only",
        "--no-align",
        "--set=ON_ERROR_STOP=1",
        "--host=127.0.0.1",
    ]);
    command.args([
        "--port",
        &port,
        "--username=shop",
        "--dbname",
        options.get_database().unwrap(),
        "--command",
        script,
    ]);
    command.env("PGPASSWORD", "shop").stdin(Stdio::null()).output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_an_applications_transaction_runs_once_if_it_commits_and_never_if_it_does_not() {
    let stage = Stage::with_postgres().await;
    sqlx::raw_sql(GRANTS).execute(&stage.database).await.unwrap();
    let worker = stage.worker(Registry::new().with(handler(|ctx, args: Number| async move {
        let mut tx = ctx.begin().await?;
        sqlx::query("INSERT INTO effect VALUES ($1, $2)").bind(args.n).bind(ctx.id().0).execute(&mut *tx).await?;
        Ok(Outcome::Committed(tx.commit().await?))
    })));
    let scheduler = stage.scheduler();
    let registered = "SELECT count(*) FROM job_kind WHERE kind = 'test.number'";
    until("the worker has registered its kinds", || async { stage.count(registered).await == 1 }).await;

    let sale = |n: i64, end: &str| {
        format!(
            "BEGIN; INSERT INTO sale VALUES ({n});
             SELECT outcome FROM windrow_enqueue('test.number', '{{\"n\": {n}}}', tenant => 'acme', unique_key => '{n}'); {end}"
        )
    };
    let rolled_back = psql(&stage, &sale(1, "ROLLBACK")).await;
    assert!(rolled_back.status.success(), "{rolled_back:?}");
    let failed = psql(&stage, &sale(2, "SELECT 1 / 0; COMMIT")).await;
    assert!(!failed.status.success(), "{failed:?}");
    let rows =
        "SELECT (SELECT count(*) FROM job_journal) + (SELECT count(*) FROM job_outbox) + (SELECT count(*) FROM sale)";
    assert_eq!(stage.count(rows).await, 0);
    for n in 3..8 {
        let committed = psql(&stage, &sale(n, "COMMIT")).await;
        assert_eq!(String::from_utf8_lossy(&committed.stdout).trim(), "created", "{committed:?}");
    }
    until("they have happened", || async {
        stage.is_idle().await && stage.count("SELECT count(*) FROM effect").await > 0
    })
    .await;
    let effects: Vec<(i64, i64)> = sqlx::query_as("SELECT n, count(*) FROM effect GROUP BY n ORDER BY n")
        .fetch_all(&stage.database)
        .await
        .unwrap();
    assert_eq!(effects, [(3, 1), (4, 1), (5, 1), (6, 1), (7, 1)]);
    let peek = psql(&stage, "SELECT count(*) FROM job_journal").await;
    assert!(String::from_utf8_lossy(&peek.stderr).contains("permission denied"), "{peek:?}");
    worker.stop().await;
    scheduler.stop().await;
}
