//! What goes wrong with an operator's request.

use windrow_queue::store::InvalidCursor;

use crate::definition::InvalidSchedule;

/// Why a request was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is none of this name for this tenant.
    #[error("there is no schedule {name:?}{}; `windrow schedules list` shows those that exist", of(.tenant.as_ref()))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The tenant asked for.
        tenant: Option<String>,
    },
    /// It belongs to `schedules.toml`.
    #[error(
        "schedule {0:?} is declared in schedules.toml, which would put it back: change it or take it out there, and raise \
         `generation` (a schedule of your own takes another name); to pause, resume or trigger it works here too"
    )]
    Declared(String),
    /// Another definition has the name.
    #[error(
        "there is a schedule {0:?} with another definition already: change or remove that one, or take another name"
    )]
    Exists(String),
    /// The definition is no good; or the row was written by another version.
    #[error(transparent)]
    Invalid(#[from] InvalidSchedule),
    /// The cursor is another list's.
    #[error(transparent)]
    Cursor(#[from] InvalidCursor),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

fn of(tenant: Option<&String>) -> String {
    tenant.map_or_else(String::new, |tenant| format!(" of tenant {tenant}"))
}
