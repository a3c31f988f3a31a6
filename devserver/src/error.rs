//! What can go wrong when a private server is started or handled, said so that a person can act on it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use crate::find::FindError;

/// Why a private server could not be found, started or handled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The server's programs are not on this machine, or too old.
    #[error(transparent)]
    Find(#[from] FindError),

    /// An operation on a file, folder or process failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, with the path or program.
        action: String,
        /// What the system answered.
        source: Arc<io::Error>,
    },

    /// The server ended before it was ready.
    #[error("{server} ended with {status} before it was ready; the end of its log:\n{log}")]
    Exited {
        /// Which server.
        server: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote.
        log: String,
    },

    /// The server runs but did not become ready in time.
    #[error("{server} was not ready after {waited:?}; the end of its log:\n{log}")]
    NotReady {
        /// Which server.
        server: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// The last lines that it wrote.
        log: String,
    },

    /// The server was asked to stop and did not; it has been killed.
    #[error("{server} did not stop within {waited:?} and was killed")]
    DidNotStop {
        /// Which server.
        server: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },

    /// The operation needs a running server, and it has been stopped or killed.
    #[error("{server} is not running; call restart() first")]
    NotRunning {
        /// Which server.
        server: &'static str,
    },

    /// A helper program (`initdb`, `psql`, `id`) reported a failure.
    #[error("{program} failed with {status}:\n{output}")]
    Tool {
        /// Which program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        output: String,
    },

    /// Another process already uses this data folder.
    #[error("{} is in use by another process; stop it or give another folder", path.display())]
    FolderInUse {
        /// The data folder.
        path: PathBuf,
    },

    /// PostgreSQL refuses to run as root and the account it runs under instead cannot enter the data folder.
    #[error(
        "PostgreSQL must run as user `{user}` because it refuses root, and that user may not enter {}; \
         give a data folder below /tmp, or allow others to enter that folder (chmod o+x)",
        blocked.display()
    )]
    Unreachable {
        /// The folder that cannot be entered.
        blocked: PathBuf,
        /// The account that PostgreSQL would run under.
        user: String,
    },

    /// Run by root, and there is no other account to run PostgreSQL under.
    #[error(
        "PostgreSQL refuses to run as root, and neither a user `postgres` nor a user `nobody` exists; \
         create one (useradd --system postgres) or run this as an ordinary user"
    )]
    NoAccount,

    /// The data folder was made by another major version.
    #[error(
        "{} was made by PostgreSQL {found}, but {wanted} was found on this machine; \
         give another data folder, or remove this one if its contents are not needed",
        path.display()
    )]
    DataVersion {
        /// The data folder.
        path: PathBuf,
        /// The major version that made it.
        found: String,
        /// The major version at hand.
        wanted: u32,
    },

    /// A database name that would need quoting.
    #[error("`{0}` cannot be a database name here: use 1 to 63 of a-z, 0-9 and _, a letter first")]
    DatabaseName(String),

    /// A private server answered a command with an error.
    #[error("Redis refused {command}: {answer}")]
    Refused {
        /// The command's name.
        command: String,
        /// What it answered.
        answer: String,
    },

    /// Servers that belong together run but did not find each other in time.
    #[error("waited {waited:?} in vain until {what}")]
    Unsettled {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
    },

    /// A setting with a line break in its value.
    #[error("the value of the server setting `{0}` contains a line break")]
    Setting(String),
}

impl Error {
    /// Whether the server ended because somebody else had taken its port first.
    pub(crate) fn is_port_taken(&self) -> bool {
        // glibc and macOS say the first, musl the second.
        matches!(self, Self::Exited { log, .. }
            if log.contains("Address already in use") || log.contains("Address in use"))
    }
}

/// Turns an I/O error into ours, with what was attempted.
pub(crate) fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action: action.into(), source: Arc::new(source) }
}
