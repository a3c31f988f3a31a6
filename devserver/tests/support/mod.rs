//! Processes started from a test, and waiting for what they do.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SPAWNED: &str = "WINDROW_DEVSERVER_TEST_HOLDER";
const MARK: &str = "server: ";

/// Polls until the condition holds; false when it did not within the limit.
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks at another process, with a limit")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process exists and has not ended (one that nobody has collected yet has).
pub(crate) fn is_running(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !matches!(stat.rsplit_once(") "), Some((_, rest)) if rest.starts_with(['Z', 'X'])),
        Err(_) if Path::new("/proc/self/stat").exists() => false,
        Err(_) => {
            let pid = pid.to_string();
            let output = Command::new("ps").args(["-o", "stat=", "-p", &pid]).output().expect("ps runs");
            output.status.success() && !output.stdout.trim_ascii().starts_with(b"Z")
        }
    }
}

/// One test of this very program, to be run in a process of its own, which knows that it was started so.
pub(crate) fn command_for_self(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("the test's own program"));
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(SPAWNED, "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

pub(crate) fn spawn_self(test: &str) -> Child {
    command_for_self(test).spawn().expect("the test's own program starts")
}

pub(crate) fn is_spawned() -> bool {
    env::var_os(SPAWNED).is_some()
}

/// In the spawned process: says what it holds and waits to be killed, or to lose its parent.
pub(crate) fn tell_and_wait(pid: u32, dir: &Path) {
    println!("\n{MARK}{pid} {}", dir.display());
    std::io::stdout().flush().expect("the parent reads");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// In the parent: what [`tell_and_wait`] said.
pub(crate) fn read_pid_and_dir(child: &mut Child) -> (u32, PathBuf) {
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    for line in output.lines() {
        let line = line.expect("text");
        if let Some((pid, dir)) = line.strip_prefix(MARK).and_then(|rest| rest.split_once(' ')) {
            return (pid.parse().expect("a number"), PathBuf::from(dir));
        }
    }
    panic!("the spawned process ended without saying what it holds");
}
