//! Fetching against a local server, a real database and documents that were made to hurt.

mod conditional;
mod documents;
mod failures;
mod fetching;
mod listing;
mod once;
mod paging;
mod sources;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
};
use prometheus::Registry;
use sqlx::PgPool;
use url::Url;
use uuid::Uuid;
use windrow_queue::{Handler, JobContext, JobId, Outcome, Tenant, handler::JobResult};

use super::{
    Config, FetchMetrics, FetchSource, FetchSourceHandler, Format, Mapping, Pointer, SourceSpec, add_source,
    list_sources,
};
use crate::{
    outward::{self, Client},
    testing,
};

const BOARD: &str = include_str!("../fixtures/board.json");

fn client() -> Client {
    client_with(|_| {})
}

fn client_with(change: impl FnOnce(&mut outward::Config)) -> Client {
    let mut config =
        outward::Config { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..outward::Config::default() };
    change(&mut config);
    Client::new(&config).unwrap()
}

fn pointer(text: &str) -> Pointer {
    Pointer::new(text).unwrap()
}

/// The mapping of `board.json`.
fn board_mapping() -> Mapping {
    Mapping {
        items: pointer(""),
        title: pointer("/position"),
        url: pointer("/url"),
        description: Some(pointer("/description")),
        published: Some(pointer("/date")),
        company: Some(pointer("/company")),
        location: Some(pointer("/location")),
        salary_min: Some(pointer("/salary_min")),
        salary_max: Some(pointer("/salary_max")),
        tags: Some(pointer("/tags")),
    }
}

fn spec(name: &str, format: Format, url: &Url) -> SourceSpec {
    SourceSpec {
        name: name.to_owned(),
        format,
        url: url.to_string(),
        mapping: (format == Format::Json).then(board_mapping),
        paging: None,
        headers: BTreeMap::new(),
    }
}

/// A database with a tenant, and a handler with its metrics.
struct Bench {
    pool: PgPool,
    tenant: Tenant,
    metrics: FetchMetrics,
    handler: FetchSourceHandler,
}

impl Bench {
    async fn new() -> Self {
        Self::with(client(), Config::default()).await
    }

    async fn with(client: Client, config: Config) -> Self {
        let pool = testing::database().await;
        let tenant = testing::tenant(&pool, "acme").await;
        let metrics = FetchMetrics::new(&Registry::new());
        let handler = FetchSourceHandler::new(pool.clone(), client, config, metrics.clone());
        Self { pool, tenant, metrics, handler }
    }

    async fn source(&self, spec: &SourceSpec) -> Uuid {
        add_source(&self.pool, &self.tenant, spec).await.unwrap()
    }

    async fn json_source(&self, url: &Url) -> Uuid {
        self.source(&spec("board", Format::Json, url)).await
    }

    /// A new job for the source, and its first attempt.
    async fn attempt(&self, source_id: Uuid) -> (JobContext, JobId) {
        testing::attempt(&self.pool, Some(&self.tenant), &FetchSource { source_id }).await
    }

    async fn run(&self, source_id: Uuid) -> JobResult {
        let (ctx, _) = self.attempt(source_id).await;
        self.handler.run(ctx, FetchSource { source_id }).await
    }

    async fn fetch(&self, source_id: Uuid) {
        let outcome = self.run(source_id).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }

    /// Inserted, updated, duplicate, skipped: as the metrics and the source's totals say, which must agree.
    async fn counts(&self) -> [i64; 4] {
        let totals = super::totals(&self.pool, Some(&self.tenant)).await.unwrap();
        let counts = [totals.items_inserted, totals.items_updated, totals.items_duplicate, totals.items_skipped];
        let metrics = ["inserted", "updated", "duplicate", "skipped"]
            .map(|result| i64::try_from(self.metrics.items.with_label_values(&[result]).get()).unwrap());
        assert_eq!(counts, metrics);
        assert_eq!(totals.items_fetched, counts.iter().sum::<i64>());
        counts
    }

    async fn the_source(&self) -> super::Source {
        list_sources(&self.pool, Some(&self.tenant)).await.unwrap().remove(0)
    }

    async fn column(&self, sql: &'static str) -> Vec<String> {
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    async fn titles(&self) -> Vec<String> {
        self.column("SELECT title FROM vacancy ORDER BY url").await
    }

    async fn vacancies(&self) -> i64 {
        testing::count(&self.pool, "SELECT count(*) FROM vacancy").await
    }
}

/// A server whose answers the test decides, and which remembers what it was asked.
#[derive(Clone)]
struct Site {
    url: Url,
    asked: Arc<Mutex<Vec<(Uri, HeaderMap)>>>,
}

impl Site {
    async fn new<R: IntoResponse>(answer: impl Fn(&Uri, &HeaderMap) -> R + Clone + Send + Sync + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        let router = Router::new().fallback(move |request: Request| {
            let (uri, headers) = (request.uri().clone(), request.headers().clone());
            let response: Response = answer(&uri, &headers).into_response();
            record.lock().unwrap().push((uri, headers));
            std::future::ready(response)
        });
        Self { url: testing::serve(router).await, asked }
    }

    /// Path and query of each request.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(uri, _)| uri.to_string()).collect()
    }

    fn header(&self, request: usize, name: &str) -> Option<String> {
        self.asked.lock().unwrap()[request].1.get(name).map(|value| value.to_str().unwrap().to_owned())
    }
}

/// A JSON list of items with these numbers.
fn items(numbers: impl IntoIterator<Item = u32>) -> serde_json::Value {
    numbers
        .into_iter()
        .map(|number| serde_json::json!({"position": format!("Job {number}"), "url": format!("/jobs/{number}")}))
        .collect()
}
