//! A place to run the program in, and the program in it.

use std::{
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    time::timeout,
};
use windrow_devserver::{RedisOptions, RedisServer};

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a signal to a process.
pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A Redis and a database of its own, and an empty folder.
pub(crate) struct Place {
    pub(crate) redis: RedisServer,
    folder: TempDir,
    variables: Vec<(String, String)>,
}

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Standard output as JSON, of the line with this number.
    pub(crate) fn json(&self, line: usize) -> Value {
        let text = self.stdout.lines().nth(line).unwrap_or_else(|| panic!("no line {line} in {self:?}"));
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Asserts success.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Asserts this exit status, and these words on standard error.
    pub(crate) fn fails(self, code: i32, words: &str) -> Self {
        assert!(self.code == code && self.stderr.contains(words), "not {code} and {words:?}: {self:?}");
        self
    }
}

impl Place {
    /// Servers are there; the database is empty.
    pub(crate) async fn empty() -> Self {
        let (redis, database) = tokio::task::spawn_blocking(|| {
            let settings = vec![("maxmemory".to_owned(), "256mb".to_owned())];
            let redis = RedisServer::start(RedisOptions { aof: true, settings, ..Default::default() }).unwrap();
            (redis, windrow_devserver::fresh_database().unwrap())
        })
        .await
        .unwrap();
        let mut place = Self { variables: Vec::new(), folder: TempDir::new().unwrap(), redis };
        place.set("WINDROW_REDIS_URL", &place.redis.url());
        place.set("WINDROW_DATABASE_URL", &database);
        // Any free port; and a schedule would do things that a test did not ask for.
        for name in ["WORKER", "SCHEDULER", "API"] {
            place.set(&format!("WINDROW_{name}__LISTEN"), "127.0.0.1:0");
        }
        place.set("WINDROW_SCHEDULER__SCHEDULES", "");
        place.set("WINDROW_LOG__FORMAT", "json");
        place
    }

    /// The database is migrated as well.
    pub(crate) async fn migrated() -> Self {
        let place = Self::empty().await;
        place.run(&["migrate"]).await.ok();
        place
    }

    /// Sets a variable of the environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// A file in the folder.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
        // Nothing of who runs the tests; a program found by its path needs no PATH.
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        let output = timeout(PATIENCE, self.command(args).output()).await.expect("the program hangs").unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts the program, without waiting for its end.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command until what it prints is as wanted.
    pub(crate) async fn await_json(&self, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let found = self.run(arguments).await.ok().json(0);
                if wanted(&found) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{arguments:?} never printed what was wanted"))
    }

    /// Starts a role, and waits until it listens.
    pub(crate) async fn start(&self, role: &str) -> Role {
        let mut child = self.command(&[role]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = timeout(PATIENCE, find_address(&mut log)).await.expect("the role does not listen");
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let lines = Arc::clone(&seen);
        // A full pipe would stop the role.
        tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                lines.lock().unwrap().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        Role { child, address, log: seen }
    }
}

async fn find_address(log: &mut Lines<BufReader<ChildStderr>>) -> String {
    let mut seen = Vec::new();
    while let Some(line) = log.next_line().await.unwrap() {
        let entry: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(address) = entry["address"].as_str() {
            return address.to_owned();
        }
        seen.push(line);
    }
    panic!("the role ended: {seen:?}")
}

/// A role as a process.
pub(crate) struct Role {
    child: Child,
    pub(crate) address: String,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Role {
    /// The lines of its log so far that are about a job.
    pub(crate) fn log_of(&self, job: &str) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter(|line| line.to_string().contains(job)).cloned().collect()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        signal(&self.child, rustix::process::Signal::TERM);
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("the role does not end").unwrap()
    }

    /// A GET, with its status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Asks until the answer has this status and these words.
    pub(crate) async fn await_get(&self, path: &str, status: u16, words: &str) -> String {
        let asking = async {
            loop {
                let (found, body) = self.get(path).await;
                if found == status && body.contains(words) {
                    return body;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{path} never answered {status} with {words:?}"))
    }
}
