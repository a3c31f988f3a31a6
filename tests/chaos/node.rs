//! A node as the runner sees it: a process with its own ways to the servers, and what can be done to it.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{
    plan::Server,
    proxy::Proxy,
    role::{SETTINGS, Settings},
};

/// How long a node may take to end after SIGTERM: its grace, and servers that are away meanwhile.
const END_WITHIN: Duration = Duration::from_secs(40);

/// Bytes of its log that are shown when something is wrong.
const TAIL: usize = 3000;

/// The two ways of somebody to the servers.
#[derive(Debug)]
pub(crate) struct Ways {
    pub(crate) redis: Proxy,
    pub(crate) postgres: Proxy,
}

impl Ways {
    pub(crate) async fn new(redis: u16, postgres: u16) -> std::io::Result<Self> {
        Ok(Self { redis: Proxy::new(redis).await?, postgres: Proxy::new(postgres).await? })
    }

    pub(crate) const fn to(&self, server: Server) -> &Proxy {
        match server {
            Server::Redis => &self.redis,
            Server::Postgres => &self.postgres,
        }
    }
}

/// The wall clock of a process, which can be set.
#[derive(Debug)]
pub(crate) struct Skew {
    library: PathBuf,
    file: PathBuf,
}

impl Skew {
    pub(crate) fn new(library: &Path, file: PathBuf) -> std::io::Result<Self> {
        File::create(&file)?.write_all(&0_i64.to_ne_bytes())?;
        Ok(Self { library: library.to_owned(), file })
    }

    /// Sets the clock to so many milliseconds from the right time.
    pub(crate) fn set(&self, ms: i64) -> std::io::Result<()> {
        OpenOptions::new().write(true).open(&self.file)?.write_all_at(&ms.to_ne_bytes(), 0)
    }

    /// The variables under which a program believes this clock.
    pub(crate) fn variables(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("WINDROW_SKEW_FILE", &self.file)]
    }
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    settings: Settings,
    log: PathBuf,
    skew: Option<Skew>,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn new(settings: Settings, log: PathBuf, skew: Option<Skew>) -> Self {
        Self { settings, log, skew, child: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(crate) const fn skew(&self) -> Option<&Skew> {
        self.skew.as_ref()
    }

    /// Starts the process if it does not run.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("node")
            .env_clear()
            .env(SETTINGS, serde_json::to_string(&self.settings)?)
            .env("RUST_BACKTRACE", "1")
            .envs(self.skew.iter().flat_map(Skew::variables))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        self.child = Some(command.spawn().with_context(|| format!("{} does not start", self.name()))?);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.child.as_ref().and_then(Child::id).context("it does not run")?;
        let pid = Pid::from_raw(id.cast_signed()).context("a process id is positive")?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, and waits until it has ended; false: it had to be killed.
    pub(crate) async fn terminate(&mut self) -> anyhow::Result<bool> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else { return Ok(true) };
        match timeout(END_WITHIN, child.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => {
                child.kill().await?;
                Ok(false)
            }
        }
    }

    /// How it ended, if it did so by itself.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Lines of its log that only a mistake in the program writes.
    pub(crate) fn panics(&self) -> Vec<String> {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains("panicked")).map(|line| format!("{}: {line}", self.name())).collect()
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL)..]).into_owned()
    }
}
