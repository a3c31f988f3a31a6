//! The client against servers that misbehave.

use std::{
    convert::Infallible,
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::{any, get},
};
use futures::stream;
use url::Url;
use windrow_queue::{Decision, JobError};

use super::{Client, Config, OutwardError, Request};
use crate::testing::{serve, serve_raw};

fn client_with(change: impl FnOnce(&mut Config)) -> Client {
    let mut config = Config { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Config::default() };
    change(&mut config);
    Client::new(&config).unwrap()
}

fn client() -> Client {
    client_with(|_| {})
}

async fn get_error(client: &Client, url: Url) -> OutwardError {
    match client.send(Request::get(url)).await {
        Ok(response) => panic!("the call succeeded with status {}", response.status),
        Err(error) => error,
    }
}

/// The headers of each request that a server received.
type Seen = Arc<Mutex<Vec<HeaderMap>>>;

async fn recorder() -> (Url, Seen) {
    let seen = Seen::default();
    let record = Arc::clone(&seen);
    let router = Router::new().fallback(any(move |headers: HeaderMap| {
        record.lock().unwrap().push(headers);
        async { "seen" }
    }));
    (serve(router).await, seen)
}

#[tokio::test]
async fn an_answer_comes_with_its_headers_and_body() {
    let base = serve(Router::new().route("/a", get(|| async { ([(header::ETAG, "\"v1\"")], "hello") }))).await;
    let response = client().send(Request::get(base.join("a").unwrap())).await.unwrap();
    assert_eq!(response.body, b"hello");
    assert_eq!(response.header(&header::ETAG), Some("\"v1\""));
}

#[tokio::test]
async fn gzip_and_brotli_are_decompressed() {
    let text = "a vacancy ".repeat(1000);
    let base = serve(Router::new().route("/gzip", get(gzip(&text))).route("/br", get(brotli(&text)))).await;
    for path in ["gzip", "br"] {
        let response = client().send(Request::get(base.join(path).unwrap())).await.unwrap();
        assert_eq!(String::from_utf8(response.body).unwrap(), text, "{path}");
    }
}

#[tokio::test]
async fn a_body_that_inflates_is_stopped_at_the_limit() {
    let bomb = "0".repeat(64 * 1024 * 1024);
    let base = serve(Router::new().route("/gzip", get(gzip(&bomb))).route("/br", get(brotli(&bomb)))).await;
    let client = client_with(|config| config.max_body_bytes = 100_000);
    for path in ["gzip", "br"] {
        let error = get_error(&client, base.join(path).unwrap()).await;
        assert!(matches!(error, OutwardError::TooLarge { limit: 100_000, .. }), "{path}: {error}");
    }
}

#[tokio::test]
async fn twenty_megabytes_are_refused_with_and_without_an_announced_length() {
    let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 65536])));
    let router = Router::new()
        .route("/announced", get(|| async { vec![b'x'; 20 * 1024 * 1024] }))
        .route("/endless", get(move || async { Body::from_stream(endless) }));
    let base = serve(router).await;
    for path in ["announced", "endless"] {
        let error = get_error(&client(), base.join(path).unwrap()).await;
        assert!(matches!(error, OutwardError::TooLarge { .. }), "{path}: {error}");
        assert_eq!(error.decision(), Decision::Bury);
    }
}

#[tokio::test]
async fn a_call_may_take_a_smaller_limit_and_no_larger_one() {
    let base = serve(Router::new().route("/", get(|| async { vec![b'x'; 1000] }))).await;
    let small = client_with(|config| config.max_body_bytes = 500);
    assert!(client().send(Request::get(base.clone()).max_body_bytes(999)).await.is_err());
    assert!(client().send(Request::get(base.clone()).max_body_bytes(1000)).await.is_ok());
    assert!(small.send(Request::get(base).max_body_bytes(1000)).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_silent_or_dribbles_is_left_after_the_time_limit() {
    let dribble = || async {
        Body::from_stream(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b".")), ()))
        }))
    };
    let router =
        Router::new().route("/silent", get(std::future::pending::<&'static str>)).route("/dribble", get(dribble));
    let base = serve(router).await;
    let client = client_with(|config| config.timeout = Duration::from_millis(300));
    for path in ["silent", "dribble"] {
        let start = Instant::now();
        let error = get_error(&client, base.join(path).unwrap()).await;
        assert!(matches!(error, OutwardError::Timeout { .. }), "{path}: {error}");
        assert_eq!(error.decision(), Decision::Retry);
        assert!(start.elapsed() < Duration::from_secs(5), "{path}");
    }
}

#[tokio::test]
async fn private_addresses_are_refused_as_a_number_and_behind_a_name() {
    let (base, seen) = recorder().await;
    let strict = client_with(|config| config.allow_networks.clear());
    let mut by_name = base.clone();
    by_name.set_host(Some("localhost")).unwrap();
    for url in [base, by_name.clone()] {
        let error = get_error(&strict, url).await;
        assert!(matches!(error, OutwardError::Forbidden { .. }), "{error}");
        assert_eq!(error.decision(), Decision::Bury);
    }
    assert!(seen.lock().unwrap().is_empty(), "a request got through");
    assert!(client().send(Request::get(by_name)).await.is_ok(), "an allowed network is called by name too");
}

#[tokio::test]
async fn every_redirect_is_checked() {
    let (other, seen) = recorder().await;
    let beside = other.as_str().replace("127.0.0.1", "127.0.0.2");
    let targets = ["http://169.254.169.254/latest/meta-data/", "http://[::1]:1/", "file:///etc/passwd", &beside];
    let mut router = Router::new();
    for (number, target) in targets.iter().enumerate() {
        let target = (*target).to_owned();
        router = router.route(&format!("/{number}"), get(move || async move { Redirect::temporary(&target) }));
    }
    let base = serve(router).await;
    let narrow = client_with(|config| config.allow_networks = vec!["127.0.0.1/32".parse().unwrap()]);
    for (number, target) in targets.iter().enumerate() {
        let error = get_error(&narrow, base.join(&number.to_string()).unwrap()).await;
        assert!(matches!(error, OutwardError::Forbidden { .. } | OutwardError::Scheme { .. }), "{target}: {error}");
        assert_eq!(error.decision(), Decision::Bury);
    }
    assert!(seen.lock().unwrap().is_empty(), "a request got through");
}

#[tokio::test]
async fn redirects_are_followed_up_to_their_limit() {
    let router = Router::new()
        .route("/end", get(|| async { "arrived" }))
        .route("/1", get(|| async { Redirect::permanent("end") }))
        .route("/2", get(|| async { Redirect::to("/1") }))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }))
        .route("/nowhere", get(|| async { StatusCode::FOUND }));
    let base = serve(router).await;
    let two = client_with(|config| config.max_redirects = 2);
    let one = client_with(|config| config.max_redirects = 1);
    let response = two.send(Request::get(base.join("2").unwrap())).await.unwrap();
    assert_eq!((response.body.as_slice(), response.url.path()), (b"arrived".as_slice(), "/end"));
    for (client, path) in [(&one, "2"), (&two, "loop")] {
        let error = get_error(client, base.join(path).unwrap()).await;
        assert!(matches!(error, OutwardError::Redirects { .. }), "{path}: {error}");
    }
    assert!(matches!(get_error(&two, base.join("nowhere").unwrap()).await, OutwardError::Redirect { .. }));
}

#[tokio::test]
async fn a_secret_header_does_not_go_to_another_origin() {
    let (other, seen) = recorder().await;
    let target = other.to_string().replace("http://", "http://user:pass@");
    let base = serve(Router::new().route("/", get(move || async move { Redirect::temporary(&target) }))).await;
    let request = Request::get(base)
        .text_header(header::AUTHORIZATION, "Bearer s3cret")
        .text_header(header::HeaderName::from_static("x-api-key"), "s3cret")
        .text_header(header::IF_NONE_MATCH, "\"v1\"");
    client().send(request).await.unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen[0].get("x-api-key").is_none() && seen[0].get(header::AUTHORIZATION).is_none(), "{:?}", seen[0]);
    assert_eq!(seen[0][header::IF_NONE_MATCH], "\"v1\"");
}

#[tokio::test]
async fn a_post_carries_its_keys_and_follows_no_redirect() {
    let (other, seen) = recorder().await;
    let request = |url| Request::post_json(url, &serde_json::json!({"a": 1})).unwrap();
    let sent = request(other.clone()).idempotency_key("job-1").traceparent(Some("00-ab-cd-01"));
    client().send(sent).await.unwrap();
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0]["idempotency-key"], "job-1");
        assert_eq!(seen[0]["traceparent"], "00-ab-cd-01");
        assert_eq!(seen[0][header::CONTENT_TYPE], "application/json");
    }
    let target = other.to_string();
    let base = serve(Router::new().route("/", any(move || async move { Redirect::temporary(&target) }))).await;
    let error = client().send(request(base)).await.err().unwrap();
    assert!(matches!(error, OutwardError::Status { code: 307, .. }), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_status_carries_what_the_server_asked_for() {
    let router = Router::new()
        .route("/500", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/429", get(|| async { (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")]).into_response() }))
        .route("/304", get(|| async { StatusCode::NOT_MODIFIED }));
    let base = serve(router).await;
    let error = get_error(&client(), base.join("500").unwrap()).await;
    assert_eq!((error.class(), error.decision()), ("http_5xx", Decision::Retry));
    let error = get_error(&client(), base.join("429").unwrap()).await;
    assert_eq!((error.class(), error.decision()), ("http_429", Decision::RetryAfter(Duration::from_secs(7))));
    let error = get_error(&client(), base.join("304").unwrap()).await;
    assert_eq!(error.class(), "http_status", "304 is no answer to a request without conditions");
    let conditional = Request::get(base.join("304").unwrap()).text_header(header::IF_NONE_MATCH, "\"v1\"");
    assert!(client().send(conditional).await.unwrap().is_not_modified());
}

#[tokio::test]
async fn what_breaks_below_http_has_its_own_class() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused: Url = format!("http://{}/", closed.local_addr().unwrap()).parse().unwrap();
    drop(closed);
    let cut = serve_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
    let no_http = serve_raw(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let mut no_tls = no_http.clone();
    no_tls.set_scheme("https").unwrap();
    let unzippable = serve_raw(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope").await;
    let unknown: Url = "http://windrow.invalid/".parse().unwrap();
    for (url, class) in [
        (refused, "connect"),
        (cut, "broken_answer"),
        (no_http, "broken_answer"),
        (no_tls, "tls"),
        (unzippable, "broken_answer"),
        (unknown, "dns"),
    ] {
        let error = get_error(&client(), url.clone()).await;
        assert_eq!((error.class(), error.decision()), (class, Decision::Retry), "{url}: {error}");
    }
}

#[tokio::test]
async fn no_error_shows_path_query_or_credentials() {
    let base = serve(Router::new()).await;
    let closed: Url = "http://user:hunter2@127.0.0.1:1/secret-path?token=secret-token".parse().unwrap();
    let mut missing = base.join("secret-path?token=secret-token").unwrap();
    missing.set_username("hunter2").unwrap();
    for url in [closed, missing] {
        let error = JobError::from(get_error(&client(), url).await);
        let text = format!("{error} {error:?} {}", error.message());
        for secret in ["hunter2", "secret-path", "secret-token"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("127.0.0.1"), "{text}");
    }
}

#[test]
fn a_setting_that_is_not_known_is_refused() {
    assert!(serde_json::from_str::<Config>(r#"{"timeout": "10s", "allow_networks": ["10.0.0.0/8"]}"#).is_ok());
    assert!(serde_json::from_str::<Config>(r#"{"time_out": "10s"}"#).is_err());
    assert!(serde_json::from_str::<Config>(r#"{"allow_networks": ["10.0.0.0/99"]}"#).is_err());
}

fn gzip(text: &str) -> impl AsyncFn0 {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoded("gzip", encoder.finish().unwrap())
}

fn brotli(text: &str) -> impl AsyncFn0 {
    let mut compressed = Vec::new();
    let fast = brotli::enc::BrotliEncoderParams { quality: 1, ..Default::default() };
    brotli::BrotliCompress(&mut text.as_bytes(), &mut compressed, &fast).unwrap();
    encoded("br", compressed)
}

fn encoded(name: &'static str, body: Vec<u8>) -> impl AsyncFn0 {
    move || std::future::ready(([(header::CONTENT_ENCODING, name)], body.clone()))
}

/// A handler without arguments.
trait AsyncFn0: axum::handler::Handler<((),), ()> {}
impl<T: axum::handler::Handler<((),), ()>> AsyncFn0 for T {}
