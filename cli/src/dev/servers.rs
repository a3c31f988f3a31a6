//! Redis and Postgres: private ones, started here and ended with this process, or those that the settings name.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use sqlx::{ConnectOptions as _, Connection as _};
use url::Url;
use windrow_devserver::{Error, PostgresOptions, PostgresServer, RedisOptions, RedisServer};
use windrow_queue::database;

use super::screen::Screen;
use crate::{context::Context, exit::Failure};

const DATABASE: &str = "windrow";

/// How long a server that runs already may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was started here. Ends when it is dropped, and when this process ends, however it does.
#[derive(Debug)]
pub(super) struct Servers {
    redis: Option<RedisServer>,
    postgres: Option<PostgresServer>,
    are_kept: bool,
}

impl Servers {
    /// Starts what the settings do not name, and puts its address into them.
    pub(super) async fn start(context: &mut Context, data: Option<&Path>, screen: &Screen) -> anyhow::Result<Self> {
        let settings = &mut context.loaded.settings;
        let folder = |name: &str| data.map(|data| data.join(name));
        let (redis, postgres) = tokio::join!(
            start(settings.redis.url.is_empty(), folder("redis"), |dir| {
                RedisServer::start(RedisOptions { dir, aof: true, ..RedisOptions::default() })
            }),
            start(settings.database.url.is_empty(), folder("postgres"), |dir| {
                // What is thrown away afterwards need not survive a crash of the machine.
                let fast = dir.is_none();
                let server = PostgresServer::start(PostgresOptions { dir, fast, ..PostgresOptions::default() })?;
                match server.create_database(DATABASE) {
                    Err(Error::Tool { output, .. }) if output.contains("already exists") => {}
                    made => drop(made?),
                }
                Ok(server)
            }),
        );
        let servers = Self { redis: redis?, postgres: postgres?, are_kept: data.is_some() };
        match &servers.redis {
            Some(server) => settings.redis.url = server.url(),
            None => screen.line(&format!("redis.url is set: using the Redis at {}", place(&settings.redis.url))),
        }
        match &servers.postgres {
            Some(server) => {
                settings.database.url = server.url(DATABASE);
                settings.database.direct_url.clear();
            }
            None => screen.line(&format!(
                "database.url is set: using the database at {}; bringing its schema up to date",
                place(&settings.database.url)
            )),
        }
        Ok(servers)
    }

    /// Addresses of the servers started here, as the environment has them for other commands.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let redis = self.redis.as_ref().map(|server| ("WINDROW_REDIS_URL", server.url()));
        let postgres = self.postgres.as_ref().map(|server| ("WINDROW_DATABASE_URL", server.url(DATABASE)));
        redis.into_iter().chain(postgres).collect()
    }

    /// A folder that is removed with the servers, even if this process is killed.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.redis.as_ref().map(RedisServer::dir)
    }

    /// Whether the database was started here and is removed afterwards.
    pub(super) fn is_database_private(&self) -> bool {
        self.postgres.is_some()
    }

    /// Ends what was started here: orderly where the data are kept.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let stopped = tokio::task::spawn_blocking(move || {
            if self.are_kept {
                self.redis.as_ref().map_or(Ok(()), RedisServer::stop)?;
                self.postgres.as_ref().map_or(Ok(()), PostgresServer::stop)?;
            }
            Ok::<_, Error>(())
        });
        stopped.await?.context("a private server does not stop")
    }
}

async fn start<S: Send + 'static>(
    wanted: bool,
    dir: Option<std::path::PathBuf>,
    start: impl FnOnce(Option<std::path::PathBuf>) -> Result<S, Error> + Send + 'static,
) -> anyhow::Result<Option<S>> {
    if !wanted {
        return Ok(None);
    }
    // The calls block for seconds.
    Ok(Some(tokio::task::spawn_blocking(move || start(dir)).await??))
}

/// Brings the schema up to date, and sees that both servers answer.
pub(super) async fn prepare(context: &Context) -> anyhow::Result<()> {
    let settings = &context.loaded.settings;
    let (store, database) = (context.store()?, context.database()?);
    let redis = format!("the Redis at {}", place(&settings.redis.url));
    in_time(&redis, store.ping()).await?;
    let postgres = format!("the Postgres at {}", place(&settings.database.url));
    // Not through the pool, whose error after its own patience has no cause.
    in_time(&postgres, database.connect_options().connect()).await?.close().await?;
    let migrating = context.migrating_database()?;
    database::migrate(&migrating)
        .await
        .with_context(|| format!("the schema of {postgres} cannot be brought up to date"))
}

async fn in_time<T, E>(server: &str, answer: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let answered = tokio::time::timeout(PATIENCE, answer).await;
    let answer = answered.map_err(|_| Failure::timed_out(format!("{server} has not answered for {PATIENCE:?}")))?;
    answer.with_context(|| format!("{server} cannot be used"))
}

/// Host, port and path of an address; no user, password or options.
fn place(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}{port}{}", url.host_str().unwrap_or("localhost"), url.path())
        }
        Err(_) => "the address given".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_tells_no_secret() {
        assert_eq!(place("postgres://me:secret@db.example:5433/jobs?sslkey=secret"), "db.example:5433/jobs");
        assert_eq!(place("redis://:secret@localhost"), "localhost");
        assert_eq!(place("no secret"), "the address given");
    }
}
