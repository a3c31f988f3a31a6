//! A private pgbouncer in front of a private PostgreSQL.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::account::Account;
use crate::error::Error;
use crate::find::{self, PgBouncerProgram};
use crate::home::Home;
use crate::postgres::PostgresServer;
use crate::process::{Conduct, Process};
use crate::random;

const PORT_ATTEMPTS: usize = 5;

/// A running pgbouncer of one's own, in transaction mode, on 127.0.0.1. It ends when this is dropped, and when this process ends.
///
/// It knows the PostgreSQL's own user and password, and leads to all of its databases. Run by root it is switched to another user,
/// because pgbouncer refuses to run as root.
#[derive(Debug)]
pub struct PgBouncer {
    program: PgBouncerProgram,
    port: u16,
    process: Process,
    home: Home,
}

impl PgBouncer {
    /// Starts one with at most so many connections to each database, and further settings as in pgbouncer.ini. Blocks for some
    /// milliseconds.
    pub fn start(postgres: &PostgresServer, pool_size: u16, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let program = find::pgbouncer()?;
        let account = Account::for_postgres()?;
        let home = Home::open(None, account.as_ref())?;
        // What TERM means depends on the version; QUIT ends it at once in all of them.
        let conduct = Conduct { name: "pgbouncer", stop: Signal::QUIT, end: Signal::KILL, end_name: "KILL" };
        let process = Process::new(conduct, &home, account.clone())?;
        let users =
            home.write_private("users.txt", &format!("\"{}\" \"{}\"\n", postgres.user(), postgres.password()))?;
        account.as_ref().map_or(Ok(()), |account| account.own(&users))?;
        let mut server = Self { program, port: 0, process, home };
        for attempt in 1.. {
            server.port = random::free_port()?;
            let text = server.configuration(postgres.port(), pool_size, settings)?;
            let path = server.home.write_private("pgbouncer.ini", &text)?;
            account.as_ref().map_or(Ok(()), |account| account.own(&path))?;
            match server.launch() {
                Ok(()) => break,
                // Another process took the port after it was found free.
                Err(error) if error.is_port_taken() && attempt < PORT_ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
        Ok(server)
    }

    fn launch(&self) -> Result<(), Error> {
        let arguments = [OsString::from("pgbouncer.ini")];
        self.process.start(&self.program.path, &arguments, |_| answers(self.port))
    }

    fn configuration(&self, postgres: u16, pool_size: u16, settings: &[(&str, &str)]) -> Result<String, Error> {
        let mut text = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={postgres}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {}\n\
             unix_socket_dir =\n\
             auth_type = plain\n\
             auth_file = users.txt\n\
             pool_mode = transaction\n\
             default_pool_size = {pool_size}\n\
             max_client_conn = 500\n\
             server_login_retry = 1\n",
            self.port,
        );
        for (name, value) in settings {
            if name.contains(['\n', '\r']) || value.contains(['\n', '\r']) {
                return Err(Error::Setting((*name).to_owned()));
            }
            text.push_str(&format!("{name} = {value}\n"));
        }
        Ok(text)
    }

    /// The port on 127.0.0.1, the same over all restarts. [`PostgresServer::url_through`] makes an address of it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the program says its version is.
    #[must_use]
    pub fn version(&self) -> find::Version {
        self.program.version
    }

    /// Kills it with all its connections (SIGKILL) and waits. Not running is fine.
    pub fn kill(&self) -> Result<(), Error> {
        self.process.kill()
    }

    /// Stops it if it runs, and starts it again on the same port.
    pub fn restart(&self) -> Result<(), Error> {
        self.process.stop()?;
        self.launch()
    }
}

/// Whether something on the port answers the question for TLS as PostgreSQL's protocol has it.
fn answers(port: u16) -> bool {
    const PATIENCE: Duration = Duration::from_secs(1);
    const ASK_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let ask = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&ASK_FOR_TLS)?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    };
    ask().is_ok_and(|answer| answer == b'N' || answer == b'S')
}
