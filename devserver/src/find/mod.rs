//! Finding the servers' programs on this machine, and saying how to install what is missing.
//!
//! `WINDROW_REDIS_SERVER`, `WINDROW_PGBOUNCER` (programs) and `WINDROW_POSTGRES_BIN` (a folder) name them outright; otherwise the first that is
//! new enough on `PATH` is taken, and then the newest in the folders where packages put them.

mod package;
mod version;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use package::{PackageManager, Server};
pub use version::Version;

/// The oldest Redis that will do.
pub const REDIS_MINIMUM: Version = Version { major: 7, minor: 0, patch: 0 };
/// The oldest PostgreSQL that will do.
pub const POSTGRES_MINIMUM: Version = Version { major: 15, minor: 0, patch: 0 };

/// The oldest pgbouncer that will do.
pub const PGBOUNCER_MINIMUM: Version = Version { major: 1, minor: 12, patch: 0 };

/// Folders, apart from `PATH`, that hold a server's programs; `*` stands for anything within one name.
const REDIS_FOLDERS: &[&str] = &["/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin"];
const POSTGRES_FOLDERS: &[&str] = &[
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/usr/libexec/postgresql*",
    "/usr/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
    "/opt/local/lib/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// A Redis server program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisProgram {
    /// `redis-server`, or `valkey-server`, which distributions ship in its place.
    pub path: PathBuf,
    /// What it says its version is.
    pub version: Version,
}

/// A pgbouncer program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgBouncerProgram {
    /// The program.
    pub path: PathBuf,
    /// What it says its version is.
    pub version: Version,
}

/// A folder with PostgreSQL's programs, all of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresPrograms {
    /// Holds at least `initdb` and `postgres`.
    pub folder: PathBuf,
    /// `psql`, in that folder or on `PATH`.
    pub psql: PathBuf,
    /// What `postgres` says its version is.
    pub version: Version,
}

/// A server that this machine does not have, or has only in a version that is too old.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum FindError {
    /// There is none.
    #[error("{server} {minimum} or newer is needed and none was found; {}", package::advice(*.server))]
    Missing {
        /// Which server.
        server: Server,
        /// The oldest version that will do.
        minimum: Version,
    },
    /// There is only one that is too old.
    #[error("{server} {minimum} or newer is needed, but {} is {found}; {}", path.display(), package::upgrade_advice(*.server))]
    TooOld {
        /// Which server.
        server: Server,
        /// The oldest version that will do.
        minimum: Version,
        /// The newest version found.
        found: Version,
        /// Where it is.
        path: PathBuf,
    },
    /// A program was named in the environment and cannot be used.
    #[error("{variable} names {}, which is not {expected}", path.display())]
    Named {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
        /// What it should name.
        expected: &'static str,
    },
}

/// Finds Redis 7.0 or newer.
pub fn redis_server() -> Result<RedisProgram, FindError> {
    const VARIABLE: &str = "WINDROW_REDIS_SERVER";
    if let Some(path) = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from) {
        let found = redis_at(&path).ok_or_else(|| FindError::Named {
            variable: VARIABLE,
            path: path.clone(),
            expected: "a redis-server program",
        })?;
        return choose(Server::Redis, REDIS_MINIMUM, vec![found], vec![], |found| (found.version, found.path.clone()));
    }
    let in_folder =
        |folder: &PathBuf| ["redis-server", "valkey-server"].iter().find_map(|name| redis_at(&folder.join(name)));
    let on_path = path_folders().iter().filter_map(in_folder).collect();
    let elsewhere = expand_all(REDIS_FOLDERS).iter().filter_map(in_folder).collect();
    choose(Server::Redis, REDIS_MINIMUM, on_path, elsewhere, |found| (found.version, found.path.clone()))
}

/// Finds PostgreSQL 15 or newer: a folder in which `initdb` and `postgres` are of one version.
pub fn postgres() -> Result<PostgresPrograms, FindError> {
    const VARIABLE: &str = "WINDROW_POSTGRES_BIN";
    if let Some(path) = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from) {
        let found = postgres_at(&path).ok_or_else(|| FindError::Named {
            variable: VARIABLE,
            path: path.clone(),
            expected: "a folder with PostgreSQL's initdb, postgres and psql",
        })?;
        return choose(Server::Postgres, POSTGRES_MINIMUM, vec![found], vec![], |found| {
            (found.version, found.folder.clone())
        });
    }
    // A distribution links single programs into PATH; the folder behind the link has the whole set.
    let on_path = path_folders()
        .iter()
        .filter_map(|folder| fs::canonicalize(folder.join("postgres")).ok()?.parent().and_then(postgres_at))
        .collect();
    let elsewhere = expand_all(POSTGRES_FOLDERS).iter().filter_map(|folder| postgres_at(folder)).collect();
    choose(Server::Postgres, POSTGRES_MINIMUM, on_path, elsewhere, |found| (found.version, found.folder.clone()))
}

/// Finds pgbouncer 1.12 or newer. Only tests need it.
pub fn pgbouncer() -> Result<PgBouncerProgram, FindError> {
    const VARIABLE: &str = "WINDROW_PGBOUNCER";
    let describe = |found: &PgBouncerProgram| (found.version, found.path.clone());
    if let Some(path) = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from) {
        let found = pgbouncer_at(&path).ok_or_else(|| FindError::Named {
            variable: VARIABLE,
            path: path.clone(),
            expected: "a pgbouncer program",
        })?;
        return choose(Server::PgBouncer, PGBOUNCER_MINIMUM, vec![found], vec![], describe);
    }
    let in_folder = |folder: &PathBuf| pgbouncer_at(&folder.join("pgbouncer"));
    let on_path = path_folders().iter().filter_map(in_folder).collect();
    // Programs of that sort lie in the folders of Redis' servers.
    let elsewhere = expand_all(REDIS_FOLDERS).iter().filter_map(in_folder).collect();
    choose(Server::PgBouncer, PGBOUNCER_MINIMUM, on_path, elsewhere, describe)
}

/// The first on `PATH` that is new enough, or else the newest of the rest, or else what was wrong.
fn choose<T>(
    server: Server,
    minimum: Version,
    on_path: Vec<T>,
    elsewhere: Vec<T>,
    describe: impl Fn(&T) -> (Version, PathBuf),
) -> Result<T, FindError> {
    let (good, mut old): (Vec<T>, Vec<T>) = on_path.into_iter().partition(|found| describe(found).0 >= minimum);
    if let Some(found) = good.into_iter().next() {
        return Ok(found);
    }
    old.extend(elsewhere);
    match old.into_iter().max_by_key(|found| describe(found).0) {
        Some(found) if describe(&found).0 >= minimum => Ok(found),
        Some(found) => {
            let (found, path) = describe(&found);
            Err(FindError::TooOld { server, minimum, found, path })
        }
        None => Err(FindError::Missing { server, minimum }),
    }
}

fn redis_at(path: &Path) -> Option<RedisProgram> {
    let version = Version::of_redis(&version_output(path)?)?;
    Some(RedisProgram { path: path.to_owned(), version })
}

fn pgbouncer_at(path: &Path) -> Option<PgBouncerProgram> {
    let version = Version::of_pgbouncer(&version_output(path)?)?;
    Some(PgBouncerProgram { path: path.to_owned(), version })
}

fn postgres_at(folder: &Path) -> Option<PostgresPrograms> {
    let version = Version::of_postgres(&version_output(&folder.join("postgres"))?)?;
    let initdb = Version::of_postgres(&version_output(&folder.join("initdb"))?)?;
    let psql = std::iter::once(folder.to_owned())
        .chain(path_folders())
        .map(|folder| folder.join("psql"))
        .find(|path| is_executable(path))?;
    (version == initdb).then(|| PostgresPrograms { folder: folder.to_owned(), psql, version })
}

fn version_output(program: &Path) -> Option<String> {
    if !is_executable(program) {
        return None;
    }
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether a program of this name is on `PATH`.
#[must_use]
pub fn is_on_path(name: &str) -> bool {
    path_folders().iter().any(|folder| is_executable(&folder.join(name)))
}

fn path_folders() -> Vec<PathBuf> {
    env::var_os("PATH")
        .map(|path| env::split_paths(&path).filter(|folder| folder.is_absolute()).collect())
        .unwrap_or_default()
}

fn expand_all(patterns: &[&str]) -> Vec<PathBuf> {
    patterns.iter().flat_map(|pattern| expand(pattern)).collect()
}

/// The existing paths that match a pattern with at most one `*` per name.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("/")];
    for name in pattern.split('/').filter(|name| !name.is_empty()) {
        paths = match name.split_once('*') {
            None => paths.into_iter().map(|path| path.join(name)).collect(),
            Some((before, after)) => paths.iter().flat_map(|path| matching(path, before, after)).collect(),
        };
    }
    paths.retain(|path| path.is_dir());
    paths
}

fn matching(folder: &Path, before: &str, after: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| {
            let name = entry.file_name();
            name.to_str().and_then(|name| name.strip_prefix(before)?.strip_suffix(after)).is_some()
        })
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const MINIMUM: Version = Version { major: 15, minor: 0, patch: 0 };

    fn pick(on_path: &[u32], elsewhere: &[u32]) -> Result<u32, FindError> {
        choose(Server::Postgres, MINIMUM, on_path.to_vec(), elsewhere.to_vec(), |major| {
            (Version { major: *major, minor: 0, patch: 0 }, PathBuf::from(format!("/pg/{major}")))
        })
    }

    #[test]
    fn the_first_on_path_that_is_new_enough_wins_over_a_newer_one_elsewhere() {
        assert_eq!(pick(&[14, 16, 17], &[18]), Ok(16));
    }

    #[test]
    fn without_one_on_path_the_newest_elsewhere_is_taken() {
        assert_eq!(pick(&[], &[15, 17, 16]), Ok(17));
        assert_eq!(pick(&[13], &[15]), Ok(15));
    }

    #[test]
    fn only_too_old_ones_are_reported_with_the_newest_of_them() {
        let error = pick(&[13], &[12, 14]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("PostgreSQL 15.0 or newer is needed, but /pg/14 is 14.0"), "{text}");
    }

    #[test]
    fn none_at_all_is_reported_by_name_with_a_command() {
        let text = pick(&[], &[]).unwrap_err().to_string();
        assert!(text.starts_with("PostgreSQL 15.0 or newer is needed and none was found; "), "{text}");
        assert!(text.contains("cargo xtask setup"), "{text}");
    }

    #[test]
    fn a_pattern_expands_to_the_folders_that_exist() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["postgresql/15/bin", "postgresql/17/bin", "postgresql/notes", "other/16/bin"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let mut found = expand(&format!("{}/postgresql/*/bin", root.path().display()));
        found.sort();
        assert_eq!(found, [root.path().join("postgresql/15/bin"), root.path().join("postgresql/17/bin")]);
        let mut found = expand(&format!("{}/postgres*l/1*", root.path().display()));
        found.sort();
        assert_eq!(found, [root.path().join("postgresql/15"), root.path().join("postgresql/17")]);
    }

    #[test]
    fn initdb_of_another_version_disqualifies_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, version: &str| {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        program("postgres", "16.3");
        program("psql", "16.3");
        assert_eq!(postgres_at(folder.path()), None, "there is no initdb");
        program("initdb", "15.1");
        assert_eq!(postgres_at(folder.path()), None, "initdb is of another version");
        program("initdb", "16.3");
        assert_eq!(postgres_at(folder.path()).unwrap().version, Version { major: 16, minor: 3, patch: 0 });
    }
}
