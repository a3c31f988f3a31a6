//! What every role serves to its operators: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use windrow_queue::health::Health;

use crate::problem::Problem;

/// The three routes. `/healthz`: the process answers. `/readyz`: 200 when all its parts are well, else 503, with each part's
/// own words.
pub fn router(registry: Registry, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(async || Json(serde_json::json!({ "status": "ok" }))))
        .route("/readyz", get(ready).with_state(health))
}

async fn metrics(State(registry): State<Registry>) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics do not encode");
            Problem::internal().into_response()
        }
    }
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    parts: BTreeMap<String, Part>,
}

#[derive(Serialize)]
struct Part {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

async fn ready(State(health): State<Health>) -> Response {
    let report = health.report();
    let ready = report.values().all(Option::is_none);
    let parts = report.into_iter().map(|(name, reason)| (name, Part { ok: reason.is_none(), reason })).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, parts })).into_response()
}
