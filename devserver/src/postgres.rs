//! A private PostgreSQL.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::account::Account;
use crate::error::{Error, io_error};
use crate::find::{self, PostgresPrograms};
use crate::home::Home;
use crate::process::{Conduct, Process, wait_until};
use crate::random;

const USER: &str = "windrow";
const PORT_ATTEMPTS: usize = 5;

/// How a private PostgreSQL is set up.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Its data folder, kept afterwards and used again; without one a temporary folder is used and removed.
    pub dir: Option<PathBuf>,
    /// Its port; without one a free port is taken.
    pub port: Option<u16>,
    /// Does without fsync: quicker, and still safe against a killed process, but not against a crash of the machine.
    /// Tests want it; benchmarks of commits must not have it.
    pub fast: bool,
    /// Further settings as in postgresql.conf, such as `("max_connections", "500")`; they override the built-in ones.
    pub settings: Vec<(String, String)>,
}

/// A running PostgreSQL of one's own, on 127.0.0.1. It ends when this is dropped, and when this process ends.
///
/// Run by root it is switched to the user `postgres`, or else `nobody`, because PostgreSQL refuses to run as root.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PostgresPrograms,
    port: u16,
    password: String,
    settings: Vec<(String, String)>,
    process: Process,
    home: Home,
}

impl PostgresServer {
    /// Makes the data folder if there is none, starts a PostgreSQL and waits until it accepts connections.
    /// Blocks for about two seconds.
    pub fn start(options: PostgresOptions) -> Result<Self, Error> {
        let programs = find::postgres()?;
        let account = Account::for_postgres()?;
        let home = Home::open(options.dir.as_deref(), account.as_ref())?;
        // QUIT makes it leave at once, yet remove its shared memory, which would otherwise outlive it.
        let conduct = Conduct { name: "PostgreSQL", stop: Signal::INT, end: Signal::QUIT, end_name: "QUIT" };
        let process = Process::new(conduct, &home, account.clone())?;
        let password = home.password()?;
        let settings = settings(&options);
        let mut server = Self { programs, port: 0, password, settings, process, home };
        server.init(account.as_ref())?;
        let mut attempt = 1;
        loop {
            server.port = options.port.map_or_else(random::free_port, Ok)?;
            match server.launch() {
                Ok(()) => return Ok(server),
                // Another process took the port after it was found free.
                Err(error) if error.is_port_taken() && options.port.is_none() && attempt < PORT_ATTEMPTS => {
                    attempt += 1
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn init(&self, account: Option<&Account>) -> Result<(), Error> {
        match fs::read_to_string(self.data().join("PG_VERSION")) {
            Ok(found) if found.trim() == self.programs.version.major.to_string() => return Ok(()),
            Ok(found) => {
                return Err(Error::DataVersion {
                    path: self.data(),
                    found: found.trim().to_owned(),
                    wanted: self.programs.version.major,
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(format!("cannot read {}", self.data().display()))(error)),
        }
        if let Some(account) = account {
            account.own(&self.home.password_file())?;
        }
        // C.UTF-8 is the same everywhere it exists; where it does not, plain C sorts alike.
        match self.initdb("C.UTF-8") {
            Err(Error::Tool { output, .. }) if output.contains("invalid locale") => self.initdb("C"),
            done => done,
        }
    }

    fn initdb(&self, locale: &str) -> Result<(), Error> {
        let mut command = Command::new(self.programs.folder.join("initdb"));
        command
            .args(["--username", USER, "--encoding=UTF8", "--no-sync", "--no-instructions"])
            // The password crosses the loopback interface only; the server keeps it hashed. Hashing it on the client's
            // side as well would cost each connection of an unoptimised test build tens of milliseconds.
            .args(["--auth-local=scram-sha-256", "--auth-host=password"])
            .arg(format!("--locale={locale}"))
            .arg("--pwfile")
            .arg(self.home.password_file())
            .arg("--pgdata")
            .arg(self.data());
        self.run(command)
    }

    fn launch(&self) -> Result<(), Error> {
        let mut arguments: Vec<OsString> =
            vec!["-D".into(), self.data().into(), "-p".into(), self.port.to_string().into()];
        for (name, value) in &self.settings {
            arguments.extend(["-c".into(), format!("{name}={value}").into()]);
        }
        let program = self.programs.folder.join("postgres");
        let started = wait_until(Duration::from_secs(20), || {
            match self.process.start(&program, &arguments, |pid| self.is_ready(pid)) {
                Ok(()) => Ok(Some(())),
                // Connections of a killed server that still run a query hold its shared memory until they notice.
                Err(Error::Exited { log, .. }) if log.contains("pre-existing shared memory block") => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        started.ok_or(Error::NotReady {
            server: "PostgreSQL",
            waited: Duration::from_secs(20),
            log: "processes of the server killed before still hold its shared memory".to_owned(),
        })
    }

    /// The server writes its state into the eighth line of this file, under its own process id: nobody else's server on the
    /// same port can be mistaken for it.
    fn is_ready(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data().join("postmaster.pid")) else { return false };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first().and_then(|line| line.parse().ok()) == Some(pid) && lines.get(7) == Some(&"ready")
    }

    fn sql(&self, statement: &str) -> Result<(), Error> {
        let mut command = Command::new(&self.programs.psql);
        command
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--host=127.0.0.1", "--username", USER])
            .args(["--port", &self.port.to_string(), "--dbname=postgres", "--command", statement]);
        self.run(command)
    }

    fn run(&self, mut command: Command) -> Result<(), Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.process.prepare(&mut command);
        // In the environment only the same user sees it; as an argument everybody would.
        command.env("PGPASSWORD", &self.password).stdin(Stdio::null());
        let output = command.output().map_err(io_error(format!("cannot run {program}")))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Tool { program, status: output.status, output: text })
    }

    /// The address of a database, with user (a superuser) and password. `postgres` always exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_through(self.port, database)
    }

    /// The same through another port of 127.0.0.1, such as a proxy's.
    #[must_use]
    pub fn url_through(&self, port: u16, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{port}/{database}", self.password)
    }

    /// Makes an empty database and returns its address.
    pub fn create_database(&self, name: &str) -> Result<String, Error> {
        self.create_database_from(name, "template0")
    }

    /// Makes a copy of a database and returns its address. Nobody may be connected to the template meanwhile.
    pub fn create_database_from(&self, name: &str, template: &str) -> Result<String, Error> {
        for name in [name, template] {
            if !is_plain_name(name) {
                return Err(Error::DatabaseName(name.to_owned()));
            }
        }
        self.sql(&format!("CREATE DATABASE {name} TEMPLATE {template}"))?;
        Ok(self.url(name))
    }

    /// Removes a database, ending the connections to it. One that does not exist is fine.
    pub fn drop_database(&self, name: &str) -> Result<(), Error> {
        if !is_plain_name(name) {
            return Err(Error::DatabaseName(name.to_owned()));
        }
        self.sql(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    }

    pub(crate) fn user(&self) -> &'static str {
        USER
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// The port on 127.0.0.1, the same over all restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the postmaster while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The folder with its data (in `data`) and its log, `server.log`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// Stops it orderly (SIGINT: open transactions are rolled back) and waits. Stopped already is fine.
    pub fn stop(&self) -> Result<(), Error> {
        self.process.stop()
    }

    /// Kills it and all its connections (SIGKILL) and waits. Not running is fine.
    pub fn kill(&self) -> Result<(), Error> {
        self.process.kill()
    }

    /// Stops it if it runs, and starts it again on the same port and data.
    pub fn restart(&self) -> Result<(), Error> {
        self.process.stop()?;
        self.launch()
    }

    /// Freezes it with all its connections (SIGSTOP): they stay open and nothing answers.
    pub fn pause(&self) -> Result<(), Error> {
        self.process.pause()
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), Error> {
        self.process.resume()
    }
}

fn settings(options: &PostgresOptions) -> Vec<(String, String)> {
    let mut settings = vec![
        ("listen_addresses", "127.0.0.1"),
        // The folder's path may be longer than a socket's may be, and nobody asks for one.
        ("unix_socket_directories", ""),
        ("max_connections", "300"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
    ];
    if options.fast {
        // Not synchronous_commit: without it a killed server would lose what it has confirmed.
        settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
    }
    let given = options.settings.iter().cloned();
    settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).chain(given).collect()
}

/// Names that need no quoting anywhere.
fn is_plain_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
