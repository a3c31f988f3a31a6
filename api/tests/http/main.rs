//! The API over real HTTP, with a real Redis and a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "tests")]

mod intake;
mod manage;
mod schedules;
mod support;
