//! The file: found inside the import folder, opened without surprises, recognised again after a retry.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};
use serde::{Deserialize, Serialize};
use windrow_queue::JobError;

use super::Config;

/// Why a file is not imported.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// `import.directory` itself is missing.
    #[error("the import folder {} cannot be used: {source}; create it, or set import.directory", directory.display())]
    Directory {
        /// As configured.
        directory: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// No such file.
    #[error("{path:?} is not in the import folder {}", directory.display())]
    NotFound {
        /// As given.
        path: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The path leads elsewhere.
    #[error("{path:?} is outside of the import folder {}: only files in it are imported", directory.display())]
    Outside {
        /// As given.
        path: String,
        /// Where it should be.
        directory: PathBuf,
    },
    /// A folder, a pipe, a device.
    #[error("{path:?} is not a regular file")]
    NotAFile {
        /// As given.
        path: String,
    },
    /// Not readable by this process.
    #[error("{path:?} may not be read by this process; give it read permission")]
    Forbidden {
        /// As given.
        path: String,
    },
    /// Larger than configured.
    #[error("{path:?} has {bytes} bytes, more than import.max_file_bytes = {limit}; split it or raise the limit")]
    TooLarge {
        /// As given.
        path: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// It is not what it was.
    #[error(
        "{path:?} was changed while it was imported; rows up to line {line} are in, import the new file as another job"
    )]
    Changed {
        /// As given.
        path: String,
        /// The line up to which it was read.
        line: u64,
    },
    /// Nothing in it.
    #[error("{path:?} is empty")]
    Empty {
        /// As given.
        path: String,
    },
    /// Another format or encoding.
    #[error("{path:?} is {found}, not CSV in UTF-8; {advice}")]
    Format {
        /// As given.
        path: String,
        /// What it is.
        found: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The args ask for a column that is not there.
    #[error("{path:?}: {problem}")]
    Column {
        /// As given.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file of rejected rows cannot be written.
    #[error("rejected rows cannot be written to {}: {source}", file.display())]
    ErrorFile {
        /// Where.
        file: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The file of rejected rows of an earlier attempt is gone or shorter than it was.
    #[error("{} was removed or shortened while the file was imported; import it as another job", file.display())]
    ErrorFileLost {
        /// Where it was.
        file: PathBuf,
    },
    /// Any other failure of the file system.
    #[error("{path:?} cannot be read: {source}")]
    Read {
        /// As given.
        path: String,
        /// What the system answered.
        source: io::Error,
    },
}

impl From<SourceError> for JobError {
    /// What a person has to mend is buried; a file system that fails is tried again.
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Read { .. } | SourceError::ErrorFile { .. } | SourceError::Directory { .. } => {
                Self::retry("file_system", error)
            }
            SourceError::NotFound { .. } => Self::bury("file_not_found", error),
            SourceError::Outside { .. } => Self::bury("file_outside", error),
            SourceError::Changed { .. } => Self::bury("file_changed", error),
            SourceError::ErrorFileLost { .. } => Self::bury("error_file_lost", error),
            SourceError::NotAFile { .. }
            | SourceError::Forbidden { .. }
            | SourceError::TooLarge { .. }
            | SourceError::Empty { .. }
            | SourceError::Format { .. }
            | SourceError::Column { .. } => Self::bury("file_refused", error),
        }
    }
}

/// By what a file is recognised after a retry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) size: u64,
    inode: u64,
    modified: i64,
    modified_ns: i64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            inode: metadata.ino(),
            modified: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }
}

/// An open file of the import folder.
#[derive(Debug)]
pub(super) struct Source {
    /// As given, for messages.
    pub(super) given: String,
    /// Without symbolic links.
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) identity: Identity,
}

impl Source {
    /// Opens a file. Blocks.
    pub(super) fn open(config: &Config, given: &str) -> Result<Self, SourceError> {
        let directory = config
            .directory
            .canonicalize()
            .map_err(|source| SourceError::Directory { directory: config.directory.clone(), source })?;
        let path = directory.join(given).canonicalize().map_err(|error| denied(given, &directory, error))?;
        if !path.starts_with(&directory) {
            return Err(SourceError::Outside { path: given.to_owned(), directory });
        }
        // The path has no links now; one put there since is not followed. Without NONBLOCK a pipe would wait for a writer.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
            .open(&path)
            .map_err(|error| denied(given, &directory, error))?;
        let metadata = file.metadata().map_err(|source| SourceError::Read { path: given.to_owned(), source })?;
        if !metadata.is_file() {
            return Err(SourceError::NotAFile { path: given.to_owned() });
        }
        if metadata.len() > config.max_file_bytes {
            return Err(SourceError::TooLarge {
                path: given.to_owned(),
                bytes: metadata.len(),
                limit: config.max_file_bytes,
            });
        }
        if metadata.len() == 0 {
            return Err(SourceError::Empty { path: given.to_owned() });
        }
        Ok(Self { given: given.to_owned(), path, file, identity: Identity::of(&metadata) })
    }

    /// Where this file's rejected rows go. The id keeps apart imports of the same file.
    pub(super) fn error_path(&self, config: &Config, import: impl std::fmt::Display) -> PathBuf {
        let name = self.path.file_name().map_or_else(|| "import".into(), |name| name.to_string_lossy().into_owned());
        let folder = if config.error_directory.as_os_str().is_empty() {
            self.path.parent().unwrap_or(Path::new("/"))
        } else {
            &config.error_directory
        };
        // 255 bytes are the longest file name; the id and the ending need 54.
        let name: String = name.chars().take(50).collect();
        folder.join(format!("{name}.{import}.errors.csv"))
    }

    pub(super) fn unreadable(&self, source: io::Error) -> SourceError {
        SourceError::Read { path: self.given.clone(), source }
    }

    /// Says so if the file behind the path is no longer the one that was opened, or was written to. Blocks.
    pub(super) fn check_unchanged(&self, line: u64) -> Result<(), SourceError> {
        let same = |metadata: io::Result<Metadata>| metadata.is_ok_and(|m| Identity::of(&m) == self.identity);
        if same(self.file.metadata()) && same(std::fs::metadata(&self.path)) {
            Ok(())
        } else {
            Err(SourceError::Changed { path: self.given.clone(), line })
        }
    }
}

fn denied(given: &str, directory: &Path, error: io::Error) -> SourceError {
    let (path, directory) = (given.to_owned(), directory.to_owned());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => {
            return SourceError::NotFound { path, directory };
        }
        io::ErrorKind::PermissionDenied => return SourceError::Forbidden { path },
        _ => {}
    }
    match Errno::from_io_error(&error) {
        Some(Errno::NAMETOOLONG) => SourceError::NotFound { path, directory },
        // Links in a circle, or one where there was none a moment ago.
        Some(Errno::LOOP) => SourceError::Outside { path, directory },
        // A socket.
        Some(Errno::NXIO) => SourceError::NotAFile { path },
        _ => SourceError::Read { path, source: error },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn folder() -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("in");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("good.csv"), "phone\n").unwrap();
        std::fs::write(folder.path().join("secret.csv"), "phone\n").unwrap();
        (folder, Config { directory, max_file_bytes: 100, ..Config::default() })
    }

    #[test]
    fn only_regular_files_of_the_folder_are_opened() {
        let (folder, config) = folder();
        let inside = &config.directory;
        std::os::unix::fs::symlink(folder.path().join("secret.csv"), inside.join("out.csv")).unwrap();
        std::os::unix::fs::symlink(inside.join("good.csv"), inside.join("in.csv")).unwrap();
        std::os::unix::fs::symlink(folder.path(), inside.join("up")).unwrap();
        std::fs::create_dir(inside.join("sub")).unwrap();
        std::fs::write(inside.join("large.csv"), "x".repeat(101)).unwrap();
        std::fs::write(inside.join("empty.csv"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();

        let open = |path: &str| Source::open(&config, path);
        assert!(open("good.csv").is_ok());
        assert!(open("in.csv").is_ok(), "a link that stays inside is followed");
        assert!(open(inside.join("good.csv").to_str().unwrap()).is_ok());
        for path in ["../secret.csv", "out.csv", "up/secret.csv", "/etc/passwd", "sub/../../secret.csv"] {
            assert!(matches!(open(path), Err(SourceError::Outside { .. })), "{path}: {:?}", open(path));
        }
        for path in ["none.csv", "good.csv/x", "a\0b", &"x".repeat(5000)] {
            assert!(matches!(open(path), Err(SourceError::NotFound { .. })), "{path}: {:?}", open(path));
        }
        for path in ["sub", "socket", ""] {
            assert!(matches!(open(path), Err(SourceError::NotAFile { .. })), "{path}: {:?}", open(path));
        }
        assert!(matches!(open("large.csv"), Err(SourceError::TooLarge { bytes: 101, limit: 100, .. })));
        assert!(matches!(open("empty.csv"), Err(SourceError::Empty { .. })));
        let elsewhere = Config { directory: folder.path().join("none"), ..config.clone() };
        assert!(matches!(Source::open(&elsewhere, "good.csv"), Err(SourceError::Directory { .. })));
    }

    #[test]
    fn a_file_that_was_written_to_or_replaced_is_noticed() {
        let (_folder, config) = folder();
        let path = config.directory.join("good.csv");
        let source = Source::open(&config, "good.csv").unwrap();
        source.check_unchanged(1).unwrap();
        std::fs::write(&path, "phone\n+4930123456\n").unwrap();
        assert!(matches!(source.check_unchanged(1), Err(SourceError::Changed { .. })));
        let source = Source::open(&config, "good.csv").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(source.check_unchanged(1), Err(SourceError::Changed { .. })));
    }
}
