//! The journal against a real PostgreSQL: what is enqueued once happens once, whoever races, stops or dies.
#![allow(clippy::unwrap_used, reason = "tests")]

mod acting;
mod at_most_once;
mod batching;
mod closing;
mod completing;
mod enqueuing;
mod faults;
mod lost;
mod outbox;
mod parking;
mod sql;
mod support;
mod unique;
