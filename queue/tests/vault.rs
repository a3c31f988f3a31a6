//! Nothing plain of an encrypted kind gets into a store. Redis is looked at as its files are, PostgreSQL as a whole.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    Due, JobArgs, JobContext, JobId, Kind, Member, NewJob, Policy, QueueName, Tenant, Vault,
    context::ContextParts,
    database,
    journal::{self, CloseState, Closing},
    store::{Refused, Store},
    vault::{self, VaultError},
};

/// What must not be found.
const CARD: &str = "4111 1111 1111 1111";
/// What is found, to be sure that we look.
const OPEN: &str = "nothing to hide here";
const KEY: &str = "2026a:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

#[derive(Serialize, Deserialize)]
struct Charge {
    card: String,
}

impl JobArgs for Charge {
    const KIND: Kind = Kind::from_static("test.charge_card");
    const QUEUE: QueueName = QueueName::from_static("test");
    const POLICY: Policy = Policy::DEFAULT.encrypted();
}

#[derive(Serialize, Deserialize)]
struct Note {
    text: String,
}

impl JobArgs for Note {
    const KIND: Kind = Kind::from_static("test.write_note");
    const QUEUE: QueueName = QueueName::from_static("test");
}

fn key() -> Vault {
    Vault::new(&vault::Config { keys: vec![KEY.into()], ..Default::default() }).unwrap()
}

fn charge() -> NewJob {
    NewJob::new(&Charge { card: CARD.into() }).unwrap().tenant(Tenant::new("acme").unwrap())
}

fn note() -> NewJob {
    NewJob::new(&Note { text: OPEN.into() }).unwrap()
}

fn redis() -> (RedisServer, Store) {
    let settings = vec![("rdbcompression".to_owned(), "no".to_owned())];
    let server = RedisServer::start(RedisOptions { aof: true, settings, ..Default::default() }).unwrap();
    let store = Store::new(&windrow_queue::store::Config { url: server.url(), ..Default::default() }).unwrap();
    (server, store)
}

/// How often each text is in the files of Redis: the append-only file, which has every command, and a snapshot.
fn in_redis(server: &RedisServer, texts: [&str; 2]) -> [usize; 2] {
    server.command(&["SAVE"]).unwrap();
    let mut bytes = Vec::new();
    let mut folders = vec![server.dir().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if [".rdb", ".aof"].iter().any(|end| name.ends_with(end)) {
                bytes.extend(std::fs::read(path).unwrap());
            }
        }
    }
    texts.map(|text| bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count())
}

async fn postgres() -> PgPool {
    let url = tokio::task::spawn_blocking(windrow_devserver::fresh_database).await.unwrap().unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    database::migrate(&pool).await.unwrap();
    pool
}

/// How often each text is in any row of any table.
async fn in_postgres(pool: &PgPool, texts: [&str; 2]) -> [usize; 2] {
    let all: String =
        sqlx::query_scalar("SELECT schema_to_xml('public', false, false, '')::text").fetch_one(pool).await.unwrap();
    texts.map(|text| all.matches(text).count())
}

#[tokio::test]
async fn a_store_seals_fast_jobs_by_itself_and_without_a_key_takes_none() {
    let (server, plain) = tokio::task::spawn_blocking(redis).await.unwrap();
    let answers = plain.enqueue(&[note(), charge(), note()]).await.unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(answers[1], Err(Refused::NoKey));
    let words = Refused::NoKey.to_string();
    assert!(words.contains("WINDROW_ENCRYPTION_KEYS"), "{words}");
    assert!(plain.enqueue(&[charge()]).await.unwrap()[0].is_err(), "alone as well");

    let store = plain.with_vault(key());
    let job = charge();
    let delayed = charge().due(Due::In(std::time::Duration::from_secs(600)));
    for answer in store.enqueue(&[job.clone(), delayed, note()]).await.unwrap() {
        assert!(answer.unwrap().is_created());
    }
    let [secret, open] = in_redis(&server, [CARD, OPEN]);
    assert!(secret == 0 && open >= 3, "{secret} {open}");
    // Whoever looks at the job sees which key opens it, and no more.
    let status = store.status(&Charge::QUEUE, Member::fast(job.id)).await.unwrap().unwrap();
    assert_eq!(status.args.unwrap().get(), r#"{"$sealed":"2026a"}"#);
}

fn attempt(pool: &PgPool, id: JobId, checkpoint: Option<serde_json::Value>) -> JobContext {
    JobContext::new(ContextParts {
        member: Member::journaled(id, 1),
        kind: Charge::KIND,
        queue: Charge::QUEUE,
        tenant: Some(Tenant::new("acme").unwrap()),
        attempt: 1,
        policy: Charge::POLICY,
        fire: None,
        traceparent: None,
        checkpoint,
        called_back: None,
        follows: None,
        cancel: CancellationToken::new(),
        database: pool.clone(),
        holder: None,
    })
}

#[tokio::test]
async fn the_journal_takes_sealed_jobs_only_and_transactions_of_jobs_seal_their_follow_ups() {
    let pool = postgres().await;
    let mut tx = pool.begin().await.unwrap();
    let refused = journal::enqueue_in(&mut tx, &[note(), charge()]).await.unwrap_err();
    let sqlx::Error::Encode(cause) = &refused else { panic!("{refused:?}") };
    assert_eq!(cause.downcast_ref(), Some(&VaultError::Unsealed { kind: Charge::KIND }));
    tx.commit().await.unwrap();
    assert_eq!(in_postgres(&pool, [CARD, OPEN]).await, [0, 0], "nothing of it was sent");

    let mut job = charge();
    key().seal(&mut job).unwrap();
    let mut tx = pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, &[job.clone(), note()]).await.unwrap();
    tx.commit().await.unwrap();

    let without = attempt(&pool, job.id, None);
    assert!(without.begin().await.unwrap().enqueue(&[charge()]).await.is_err());
    let ctx = without.with_vault(key());
    let mut tx = ctx.begin().await.unwrap();
    tx.enqueue(&[charge(), note()]).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, &[ctx.seal(charge()).unwrap()]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(in_postgres(&pool, [CARD, "$sealed"]).await, [0, 2]);
    assert_eq!(in_postgres(&pool, [CARD, OPEN]).await, [0, 2]);
}

#[tokio::test]
async fn a_dead_journaled_job_shows_which_key_opens_it_and_comes_back_sealed() {
    let pool = postgres().await;
    let mut job = charge();
    key().seal(&mut job).unwrap();
    let mut tx = pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, std::slice::from_ref(&job)).await.unwrap();
    tx.commit().await.unwrap();
    let ctx = attempt(&pool, job.id, None).with_vault(key());
    ctx.step(None, &CARD.to_owned()).await.unwrap().commit().await.unwrap();
    let closing =
        Closing { state: CloseState::Dead, reason: "declined", fingerprint: [0; 16], error: None, attempt: 1 };
    assert!(journal::close(&pool, job.id, 1, &closing).await.unwrap());

    let shown = |job: &serde_json::Value| (job["args"].clone(), job["checkpoint"].clone());
    let id_only = serde_json::json!({ "$sealed": "2026a" });
    let closed = journal::show_closed(&pool, job.id).await.unwrap().unwrap();
    assert_eq!(shown(&closed.job), (id_only.clone(), id_only.clone()));
    let listed = journal::list_closed(&pool, CloseState::Dead, None, 10).await.unwrap();
    assert_eq!(shown(&listed[0].job), (id_only.clone(), id_only));
    assert_eq!(in_postgres(&pool, [CARD, "$sealed"]).await, [0, 2]);

    journal::redrive(&pool, job.id).await.unwrap();
    let member = Member::journaled(job.id, 2);
    let row = journal::start_check(&pool, &[member]).await.unwrap().remove(&member).unwrap();
    let plain = key().open_args(true, &Charge::KIND, ctx.tenant(), row.args.0).unwrap();
    assert!(plain.get().contains(CARD));
}

#[tokio::test]
async fn checkpoints_of_an_encrypted_kind_are_sealed_and_advance_as_others_do() {
    #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
    struct Progress {
        card: String,
        step: u32,
    }
    let at = |step| Progress { card: CARD.into(), step };
    let stored = async |pool: &PgPool| -> Option<serde_json::Value> {
        sqlx::query_scalar("SELECT checkpoint FROM job_journal").fetch_one(pool).await.unwrap()
    };
    let pool = postgres().await;
    let mut job = charge();
    key().seal(&mut job).unwrap();
    let mut tx = pool.begin().await.unwrap();
    journal::enqueue_in(&mut tx, std::slice::from_ref(&job)).await.unwrap();
    tx.commit().await.unwrap();

    let first = attempt(&pool, job.id, None).with_vault(key());
    first.step(None, &at(1)).await.unwrap().commit().await.unwrap();
    // Rolled back, and done again.
    drop(first.step(Some(&at(1)), &at(2)).await.unwrap());
    first.step(Some(&at(1)), &at(2)).await.unwrap().commit().await.unwrap();
    assert!(first.step(Some(&at(1)), &at(3)).await.is_err(), "it has moved on");
    assert_eq!(in_postgres(&pool, [CARD, "$sealed"]).await, [0, 2]);

    // The next attempt runs after the key was rotated.
    let rotated = vault::Config {
        keys: vec!["2026b:ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=".into(), KEY.into()],
        ..Default::default()
    };
    let second = attempt(&pool, job.id, stored(&pool).await).with_vault(Vault::new(&rotated).unwrap());
    assert_eq!(second.checkpoint::<Progress>().unwrap(), Some(at(2)));
    second.step(Some(&at(2)), &at(3)).await.unwrap().commit().await.unwrap();
    second.step(Some(&at(3)), &at(4)).await.unwrap().commit().await.unwrap();
    assert!(stored(&pool).await.unwrap()["$sealed"].as_str().unwrap().starts_with("2026b."));
    assert_eq!(in_postgres(&pool, [CARD, "$sealed"]).await, [0, 2]);
    // What does not decode is not quoted.
    let error = second.checkpoint::<u32>().unwrap_err();
    assert!(error.class() == "invalid_checkpoint" && !error.message().contains("4111"), "{error}");
    let error = second.checkpoint::<(u8, String)>().unwrap_err();
    assert!(!error.message().contains("4111"), "{error}");
    // Without the key it waits.
    let stranger = attempt(&pool, job.id, stored(&pool).await);
    assert!(matches!(stranger.checkpoint::<Progress>().unwrap_err().decision(), windrow_queue::Decision::Snooze(_)));
}
