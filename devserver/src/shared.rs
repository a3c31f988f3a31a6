//! One Redis and one PostgreSQL per process, for tests that do not need to break theirs.
//!
//! They start when they are first asked for and end with the process. Tests run at the same time on them: each takes a
//! database of its own, and queue names of its own in Redis. Nothing here flushes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::postgres::{PostgresOptions, PostgresServer};
use crate::redis::{RedisOptions, RedisServer};

static POSTGRES: OnceLock<Result<PostgresServer, Error>> = OnceLock::new();
static REDIS: OnceLock<Result<RedisServer, Error>> = OnceLock::new();
static DATABASES: AtomicU64 = AtomicU64::new(1);

/// The process's PostgreSQL, without fsync. The first call blocks for about two seconds.
pub fn shared_postgres() -> Result<&'static PostgresServer, Error> {
    POSTGRES
        .get_or_init(|| PostgresServer::start(PostgresOptions { fast: true, ..PostgresOptions::default() }))
        .as_ref()
        .map_err(Clone::clone)
}

/// The process's Redis, without an append-only file.
pub fn shared_redis() -> Result<&'static RedisServer, Error> {
    REDIS.get_or_init(|| RedisServer::start(RedisOptions::default())).as_ref().map_err(Clone::clone)
}

/// The address of a new, empty database of the process's PostgreSQL.
pub fn fresh_database() -> Result<String, Error> {
    fresh_database_from("template0")
}

/// The address of a new database of the process's PostgreSQL, copied from one that was made with
/// [`create_database`](PostgresServer::create_database) and migrated, and to which nobody is connected any more.
pub fn fresh_database_from(template: &str) -> Result<String, Error> {
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    shared_postgres()?.create_database_from(&format!("fresh_{number}"), template)
}
