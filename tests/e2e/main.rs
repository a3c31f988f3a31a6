//! End-to-end tests over real Redis and real Postgres.
#![allow(clippy::unwrap_used, reason = "tests")]

mod outcome;
mod recovery;
