//! Finding Redis, PostgreSQL and (for the tests) pgbouncer, and installing what is missing.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use windrow_devserver::find::{self, FindError, PackageManager, Server};

/// The servers that must be on this machine, given the environment: not those that are used at a given address.
pub(crate) fn needed(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Server> {
    [(Server::Redis, "WINDROW_REDIS_URL"), (Server::Postgres, "WINDROW_DATABASE_URL")]
        .into_iter()
        .filter(|(_, name)| variable(name).is_none_or(|value| value.is_empty()))
        .map(|(server, _)| server)
        .collect()
}

/// Those that the tests start.
pub(crate) const TESTED: [Server; 3] = [Server::Redis, Server::Postgres, Server::PgBouncer];

/// Sees to it that the servers' programs are on this machine.
pub(crate) fn ensure(servers: &[Server]) -> Result<(), String> {
    let missing = report(servers)?;
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    let still: Vec<String> = report(&missing)?.iter().map(Server::to_string).collect();
    if still.is_empty() {
        return Ok(());
    }
    Err(format!("{} cannot be found although the package manager reported success", still.join(" and ")))
}

/// Says what was found, and returns what is missing. One that is too old is an error: installing would bring no other.
fn report(servers: &[Server]) -> Result<Vec<Server>, String> {
    let mut missing = Vec::new();
    for server in servers {
        match find(*server) {
            Ok(found) => eprintln!("xtask: {server}: {found}"),
            Err(FindError::Missing { .. }) => missing.push(*server),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(missing)
}

fn find(server: Server) -> Result<String, FindError> {
    match server {
        Server::Redis => find::redis_server().map(|found| format!("{} in {}", found.version, found.path.display())),
        Server::Postgres => find::postgres().map(|found| format!("{} in {}", found.version, found.folder.display())),
        Server::PgBouncer => find::pgbouncer().map(|found| format!("{} in {}", found.version, found.path.display())),
    }
}

/// How the rights to install packages are had.
#[derive(Debug, PartialEq, Eq)]
enum Rights {
    /// This is root, or the package manager wants no root.
    Direct,
    /// sudo, without asking for a password.
    SudoSilent,
    /// sudo, which can ask for a password on this terminal.
    SudoAsking,
    None,
}

impl Rights {
    fn of(root: bool, sudo: bool, sudo_silent: impl FnOnce() -> bool, terminal: bool) -> Self {
        match (root, sudo) {
            (true, _) => Self::Direct,
            (false, true) if sudo_silent() => Self::SudoSilent,
            (false, true) if terminal => Self::SudoAsking,
            (false, _) => Self::None,
        }
    }

    fn detect() -> Self {
        let silent = || {
            let answer = Command::new("sudo").args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            answer.is_ok_and(|status| status.success())
        };
        Self::of(is_root(), find::is_on_path("sudo"), silent, io::stdin().is_terminal())
    }

    /// The command line with these rights, and with no questions from the packages.
    fn command_line(&self, command: &[&'static str]) -> Vec<&'static str> {
        let sudo: &[&str] = match self {
            Self::SudoSilent => &["sudo", "-n"],
            Self::SudoAsking => &["sudo"],
            Self::Direct | Self::None => &[],
        };
        // sudo clears the environment, so the variable is set behind it.
        let environment = ["env", "DEBIAN_FRONTEND=noninteractive"];
        let (program, args) = command.split_at(command.len().min(1));
        // A machine that has just been started often installs its own updates first.
        let patience: &[&str] = if program == ["apt-get"] { &["-o", "DPkg::Lock::Timeout=300"] } else { &[] };
        [sudo, &environment, program, patience, args].concat()
    }
}

fn install(missing: &[Server]) -> Result<(), String> {
    let names: Vec<String> = missing.iter().map(|server| format!("{server} {} or newer", minimum(*server))).collect();
    let names = names.join(" and ");
    let Some(manager) = PackageManager::detect() else {
        return Err(format!("missing: {names}. Install with this system's package manager, then run this again"));
    };
    let by_hand = manager.command_line(missing);
    if manager != PackageManager::Apt {
        return Err(format!("missing: {names}. Run this, then try again:\n\n    {by_hand}\n"));
    }
    let rights = Rights::detect();
    if rights == Rights::None {
        return Err(format!(
            "missing: {names}. Installing takes root's rights; run this, then try again:\n\n    {by_hand}\n"
        ));
    }
    eprintln!("xtask: missing: {names}; installing:");
    let commands = manager.commands(missing);
    let (last, before) = commands.split_last().ok_or("the package manager has no commands")?;
    for command in before {
        // One of several package sources being out of reach need not keep these packages from being found.
        if let Err(error) = run(&rights.command_line(command)) {
            eprintln!("xtask: {error}; going on");
        }
    }
    run(&rights.command_line(last)).map_err(|error| {
        format!("{error}; install {names} by hand, then try again, for instance by:\n\n    {by_hand}\n")
    })?;
    if Path::new("/run/systemd/system").exists() {
        eprintln!(
            "xtask: the packages may have started servers on the default ports. Windrow's demonstration and tests start \
             their own; without another use for those: systemctl disable --now redis-server postgresql pgbouncer"
        );
    }
    Ok(())
}

fn minimum(server: Server) -> find::Version {
    match server {
        Server::Redis => find::REDIS_MINIMUM,
        Server::Postgres => find::POSTGRES_MINIMUM,
        Server::PgBouncer => find::PGBOUNCER_MINIMUM,
    }
}

fn run(command_line: &[&str]) -> Result<(), String> {
    let text = command_line.join(" ");
    eprintln!("xtask: + {text}");
    let (program, args) = command_line.split_first().ok_or("an empty command line")?;
    // Standard output is kept for what is run after the set-up.
    let output = io::stderr().as_fd().try_clone_to_owned().map_err(|error| format!("standard error: {error}"))?;
    let status = Command::new(program).args(args).stdin(Stdio::inherit()).stdout(output).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{text}` failed with {status}")),
        Err(error) => Err(format!("cannot run `{text}`: {error}")),
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_at_a_given_address_is_not_needed_here() {
        assert_eq!(needed(|_| None), [Server::Redis, Server::Postgres]);
        assert_eq!(needed(|name| (name == "WINDROW_REDIS_URL").then(|| "redis://x".into())), [Server::Postgres]);
        assert_eq!(
            needed(|_| Some(OsString::new())),
            [Server::Redis, Server::Postgres],
            "an empty variable says nothing"
        );
        assert_eq!(needed(|_| Some("x".into())), []);
    }

    #[test]
    fn root_needs_no_sudo_and_a_user_without_a_terminal_is_not_asked() {
        let never = || panic!("root does not try sudo");
        assert_eq!(Rights::of(true, true, never, true), Rights::Direct);
        assert_eq!(Rights::of(false, true, || true, false), Rights::SudoSilent);
        assert_eq!(Rights::of(false, true, || false, true), Rights::SudoAsking);
        assert_eq!(Rights::of(false, true, || false, false), Rights::None);
        assert_eq!(Rights::of(false, false, || true, true), Rights::None);
    }

    #[test]
    fn the_variable_against_questions_is_set_behind_sudo() {
        assert_eq!(
            Rights::SudoSilent.command_line(&["apt-get", "update"]).join(" "),
            "sudo -n env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update"
        );
        assert_eq!(
            Rights::Direct.command_line(&["apt-get", "update"]).join(" "),
            "env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update"
        );
    }
}
