//! What the tests of all families share: a database of their own, attempts at journaled jobs, and faults on demand.
#![allow(clippy::unwrap_used, dead_code, reason = "tests; not every family needs every helper")]

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use windrow_queue::{JobArgs, JobContext, JobId, Member, NewJob, Tenant, context::ContextParts, database, journal};

const TEMPLATE: &str = "windrow_template";

/// A pool on a fresh, migrated database of this process's PostgreSQL. Tests run side by side and never meet.
pub(crate) async fn database() -> PgPool {
    static MIGRATED: OnceLock<()> = OnceLock::new();
    let url = tokio::task::spawn_blocking(|| {
        MIGRATED.get_or_init(|| {
            let url = windrow_devserver::shared_postgres().unwrap().create_database(TEMPLATE).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let pool = PgPool::connect(&url).await.unwrap();
                database::migrate(&pool).await.unwrap();
                // Nobody may be connected to a template that is copied.
                pool.close().await;
            });
        });
        windrow_devserver::fresh_database_from(TEMPLATE).unwrap()
    })
    .await
    .unwrap();
    PgPoolOptions::new().max_connections(8).connect(&url).await.unwrap()
}

/// Adds a tenant and gives its name back, checked.
pub(crate) async fn tenant(pool: &PgPool, id: &str) -> Tenant {
    sqlx::query("INSERT INTO tenant (id, name) VALUES ($1, $1)").bind(id).execute(pool).await.unwrap();
    Tenant::new(id).unwrap()
}

/// Enqueues a journaled job and begins its first attempt. Clone the context to run the same attempt twice.
pub(crate) async fn attempt<A: JobArgs>(pool: &PgPool, tenant: Option<&Tenant>, args: &A) -> (JobContext, JobId) {
    let mut job = NewJob::new(args).unwrap();
    if let Some(tenant) = tenant {
        job = job.tenant(tenant.clone());
    }
    let id = job.id;
    let mut tx = pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, &[job]).await.unwrap();
    tx.commit().await.unwrap();
    (attempt_of::<A>(pool, id).await.0, id)
}

/// Begins an attempt of a job that stands in the journal, as the worker would: with its checkpoint and tenant.
pub(crate) async fn attempt_of<A: JobArgs>(pool: &PgPool, id: JobId) -> (JobContext, A) {
    let generation = sqlx::query_scalar("SELECT gen FROM job_journal WHERE id = $1").bind(id.0).fetch_one(pool).await;
    let member = Member::journaled(id, generation.unwrap());
    let row = journal::start_check(pool, &[member]).await.unwrap().remove(&member).unwrap();
    let tenant: Option<String> =
        sqlx::query_scalar("SELECT tenant FROM job_journal WHERE id = $1").bind(id.0).fetch_one(pool).await.unwrap();
    let context = JobContext::new(ContextParts {
        member,
        kind: A::KIND,
        queue: A::QUEUE,
        tenant: tenant.map(|name| Tenant::new(name).unwrap()),
        attempt: u32::try_from(row.attempt).unwrap() + 1,
        policy: A::POLICY,
        fire: None,
        traceparent: row.traceparent.clone(),
        checkpoint: row.checkpoint.clone(),
        cancel: CancellationToken::new(),
        database: pool.clone(),
        called_back: None,
        follows: None,
        holder: None,
    });
    (context, serde_json::from_str(row.args.get()).unwrap())
}

/// The jobs of a kind that stand in the journal, oldest first.
pub(crate) async fn standing<A: JobArgs>(pool: &PgPool) -> Vec<JobId> {
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM job_journal WHERE kind = $1 ORDER BY id")
        .bind(A::KIND.as_str())
        .fetch_all(pool)
        .await
        .unwrap();
    ids.into_iter().map(JobId).collect()
}

/// One number from the database.
pub(crate) async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// An instant in RFC 3339.
pub(crate) fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// How a statement is made to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Postgres refuses it.
    Refuse,
    /// The connection is killed in the middle of the transaction.
    Kill,
    /// Postgres refuses the COMMIT.
    RefuseCommit,
}

/// Makes the next `event` (INSERT, UPDATE or DELETE) on `table` fail, once: the count is kept in a sequence, which no
/// rollback turns back.
pub(crate) async fn fail_once(pool: &PgPool, table: &str, event: &str, fault: Fault) {
    let action = match fault {
        Fault::Refuse | Fault::RefuseCommit => "RAISE EXCEPTION 'made to fail'",
        Fault::Kill => "PERFORM pg_terminate_backend(pg_backend_pid())",
    };
    let trigger = match fault {
        Fault::Refuse | Fault::Kill => format!("CREATE TRIGGER fault BEFORE {event} ON {table} FOR EACH ROW"),
        Fault::RefuseCommit => format!(
            "CREATE CONSTRAINT TRIGGER fault AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        ),
    };
    let sql = format!(
        "DROP SEQUENCE IF EXISTS fault_count;
         CREATE SEQUENCE fault_count;
         CREATE OR REPLACE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF nextval('fault_count') = 1 THEN {action}; END IF;
             IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
             RETURN NEW;
         END $$;
         DROP TRIGGER IF EXISTS fault ON {table};
         {trigger} EXECUTE FUNCTION fault()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

/// Whether the fault that [`fail_once`] laid was met: a test whose fault never struck proves nothing.
pub(crate) async fn fault_struck(pool: &PgPool) -> bool {
    sqlx::query_scalar("SELECT is_called FROM fault_count").fetch_one(pool).await.unwrap()
}

/// Serves a router on a free port of 127.0.0.1 for as long as the test runs; gives back `http://127.0.0.1:PORT/`.
pub(crate) async fn serve(router: axum::Router) -> url::Url {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}/").parse().unwrap()
}

/// Answers every connection on a free port of 127.0.0.1 with these bytes, whatever was asked, and closes it.
pub(crate) async fn serve_raw(answer: &'static [u8]) -> url::Url {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Reading first: closing with unread data would reset the connection and lose the answer.
            let _ = stream.read(&mut [0; 8192]).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("http://{address}/").parse().unwrap()
}
