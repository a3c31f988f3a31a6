//! Phone numbers from a CSV file into a project: `phone.import_file`.
//!
//! # What is promised
//!
//! - Every row of the file is counted once: inserted, duplicate or rejected, whatever dies in between. A rejected row stands
//!   once in the error file, with its line and the reason.
//! - Every number of a project is there once, as E.164.
//! - Memory is constant: a file of any size, a line without end and a quote that is never closed included.
//!
//! # How
//!
//! ```text
//! file --reader thread--> batch of rows --validated in parallel, sorted, deduplicated--> channel of one batch
//!      --job--> error file (written at the checkpoint's length, fsync)
//!           --> one transaction: checkpoint (offset, line, length of the error file) advanced, binary COPY into a temporary
//!               table, INSERT ... ON CONFLICT DO NOTHING, counters
//!      ... until the end --> last transaction: the job's row deleted, the import finished
//! ```
//!
//! While Postgres merges one batch, the reader validates the next. An attempt that finds a checkpoint goes on from its
//! offset, if the file is still the same one (inode, size, modification time).
//!
//! **The error file is written at positions, never truncated on the way.** What is rejected follows from the file alone, so two
//! attempts that run at once (one of them lost its lease and does not know it yet) write the same bytes to the same places.
//! Only the last transaction, which holds the job's row, cuts off what may stand behind the end.

mod args;
mod batch;
mod config;
mod error_file;
mod handler;
mod layout;
mod merge;
mod metadata;
mod metrics;
mod number;
mod progress;
mod reader;
mod record;
mod reject;
mod source;

#[cfg(test)]
mod tests;

pub use args::{Column, ImportFile};
pub use config::Config;
pub use handler::ImportFileHandler;
pub use metrics::ImportMetrics;
pub use number::{E164, parse_number};
pub use progress::{
    ImportProgress, ImportState, Project, ProjectError, create_project, find_project, import_progress, list_imports,
    list_projects,
};
pub use reject::Reason;
pub use source::SourceError;
