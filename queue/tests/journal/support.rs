//! A database of its own for every test, a kind with an effect, and a proxy that loses an answer.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use windrow_queue::{
    JobArgs, JobContext, JobId, Kind, Member, NewJob, Policy, QueueName, context::ContextParts, database, journal,
};

const TEMPLATE: &str = "journal_template";

/// The address of a fresh, migrated database.
pub(crate) async fn database_url() -> String {
    static MIGRATED: OnceLock<()> = OnceLock::new();
    tokio::task::spawn_blocking(|| {
        MIGRATED.get_or_init(|| {
            let url = windrow_devserver::shared_postgres().unwrap().create_database(TEMPLATE).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let pool = PgPool::connect(&url).await.unwrap();
                database::migrate(&pool).await.unwrap();
                sqlx::query("CREATE TABLE effect (job uuid, note text)").execute(&pool).await.unwrap();
                pool.close().await;
            });
        });
        windrow_devserver::fresh_database_from(TEMPLATE).unwrap()
    })
    .await
    .unwrap()
}

/// A pool whose connections have the settings that `migrate` makes, with a short patience for locks.
pub(crate) async fn connect(url: &str) -> PgPool {
    connect_with(url.parse().unwrap(), "SET lock_timeout = '500ms'; SET idle_in_transaction_session_timeout = '8s'")
        .await
}

/// Another pool on the same database, which waits for locks however long a busy machine takes.
pub(crate) async fn patient(pool: &PgPool) -> PgPool {
    connect_with((*pool.connect_options()).clone(), "SET lock_timeout = '20s'").await
}

async fn connect_with(options: PgConnectOptions, settings: &'static str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(std::time::Duration::from_secs(60))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(settings).execute(connection).await?;
                Ok(())
            })
        })
        .connect_with(options)
        .await
        .unwrap()
}

pub(crate) async fn database() -> PgPool {
    connect(&database_url().await).await
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) text: String,
}

impl JobArgs for Note {
    const KIND: Kind = Kind::from_static("test.write_note");
    const QUEUE: QueueName = QueueName::from_static("test");
    const POLICY: Policy = Policy::DEFAULT.journaled();
    const REQUIRED: &'static [&'static str] = &["text"];
}

pub(crate) fn note(text: &str) -> NewJob {
    NewJob::new(&Note { text: text.to_owned() }).unwrap()
}

/// Enqueues and commits.
pub(crate) async fn enqueue(pool: &PgPool, jobs: &[NewJob]) -> Vec<windrow_queue::Enqueued> {
    let mut tx = pool.begin().await.unwrap();
    let answers = journal::enqueue_in(&mut tx, jobs).await.unwrap();
    tx.commit().await.unwrap();
    answers
}

/// An attempt of a journaled job, as a worker makes it. Nothing is looked up: a zombie has one too.
pub(crate) fn attempt(pool: &PgPool, id: JobId, generation: i32) -> JobContext {
    JobContext::new(ContextParts {
        member: Member::journaled(id, generation),
        kind: Note::KIND,
        queue: Note::QUEUE,
        tenant: None,
        attempt: 1,
        policy: Note::POLICY,
        fire: None,
        traceparent: None,
        checkpoint: None,
        cancel: CancellationToken::new(),
        database: pool.clone(),
        called_back: None,
        follows: None,
        holder: None,
    })
}

pub(crate) async fn write_effect(tx: &mut sqlx::PgConnection, id: JobId) {
    sqlx::query("INSERT INTO effect (job, note) VALUES ($1, 'done')").bind(id.0).execute(tx).await.unwrap();
}

/// Waits until a statement of this database waits for a lock.
pub(crate) async fn blocked(pool: &PgPool) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(15);
    while count(pool, waiting).await == 0 {
        assert!(tokio::time::Instant::now() < deadline, "nobody waits for a lock");
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn count(pool: &PgPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

/// A proxy in front of Postgres that, when told to, lets a COMMIT through and loses the answer with the connection.
pub(crate) struct LosesCommit {
    pub(crate) port: u16,
    pub(crate) armed: Arc<AtomicBool>,
}

impl LosesCommit {
    pub(crate) async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicBool::new(false));
        let arm = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
                tokio::spawn(forward(client, server, Arc::clone(&arm)));
            }
        });
        Self { port, armed }
    }
}

async fn forward(client: TcpStream, server: TcpStream, armed: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut sent, mut answered) = (vec![0; 65536], vec![0; 65536]);
    let mut lose = false;
    loop {
        tokio::select! {
            read = from_client.read(&mut sent) => {
                let Ok(read @ 1..) = read else { return };
                lose |= sent[..read].windows(6).any(|part| part == b"COMMIT") && armed.swap(false, Ordering::SeqCst);
                if to_server.write_all(&sent[..read]).await.is_err() { return }
            }
            read = from_server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                // The server has answered, so it has committed; the client never hears of it.
                if lose || to_client.write_all(&answered[..read]).await.is_err() { return }
            }
        }
    }
}
