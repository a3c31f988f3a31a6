//! `windrow dev` as a person or a program runs it: the built binary, on private servers.
#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// `windrow dev` in an empty folder, with nothing of this process' settings.
fn dev(args: &[&str]) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
    let settings = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        // Where the servers' programs are may stay.
        name.starts_with("WINDROW_") && !["WINDROW_REDIS_SERVER", "WINDROW_POSTGRES_BIN"].contains(&&*name)
    });
    for (name, _) in settings {
        command.env_remove(name);
    }
    command
        .arg("dev")
        .args(args)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    (command, folder)
}

/// The last line of standard output.
fn summary(output: &Output) -> Value {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_else(|| panic!("no output; {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"))
}

fn number(summary: &Value, name: &str) -> i64 {
    summary[name].as_i64().unwrap_or_else(|| panic!("{name} is no number in {summary}"))
}

#[test]
fn once_takes_every_job_all_the_way_and_says_so_in_figures_that_agree() {
    let (mut command, _folder) = dev(&["--once"]);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    let summary = summary(&output);
    let of = |name| number(&summary, name);

    assert_eq!((of("sources"), of("sources_fetched")), (6, 6), "{summary}");
    assert_eq!(of("fetched"), of("inserted") + of("updated") + of("duplicates") + of("skipped"), "{summary}");
    // Two tenants read the board, which has an item without a title, one without a URL, and two listed twice; the archive
    // repeats three of the board's.
    assert_eq!((of("fetched"), of("skipped"), of("duplicates"), of("inserted")), (179, 4, 7, 168), "{summary}");
    assert_eq!((of("vacancies"), of("scored")), (of("inserted"), of("inserted")), "{summary}");
    let scores: i64 = summary["scores"].as_array().unwrap().iter().map(|count| count.as_i64().unwrap()).sum();
    assert_eq!(scores, of("scored"), "{summary}");
    assert_eq!(of("imported") + of("import_duplicates") + of("rejected"), 6000, "{summary}");
    assert!(of("imported") > 5000 && of("import_duplicates") > 200 && of("rejected") > 200, "{summary}");
    assert!(of("posted") >= 20, "{summary}");
    for nothing in ["due", "failed", "unbalanced", "dead"] {
        assert_eq!(of(nothing), 0, "{nothing}: {summary}");
    }
    assert!(of("retried") >= 1, "one source fails the first time: {summary}");
    assert!(summary["elapsed_s"].as_f64().unwrap() > 0.0, "{summary}");
    assert!(errors.contains("vacancies") && errors.contains("phone numbers"), "no table for people: {errors}");
}

#[test]
fn once_fails_and_names_what_is_missing_when_a_source_is_not_there() {
    let address = serve_not_found();
    let (mut command, _folder) = dev(&["--once", "--source", &format!("http://{address}/feed")]);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let summary = summary(&output);
    assert_eq!((number(&summary, "dead"), number(&summary, "sources_fetched")), (1, 6), "{summary}");
    assert_eq!(
        number(&summary, "scored"),
        number(&summary, "vacancies"),
        "the others are done all the same: {summary}"
    );
    assert!(errors.contains("6 of 7 sources") && errors.contains("404"), "{errors}");
}

#[test]
fn an_asked_for_end_leaves_no_process_behind() {
    let running = Running::start();
    let pid = running.pid();
    let processes = running.servers();
    kill_process(pid, Signal::TERM).unwrap();
    let status = running.ended();
    assert!(status.success(), "{status}");
    gone(&processes);
}

#[test]
fn a_killed_one_leaves_no_process_behind_either() {
    let running = Running::start();
    let pid = running.pid();
    let processes = running.servers();
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(running.ended().signal(), Some(9));
    gone(&processes);
}

#[test]
fn it_works_on_servers_that_run_already_and_a_second_run_brings_nothing_new() {
    let running = Running::start();
    let mut servers = running.servers();
    // Postgres' processes come and go with its connections.
    servers.retain(|process| process.parent == running.child.id());
    let (mut command, _folder) = dev(&["--once"]);
    for (name, value) in &running.exports {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("redis.url is set") && errors.contains("database.url is set"), "{errors}");
    let summary = summary(&output);
    assert_eq!((number(&summary, "inserted"), number(&summary, "posted")), (0, 0), "{summary}");
    assert_eq!((number(&summary, "vacancies"), number(&summary, "scored")), (168, 168), "{summary}");

    // What was not started by the second run is not ended with it.
    assert!(servers.iter().all(Process::is_alive), "{servers:?}");
    kill_process(running.pid(), Signal::INT).unwrap();
    assert!(running.ended().success());
    gone(&servers);
}

/// `windrow dev` that has done its first round and stays up.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    exports: Vec<(String, String)>,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let (mut command, folder) = dev(&[]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self { child, out, exports: Vec::new(), _folder: folder };
        let mut text = String::new();
        loop {
            let mut line = String::new();
            assert!(running.out.read_line(&mut line).unwrap() > 0, "it ended early: {text}");
            if let Some((name, value)) = line.trim().strip_prefix("export ").and_then(|export| export.split_once('=')) {
                running.exports.push((name.to_owned(), value.to_owned()));
            }
            text.push_str(&line);
            if line.contains("dead list") {
                assert!(text.contains("/metrics") && text.contains("curl -s http://127.0.0.1:"), "{text}");
                assert_eq!(running.exports.len(), 2, "{text}");
                return running;
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// All processes below it. The servers are among them, or the test proves nothing.
    fn servers(&self) -> Vec<Process> {
        let mut family = BTreeSet::from([self.child.id()]);
        let all = Process::all();
        loop {
            let below: BTreeSet<u32> =
                all.iter().filter(|process| family.contains(&process.parent)).map(|process| process.pid).collect();
            if below.is_subset(&family) {
                break;
            }
            family.extend(below);
        }
        let below: Vec<Process> =
            all.into_iter().filter(|process| process.pid != self.child.id() && family.contains(&process.pid)).collect();
        for name in ["redis-server", "postgres"] {
            assert!(below.iter().any(|process| process.name == name), "no {name} among {below:?}");
        }
        below
    }

    fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        // Its output ends with it, unless somebody inherited it; then waiting is bounded here.
        let mut rest = Vec::new();
        self.out.read_to_end(&mut rest).unwrap();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion; one that has ended already needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
    /// With the pid it tells a process from a later one of the same number.
    started: u64,
}

impl Process {
    fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").unwrap();
        entries.filter_map(|entry| Self::read(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// None when there is no such process, or only its entry is left (nobody has collected its status yet).
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let name = head.split_once('(')?.1.to_owned();
        let (state, parent, started) = (fields.first()?, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?);
        (*state != "Z").then_some(Self { pid, parent, name, started })
    }

    fn is_alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started)
    }
}

/// Waits until none of them is there.
fn gone(processes: &[Process]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<_> = processes.iter().filter(|process| process.is_alive()).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {left:?}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// Answers everything with 404, for as long as the test runs.
fn serve_not_found() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Unread data would reset the connection. A client that went away is no concern of this server.
            let _ = stream.read(&mut [0; 8192]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}
