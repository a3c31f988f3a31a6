//! Ends a server when this process is gone, however it went. See the crate's documentation for why a shell on a pipe.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::{Error, io_error};
use crate::home::Home;

/// Reads one line per change: the server's process id, or `-` when none runs. At the end of input it acts.
///
/// A stopped (SIGSTOP) server must be continued to see any signal but KILL. Removal is retried because the server's own
/// children may still be writing their last files.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM PIPE
pid=-
while read -r line; do pid=$line; done
if [ "$pid" != - ]; then
  kill -s "$1" "$pid"
  kill -s CONT "$pid"
  n=0
  while [ "$n" -lt 100 ] && kill -0 "$pid"; do sleep 0.1; n=$((n + 1)); done
  kill -s KILL "$pid"
fi
if [ -n "$2" ]; then
  n=0
  while [ "$n" -lt 20 ] && ! rm -rf -- "$2"; do sleep 0.2; n=$((n + 1)); done
fi
"#;

#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    /// The only writing end: closed by the kernel when this process ends. The standard library opens it close-on-exec, so
    /// no other child of this process keeps it open.
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// `signal` ends the server for good: QUIT lets PostgreSQL remove its shared memory, Redis takes KILL.
    pub(crate) fn start(home: &Home, signal: &str) -> Result<Self, Error> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "windrow-watchdog", signal]);
        if home.is_temporary() {
            command.arg(home.path());
        }
        let mut shell = command
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io_error("cannot start `sh` to watch over a server"))?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// Tells which process to end, or that none runs at present (and that the old number must not be signalled).
    pub(crate) fn watch(&mut self, pid: Option<u32>) -> Result<(), Error> {
        let line = pid.map_or_else(|| "-\n".to_owned(), |pid| format!("{pid}\n"));
        let pipe = self.pipe.as_mut().expect("the pipe is taken only when the watchdog is dropped");
        pipe.write_all(line.as_bytes()).map_err(io_error("the shell that watches over a server is gone"))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // It removes the folder and ends; failing to collect it leaves nothing running.
        let _ = self.shell.wait();
    }
}
