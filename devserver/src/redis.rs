//! A private Redis.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::error::Error;
use crate::find::{self, RedisProgram};
use crate::home::Home;
use crate::process::{Conduct, Process};
use crate::random;
use crate::resp::{Connection, Reply};

const PORT_ATTEMPTS: usize = 5;

/// How a private Redis is set up.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Its data folder, kept afterwards; without one a temporary folder is used and removed.
    pub dir: Option<PathBuf>,
    /// Whether it writes an append-only file, flushed every second: only then does it keep its data over a restart.
    pub aof: bool,
    /// Its port; without one a free port is taken.
    pub port: Option<u16>,
    /// Its password; without one a random one, which is kept with the data.
    pub password: Option<String>,
    /// Further settings as in redis.conf, such as `("maxmemory", "64mb")`; they override the built-in ones.
    pub settings: Vec<(String, String)>,
}

/// A running Redis of one's own, on 127.0.0.1. It ends when this is dropped, and when this process ends.
#[derive(Debug)]
pub struct RedisServer {
    program: RedisProgram,
    port: u16,
    password: String,
    process: Process,
    home: Home,
}

impl RedisServer {
    /// Starts a Redis and waits until it answers. Blocks for some milliseconds.
    pub fn start(options: RedisOptions) -> Result<Self, Error> {
        let program = find::redis_server()?;
        let home = Home::open(options.dir.as_deref(), None)?;
        let conduct = Conduct { name: "Redis", stop: Signal::TERM, end: Signal::KILL, end_name: "KILL" };
        let process = Process::new(conduct, &home, None)?;
        let password = options.password.clone().map_or_else(|| home.password(), Ok)?;
        let mut server = Self { program, port: 0, password, process, home };
        let mut attempt = 1;
        loop {
            server.port = options.port.map_or_else(random::free_port, Ok)?;
            server.home.write_private("redis.conf", &server.configuration(&options)?)?;
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

    fn launch(&self) -> Result<(), Error> {
        let arguments = [OsString::from("redis.conf")];
        self.process.start(&self.program.path, &arguments, |_| answers_ping(self.port, &self.password).is_ok())
    }

    /// A file, not arguments: those would show the password to everybody on the machine.
    fn configuration(&self, options: &RedisOptions) -> Result<String, Error> {
        let mut text = format!(
            "bind 127.0.0.1\n\
             port {}\n\
             requirepass {}\n\
             daemonize no\n\
             logfile \"\"\n\
             save \"\"\n\
             appendonly {}\n\
             appendfsync everysec\n\
             maxmemory-policy noeviction\n",
            self.port,
            self.password,
            if options.aof { "yes" } else { "no" },
        );
        for (name, value) in &options.settings {
            if name.contains(['\n', '\r']) || value.contains(['\n', '\r']) {
                return Err(Error::Setting(name.clone()));
            }
            writeln!(text, "{name} {value}").expect("a String takes whatever is written to it");
        }
        Ok(text)
    }

    /// The address with its password, database 0: `redis://:…@127.0.0.1:…/0`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.port)
    }

    /// The same through another port of 127.0.0.1, such as a proxy's.
    #[must_use]
    pub fn url_through(&self, port: u16) -> String {
        format!("redis://:{}@127.0.0.1:{port}/0", self.password)
    }

    /// Sends it a command and waits for the answer, which may take ten seconds.
    pub fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Reply, Error> {
        Connection::open(self.port, &self.password)?.command(args)
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// The port on 127.0.0.1, the same over all restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The folder with its data and its log, `server.log`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// Stops it orderly (SIGTERM, which also writes the append-only file out) and waits. Stopped already is fine.
    pub fn stop(&self) -> Result<(), Error> {
        self.process.stop()
    }

    /// Kills it (SIGKILL) and waits. Not running is fine.
    pub fn kill(&self) -> Result<(), Error> {
        self.process.kill()
    }

    /// Stops it if it runs, and starts it again on the same port and data.
    pub fn restart(&self) -> Result<(), Error> {
        self.process.stop()?;
        self.launch()
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&self) -> Result<(), Error> {
        self.process.pause()
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), Error> {
        self.process.resume()
    }
}

/// Succeeds once the server has loaded its data. Only the server of this password answers so, not another on that port.
pub(crate) fn answers_ping(port: u16, password: &str) -> Result<(), Error> {
    let answer = Connection::open(port, password)?.command(&["PING"])?;
    if answer.text() == "PONG" {
        Ok(())
    } else {
        Err(Error::Refused { command: "PING".into(), answer: "it answers something else".into() })
    }
}
