//! Schedules: what they are, when they are due, how they come into the database, and what operators do with them. Firing them
//! is the scheduler's.
//!
//! ```text
//! schedules.toml --file--> Definition --reconcile--> row of `schedule`
//! API, `windrow schedules add` --edit--> row of `schedule` that the file leaves alone
//! row --row--> Definition + state --plan--> fires, missed runs, next fire time  (pure; Postgres' clock)
//! ```
//!
//! The state of a schedule is one instant, `handled_until`: every fire time up to it has its outcome in `schedule_fire`.
//! What comes next is computed from there, so that it is the same whoever asks and whenever.

mod definition;
mod edit;
mod error;
mod file;
mod history;
mod next;
mod plan;
mod reconcile;
mod row;
mod timing;
mod trigger;
mod view;
mod wall;

pub use definition::{Declared, DeclaredMissed, Definition, InvalidSchedule, Overlap, Tenants, jitter_share};
pub use edit::{add, change, remove, replace, set_paused};
pub use error::AdminError;
pub use file::{FileError, Schedules};
pub use history::{FireRecord, FireState, History, history};
pub use next::{MAX_NEXT, NextFire, OffsetChange, next};
pub use plan::{Due, MAX_CATCH_UP, Missed, MissedRun, Plan, plan};
pub use reconcile::{Reconciled, reconcile};
pub use row::Row;
pub use timing::{Rule, Timing};
pub use trigger::{Triggered, trigger};
pub use view::{ListQuery, SchedulePage, ScheduleState, ScheduleView, list, show};
pub use wall::Expression;
