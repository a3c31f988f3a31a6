//! Conditional requests.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{BOARD, Bench, Format, Site, spec};
use crate::fetch::{Paging, put_source};

fn versioned(headers: &HeaderMap) -> Response {
    if headers.get(header::IF_NONE_MATCH).is_some_and(|etag| etag == "\"v1\"") {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let date = "Tue, 03 Dec 2024 21:15:04 GMT";
    ([(header::ETAG, "\"v1\""), (header::LAST_MODIFIED, date)], BOARD).into_response()
}

#[tokio::test]
async fn an_unchanged_document_is_neither_sent_nor_parsed_again() {
    let bench = Bench::new().await;
    let site = Site::new(|_, headers| versioned(headers)).await;
    let source = bench.json_source(&site.url).await;
    bench.fetch(source).await;
    let counts = bench.counts().await;
    bench.fetch(source).await;
    assert_eq!(bench.counts().await, counts);
    assert_eq!(bench.metrics.parsed.get(), 1);
    assert_eq!(bench.metrics.sources.with_label_values(&["not_modified"]).get(), 1);
    assert_eq!(site.header(0, "if-none-match"), None);
    assert_eq!(site.header(1, "if-none-match").as_deref(), Some("\"v1\""));
    assert_eq!(site.header(1, "if-modified-since").as_deref(), Some("Tue, 03 Dec 2024 21:15:04 GMT"));
    let source = bench.the_source().await;
    assert_eq!((source.totals.fetches, source.totals.not_modified), (2, 1));
}

#[tokio::test]
async fn validators_are_kept_only_when_the_vacancies_are() {
    let bench = Bench::new().await;
    let site = Site::new(|_, _| ([(header::ETAG, "\"v1\"")], "[{\"broken\"")).await;
    let source = bench.json_source(&site.url).await;
    bench.run(source).await.unwrap_err();
    assert_eq!(bench.the_source().await.etag, None);
}

#[tokio::test]
async fn a_changed_mapping_forgets_what_was_answered_before() {
    let bench = Bench::new().await;
    let site = Site::new(|_, headers| versioned(headers)).await;
    let mut spec = spec("board", Format::Json, &site.url);
    let source = bench.source(&spec).await;
    bench.fetch(source).await;
    put_source(&bench.pool, &bench.tenant, &spec).await.unwrap();
    assert!(bench.the_source().await.etag.is_some(), "nothing changed");
    spec.mapping.as_mut().unwrap().company = None;
    assert_eq!(put_source(&bench.pool, &bench.tenant, &spec).await.unwrap(), source);
    bench.fetch(source).await;
    assert_eq!(bench.metrics.parsed.get(), 2);
    assert_eq!(bench.counts().await, [3, 3, 2, 4]);
}

#[tokio::test]
async fn a_fetch_that_began_before_a_change_leaves_no_validators() {
    let bench = Bench::new().await;
    let pool = bench.pool.clone();
    // The source changes while it answers.
    let router = axum::Router::new().fallback(move |headers: HeaderMap| async move {
        sqlx::query("UPDATE source SET version = version + 1").execute(&pool).await.unwrap();
        versioned(&headers)
    });
    let url = crate::testing::serve(router).await;
    let source = bench.json_source(&url).await;
    bench.fetch(source).await;
    assert_eq!(bench.the_source().await.etag, None);
    assert_eq!(bench.vacancies().await, 3);
}

#[tokio::test]
async fn only_the_first_page_is_asked_conditionally() {
    let bench = Bench::new().await;
    let site = Site::new(|uri, _| match uri.query() {
        None => ([(header::ETAG, "\"first\"")], json!({"jobs": super::items(0..2), "next": "?page=2"}).to_string()),
        Some(_) => ([(header::ETAG, "\"second\"")], json!({"jobs": super::items(2..4)}).to_string()),
    })
    .await;
    let mut spec = spec("board", Format::Json, &site.url);
    spec.mapping.as_mut().unwrap().items = super::pointer("/jobs");
    spec.paging = Some(Paging::NextLink { pointer: Some(super::pointer("/next")), max_pages: None });
    let source = bench.source(&spec).await;
    bench.fetch(source).await;
    assert_eq!(bench.the_source().await.etag.as_deref(), Some("\"first\""));
    bench.fetch(source).await;
    assert_eq!(site.header(2, "if-none-match").as_deref(), Some("\"first\""));
    assert_eq!(site.header(3, "if-none-match"), None);
}
