//! R19: what is the database's fault costs no attempt. Each fault is really caused.

use std::net::Ipv4Addr;

use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{io::AsyncReadExt, net::TcpListener};
use windrow_queue::{Decision, JobError, error::is_transient};

use crate::support::{database, database_url, enqueue, note};

async fn two_rows(pool: &PgPool) {
    sqlx::raw_sql("CREATE TABLE pair (n int PRIMARY KEY, v int); INSERT INTO pair VALUES (1, 0), (2, 0)")
        .execute(pool)
        .await
        .unwrap();
}

const UPDATE: &str = "UPDATE pair SET v = v + 1 WHERE n = $1";

fn assert_costs_no_attempt(error: sqlx::Error) {
    assert!(is_transient(&error), "{error:?}");
    let error = JobError::from(error);
    assert!(matches!(error.decision(), Decision::Snooze(_)), "{error}");
}

#[tokio::test]
async fn a_lock_timeout() {
    let pool = database().await;
    two_rows(&pool).await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query(UPDATE).bind(1).execute(&mut *holder).await.unwrap();
    assert_costs_no_attempt(sqlx::query(UPDATE).bind(1).execute(&pool).await.unwrap_err());
}

#[tokio::test]
async fn a_deadlock() {
    let url = database_url().await;
    let pool = PgPoolOptions::new().connect(&url).await.unwrap();
    two_rows(&pool).await;
    let (mut one, mut two) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    for tx in [&mut one, &mut two] {
        sqlx::raw_sql("SET LOCAL deadlock_timeout = '50ms'; SET LOCAL lock_timeout = 0")
            .execute(&mut **tx)
            .await
            .unwrap();
    }
    sqlx::query(UPDATE).bind(1).execute(&mut *one).await.unwrap();
    sqlx::query(UPDATE).bind(2).execute(&mut *two).await.unwrap();
    let (first, second) = tokio::join!(sqlx::query(UPDATE).bind(2).execute(&mut *one), async {
        let result = sqlx::query(UPDATE).bind(1).execute(&mut *two).await;
        if result.is_err() {
            two.rollback().await.unwrap();
        }
        result
    });
    let error = first.err().or(second.err()).expect("one of the two is the victim");
    assert_costs_no_attempt(error);
}

#[tokio::test]
async fn a_terminated_connection_and_an_exhausted_pool() {
    let url = database_url().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(std::time::Duration::from_millis(100))
        .connect(&url)
        .await
        .unwrap();
    let mut only = pool.acquire().await.unwrap();
    assert_costs_no_attempt(sqlx::query("SELECT 1").execute(&pool).await.unwrap_err());
    let killed = sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())").execute(&mut *only).await.unwrap_err();
    assert_costs_no_attempt(killed);
}

#[tokio::test]
async fn a_connection_that_is_taken_and_closed_at_once() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("postgres://nobody:x@{}/none", listener.local_addr().unwrap());
    // One that was closed before anything was read, and one that was read from.
    tokio::spawn(async move {
        for reads in [false, true].into_iter().cycle() {
            let (mut stream, _) = listener.accept().await.unwrap();
            if reads {
                stream.read_u64().await.unwrap();
            }
        }
    });
    for mode in ["prefer", "disable"] {
        for _ in 0..4 {
            let connect = PgConnection::connect(&format!("{url}?sslmode={mode}")).await;
            assert_costs_no_attempt(connect.unwrap_err());
        }
    }
}

#[tokio::test]
async fn a_serialisation_failure() {
    let pool = database().await;
    two_rows(&pool).await;
    let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    sqlx::query("SELECT v FROM pair").fetch_all(&mut *tx).await.unwrap();
    sqlx::query(UPDATE).bind(1).execute(&pool).await.unwrap();
    assert_costs_no_attempt(sqlx::query(UPDATE).bind(1).execute(&mut *tx).await.unwrap_err());
}

#[tokio::test]
async fn a_wrong_statement_is_the_jobs_own_fault() {
    let pool = database().await;
    enqueue(&pool, &[note("a")]).await;
    for statement in ["SELECT nonsense", "SELECT 1 / 0", "INSERT INTO job_journal SELECT * FROM job_journal"] {
        let error = sqlx::query(statement).execute(&pool).await.unwrap_err();
        assert!(!is_transient(&error), "{error:?}");
        assert_eq!(JobError::from(error).decision(), Decision::Retry);
    }
}
