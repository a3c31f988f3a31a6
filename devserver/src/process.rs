//! One server process: starting it under a watchdog, waiting until it is ready, stopping, killing, pausing.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::account::Account;
use crate::error::{Error, io_error};
use crate::home::Home;
use crate::watchdog::Watchdog;

const READY_WITHIN: Duration = Duration::from_secs(20);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
const LOG_TAIL: u64 = 4096;

/// Waits for a word before it becomes the server: the watchdog learns of the process before the server exists, and if
/// this process dies in between the shell reads the end of its input and ends too.
const LAUNCHER: &str = r#"read -r go || exit 125; exec "$@" </dev/null"#;

/// How one kind of server wants to be handled.
#[derive(Debug)]
pub(crate) struct Conduct {
    pub(crate) name: &'static str,
    /// Ends it orderly, with everything written down.
    pub(crate) stop: Signal,
    /// Ends it at once; `sh` knows it as `end_name`.
    pub(crate) end: Signal,
    pub(crate) end_name: &'static str,
}

#[derive(Debug)]
pub(crate) struct Process {
    conduct: Conduct,
    state: Mutex<State>,
    log: PathBuf,
    folder: PathBuf,
    account: Option<Account>,
}

#[derive(Debug)]
struct State {
    child: Option<Child>,
    paused: bool,
    watchdog: Watchdog,
}

impl Process {
    pub(crate) fn new(conduct: Conduct, home: &Home, account: Option<Account>) -> Result<Self, Error> {
        let watchdog = Watchdog::start(home, conduct.end_name)?;
        Ok(Self {
            conduct,
            state: Mutex::new(State { child: None, paused: false, watchdog }),
            log: home.log(),
            folder: home.path().to_owned(),
            account,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each field is valid on its own; a panic elsewhere must not keep Drop from ending the server.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the server and waits until `ready` says so of its process id. A server that runs already is left as it is.
    pub(crate) fn start(&self, program: &Path, args: &[OsString], ready: impl Fn(u32) -> bool) -> Result<(), Error> {
        let mut state = self.state();
        if state.child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log)
            .map_err(io_error(format!("cannot write {}", self.log.display())))?;
        let log_start = log.metadata().map_err(io_error(format!("cannot examine {}", self.log.display())))?.len();
        let errors = log.try_clone().map_err(io_error("cannot duplicate the log's handle"))?;

        let mut command = Command::new("sh");
        command.args(["-c", LAUNCHER, self.conduct.name]).arg(program).args(args);
        self.prepare(&mut command);
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(io_error(format!("cannot start {}", program.display())))?;
        let mut go = child.stdin.take();
        let pid = child.id();
        state.child = Some(child);
        state.paused = false;
        state.watchdog.watch(Some(pid))?;
        if let Some(go) = &mut go {
            // Should the shell have died already, the wait below reports how.
            let _ = go.write_all(b"go\n");
        }
        drop(go);

        let exited = wait_until(READY_WITHIN, || match exit_status(&mut state)? {
            Some(status) => Ok(Some(Some(status))),
            None if ready(pid) => Ok(Some(None)),
            None => Ok(None),
        })?;
        let log = || self.log_tail(log_start);
        match exited {
            Some(None) => Ok(()),
            Some(Some(status)) => Err(Error::Exited { server: self.conduct.name, status, log: log() }),
            None => {
                self.end_with(&mut state, Signal::KILL)?;
                Err(Error::NotReady { server: self.conduct.name, waited: READY_WITHIN, log: log() })
            }
        }
    }

    /// Settings that the server and its helper programs share.
    pub(crate) fn prepare(&self, command: &mut Command) {
        if let Some(account) = &self.account {
            account.apply(command);
        }
        // Variables such as PGDATA or PGOPTIONS would reach into a server that is meant to be private.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        // English messages: a taken port is recognised by what the server says.
        command.env("LC_ALL", "C").current_dir(&self.folder);
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.state().child.as_ref().map(Child::id)
    }

    pub(crate) fn stop(&self) -> Result<(), Error> {
        let mut state = self.state();
        if state.child.is_none() {
            return Ok(());
        }
        self.signal(&mut state, self.conduct.stop)?;
        self.resume_all(&mut state)?;
        match wait_until(STOP_WITHIN, || exit_status(&mut state))? {
            Some(_) => Ok(()),
            None => {
                self.end_with(&mut state, Signal::KILL)?;
                Err(Error::DidNotStop { server: self.conduct.name, waited: STOP_WITHIN })
            }
        }
    }

    /// SIGKILL to the server and all its children at once, as when the machine loses power (but its kernel's buffers).
    pub(crate) fn kill(&self) -> Result<(), Error> {
        let mut state = self.state();
        if state.child.is_none() {
            return Ok(());
        }
        let children = self.children(&state)?;
        self.end_with(&mut state, Signal::KILL)?;
        for child in children {
            // Without their parent most end by themselves; one that has already is what was wanted.
            let _ = kill_process(child, Signal::KILL);
        }
        Ok(())
    }

    pub(crate) fn pause(&self) -> Result<(), Error> {
        let mut state = self.state();
        // The parent first: it must not fork another child after the children were listed.
        self.signal(&mut state, Signal::STOP)?;
        state.paused = true;
        for child in self.children(&state)? {
            let _ = kill_process(child, Signal::STOP);
        }
        Ok(())
    }

    pub(crate) fn resume(&self) -> Result<(), Error> {
        let mut state = self.state();
        self.running(&state)?;
        self.resume_all(&mut state)
    }

    fn resume_all(&self, state: &mut State) -> Result<(), Error> {
        if state.paused {
            for child in self.children(state)? {
                let _ = kill_process(child, Signal::CONT);
            }
            self.signal(state, Signal::CONT)?;
            state.paused = false;
        }
        Ok(())
    }

    fn running(&self, state: &State) -> Result<Pid, Error> {
        let child = state.child.as_ref().ok_or(Error::NotRunning { server: self.conduct.name })?;
        Ok(as_pid(child.id()))
    }

    fn signal(&self, state: &mut State, signal: Signal) -> Result<(), Error> {
        let pid = self.running(state)?;
        // Not collected yet, so the number is still its own even if it has ended.
        kill_process(pid, signal)
            .map_err(|error| io_error(format!("cannot signal {}", self.conduct.name))(error.into()))
    }

    /// Sends a signal that ends the server, collects it, and tells the watchdog.
    fn end_with(&self, state: &mut State, signal: Signal) -> Result<(), Error> {
        self.signal(state, signal)?;
        self.resume_all(state)?;
        if wait_until(Duration::from_secs(10), || exit_status(state))?.is_none() {
            self.signal(state, Signal::KILL)?;
            wait_until(STOP_WITHIN, || exit_status(state))?;
        }
        Ok(())
    }

    /// The server's child processes: PostgreSQL puts each connection in one, in a process group of its own.
    fn children(&self, state: &State) -> Result<Vec<Pid>, Error> {
        let parent = self.running(state)?.as_raw_nonzero().get();
        let listing =
            if Path::new("/proc/self/stat").exists() { children_by_proc(parent) } else { children_by_ps(parent) };
        listing.map_err(io_error(format!("cannot list the processes of {}", self.conduct.name)))
    }

    fn log_tail(&self, from: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(from.max(end.saturating_sub(LOG_TAIL))))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        read().unwrap_or_else(|error| format!("({} cannot be read: {error})", self.log.display()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut state = self.state();
        if state.child.is_some() {
            // A failure cannot be reported from here; the watchdog, dropped next, tries once more.
            let _ = self.end_with(&mut state, self.conduct.end);
        }
    }
}

/// Collects the server if it has ended, and takes its number from the watchdog: it may belong to another process soon.
fn exit_status(state: &mut State) -> Result<Option<ExitStatus>, Error> {
    let Some(child) = &mut state.child else { return Ok(None) };
    let status = child.try_wait().map_err(io_error("cannot wait for a server"))?;
    if status.is_some() {
        state.child = None;
        state.paused = false;
        state.watchdog.watch(None)?;
    }
    Ok(status)
}

fn as_pid(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the system's process ids are positive")
}

fn children_by_proc(parent: i32) -> std::io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // Processes come and go while the folder is read.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // "pid (name) state ppid …", and the name may hold spaces and brackets.
        let ppid = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        if ppid == Some(parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

fn children_by_ps(parent: i32) -> std::io::Result<Vec<Pid>> {
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| {
            let (pid, ppid) = line.trim().split_once(char::is_whitespace)?;
            (ppid.trim().parse() == Ok(parent)).then(|| Pid::from_raw(pid.parse().ok()?)).flatten()
        })
        .collect())
}

/// Asks again and again until there is an answer or the time is up.
pub(crate) fn wait_until<T>(
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a bounded wait for another process, in a crate without a runtime"
        )]
        std::thread::sleep(POLL);
    }
}
