//! What Windrow executes: one folder a kind or family, with its args, policy, handler, SQL, fixtures and tests.
//!
//! `docs/adding-a-job.md` shows how another one is added.

pub mod fetch;
pub mod import;
pub mod outward;
pub mod payments;
pub mod scoring;

#[cfg(test)]
mod testing;
