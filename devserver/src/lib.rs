//! Private Redis, PostgreSQL and pgbouncer instances for `windrow dev`, tests and benchmarks.
//!
//! Every instance has its own data folder, its own free port on 127.0.0.1 and its own random password. A server that
//! somebody else runs, on the default port or elsewhere, is never touched.
//!
//! # Who ends a server
//!
//! Dropping the handle does. So does the death of this process, however it dies (a panic in another thread, SIGKILL, a
//! `static` that is never dropped): each instance has a watchdog, a small shell that waits for the end of a pipe only this
//! process can write to. When the pipe closes it ends the server and removes a temporary data folder. The kernel's
//! alternative, a parent-death signal, was not taken: it fires when the *thread* that started the server ends, which for a
//! test is long before the process does, and only Linux has it.
//!
//! Server and watchdog live in process groups of their own, so that Ctrl-C in a terminal reaches this process alone and it
//! can drain before its stores go away.
//!
//! # Blocking
//!
//! All calls block, with bounded waits: starting PostgreSQL takes about two seconds, Redis some milliseconds, a database
//! about fifty. On an async runtime with other work to do, call them through `spawn_blocking`.

mod account;
mod error;
pub mod find;
mod home;
mod pgbouncer;
mod postgres;
mod process;
mod random;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod resp;
mod shared;
mod watchdog;

pub use error::Error;
pub use pgbouncer::PgBouncer;
pub use postgres::{PostgresOptions, PostgresServer};
pub use redis::{RedisOptions, RedisServer};
pub use redis_cluster::{ClusterOptions, RedisCluster};
pub use redis_sentinel::{SentinelGroup, SentinelOptions, SentinelServer};
pub use resp::Reply;
pub use shared::{fresh_database, fresh_database_from, shared_postgres, shared_redis};
