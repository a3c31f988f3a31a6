//! End-to-end tests over real Redis and real Postgres: the worker within this process, and the program as processes.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::float_cmp, reason = "metrics count whole things, which floats hold exactly")]

mod batch;
mod blocking;
mod cancel;
mod checkpoint;
mod cluster;
mod fence;
mod freeze;
mod heal;
mod intake;
mod kill;
mod limits;
mod once;
mod outcome;
mod park;
mod pgbouncer;
mod postgres_away;
mod recovery;
mod redis_away;
mod schedule;
mod sealed;
mod sentinel;
mod sets;
mod soak;
mod source;
mod sql;
mod stopping;
mod unknown;
mod weights;
