//! Executes jobs: claims them under a lease, runs their handlers, and tells Redis and Postgres how they ended.
//!
//! Knows no kind: whoever starts a worker hands it a [`Registry`]. `docs/ARCHITECTURE.md` has the flow, `hub` the protocol.

mod adapter;
mod clock;
mod complete;
mod config;
mod decide;
mod execute;
mod hub;
mod lease;
mod mirror;
mod patience;
mod prepare;
mod probe;
mod registry;
mod run;
mod share;
mod unknown;

pub use config::{Config, MAX_CONCURRENCY, MAX_WEIGHT, QueueSlots};
pub use registry::Registry;
pub use run::{Deps, run};
