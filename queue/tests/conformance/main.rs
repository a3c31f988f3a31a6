//! The contracts of the Redis store: what every script promises, and what QUEUE's rules cost.
//!
//! Each test has a queue of its own on a manual clock, and ends by looking at every key of it (`support::audit`).
#![allow(clippy::unwrap_used, reason = "tests")]

mod batch;
mod bulk;
mod callback;
mod cancel;
mod claim;
mod cluster;
mod dead;
mod durable;
mod enqueue;
mod epoch;
mod fair;
mod finish;
mod gather;
mod hold;
mod limits;
mod list;
mod model;
mod network;
mod outage;
mod plain;
mod rescue;
mod sentinel;
mod support;
mod sync;
mod unique;
mod wake;
