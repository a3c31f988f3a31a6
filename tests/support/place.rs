//! A place to run the program in as a stranger would: servers of its own, a migrated database, an empty folder.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};
use windrow_devserver::{PostgresOptions, PostgresServer, RedisOptions, RedisServer};
use windrow_queue::{
    database,
    store::{Config as StoreConfig, Counts, Store},
};

use crate::{Role, program, resp};

/// Nothing here takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The queues of the program's kinds.
pub const QUEUES: [&str; 4] = ["fetch", "scoring", "import", "payments"];

/// Servers, a folder, and the environment in which the program runs.
#[derive(Debug)]
pub struct Place {
    /// Its Redis, mostly with AOF.
    pub redis: RedisServer,
    /// Its PostgreSQL, if it is not shared with the other tests of this process.
    pub postgres: Option<PostgresServer>,
    /// A handle to Redis.
    pub store: Store,
    /// A pool on its database.
    pub database: PgPool,
    folder: TempDir,
    variables: Vec<(String, String)>,
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; -1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said of itself.
    pub stderr: String,
}

impl Ended {
    /// Asserts success and reads the last line of standard output as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(self.stdout.lines().last().unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Place {
    /// A Redis of its own and a database of the PostgreSQL that the tests of this process share.
    pub async fn new() -> Self {
        Self::build(false, true).await
    }

    /// A Redis that keeps nothing but the snapshots it is told to write.
    pub async fn without_aof() -> Self {
        Self::build(false, false).await
    }

    /// A PostgreSQL of its own as well: one that can be stopped.
    pub async fn with_postgres() -> Self {
        Self::build(true, true).await
    }

    async fn build(own_postgres: bool, aof: bool) -> Self {
        let start = move || {
            let settings = vec![("maxmemory".to_owned(), "256mb".to_owned())];
            let redis = RedisServer::start(RedisOptions { aof, settings, ..Default::default() }).expect("Redis starts");
            if !own_postgres {
                return (redis, None, windrow_devserver::fresh_database().expect("Postgres starts"));
            }
            let options = PostgresOptions { fast: true, ..Default::default() };
            let postgres = PostgresServer::start(options).expect("Postgres starts");
            let url = postgres.create_database("windrow").expect("a database can be made");
            (redis, Some(postgres), url)
        };
        let (redis, postgres, url) = tokio::task::spawn_blocking(start).await.unwrap();
        let store = Store::new(&StoreConfig { url: redis.url(), ..StoreConfig::default() }).unwrap();
        let pool = database::Config { url: url.clone(), ..database::Config::default() };
        let variables = vec![("WINDROW_REDIS_URL".into(), redis.url()), ("WINDROW_DATABASE_URL".into(), url)];
        let folder = TempDir::new().unwrap();
        let database = database::pool(&pool).unwrap();
        let mut place = Self { store, database, variables, folder, redis, postgres };
        for (setting, value) in [
            ("WORKER__LISTEN", "127.0.0.1:0"),
            ("SCHEDULER__LISTEN", "127.0.0.1:0"),
            ("API__LISTEN", "127.0.0.1:0"),
            ("API__OPEN", "true"),
            // A schedule would do things that a test did not ask for.
            ("SCHEDULER__SCHEDULES", ""),
            ("OUTWARD__ALLOW_NETWORKS", "127.0.0.0/8"),
            ("LOG__FORMAT", "json"),
        ] {
            place.set(setting, value);
        }
        std::fs::create_dir(place.path("import")).unwrap();
        let migrated = place.run(&["migrate"]).await;
        assert_eq!(migrated.code, 0, "{migrated:?}");
        place
    }

    /// Sets a setting for what is started from now on, such as `REDIS__LEASE`.
    pub fn set(&mut self, setting: &str, value: &str) {
        let name = format!("WINDROW_{setting}");
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        // Nothing of who runs the tests; a program found by its path needs no PATH.
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs the program to its end.
    pub async fn run(&self, args: &[&str]) -> Ended {
        let output = timeout(PATIENCE, self.command(args).output()).await.expect("the program hangs").unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs the program and reads what it answers as JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).await.json()
    }

    /// Starts a role, and waits until it listens.
    pub async fn start(&self, role: &str) -> Role {
        Role::start(self, role).await
    }

    /// One number from the database.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.database).await.unwrap()
    }

    /// What Redis holds of all queues together.
    pub async fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for queue in QUEUES {
            let counts = self.store.counts(&queue.parse().unwrap()).await.unwrap();
            sum.ready += counts.ready;
            sum.scheduled += counts.scheduled;
            sum.running += counts.running;
            sum.dead += counts.dead;
            sum.sessions += counts.sessions;
        }
        sum
    }

    /// Whether nothing is left to do: neither in Redis nor in the journal.
    pub async fn is_idle(&self) -> bool {
        let rows = self.count("SELECT (SELECT count(*) FROM job_journal) + (SELECT count(*) FROM job_outbox)").await;
        let counts = self.counts().await;
        rows == 0 && counts.ready + counts.scheduled + counts.running == 0
    }

    /// Wipes Redis.
    pub async fn flush(&self) {
        resp::send(&self.redis.url(), "FLUSHALL").await;
    }
}
