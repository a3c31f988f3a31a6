//! Exit statuses, and which error has which.

use std::process::ExitCode;

use windrow_queue::{error::is_transient, store::StoreError};

use crate::settings::SettingError;

/// For `--help`.
pub(crate) const HELP: &str = "Exit status:
  0  done
  1  it failed
  2  wrong arguments or settings
  3  there is no such job, tenant, …
  4  Redis or Postgres is not available
  5  the time to wait was over
130  ended by a second signal";

/// What an error means to a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Unavailable = 4,
    TimedOut = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with a status of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// Wrong arguments.
    pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::Usage, message: message.into() }.into()
    }

    /// Nothing there by that name.
    pub(crate) fn not_found(message: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::NotFound, message: message.into() }.into()
    }

    /// It could not be done, or not all of it.
    pub(crate) fn failed(message: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::Failed, message: message.into() }.into()
    }

    /// Waited long enough.
    pub(crate) fn timed_out(message: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::TimedOut, message: message.into() }.into()
    }
}

/// The status of an error, by the first cause that has one.
pub(crate) fn of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_cause).unwrap_or(Exit::Failed)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if cause.is::<SettingError>() {
        return Some(Exit::Usage);
    }
    if cause.is::<windrow_queue::store::InvalidCursor>() {
        return Some(Exit::Usage);
    }
    match cause.downcast_ref::<StoreError>() {
        Some(StoreError::Config { .. } | StoreError::Invalid(_)) => return Some(Exit::Usage),
        Some(error) if error.is_unavailable() => return Some(Exit::Unavailable),
        _ => {}
    }
    cause.downcast_ref::<sqlx::Error>().filter(|error| is_transient(error)).map(|_| Exit::Unavailable)
}

/// What went wrong, from the outside in. Libraries often repeat their cause in their own words: each is said once.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !words.contains(&cause) {
            words = if words.is_empty() { cause } else { format!("{words}: {cause}") };
        }
    }
    let code = error.chain().find_map(|cause| cause.downcast_ref::<sqlx::Error>()?.as_database_error()?.code());
    if code.as_deref() == Some(crate::probe::UNDEFINED_TABLE) {
        words += "; has `windrow migrate` been run on this database?";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_that_is_repeated_is_said_once() {
        let error = anyhow::anyhow!("refused").context("it was refused").context("cannot begin");
        assert_eq!(words(&error), "cannot begin: it was refused");
    }

    #[test]
    fn a_script_can_tell_causes_apart_however_deep_they_lie() {
        let wrapped = |error: anyhow::Error| of(&Err::<(), _>(error).context("while working").unwrap_err());
        assert_eq!(wrapped(anyhow::anyhow!("anything")), Exit::Failed);
        assert_eq!(wrapped(Failure::usage("x")), Exit::Usage);
        assert_eq!(wrapped(Failure::not_found("x")), Exit::NotFound);
        assert_eq!(wrapped(Failure::timed_out("x")), Exit::TimedOut);
        assert_eq!(wrapped(SettingError::new("a.b", None, "x").into()), Exit::Usage);
        assert_eq!(wrapped(sqlx::Error::PoolTimedOut.into()), Exit::Unavailable);
        assert_eq!(wrapped(sqlx::Error::RowNotFound.into()), Exit::Failed);
    }
}
