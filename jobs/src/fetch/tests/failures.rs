//! Sources that fail: each with its class and decision, and nothing else disturbed.

use std::time::Duration;

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::get,
};
use windrow_queue::Decision;

use super::{BOARD, Bench, Config, Format, Site, client_with, items, spec};
use crate::{
    fetch::Paging,
    testing::{self, count, serve_raw},
};

#[tokio::test]
async fn every_failure_has_its_class_and_decision_and_is_noted_at_the_source() {
    let client = client_with(|config| config.timeout = Duration::from_millis(500));
    let bench = Bench::with(client, Config::default()).await;
    let router = Router::new()
        .route("/500", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/404", get(|| async { StatusCode::NOT_FOUND }))
        .route("/429", get(|| async { (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "30")]) }))
        .route("/slow", get(std::future::pending::<&'static str>))
        .route("/20mb", get(|| async { vec![b' '; 20 * 1024 * 1024] }))
        .route("/html", get(|| async { "<!DOCTYPE html><html>maintenance</html>" }))
        .route("/xml", get(|| async { "<rss version='2.0'><channel><item><title>x</tit" }))
        .route("/empty", get(|| async { "" }))
        .route("/metadata", get(|| async { Redirect::temporary("http://169.254.169.254/latest/meta-data/") }));
    let base = testing::serve(router).await;
    let cut = serve_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[").await;
    let after = Decision::RetryAfter(Duration::from_secs(30));
    let mut failed = 0;
    for (path, format, class, decision) in [
        ("500", Format::Json, "http_5xx", Decision::Retry),
        ("404", Format::Json, "http_4xx", Decision::Bury),
        ("429", Format::Json, "http_429", after),
        ("slow", Format::Json, "timeout", Decision::Retry),
        ("20mb", Format::Feed, "too_large", Decision::Bury),
        ("html", Format::Json, "html_document", Decision::Retry),
        ("html", Format::Feed, "html_document", Decision::Retry),
        ("xml", Format::Feed, "broken_feed", Decision::Retry),
        ("xml", Format::Json, "html_document", Decision::Retry),
        ("empty", Format::Feed, "empty_document", Decision::Retry),
        ("metadata", Format::Json, "forbidden_address", Decision::Bury),
        ("cut", Format::Json, "broken_answer", Decision::Retry),
    ] {
        let url = if path == "cut" { cut.clone() } else { base.join(path).unwrap() };
        let source = bench.source(&spec(&format!("{path} {format:?}"), format, &url)).await;
        let before = bench.metrics.errors.with_label_values(&[class]).get();
        let error = bench.run(source).await.unwrap_err();
        assert_eq!((error.class(), error.decision()), (class, decision), "{path}: {error}");
        assert!(error.message().contains(path), "it says which source: {error}");
        assert_eq!(bench.metrics.errors.with_label_values(&[class]).get(), before + 1);
        let (noted, failures): (String, i32) = sqlx::query_as("SELECT last_error, failures FROM source WHERE id = $1")
            .bind(source)
            .fetch_one(&bench.pool)
            .await
            .unwrap();
        assert!(noted.starts_with(class) && failures == 1, "{noted}");
        failed += 1;
    }
    // The jobs stand for the worker to decide about, and nothing was stored.
    assert_eq!(count(&bench.pool, "SELECT count(*) FROM job_journal").await, failed);
    assert_eq!(bench.vacancies().await, 0);
}

#[tokio::test]
async fn a_source_that_recovers_forgets_its_failures() {
    let bench = Bench::new().await;
    let site = Site::new(|uri, _| if uri.path() == "/" { Err(StatusCode::BAD_GATEWAY) } else { Ok(BOARD) }).await;
    let source = bench.json_source(&site.url).await;
    for _ in 0..3 {
        bench.run(source).await.unwrap_err();
    }
    assert_eq!(bench.the_source().await.failures, 3);
    sqlx::query("UPDATE source SET url = url || 'well'").execute(&bench.pool).await.unwrap();
    bench.fetch(source).await;
    assert_eq!(bench.the_source().await.failures, 0);
    assert!(bench.the_source().await.last_error.is_some(), "what went wrong last stays readable");
}

#[tokio::test]
async fn a_source_that_hangs_does_not_hold_up_another() {
    let client = client_with(|config| config.timeout = Duration::from_secs(60));
    let bench = Bench::with(client, Config { parse_slots: 1, ..Config::default() }).await;
    let router = Router::new()
        .route("/hangs", get(std::future::pending::<&'static str>))
        .route("/well", get(|| async { BOARD.into_response() }));
    let base = testing::serve(router).await;
    let hangs = bench.source(&spec("hangs", Format::Json, &base.join("hangs").unwrap())).await;
    let well = bench.source(&spec("well", Format::Json, &base.join("well").unwrap())).await;
    tokio::select! {
        result = bench.run(hangs) => panic!("it ended: {result:?}"),
        () = bench.fetch(well) => {}
    }
    assert_eq!(bench.vacancies().await, 3);
}

#[tokio::test]
async fn a_source_that_is_slow_page_after_page_is_left_within_the_limit_of_a_fetch() {
    let bench =
        Bench::with(client_with(|_| {}), Config { timeout: Duration::from_millis(300), ..Config::default() }).await;
    let router = Router::new().fallback(|uri: axum::http::Uri| async move {
        if uri.query() == Some("page=1") { items(0..2).to_string() } else { std::future::pending().await }
    });
    let mut spec = spec("board", Format::Json, &testing::serve(router).await);
    spec.paging = Some(Paging::PageNumber { parameter: "page".to_owned(), first: 1, max_pages: None });
    let source = bench.source(&spec).await;
    let error = bench.run(source).await.unwrap_err();
    assert_eq!((error.class(), error.decision()), ("timeout", Decision::Retry));
    assert_eq!(bench.vacancies().await, 0);
}

#[tokio::test]
async fn no_secret_of_the_url_is_noted() {
    let bench = Bench::new().await;
    let site = Site::new(|_, _| StatusCode::NOT_FOUND).await;
    let source = bench.json_source(&site.url.join("s3cret-path?token=s3cret").unwrap()).await;
    let error = bench.run(source).await.unwrap_err();
    let noted = bench.the_source().await.last_error.unwrap();
    assert!(!format!("{error} {error:?} {noted}").contains("s3cret"), "{error:?} {noted}");
}
