//! A role as a process, with what can be done to a process.

use std::{
    collections::VecDeque,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Child,
    sync::oneshot,
    time::timeout,
};

use crate::{Place, place::PATIENCE, until};

/// Lines of its log that a failed test shows.
const TAIL: usize = 40;

/// A role as a process. Dropped, it is killed.
#[derive(Debug)]
pub struct Role {
    name: String,
    child: Child,
    /// Where it serves metrics, readiness and, if it is one, the API.
    pub address: String,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Role {
    pub(crate) async fn start(place: &Place, name: &str) -> Self {
        let mut child = place.command(&[name]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let (found, address) = oneshot::channel();
        let tail = Arc::clone(&log);
        // Read to the end: a full pipe would stop the role.
        tokio::spawn(async move {
            let mut found = Some(found);
            while let Ok(Some(line)) = lines.next_line().await {
                let entry: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = entry["address"].as_str()
                    && let Some(found) = found.take()
                {
                    let _ = found.send(address.to_owned());
                }
                let mut tail = tail.lock().unwrap();
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
        });
        let listens = timeout(PATIENCE, address).await.expect("the role does not listen");
        let address = listens.unwrap_or_else(|_| panic!("{name} ended: {:?}", log.lock().unwrap()));
        Self { name: name.to_owned(), child, address, log }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
        kill_process(pid, signal).unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: it stands still, with all its connections open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("the role does not end").unwrap()
    }

    /// Waits for its end no longer than this.
    pub async fn ended_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        timeout(limit, self.child.wait()).await.ok().map(Result::unwrap)
    }

    /// A GET, with its status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let (head, body) = self.request(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        (status(&head), body)
    }

    /// A POST of JSON, with its status, head and body.
    pub async fn post(&self, path: &str, headers: &str, json: &Value) -> (u16, String, Value) {
        let body = json.to_string();
        let (head, answer) = self
            .request(&format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 {headers}content-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        (status(&head), head, serde_json::from_str(&answer).unwrap_or_default())
    }

    async fn request(&self, request: &str) -> (String, String) {
        let asking = async {
            let mut stream = TcpStream::connect(&self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = timeout(PATIENCE, asking).await.expect("the role does not answer");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    /// Whether `/readyz` says that all is well.
    pub async fn is_ready(&self) -> bool {
        self.get("/readyz").await.0 == 200
    }

    /// Waits until `/readyz` answers with this status and these words.
    pub async fn await_readiness(&self, status: u16, words: &str) {
        until(&format!("{} answers {status} with {words:?}", self.name), || async {
            let (found, body) = self.get("/readyz").await;
            found == status && body.contains(words)
        })
        .await;
    }

    /// Waits until its log has these words, among its last lines.
    pub async fn await_log(&self, words: &str) {
        until(&format!("{} says {words:?}", self.name), || async {
            self.log.lock().unwrap().iter().any(|line| line.contains(words))
        })
        .await;
    }

    /// The sum of a metric over all label sets that hold each of these `name="value"` pairs.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, body) = self.get("/metrics").await;
        let lines = body.lines().filter_map(|line| line.strip_prefix(name)).filter(|line| line.starts_with(['{', ' ']));
        lines
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Attempts that ended so, such as `complete`, of all kinds.
    pub async fn finished(&self, outcome: &str) -> f64 {
        self.metric("windrow_jobs_finished_total", &[&format!("outcome=\"{outcome}\"")]).await
    }
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an HTTP answer")
}

impl Drop for Role {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log: Vec<_> = self.log.lock().map(|log| log.iter().cloned().collect()).unwrap_or_default();
            eprintln!("--- the end of the log of {} ---\n{}", self.name, log.join("\n"));
        }
    }
}
