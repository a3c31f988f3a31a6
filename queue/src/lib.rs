//! The queue: what a job is, how it gets into Redis and Postgres, who holds it, and how it ends.
//!
//! Knows no kind of job. `jobs` implements [`Handler`] for its kinds, `worker` executes them, `scheduler` moves them along,
//! `api` and `cli` take them in. `docs/ARCHITECTURE.md` is the map.

pub mod catalog;
pub mod context;
pub mod database;
pub mod error;
pub mod handler;
pub mod health;
pub mod id;
pub mod job;
pub mod journal;
pub mod metrics;
pub mod name;
pub mod policy;
pub mod shutdown;
pub mod store;
pub mod vault;

pub use catalog::{Catalog, KindInfo};
pub use context::JobContext;
pub use error::{Decision, JobError};
pub use handler::{BatchHandler, BatchJob, Batched, Handler, JobResult, Outcome};
pub use id::{JobId, Member};
pub use job::{BatchId, Due, Enqueued, Fire, JobArgs, NewJob, OnConflict, Unique, UniqueScope};
pub use name::{Kind, QueueName, Tenant};
pub use policy::{Band, Delivery, Journaling, Policy};
pub use vault::Vault;
