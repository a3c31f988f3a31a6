//! How the servers are installed on this kind of system.

use std::fmt;

use super::is_on_path;

/// A server that Windrow needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The queue's store.
    Redis,
    /// The journal's store.
    Postgres,
    /// A pooler in front of it, which tests put there.
    PgBouncer,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Postgres => "PostgreSQL",
            Self::PgBouncer => "pgbouncer",
        })
    }
}

/// A system's package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageManager {
    /// Debian, Ubuntu and their kin.
    Apt,
    /// Fedora, RHEL and their kin.
    Dnf,
    /// Arch.
    Pacman,
    /// Alpine.
    Apk,
    /// Homebrew, on macOS or Linux.
    Brew,
}

impl PackageManager {
    /// The one that this system has.
    #[must_use]
    pub fn detect() -> Option<Self> {
        Self::detect_by(is_on_path)
    }

    /// The system's own comes before Homebrew, which may be there as well.
    fn detect_by(exists: impl Fn(&str) -> bool) -> Option<Self> {
        [("apt-get", Self::Apt), ("dnf", Self::Dnf), ("pacman", Self::Pacman), ("apk", Self::Apk), ("brew", Self::Brew)]
            .into_iter()
            .find_map(|(program, manager)| exists(program).then_some(manager))
    }

    /// The package that holds a server.
    #[must_use]
    pub fn package(self, server: Server) -> &'static str {
        match (self, server) {
            (Self::Apt, Server::Redis) => "redis-server",
            // Arch has dropped Redis for its fork.
            (Self::Pacman, Server::Redis) => "valkey",
            (_, Server::Redis) => "redis",
            (Self::Dnf, Server::Postgres) => "postgresql-server",
            (Self::Brew, Server::Postgres) => "postgresql@17",
            (_, Server::Postgres) => "postgresql",
            (_, Server::PgBouncer) => "pgbouncer",
        }
    }

    /// The commands that install the servers, without `sudo`.
    #[must_use]
    pub fn commands(self, servers: &[Server]) -> Vec<Vec<&'static str>> {
        let install: &[&str] = match self {
            Self::Apt => &["apt-get", "install", "--yes", "--no-install-recommends"],
            Self::Dnf => &["dnf", "install", "--assumeyes"],
            Self::Pacman => &["pacman", "-S", "--needed", "--noconfirm"],
            Self::Apk => &["apk", "add"],
            Self::Brew => &["brew", "install"],
        };
        let packages = servers.iter().map(|server| self.package(*server));
        let install = install.iter().copied().chain(packages).collect();
        match self {
            Self::Apt => vec![vec!["apt-get", "update"], install],
            _ => vec![install],
        }
    }

    /// Whether installing takes root's rights.
    #[must_use]
    pub fn needs_root(self) -> bool {
        self != Self::Brew
    }

    /// The commands in the form a person types.
    #[must_use]
    pub fn command_line(self, servers: &[Server]) -> String {
        let sudo = if self.needs_root() { "sudo " } else { "" };
        let lines: Vec<String> =
            self.commands(servers).iter().map(|command| format!("{sudo}{}", command.join(" "))).collect();
        lines.join(" && ")
    }
}

/// What to do about a server that is missing.
pub(super) fn advice(server: Server) -> String {
    let run = match PackageManager::detect() {
        Some(manager) => format!("run: {}", manager.command_line(&[server])),
        None => "install it with this system's package manager".to_owned(),
    };
    let variable = match server {
        Server::Redis => "WINDROW_REDIS_SERVER to the redis-server program",
        Server::Postgres => "WINDROW_POSTGRES_BIN to the folder that holds initdb and postgres",
        Server::PgBouncer => "WINDROW_PGBOUNCER to the pgbouncer program",
    };
    format!("{run} (`cargo xtask setup` does so on Debian and Ubuntu), or set {variable}")
}

/// What to do about a server that is too old: the system's own package would be no newer.
pub(super) fn upgrade_advice(server: Server) -> String {
    let source = match server {
        Server::Redis => "https://redis.io/docs/latest/operate/oss_and_stack/install/",
        Server::Postgres => "https://www.postgresql.org/download/",
        Server::PgBouncer => "https://www.pgbouncer.org/install.html",
    };
    format!(
        "this system's packages may be no newer: use a newer release of the system, or the project's own packages ({source})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_own_package_manager_comes_before_homebrew() {
        assert_eq!(PackageManager::detect_by(|name| name == "brew" || name == "apt-get"), Some(PackageManager::Apt));
        assert_eq!(PackageManager::detect_by(|name| name == "brew"), Some(PackageManager::Brew));
        assert_eq!(PackageManager::detect_by(|_| false), None);
    }

    #[test]
    fn only_what_is_missing_is_installed() {
        assert_eq!(
            PackageManager::Apt.command_line(&[Server::Redis]),
            "sudo apt-get update && sudo apt-get install --yes --no-install-recommends redis-server"
        );
        assert_eq!(PackageManager::Brew.command_line(&[Server::Postgres]), "brew install postgresql@17");
        assert_eq!(
            PackageManager::Dnf.command_line(&[Server::Redis, Server::Postgres]),
            "sudo dnf install --assumeyes redis postgresql-server"
        );
    }
}
