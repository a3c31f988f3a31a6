//! Carries out what was planned.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use futures::future::join_all;
use sqlx::Row;
use tokio::time::{sleep, timeout};
use uuid::Uuid;
use windrow_devserver::Reply;
use windrow_queue::{JobId, Member};

use crate::{
    book::Answer,
    history::Moment,
    kinds::FAST,
    plan::{Fault, Network, Planned, WORKERS},
    proxy::Weather,
    stage::Stage,
};

/// What Redis may lose of its last moments although it has a file: up to 2 s of what it accepted (the README's table).
const EVERYSEC_MS: i64 = 2000;

/// Between two looks at nodes and at the file of Redis.
const LOOK: Duration = Duration::from_millis(100);

/// A time span in which Redis may have lost what it had accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LossWindow {
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
}

/// A fault as it was carried out.
#[derive(Clone, Debug)]
pub(crate) struct Injected {
    pub(crate) fault: Fault,
    pub(crate) begin_ms: i64,
    /// From then on everything was there again.
    pub(crate) end_ms: i64,
    pub(crate) loses: Option<LossWindow>,
    /// Why it was not carried out.
    pub(crate) failed: Option<String>,
}

/// Carries out one fault, waiting for its turn at what it hits.
pub(crate) async fn carry_out(stage: &Stage, planned: &Planned) -> Injected {
    let mut injected =
        Injected { fault: planned.fault.clone(), begin_ms: stage.clock.now_ms(), end_ms: 0, loses: None, failed: None };
    if let Err(error) = inject(stage, &mut injected).await {
        injected.failed = Some(format!("{error:#}"));
    }
    injected.end_ms = stage.clock.now_ms();
    injected
}

async fn inject(stage: &Stage, it: &mut Injected) -> anyhow::Result<()> {
    let ms = Duration::from_millis;
    match it.fault {
        Fault::Kill { node, down_ms } => {
            let mut node = stage.nodes[node].lock().await;
            it.begin_ms = stage.clock.now_ms();
            node.kill().await?;
            sleep(ms(down_ms)).await;
            node.start()
        }
        Fault::KillWorkers { down_ms } => {
            let mut workers = join_all(stage.nodes[..WORKERS].iter().map(|node| node.lock())).await;
            it.begin_ms = stage.clock.now_ms();
            for worker in &mut workers {
                worker.kill().await?;
            }
            sleep(ms(down_ms)).await;
            workers.iter_mut().try_for_each(|worker| worker.start())
        }
        Fault::Replace { node } => {
            let mut node = stage.nodes[node].lock().await;
            it.begin_ms = stage.clock.now_ms();
            if !node.terminate().await? {
                stage.wrong(format!("{} did not end well when it was asked to:\n{}", node.name(), node.log_tail()));
            }
            node.start()
        }
        Fault::Freeze { node, ms: frozen_ms } => {
            let node = stage.nodes[node].lock().await;
            it.begin_ms = stage.clock.now_ms();
            node.freeze()?;
            sleep(ms(frozen_ms)).await;
            node.thaw()
        }
        Fault::Clock { node, to_s } => {
            let node = stage.nodes[node].lock().await;
            let skew = node.skew().with_context(|| stage.no_skew.clone().unwrap_or_default())?;
            Ok(skew.set(to_s * 1000)?)
        }
        Fault::Network { server, whom, what } => {
            let _turn = stage.weather(server).lock().await;
            it.begin_ms = stage.clock.now_ms();
            let ways = stage.ways(whom);
            let (weather, lasts_ms) = match what {
                Network::Cut => {
                    ways.iter().for_each(|ways| ways.to(server).cut());
                    return Ok(());
                }
                Network::Refuse { ms } => (Weather::Refuse, ms),
                Network::Hold { ms } => (Weather::Hold, ms),
                Network::CutReply { bytes, ms } => (Weather::CutReply(bytes), ms),
            };
            ways.iter().for_each(|ways| ways.to(server).set(weather));
            sleep(ms(lasts_ms)).await;
            ways.iter().for_each(|ways| ways.to(server).set(Weather::Fair));
            Ok(())
        }
        Fault::RedisKill { .. }
        | Fault::RedisForget { .. }
        | Fault::RedisFlush
        | Fault::RedisRestore { .. }
        | Fault::RedisRollback { .. }
        | Fault::RedisFreeze { .. } => redis(stage, it).await,
        Fault::PostgresKill { .. } | Fault::PostgresRestart { .. } | Fault::PostgresFreeze { .. } => {
            postgres(stage, it).await
        }
    }
}

async fn redis(stage: &Stage, it: &mut Injected) -> anyhow::Result<()> {
    let _turn = stage.redis_lock.lock().await;
    it.begin_ms = stage.clock.now_ms();
    let moment = match it.fault {
        Fault::RedisFreeze { ms } => {
            blocking(stage, |servers| servers.0.pause()).await?;
            sleep(Duration::from_millis(ms)).await;
            return blocking(stage, |servers| servers.0.resume()).await;
        }
        Fault::RedisForget { back_ms } | Fault::RedisRestore { back_ms } | Fault::RedisRollback { back_ms } => {
            let at_ms = stage.clock.now_ms() - i64::try_from(back_ms)?;
            Some(stage.history.before(at_ms).context("nothing is known of the file of Redis yet")?)
        }
        _ => None,
    };
    look_for_fast_jobs(stage).await;
    let from_ms = match it.fault {
        Fault::RedisFlush => i64::MIN,
        _ => moment.map_or(stage.clock.now_ms(), |moment| moment.at_ms) - EVERYSEC_MS,
    };
    // Also when it fails on the way: then it is not known how far it came.
    let destroyed = destroy(stage, &it.fault, moment).await;
    it.loses = Some(LossWindow { from_ms, to_ms: stage.clock.now_ms() });
    if let Fault::RedisKill { down_ms } = it.fault {
        sleep(Duration::from_millis(down_ms)).await;
    }
    if !matches!(it.fault, Fault::RedisFlush | Fault::RedisRollback { .. }) {
        blocking(stage, |servers| servers.0.restart()).await?;
    }
    destroyed
}

/// What loses data. A Redis that is killed stays away.
async fn destroy(stage: &Stage, fault: &Fault, moment: Option<Moment>) -> anyhow::Result<()> {
    match (fault, moment) {
        (Fault::RedisFlush, _) => command(stage, &["FLUSHALL"]).await.map(drop),
        (Fault::RedisRollback { .. }, Some(moment)) => {
            let rolled = roll_back(stage, moment).await;
            if rolled.is_err() {
                // It may have ended over this.
                blocking(stage, |servers| servers.0.kill()).await?;
                blocking(stage, |servers| servers.0.restart()).await?;
            }
            rolled
        }
        (_, moment) => {
            blocking(stage, |servers| servers.0.kill()).await?;
            Ok(moment.map_or(Ok(()), |moment| stage.history.go_back(moment))?)
        }
    }
}

/// An older state of the data under a server that runs on, with all its connections and its name: nobody writes while the file
/// is cut and read again.
async fn roll_back(stage: &Stage, moment: Moment) -> anyhow::Result<()> {
    command(stage, &["CLIENT", "PAUSE", "20000", "WRITE"]).await?;
    let rolled = async {
        while !command(stage, &["INFO", "persistence"]).await?.text().contains("aof_buffer_length:0\r") {
            sleep(Duration::from_millis(5)).await;
        }
        // A file whose last command is torn is mended at a start, and ends a server that runs.
        stage.history.go_back(stage.history.whole(moment)?)?;
        command(stage, &["DEBUG", "LOADAOF"]).await
    };
    let rolled = timeout(Duration::from_secs(15), rolled).await;
    let unpaused = command(stage, &["CLIENT", "UNPAUSE"]).await;
    rolled.context("the file of Redis is never written out")?.context("Redis did not survive it and was restarted")?;
    unpaused.map(drop)
}

async fn postgres(stage: &Stage, it: &mut Injected) -> anyhow::Result<()> {
    let ms = Duration::from_millis;
    let _turn = stage.postgres_lock.lock().await;
    it.begin_ms = stage.clock.now_ms();
    match it.fault {
        Fault::PostgresKill { down_ms } => {
            blocking(stage, |servers| servers.1.kill()).await?;
            sleep(ms(down_ms)).await;
            blocking(stage, |servers| servers.1.restart()).await
        }
        Fault::PostgresRestart { down_ms } => {
            blocking(stage, |servers| servers.1.stop()).await?;
            sleep(ms(down_ms)).await;
            blocking(stage, |servers| servers.1.restart()).await
        }
        Fault::PostgresFreeze { ms: frozen_ms } => {
            blocking(stage, |servers| servers.1.pause()).await?;
            sleep(ms(frozen_ms)).await;
            blocking(stage, |servers| servers.1.resume()).await
        }
        _ => Ok(()),
    }
}

type Servers = (Arc<windrow_devserver::RedisServer>, Arc<windrow_devserver::PostgresServer>);

async fn blocking<T: Send + 'static>(
    stage: &Stage,
    run: impl FnOnce(&Servers) -> Result<T, windrow_devserver::Error> + Send + 'static,
) -> anyhow::Result<T> {
    let servers = (Arc::clone(&stage.redis), Arc::clone(&stage.postgres));
    Ok(tokio::task::spawn_blocking(move || run(&servers)).await??)
}

async fn command(stage: &Stage, args: &[&str]) -> anyhow::Result<Reply> {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    blocking(stage, move |servers| servers.0.command(&args)).await
}

/// Looks, right before data are destroyed, which accepted fast jobs have neither run nor are in Redis: those were lost before.
/// When a server does not answer nothing is known, and nothing is noted.
async fn look_for_fast_jobs(stage: &Stage) {
    let now_ms = stage.clock.now_ms();
    let open: Vec<Uuid> = {
        let book = stage.book.open();
        let accepted = |sent: &crate::book::FastSent| sent.answer == Answer::Accepted && sent.missing_at_ms.is_none();
        book.fast.iter().filter(|(_, sent)| accepted(sent)).map(|(id, _)| *id).collect()
    };
    let looked = async {
        let rows = sqlx::query(
            "SELECT id FROM unnest($1::uuid[]) AS open (id) WHERE NOT EXISTS (SELECT FROM chaos_run WHERE job_id = id)",
        )
        .bind(&open)
        .fetch_all(&stage.looking)
        .await?;
        let open: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        let members: Vec<Member> = open.iter().map(|id| Member::fast(JobId(*id))).collect();
        let known = stage.seeing.exists(&FAST, &members).await?;
        anyhow::Ok(open.into_iter().zip(known).filter(|(_, known)| !known).map(|(id, _)| id).collect::<Vec<_>>())
    };
    if let Ok(Ok(missing)) = timeout(Duration::from_millis(1500), looked).await {
        let mut book = stage.book.open();
        for id in missing {
            if let Some(sent) = book.fast.get_mut(&id) {
                sent.missing_at_ms = Some(now_ms);
            }
        }
    }
}

/// Notes what Redis' file is like, and starts again what ended by itself, which is a mistake unless it was poisoned.
pub(crate) async fn watch(stage: &Stage, poison: bool) {
    loop {
        sleep(LOOK).await;
        // While Redis is started there may be no file.
        let _ = stage.history.note(stage.clock.now_ms());
        for (number, node) in stage.nodes.iter().enumerate() {
            // Somebody is doing something to it.
            let Ok(mut node) = node.try_lock() else { continue };
            let ended = match node.ended() {
                Ok(None) => continue,
                Ok(Some(status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            let poisoned = poison && number < WORKERS && ended.contains("signal: 6");
            if !poisoned {
                stage.wrong(format!("{} ended by itself ({ended}):\n{}", node.name(), node.log_tail()));
            }
            if let Err(error) = node.start() {
                stage.wrong(format!("{error:#}"));
            }
        }
    }
}
