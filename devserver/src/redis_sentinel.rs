//! A Redis with replicas and Sentinels that watch over it.

use std::ffi::OsString;
use std::time::Duration;

use rustix::process::Signal;

use crate::error::Error;
use crate::find::{self, RedisProgram};
use crate::home::Home;
use crate::process::{Conduct, Process, wait_until};
use crate::random;
use crate::redis::{RedisOptions, RedisServer, answers_ping};
use crate::resp::{Connection, Reply};

const PORT_ATTEMPTS: usize = 5;
/// Sentinels find each other within some seconds.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Under which the Sentinels know the master.
const NAME: &str = "windrow";
/// Sentinels do most things once in a second or ten; here they are told to be faster. Not more pings: what a replica said of
/// itself counts for five of them, and while its master is away it is asked once in a second.
const FAST: [(&str, &str); 5] = [
    ("INFO-PERIOD", "200"),
    ("PING-PERIOD", "300"),
    ("ASK-PERIOD", "100"),
    ("PUBLISH-PERIOD", "200"),
    ("ELECTION-TIMEOUT", "2000"),
];

/// How a private group is set up.
#[derive(Debug, Clone)]
pub struct SentinelOptions {
    /// Replicas of the master.
    pub replicas: usize,
    /// Sentinels; more than half of them must agree that the master is away.
    pub sentinels: usize,
    /// Silence of the master after which a Sentinel takes it to be away.
    pub down_after: Duration,
    /// Whether the servers write append-only files.
    pub aof: bool,
    /// Further settings of master and replicas, as in redis.conf.
    pub settings: Vec<(String, String)>,
}

impl Default for SentinelOptions {
    fn default() -> Self {
        Self { replicas: 1, sentinels: 3, down_after: Duration::from_millis(500), aof: false, settings: Vec::new() }
    }
}

/// A running master with its replicas and Sentinels, all on 127.0.0.1. They end when this is dropped, and when this process
/// ends.
#[derive(Debug)]
pub struct SentinelGroup {
    servers: Vec<RedisServer>,
    sentinels: Vec<SentinelServer>,
    password: String,
}

impl SentinelGroup {
    /// Starts them and waits until a failover would succeed. Blocks for about two seconds.
    pub fn start(options: &SentinelOptions) -> Result<Self, Error> {
        let password = random::password()?;
        let mut servers: Vec<RedisServer> = Vec::new();
        for _ in 0..=options.replicas {
            let mut settings = vec![
                ("masterauth".to_owned(), password.clone()),
                ("repl-diskless-sync-delay".to_owned(), "0".to_owned()),
                ("repl-ping-replica-period".to_owned(), "1".to_owned()),
            ];
            if let Some(master) = servers.first() {
                settings.push(("replicaof".to_owned(), format!("127.0.0.1 {}", master.port())));
            }
            settings.extend(options.settings.iter().cloned());
            let password = Some(password.clone());
            servers.push(RedisServer::start(RedisOptions {
                aof: options.aof,
                password,
                settings,
                ..Default::default()
            })?);
        }
        settle("the replicas have the master's data", || {
            Ok(servers[1..].iter().all(|replica| is_replicating(replica).unwrap_or(false)))
        })?;
        let secret = random::password()?;
        let sentinels = (0..options.sentinels)
            .map(|_| SentinelServer::start(options, servers[0].port(), &password, &secret))
            .collect::<Result<_, _>>()?;
        let group = Self { servers, sentinels, password };
        group.settled(options.replicas)?;
        Ok(group)
    }

    /// Waits until every Sentinel that runs knows the others, and this many replicas that could be promoted. After a failover:
    /// until the next one would succeed.
    pub fn settled(&self, replicas: usize) -> Result<(), Error> {
        settle("the Sentinels know each other and the replicas", || {
            Ok(self.sentinels.iter().filter(|sentinel| sentinel.is_running()).all(|sentinel| {
                let ready = sentinel.command(&["SENTINEL", "CKQUORUM", NAME]).is_ok();
                let known = sentinel.command(&["SENTINEL", "REPLICAS", NAME]).map_or(0, |list| {
                    list.list().iter().filter(|replica| field(replica, "flags").as_deref() == Some("slave")).count()
                });
                ready && known >= replicas
            }))
        })
    }

    /// The address of the first Sentinel, with the password of the Redis servers: `redis://:…@127.0.0.1:…/0`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}/0", self.password, self.sentinels[0].port)
    }

    /// The addresses of the other Sentinels.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.sentinels[1..].iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect()
    }

    /// The name under which the Sentinels know the master.
    #[must_use]
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// The Sentinels' own password.
    #[must_use]
    pub fn sentinel_password(&self) -> &str {
        &self.sentinels[0].password
    }

    /// The Redis servers; the first was the master to begin with.
    #[must_use]
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The Sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[SentinelServer] {
        &self.sentinels
    }

    /// The server that the Sentinels take for the master, by those of them that answer.
    pub fn master(&self) -> Result<&RedisServer, Error> {
        let mut failed = Error::NotRunning { server: "Redis Sentinel" };
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_running()) {
            match sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]) {
                Ok(answer) => {
                    let port = answer.list().get(1).map(Reply::text).unwrap_or_default();
                    if let Some(server) = self.servers.iter().find(|server| server.port().to_string() == port) {
                        return Ok(server);
                    }
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Waits until the replicas that run have everything that the master was told until now.
    pub fn until_replicated(&self) -> Result<(), Error> {
        let master = self.master()?;
        let told = offset(master, "master_repl_offset")?;
        let replicas = self.servers.iter().filter(|server| server.port() != master.port() && server.pid().is_some());
        for replica in replicas {
            settle("a replica has the master's data", || Ok(offset(replica, "slave_repl_offset")? >= told))?;
        }
        Ok(())
    }

    /// Waits until the Sentinels name another master than this one, and it takes writes.
    pub fn until_failed_over(&self, from: &RedisServer) -> Result<&RedisServer, Error> {
        settle("another server is the master", || {
            let master = self.master()?;
            let role = if master.port() == from.port() { None } else { master.command(&["ROLE"]).ok() };
            Ok(role.is_some_and(|role| role.list().first().map(Reply::text).as_deref() == Some("master")))
        })?;
        self.master()
    }
}

/// A running Redis Sentinel.
#[derive(Debug)]
pub struct SentinelServer {
    program: RedisProgram,
    port: u16,
    password: String,
    process: Process,
    home: Home,
}

impl SentinelServer {
    fn start(options: &SentinelOptions, master: u16, redis_password: &str, secret: &str) -> Result<Self, Error> {
        let program = find::redis_server()?;
        let home = Home::open(None, None)?;
        let conduct = Conduct { name: "Redis Sentinel", stop: Signal::TERM, end: Signal::KILL, end_name: "KILL" };
        let process = Process::new(conduct, &home, None)?;
        let mut server = Self { program, port: 0, password: secret.to_owned(), process, home };
        let mut attempt = 1;
        loop {
            server.port = random::free_port()?;
            server.home.write_private("sentinel.conf", &server.configuration(options, master, redis_password))?;
            match server.launch() {
                Ok(()) => return Ok(server),
                Err(error) if error.is_port_taken() && attempt < PORT_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The Sentinel writes into this file what it learns.
    fn configuration(&self, options: &SentinelOptions, master: u16, redis_password: &str) -> String {
        format!(
            "bind 127.0.0.1\n\
             port {}\n\
             requirepass {secret}\n\
             daemonize no\n\
             logfile \"\"\n\
             sentinel sentinel-pass {secret}\n\
             sentinel monitor {NAME} 127.0.0.1 {master} {quorum}\n\
             sentinel auth-pass {NAME} {redis_password}\n\
             sentinel down-after-milliseconds {NAME} {down_after}\n\
             sentinel failover-timeout {NAME} 2000\n\
             sentinel parallel-syncs {NAME} 1\n",
            self.port,
            secret = self.password,
            quorum = options.sentinels / 2 + 1,
            down_after = options.down_after.as_millis(),
        )
    }

    fn launch(&self) -> Result<(), Error> {
        let arguments = ["sentinel.conf", "--sentinel"].map(OsString::from);
        self.process.start(&self.program.path, &arguments, |_| answers_ping(self.port, &self.password).is_ok())?;
        for (name, value) in FAST {
            // A server that does not know it is slower, and as right.
            let _ = self.command(&["SENTINEL", "DEBUG", name, value]);
        }
        Ok(())
    }

    /// Sends it a command and waits for the answer.
    pub fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Reply, Error> {
        Connection::open(self.port, &self.password)?.command(args)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn is_running(&self) -> bool {
        self.process.pid().is_some()
    }

    /// Kills it (SIGKILL) and waits. Not running is fine.
    pub fn kill(&self) -> Result<(), Error> {
        self.process.kill()
    }

    /// Starts it again, with what it had learnt.
    pub fn restart(&self) -> Result<(), Error> {
        self.process.stop()?;
        self.launch()
    }
}

fn is_replicating(replica: &RedisServer) -> Result<bool, Error> {
    Ok(replica.command(&["INFO", "replication"])?.text().contains("master_link_status:up"))
}

fn offset(server: &RedisServer, name: &str) -> Result<u64, Error> {
    let info = server.command(&["INFO", "replication"])?.text();
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or_default())
}

/// A field of an answer that lists names and values in turn.
fn field(reply: &Reply, name: &str) -> Option<String> {
    reply.list().chunks_exact(2).find(|pair| pair[0].text() == name).map(|pair| pair[1].text())
}

/// Waits until something holds.
pub(crate) fn settle(what: &str, mut holds: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
    match wait_until(SETTLED_WITHIN, || Ok(holds()?.then_some(())))? {
        Some(()) => Ok(()),
        None => Err(Error::Unsettled { what: what.to_owned(), waited: SETTLED_WITHIN }),
    }
}
