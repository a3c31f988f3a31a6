//! The raw limit: pgbench with the statements of one job's transaction, over rows that were laid before.

use std::process::Stdio;

use anyhow::{Context, Result};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::{io::AsyncWriteExt, process::Command};
use windrow_devserver::{PostgresServer, find};
use windrow_queue::database;

use super::effect::TABLE;

/// One job's transaction, as `JobTx` and the handler of the benchmark write it. Each client counts its own rows.
const SCRIPT: &str = "
\\set i :i + 1
\\set n :client_id * 10000000 + :i
BEGIN;
DELETE FROM job_journal WHERE id = lpad(:n::text, 32, '0')::uuid AND gen = 1 AND state = 'live'
RETURNING schedule_id, fire_at;
INSERT INTO bench_effect (n) VALUES (:n);
SET CONSTRAINTS ALL IMMEDIATE;
COMMIT;
";

/// The rows of all clients, as many as each executes transactions.
const ROWS: &str = "
INSERT INTO job_journal (id, kind, queue, tenant, args)
SELECT lpad((client * 10000000 + i)::text, 32, '0')::uuid, 'bench.effect', 'bench', 'tenant-' || i % 100,
       jsonb_build_object('n', i, 'pad', repeat('x', 132))
FROM generate_series(0, $1 - 1) AS client, generate_series(1, $2) AS i";

/// Transactions a second, connecting left out.
pub(super) async fn committed(postgres: &PostgresServer, jobs: usize, connections: u32) -> Result<f64> {
    let url = postgres.create_database("raw")?;
    let pool = database::pool(&database::Config { url: url.clone(), ..database::Config::default() })?;
    database::migrate(&pool).await?;
    sqlx::raw_sql(TABLE).execute(&pool).await?;
    let each = jobs.div_ceil(connections as usize);
    sqlx::query(ROWS).bind(i64::from(connections)).bind(i64::try_from(each)?).execute(&pool).await?;
    sqlx::raw_sql("VACUUM ANALYZE job_journal").execute(&pool).await?;

    let output = pgbench(&url, each, connections).await?;
    let expected = each * connections as usize;
    let effects = count(&pool, "SELECT count(*) FROM bench_effect").await?;
    let rest = count(&pool, "SELECT count(*) FROM job_journal").await?;
    anyhow::ensure!(
        (effects, rest) == (expected, 0),
        "pgbench wrote {effects} of {expected} effects, left {rest} rows"
    );
    pool.close().await;
    let rate = output.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.with_context(|| format!("pgbench says no rate:\n{output}"))
}

async fn count(pool: &PgPool, sql: &'static str) -> Result<usize> {
    Ok(usize::try_from(sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await?)?)
}

async fn pgbench(url: &str, each: usize, connections: u32) -> Result<String> {
    let options: PgConnectOptions = url.parse()?;
    let password = url.split_once("://").and_then(|(_, rest)| rest.split('@').next()?.split_once(':'));
    let (_, password) = password.context("the server's address has no password")?;
    let program = find::postgres()?.folder.join("pgbench");
    let mut command = Command::new(&program);
    command
        .args(["--no-vacuum", "--protocol=prepared", "--file=-", "--jobs=2", "--define=i=0"])
        .args([format!("--client={connections}"), format!("--transactions={each}")])
        .args([format!("--host={}", options.get_host()), format!("--port={}", options.get_port())])
        .args(["--username", options.get_username(), options.get_database().unwrap_or("postgres")])
        .env("PGPASSWORD", password)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    child.stdin.take().context("stdin")?.write_all(SCRIPT.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "pgbench failed with {}:\n{errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
