//! Schedules: what they are, when they are due, and how they come into the database.
//!
//! ```text
//! schedules.toml --file--> Definition --reconcile--> row of `schedule`  (rows made over the API are left alone)
//! row --row--> Definition + state --plan--> fires, missed runs, next fire time  (pure; Postgres' clock)
//! ```
//!
//! The state of a schedule is one instant, `handled_until`: every fire time up to it has its outcome in `schedule_fire`.
//! What comes next is computed from there, so that it is the same whoever asks and whenever.

pub mod admin;
mod definition;
mod file;
mod plan;
mod reconcile;
mod row;
mod timing;
mod wall;

pub use definition::{Declared, DeclaredMissed, Definition, InvalidSchedule, Overlap, Tenants};
pub use file::{FileError, Schedules};
pub use plan::{Due, MAX_CATCH_UP, Missed, MissedRun, Plan, plan};
pub use reconcile::{Reconciled, reconcile};
pub use timing::{Rule, Timing};
pub use wall::Expression;

pub(crate) use definition::jitter_share;
pub(crate) use row::{Row, columns};
