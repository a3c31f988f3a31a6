//! A web site with whatever manners a test wants: slow, held up, broken off. It serves sources and scores vacancies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// How an answer goes.
#[derive(Clone, Debug)]
pub struct Page {
    status: u16,
    headers: String,
    body: Vec<u8>,
    delay: Duration,
    etag: Option<String>,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Whole,
    /// The connection is closed in the middle of the body.
    Cut,
    /// Nothing is ever answered.
    Silence,
}

impl Page {
    /// An answer 200 with this body.
    pub fn new(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: format!("content-type: {content_type}\r\n"),
            body: body.into(),
            delay: Duration::ZERO,
            etag: None,
            end: End::Whole,
        }
    }

    /// A list of vacancies as JSON, to be read with [`MAPPING`].
    #[must_use]
    pub fn vacancies(name: &str, count: usize) -> Self {
        let items: Vec<_> = (0..count)
            .map(|number| {
                json!({"position": format!("{name} {number}"), "url": format!("https://{name}.example.org/{number}"),
                       "description": "<p>Work</p>", "date": "2024-12-03T21:15:04+00:00"})
            })
            .collect();
        Self::new("application/json", serde_json::to_vec(&items).unwrap())
    }

    /// An answer of this status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::new("text/plain", "no") }
    }

    /// A redirect.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::status(302).header("location", location)
    }

    /// Another header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// With a validator: the same in If-None-Match is answered with 304.
    #[must_use]
    pub fn etag(mut self, etag: &str) -> Self {
        self.etag = Some(format!("\"{etag}\""));
        self
    }

    /// Takes so long.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Breaks off in the middle of the body.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.end = End::Cut;
        self
    }

    /// Never answers.
    #[must_use]
    pub fn silence() -> Self {
        Self { end: End::Silence, ..Self::status(200) }
    }
}

/// For [`Page::vacancies`].
pub const MAPPING: &str =
    r#"{"items": "", "title": "/position", "url": "/url", "description": "/description", "published": "/date"}"#;

#[derive(Default)]
struct State {
    pages: HashMap<String, Page>,
    /// By path, the key of each request in order: the `Idempotency-Key`, or nothing.
    requests: HashMap<String, Vec<String>>,
}

/// The site. It ends when this is dropped.
pub struct Site {
    address: String,
    state: Arc<Mutex<State>>,
    /// Paths that answer nobody at present.
    held: watch::Sender<Vec<String>>,
    served: JoinHandle<()>,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Site {
    /// Starts it, with a scorer at `/score` that gives everybody 7.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (held, waits) = watch::channel(Vec::new());
        let shared = Arc::clone(&state);
        let served = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A visitor that vanishes is what some tests are about.
                tokio::spawn(answer(stream, Arc::clone(&shared), waits.clone()));
            }
        });
        let site = Self { address, state, held, served };
        site.put("/score", Page::new("application/json", r#"{"score": 7, "reason": "as good as any"}"#));
        site
    }

    /// The address of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Puts a page at a path.
    pub fn put(&self, path: &str, page: Page) {
        self.state.lock().unwrap().pages.insert(path.to_owned(), page);
    }

    /// From now on requests for this path wait.
    pub fn hold(&self, path: &str) {
        self.held.send_modify(|held| held.push(path.to_owned()));
    }

    /// Answers those that wait, and all that come.
    pub fn release(&self, path: &str) {
        self.held.send_modify(|held| held.retain(|other| other != path));
    }

    /// The keys of all requests for a path, in order; answered or not.
    #[must_use]
    pub fn requests(&self, path: &str) -> Vec<String> {
        self.state.lock().unwrap().requests.get(path).cloned().unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.served.abort();
    }
}

async fn answer(stream: TcpStream, state: Arc<Mutex<State>>, mut held: watch::Receiver<Vec<String>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let (mut target, mut key, mut match_, mut length) = (String::new(), String::new(), String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        match line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())) {
            Some((name, value)) if name == "idempotency-key" => key = value,
            Some((name, value)) if name == "if-none-match" => match_ = value,
            Some((name, value)) if name == "content-length" => length = value.parse().ok()?,
            _ if target.is_empty() => target = line.split(' ').nth(1)?.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let page = {
        let mut state = state.lock().unwrap();
        state.requests.entry(target.clone()).or_default().push(key);
        state.pages.get(&target).cloned().unwrap_or_else(|| Page::status(404))
    };
    tokio::time::sleep(page.delay).await;
    held.wait_for(|held| !held.contains(&target)).await.ok()?;
    if page.end == End::Silence {
        std::future::pending::<()>().await;
    }
    let etag = page.etag.as_ref().map(|etag| format!("etag: {etag}\r\n")).unwrap_or_default();
    let is_known = page.etag.as_ref() == Some(&match_);
    let (status, body) = if is_known { (304, &[][..]) } else { (page.status, &*page.body) };
    let head = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{etag}{}\r\n",
        body.len(),
        page.headers
    );
    let end = if page.end == End::Cut { body.len() / 2 } else { body.len() };
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&body[..end]).await.ok()?;
    stream.shutdown().await.ok()
}
