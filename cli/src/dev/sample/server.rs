//! Serves the sample documents on a free port of 127.0.0.1.
//!
//! `/board.json`, `/jobs.rss`, `/jobs.atom`, `/paged.json?page=N`, and `/flaky.json`, which is not available the first time.
//! `POST /score` is a scorer's webhook.
//! Each has an `ETag`; who has it already is answered 304.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use windrow_api::{Limits, Listener};
use windrow_queue::shutdown::Shutdown;

use super::{
    document, scorer,
    vacancy::{SampleVacancy, vacancies},
};

const PAGE: usize = 12;
const LIMITS: Limits = Limits { max_connections: 64, grace: Duration::from_secs(1) };

/// The sample sources' server, bound and not yet serving.
#[derive(Debug)]
pub(in crate::dev) struct SampleServer {
    listener: Listener,
    router: Router,
}

impl SampleServer {
    /// Takes a port. Dates of the vacancies count back from `today`.
    pub(in crate::dev) async fn bind(today: DateTime<Utc>) -> anyhow::Result<Self> {
        let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "the sample sources")
            .await
            .context("the sample sources cannot be served")?;
        Ok(Self { listener, router: router(today) })
    }

    /// The address of one of its documents.
    pub(in crate::dev) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener.address())
    }

    /// Serves until the shutdown.
    pub(in crate::dev) async fn serve(self, shutdown: Shutdown) {
        self.listener.serve(self.router, LIMITS, shutdown).await;
    }
}

fn router(today: DateTime<Utc>) -> Router {
    // The archive repeats three vacancies of the board: found twice, kept once.
    let archive = [vacancies(200..230, today), vacancies(4..7, today)].concat();
    let flaky =
        Flaky { document: Document::json(&document::flat(&vacancies(400..414, today))), was_asked: Arc::default() };
    Router::new()
        .merge(scorer::router())
        .merge(fixed("/board.json", Document::json(&document::board(&vacancies(0..44, today)))))
        .merge(fixed(
            "/jobs.rss",
            Document::new("application/rss+xml; charset=utf-8", document::rss(&vacancies(100..115, today))),
        ))
        .merge(fixed(
            "/jobs.atom",
            Document::new("application/atom+xml; charset=utf-8", document::atom(&vacancies(300..321, today))),
        ))
        .route("/paged.json", get(paged).with_state(archive.into()))
        .route("/flaky.json", get(flaky_once).with_state(flaky))
}

/// A document with its validator.
#[derive(Clone, Debug)]
struct Document {
    media_type: &'static str,
    body: Bytes,
    etag: String,
}

impl Document {
    fn new(media_type: &'static str, body: String) -> Self {
        let mut hash = DefaultHasher::new();
        body.hash(&mut hash);
        Self { media_type, etag: format!("\"{:016x}\"", hash.finish()), body: body.into() }
    }

    fn json(value: &serde_json::Value) -> Self {
        Self::new("application/json", value.to_string())
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        let known = request.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == self.etag.as_bytes());
        let etag = [(header::ETAG, self.etag.clone())];
        if known {
            return (StatusCode::NOT_MODIFIED, etag).into_response();
        }
        (etag, [(header::CONTENT_TYPE, self.media_type)], self.body.clone()).into_response()
    }
}

fn fixed(path: &str, document: Document) -> Router {
    let answer = async |State(document): State<Document>, headers: HeaderMap| document.answer(&headers);
    Router::new().route(path, get(answer).with_state(document))
}

#[derive(Deserialize)]
struct Page {
    #[serde(default = "first_page")]
    page: usize,
}

fn first_page() -> usize {
    1
}

async fn paged(
    State(all): State<Arc<[SampleVacancy]>>,
    Query(Page { page }): Query<Page>,
    headers: HeaderMap,
) -> Response {
    let start = page.saturating_sub(1).saturating_mul(PAGE).min(all.len());
    let items = &all[start..start.saturating_add(PAGE).min(all.len())];
    Document::json(&json!({ "page": page, "results": document::flat(items) })).answer(&headers)
}

#[derive(Clone, Debug)]
struct Flaky {
    document: Document,
    was_asked: Arc<AtomicBool>,
}

async fn flaky_once(State(flaky): State<Flaky>, headers: HeaderMap) -> Response {
    if flaky.was_asked.swap(true, Ordering::Relaxed) {
        return flaky.document.answer(&headers);
    }
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "down for a moment\n").into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn today() -> DateTime<Utc> {
        "2024-12-04T15:30:00Z".parse().unwrap()
    }

    #[tokio::test]
    async fn who_has_a_document_already_is_answered_304_and_the_flaky_source_fails_once() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = SampleServer::bind(today()).await.unwrap();
        let urls = ["/board.json", "/jobs.rss", "/jobs.atom", "/paged.json?page=2"].map(|path| server.url(path));
        let flaky = server.url("/flaky.json");
        let shutdown = Shutdown::new();
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        for url in urls {
            let first = client.get(&url).send().await.unwrap();
            assert_eq!(first.status(), 200, "{url}");
            let etag = first.headers()[header::ETAG.as_str()].clone();
            let again = client.get(&url).header("if-none-match", etag).send().await.unwrap();
            assert_eq!(again.status(), 304, "{url}");
        }
        assert_eq!(client.get(&flaky).send().await.unwrap().status(), 503);
        assert_eq!(client.get(&flaky).send().await.unwrap().status(), 200);
        shutdown.stop();
        serving.await.unwrap();
    }

    #[test]
    fn a_page_beyond_the_last_is_empty() {
        let all: Arc<[SampleVacancy]> = vacancies(0..13, today()).into();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for page in [3, usize::MAX] {
            let page = Query(Page { page });
            let answer = runtime.block_on(paged(State(Arc::clone(&all)), page, HeaderMap::new()));
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
}
