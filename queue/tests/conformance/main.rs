//! The contracts of the Redis store: what every script promises, and what QUEUE's rules cost.
//!
//! Each test has a queue of its own on a manual clock, and ends by looking at every key of it (`support::audit`).
#![allow(clippy::unwrap_used, reason = "tests")]

mod claim;
mod dead;
mod enqueue;
mod finish;
mod model;
mod network;
mod outage;
mod rescue;
mod support;
mod sync;
mod wake;
