//! HTTP: jobs come in and are asked for, operators read metrics and readiness.
//!
//! ```text
//! POST /api/v1/jobs                enqueue one: 201 new, 200 it stood already; or many: 200, with an answer for each
//! GET  /api/v1/jobs?state=…        a page of jobs
//! GET  /api/v1/jobs/{id}           where it is
//! POST /api/v1/jobs/{id}/cancel    it is not to run, or to stop
//! POST /api/v1/batches             open a batch
//! GET  /api/v1/batches/{id}        how far it is
//! POST /api/v1/batches/{id}/seal   it has all its members
//! POST /api/v1/callbacks/{token}   what a parked job waits for; the token is the authority
//! POST /api/v1/schedules           make a schedule: 201 new, 200 the very same stood already
//! GET  /api/v1/schedules           a page of them
//! GET, PATCH, DELETE /api/v1/schedules/{name}; POST …/pause, …/resume, …/trigger; GET …/next, …/history
//! GET  /metrics, /healthz, /readyz
//! ```
//!
//! Everything else under `/api` needs a key. Errors are RFC 9457 problem details: 400 no JSON, no header or no query, 401 no
//! key, 403 another tenant's, 404, 405, 409 it is decided already, 410 too late, 413 too large, 415 not JSON, 422 a field is not
//! valid (with its pointer), 429 the queue is full, 503 a store is away or was too slow (both with Retry-After), 500 our fault.

mod batches;
mod body;
mod callbacks;
pub mod cancel;
mod config;
pub mod find;
pub mod intake;
mod jobs;
pub mod key;
mod layer;
pub mod list;
pub mod ops;
mod problem;
mod schedules;
pub mod server;
pub mod trace;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use prometheus::Registry;
use sqlx::PgPool;
use windrow_queue::{
    Catalog,
    health::Health,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{MAX_CALLBACK_BYTES, Store},
};

pub use batches::{BatchView, find_batch};
pub use config::{Config, InvalidConfig};
pub use problem::Problem;
pub use schedules::history as schedule_history;
pub use server::{Limits, Listener};

/// What the API works with.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Redis.
    pub store: Store,
    /// Postgres.
    pub database: PgPool,
    /// The kinds that may be enqueued.
    pub catalog: Catalog,
    /// The process' queue metrics.
    pub metrics: QueueMetrics,
    /// What `/metrics` shows.
    pub registry: Registry,
    /// What `/readyz` shows.
    pub health: Health,
}

/// Listens and serves until the shutdown.
///
/// # Errors
/// When a setting cannot stand, or the port is not to be had.
pub async fn run(config: Config, deps: Deps, shutdown: Shutdown) -> anyhow::Result<()> {
    let listener = Listener::bind(config.listen, "api.listen").await?;
    serve(listener, &config, deps, shutdown).await
}

/// Serves on a port that was taken before, for who must know its number first.
///
/// # Errors
/// When a setting cannot stand.
pub async fn serve(listener: Listener, config: &Config, deps: Deps, shutdown: Shutdown) -> anyhow::Result<()> {
    let router = router(config, deps)?;
    tracing::info!(address = %listener.address(), open = config.open, keys = config.keys.len(), "the API listens");
    let limits = Limits { max_connections: config.max_connections, grace: config.grace };
    listener.serve(router, limits, shutdown).await;
    Ok(())
}

/// All routes.
///
/// # Errors
/// When a setting cannot stand.
pub fn router(config: &Config, deps: Deps) -> Result<Router, InvalidConfig> {
    deps.store.observe(&deps.metrics);
    let keys = config.keys()?.map(Arc::new);
    let ops = ops::router(deps.registry.clone(), deps.health.clone());
    let jobs = Router::new()
        .route("/api/v1/jobs", post(jobs::enqueue).get(jobs::page).layer(DefaultBodyLimit::max(body::MAX_BULK_BYTES)))
        .route("/api/v1/jobs/{id}", get(jobs::status))
        .route("/api/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/api/v1/batches", post(batches::open))
        .route("/api/v1/batches/{id}", get(batches::status))
        .route("/api/v1/batches/{id}/seal", post(batches::seal))
        .route("/api/v1/schedules", post(schedules::add).get(schedules::page))
        .route("/api/v1/schedules/{name}", get(schedules::show).patch(schedules::change).delete(schedules::remove))
        .route("/api/v1/schedules/{name}/pause", post(schedules::pause))
        .route("/api/v1/schedules/{name}/resume", post(schedules::resume))
        .route("/api/v1/schedules/{name}/trigger", post(schedules::trigger))
        .route("/api/v1/schedules/{name}/next", get(schedules::next))
        .route("/api/v1/schedules/{name}/history", get(schedules::history_page))
        .route_layer(from_fn_with_state(keys, layer::authenticate))
        .layer(DefaultBodyLimit::max(body::MAX_BODY_BYTES));
    let callbacks = Router::new()
        .route("/api/v1/callbacks/{token}", post(callbacks::deliver))
        .layer(DefaultBodyLimit::max(MAX_CALLBACK_BYTES));
    let metrics = layer::HttpMetrics::new(&deps.registry);
    Ok(around(jobs.merge(callbacks).with_state(deps).merge(ops), config, metrics))
}

fn around(routes: Router, config: &Config, metrics: layer::HttpMetrics) -> Router {
    routes
        .fallback(async || Problem::not_found("No route has this path."))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Not with this method",
                "The path does not take this method; the Allow header names those that it takes.",
            )
        })
        .layer(from_fn_with_state(config.request_timeout, layer::limit_time))
        .layer(from_fn(layer::catch_panic))
        .layer(from_fn_with_state(metrics, layer::observe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use windrow_queue::metrics::register;

    async fn get_status(router: Router, path: &str) -> (StatusCode, String) {
        use axum::body::{Body, to_bytes};
        use hyper::service::Service;
        let service = hyper_util::service::TowerToHyperService::new(router);
        let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
        let response = service.call(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_and_a_hang_each_cost_their_own_request_only() {
        let registry = Registry::new();
        let config = Config { request_timeout: Duration::from_millis(20), ..Config::default() };
        let routes = Router::new()
            .route("/panic/{what}", get(async || -> &'static str { panic!("an accident") }))
            .route("/hang", get(async || std::future::pending::<&'static str>().await));
        let router = around(routes, &config, layer::HttpMetrics::new(&registry));
        let (status, body) = get_status(router.clone(), "/panic/a").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(body.contains("urn:windrow:problem:internal") && !body.contains("accident"), "{body}");
        let (status, body) = get_status(router.clone(), "/hang").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("urn:windrow:problem:timeout"), "{body}");
        assert_eq!(get_status(router, "/none/of/these").await.0, StatusCode::NOT_FOUND);

        let metrics = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"windrow_http_requests_total{method="GET",route="/panic/{what}",status="500"} 1"#,
            r#"windrow_http_requests_total{method="GET",route="/hang",status="503"} 1"#,
            r#"windrow_http_requests_total{method="GET",route="none",status="404"} 1"#,
        ] {
            assert!(metrics.contains(line), "{line} is not in {metrics}");
        }
    }

    #[tokio::test]
    async fn readiness_names_the_part_that_is_out_of_order() {
        let (registry, health) = (Registry::new(), Health::default());
        register(&registry, prometheus::IntCounter::new("windrow_sample_total", "A sample."));
        let part = health.part("redis");
        let router = ops::router(registry, health);
        let (status, body) = get_status(router.clone(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, r#"{"ready":false,"parts":{"redis":{"ok":false,"reason":"starting"}}}"#);
        part.ok();
        assert_eq!(get_status(router.clone(), "/readyz").await.0, StatusCode::OK);
        assert_eq!(get_status(router.clone(), "/healthz").await.0, StatusCode::OK);
        assert!(get_status(router, "/metrics").await.1.contains("windrow_sample_total 0"));
    }
}
