//! The servers, the nodes, the ways between them, and the runner's own access.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::sync::Mutex as Lock;
use windrow_devserver::{PostgresOptions, PostgresServer, RedisOptions, RedisServer};
use windrow_queue::{
    database,
    store::{Config as StoreConfig, Store},
};

use crate::{
    book::Book,
    clock::Clock,
    history::History,
    kinds::TENANTS,
    node::{Node, Skew, Ways},
    plan::{NODES, RELAYS, SCHEDULERS, Server, WORKERS, Whom, node_name},
    role::{Role, Settings},
};

/// Everything that a run consists of.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) clock: Clock,
    pub(crate) redis: Arc<RedisServer>,
    pub(crate) postgres: Arc<PostgresServer>,
    /// Whoever does something to a server holds its lock.
    pub(crate) redis_lock: Lock<()>,
    pub(crate) postgres_lock: Lock<()>,
    /// Whoever changes the weather of the ways to a server holds its lock.
    pub(crate) weather: [Lock<()>; 2],
    /// What Redis' file was like.
    pub(crate) history: History,
    pub(crate) nodes: Vec<Lock<Node>>,
    ways: Vec<Ways>,
    producer: Ways,
    /// The producer's access: through its own ways.
    pub(crate) store: Store,
    pub(crate) database: PgPool,
    /// Straight to the servers: for those who look.
    pub(crate) seeing: Store,
    pub(crate) looking: PgPool,
    pub(crate) book: Book,
    /// Why clocks cannot be set wrong here.
    pub(crate) no_skew: Option<String>,
    wrong: Mutex<Vec<String>>,
    folder: TempDir,
}

impl Stage {
    /// Starts the servers and the nodes.
    pub(crate) async fn new(lease: Duration) -> anyhow::Result<Self> {
        let (redis, postgres, url) = tokio::task::spawn_blocking(servers).await??;
        let looking = database::pool(&database::Config { url: url.clone(), ..Default::default() })?;
        database::migrate(&looking).await?;
        sqlx::raw_sql(include_str!("schema.sql")).execute(&looking).await?;
        sqlx::query("INSERT INTO tenant (id, name) SELECT id, id FROM unnest($1::text[]) AS id")
            .bind(TENANTS.map(str::to_owned).to_vec())
            .execute(&looking)
            .await?;
        let clock = Clock::start(&looking).await?;
        let folder = TempDir::with_prefix("windrow-chaos-")?;
        let (library, no_skew) = match build_skew(folder.path()) {
            Ok(library) => (Some(library), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let own = format!("@127.0.0.1:{}/", postgres.port());
        let through = |way: &Ways| {
            let postgres = format!("@127.0.0.1:{}/", way.postgres.port);
            (redis.url_through(way.redis.port), url.replace(&own, &postgres))
        };
        let (mut nodes, mut ways) = (Vec::new(), Vec::new());
        for node in 0..NODES {
            let role = match node {
                0..WORKERS => Role::Worker,
                node if node < NODES - RELAYS => Role::Scheduler,
                _ => Role::Relay,
            };
            let way = Ways::new(redis.port(), postgres.port()).await?;
            let (redis, database) = through(&way);
            let name = node_name(node);
            let log = folder.path().join(format!("{name}.log"));
            let skew =
                library.as_deref().map(|library| Skew::new(library, folder.path().join(format!("{name}.clock"))));
            let settings = Settings { name, role, redis, database, lease };
            nodes.push(Lock::new(Node::new(settings, log, skew.transpose()?)));
            ways.push(way);
        }
        let producer = Ways::new(redis.port(), postgres.port()).await?;
        let (redis_url, postgres_url) = through(&producer);
        let store = |url| Store::new(&StoreConfig { url, lease, ..Default::default() });
        let history = History::new(redis.dir());
        let stage = Self {
            clock,
            store: store(redis_url)?,
            seeing: store(redis.url())?,
            database: database::pool(&database::Config { url: postgres_url, ..Default::default() })?,
            looking,
            redis: Arc::new(redis),
            postgres: Arc::new(postgres),
            redis_lock: Lock::default(),
            postgres_lock: Lock::default(),
            weather: Default::default(),
            history,
            nodes,
            ways,
            producer,
            book: Book::default(),
            no_skew,
            wrong: Mutex::default(),
            folder,
        };
        for node in &stage.nodes {
            node.lock().await.start()?;
        }
        // From the first moment on, one worker is an hour ahead and one scheduler a day behind.
        for (node, ms) in [(WORKERS - 1, 3_600_000), (WORKERS + SCHEDULERS - 1, -86_400_000)] {
            if let Some(skew) = stage.nodes[node].lock().await.skew() {
                skew.set(ms)?;
            }
        }
        Ok(stage)
    }

    /// The ways of somebody to the servers.
    pub(crate) fn ways(&self, whom: Whom) -> Vec<&Ways> {
        match whom {
            Whom::Everybody => self.ways.iter().chain([&self.producer]).collect(),
            Whom::Producer => vec![&self.producer],
            Whom::Node(node) => vec![&self.ways[node]],
        }
    }

    /// The lock of the ways to a server.
    pub(crate) const fn weather(&self, server: Server) -> &Lock<()> {
        &self.weather[server as usize]
    }

    /// Notes something that must not happen whatever was injected.
    pub(crate) fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// What was noted.
    pub(crate) fn wrongs(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the logs of nodes and servers, and says where.
    pub(crate) fn keep_logs(&mut self) -> PathBuf {
        for (name, folder) in [("redis.log", self.redis.dir()), ("postgres.log", self.postgres.dir())] {
            if let Err(error) = std::fs::copy(folder.join("server.log"), self.folder.path().join(name)) {
                eprintln!("chaos: {name} is not kept: {error}");
            }
        }
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}

fn servers() -> anyhow::Result<(RedisServer, PostgresServer, String)> {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings = vec![
        setting("maxmemory", "512mb"),
        // An older state of the data is a shorter file: it must stay one file.
        setting("auto-aof-rewrite-percentage", "0"),
        setting("enable-debug-command", "local"),
    ];
    let redis = RedisServer::start(RedisOptions { aof: true, settings, ..Default::default() })?;
    let postgres = PostgresServer::start(PostgresOptions { fast: true, ..Default::default() })?;
    let url = postgres.create_database("chaos")?;
    Ok((redis, postgres, url))
}

/// Compiles what sets the clocks of processes wrong, with the C compiler that building Windrow needs anyway.
pub(crate) fn build_skew(folder: &Path) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(cfg!(target_os = "linux"), "clocks of processes are set wrong on Linux only");
    let (source, library) = (folder.join("skew.c"), folder.join("skew.so"));
    std::fs::write(&source, include_str!("skew.c"))?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    let built = built.context("cc does not run: install a C compiler (apt-get install gcc)")?;
    anyhow::ensure!(built.status.success(), "cc: {}", String::from_utf8_lossy(&built.stderr));
    Ok(library)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_process_believes_the_clock_that_it_is_given() {
        let folder = TempDir::new().unwrap();
        let Ok(library) = build_skew(folder.path()) else {
            println!("no C compiler, or not Linux: clocks stay right here");
            return;
        };
        let skew = Skew::new(&library, folder.path().join("clock")).unwrap();
        let date = || {
            let output = Command::new("date").arg("+%s").envs(skew.variables()).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<i64>().unwrap()
        };
        let right = date();
        skew.set(-86_400_500).unwrap();
        assert!((right - 86_405..=right - 86_000).contains(&date()));
        skew.set(3_600_000).unwrap();
        assert!(date() >= right + 3600);
    }
}
