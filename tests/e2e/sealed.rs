//! Jobs of an encrypted kind, from the producer through both stores to the handler.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use windrow_queue::{
    JobArgs, JobError, Kind, Member, NewJob, Outcome, Policy, QueueName, Tenant, Vault, journal,
    store::{Callback, CallbackToken, CalledBack, Filter, JobState},
    vault,
};
use windrow_tests::{Number, POLICY, Stage, handler, until};
use windrow_worker::{Config, Registry};

const CARD: &str = "4111 1111 1111 1111";
const OLD: &str = "2026a:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
const NEW: &str = "2026b:ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=";

#[derive(Serialize, Deserialize)]
struct Charge {
    card: String,
    declined: bool,
}

impl JobArgs for Charge {
    const KIND: Kind = Kind::from_static("test.charge_card");
    const QUEUE: QueueName = Number::QUEUE;
    const POLICY: Policy = POLICY.encrypted();
}

fn charge(declined: bool) -> NewJob {
    NewJob::new(&Charge { card: CARD.into(), declined }).unwrap().tenant(Tenant::from_static("acme"))
}

fn keys(keys: &[&str]) -> Vault {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Vault::new(&vault::Config { keys, ..Default::default() }).unwrap()
}

/// Charges good cards; the next attempt of a bad one finds what the first left, and declines it for good.
fn registry() -> Registry {
    Registry::new().with(handler(|ctx, Charge { card, declined }: Charge| async move {
        assert_eq!(card, CARD);
        if !declined {
            return Ok(Outcome::Done);
        }
        if ctx.is_journaled() {
            ctx.step(None, &card).await?.commit().await?;
        } else {
            assert_eq!(ctx.checkpoint::<String>()?, (ctx.attempt() > 1).then(|| CARD.to_owned()));
            ctx.save_checkpoint(&card).await?;
            if ctx.attempt() == 1 {
                return Err(JobError::retry("declined", anyhow::anyhow!("not this time")));
            }
        }
        Err(JobError::bury("declined", anyhow::anyhow!("declined")))
    }))
}

/// Whether the card is anywhere in Redis' append-only file, or in any table.
async fn is_leaked(stage: &Stage) -> bool {
    let mut folders = vec![stage.redis.dir().to_owned()];
    let mut bytes = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "aof" || extension == "rdb") => {
                    bytes.extend(std::fs::read(path).unwrap());
                }
                false => {}
            }
        }
    }
    assert!(bytes.windows(7).any(|window| window == b"$sealed"), "this is where Redis keeps its data");
    let tables: String = sqlx::query_scalar("SELECT schema_to_xml('public', false, false, '')::text")
        .fetch_one(&stage.database)
        .await
        .unwrap();
    bytes.windows(CARD.len()).any(|window| window == CARD.as_bytes()) || tables.contains(CARD)
}

async fn sealed_stage(vault: Vault) -> Stage {
    let mut stage = Stage::new().await;
    stage.store = stage.store.with_vault(vault);
    stage
}

fn sealed(vault: &Vault, mut job: NewJob) -> NewJob {
    vault.seal(&mut job).unwrap();
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_given_what_no_store_ever_had_in_plain_text() {
    let vault = keys(&[OLD]);
    let stage = sealed_stage(vault.clone()).await;
    let (fast, journaled) = (charge(true), sealed(&vault, charge(true)));
    let worker = stage.worker(registry());
    stage.enqueue(&[charge(false), fast.clone()]).await;
    stage.enqueue_journaled(&[sealed(&vault, charge(false)), journaled.clone()]).await;
    until("all are final", || async {
        let counts = stage.store.counts(&Number::QUEUE).await.unwrap();
        stage.is_idle().await && counts.dead == 1 && stage.count("SELECT count(*) FROM job_closed").await == 1
    })
    .await;
    assert_eq!(worker.counted("windrow_jobs_finished_total", "complete"), 2);
    assert_eq!(worker.counted("windrow_jobs_failed_total", "declined"), 3);

    let id_only = r#"{"$sealed":"2026a"}"#;
    let status = stage.store.status(&Number::QUEUE, Member::fast(fast.id)).await.unwrap().unwrap();
    assert_eq!((status.state, status.args.unwrap().get()), (JobState::Dead, id_only));
    let closed = journal::show_closed(&stage.database, journaled.id).await.unwrap().unwrap();
    assert_eq!(closed.job["args"].to_string(), id_only);
    assert_eq!(closed.job["checkpoint"].to_string(), id_only);
    let dead = stage.store.dead(&Number::QUEUE, &Filter::default(), None, 10).await.unwrap();
    assert!(!format!("{dead:?}").contains("4111"));
    assert!(!is_leaked(&stage).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_key_is_missing_waits_for_a_worker_that_has_it() {
    let (before, after) = (keys(&[OLD]), keys(&[NEW, OLD]));
    let mut stage = sealed_stage(after.clone()).await;
    stage.enqueue(&[charge(false)]).await;
    stage.enqueue_journaled(&[sealed(&after, charge(false))]).await;
    stage.store = stage.store.with_vault(before);
    let worker = stage.worker(registry());
    until("both were given back", || async { worker.counted("windrow_jobs_failed_total", "unknown_key") == 2 }).await;
    until("they wait", || async { stage.store.counts(&Number::QUEUE).await.unwrap().scheduled == 2 }).await;
    worker.stop().await;

    stage.store = stage.store.with_vault(after);
    let worker = stage.worker(registry());
    until("they are done", || async { worker.counted("windrow_jobs_finished_total", "complete") == 2 }).await;
    assert!(stage.is_idle().await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_key_never_comes_is_dead_and_says_which_key_it_was() {
    let mut stage = sealed_stage(keys(&[NEW])).await;
    stage.enqueue(&[charge(false)]).await;
    stage.enqueue_journaled(&[sealed(&keys(&[NEW]), charge(false))]).await;
    stage.store = stage.store.with_vault(Vault::default());
    let worker = stage.worker_with(registry(), Config { unknown_after: Duration::ZERO, ..Config::default() });
    until("both are dead", || async { stage.is_idle().await }).await;
    let dead = stage.store.dead(&Number::QUEUE, &Filter::default(), None, 10).await.unwrap().items.remove(0);
    let error = dead.error.unwrap();
    assert!(error.class == "unknown_key" && error.message.contains("2026b"), "{error:?}");
    let closed: String = sqlx::query_scalar("SELECT reason FROM job_closed WHERE state = 'dead'")
        .fetch_one(&stage.database)
        .await
        .unwrap();
    assert!(closed.contains("2026b"), "{closed}");
    worker.stop().await;
}

/// Another version of the kind, which reads the card as a number.
#[derive(Serialize, Deserialize)]
struct Recharge {
    card: u64,
}

impl JobArgs for Recharge {
    const KIND: Kind = Charge::KIND;
    const QUEUE: QueueName = Number::QUEUE;
    const POLICY: Policy = Charge::POLICY;
}

#[tokio::test(flavor = "multi_thread")]
async fn args_that_do_not_decode_are_not_quoted_in_the_error() {
    let stage = sealed_stage(keys(&[OLD])).await;
    stage.enqueue(&[charge(false)]).await;
    let worker = stage.worker(Registry::new().with(handler(|_, _: Recharge| async { Ok(Outcome::Done) })));
    until("it is dead", || async { stage.store.counts(&Number::QUEUE).await.unwrap().dead == 1 }).await;
    let dead = stage.store.dead(&Number::QUEUE, &Filter::default(), None, 10).await.unwrap().items.remove(0);
    let error = dead.error.unwrap();
    assert!(error.class == "invalid_args" && error.message.contains("line 1, column "), "{error:?}");
    assert!(!is_leaked(&stage).await, "{error:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_calls_a_job_of_an_encrypted_kind_back_is_sealed_until_its_handler_has_it() {
    let vault = keys(&[OLD]);
    let stage = sealed_stage(vault.clone()).await;
    let (give, mut tokens) = tokio::sync::mpsc::unbounded_channel();
    let registry = Registry::new().with(handler(move |ctx, _: Charge| {
        let give = give.clone();
        async move {
            match ctx.called_back() {
                Some(CalledBack::Payload(payload)) => {
                    assert_eq!(payload.get(), format!(r#"{{"card":"{CARD}"}}"#));
                    Ok(Outcome::Done)
                }
                _ => {
                    give.send(ctx.callback().await?).unwrap();
                    Ok(Outcome::Park { deadline: Duration::from_secs(60) })
                }
            }
        }
    }));
    let catalog = registry.catalog().with_vault(vault.clone());
    let worker = stage.worker(registry);
    stage.enqueue(&[charge(false)]).await;
    stage.enqueue_journaled(&[sealed(&vault, charge(false))]).await;
    let payload = RawValue::from_string(format!(r#"{{"card":"{CARD}"}}"#)).unwrap();
    for _ in 0..2 {
        let token: CallbackToken = tokens.recv().await.unwrap();
        let stored = catalog.stored_callback(&token.queue(), &payload).unwrap();
        let journaled = journal::call_back(&stage.database, token.digest(), &stored).await.unwrap();
        if journaled == Callback::Unknown {
            assert_eq!(
                stage.store.call_back(&token.queue(), token.digest(), &stored).await.unwrap(),
                Callback::Delivered
            );
        } else {
            assert_eq!(journaled, Callback::Delivered);
        }
    }
    until("both are done", || async {
        stage.relay().await;
        worker.counted("windrow_jobs_finished_total", "complete") == 2
    })
    .await;
    assert!(!is_leaked(&stage).await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_args_that_were_moved_to_another_tenant_are_never_executed() {
    let vault = keys(&[OLD]);
    let stage = sealed_stage(vault.clone()).await;
    let job = sealed(&vault, charge(false));
    let mut tx = stage.database.begin().await.unwrap();
    journal::enqueue_in(&mut tx, std::slice::from_ref(&job)).await.unwrap();
    for table in ["UPDATE job_journal SET tenant = 'other'", "UPDATE job_outbox SET tenant = 'other'"] {
        sqlx::query(table).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    stage.relay().await;
    let worker = stage.worker(registry());
    until("it is dead", || async { stage.count("SELECT count(*) FROM job_closed WHERE state = 'dead'").await == 1 })
        .await;
    assert_eq!(worker.counted("windrow_jobs_failed_total", "sealed_damaged"), 1);
    assert_eq!(worker.counted("windrow_jobs_finished_total", "complete"), 0);
    worker.stop().await;
}
