//! What surrounds every request: metrics and headers, then panics, then the time limit; on the API also the key.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use windrow_queue::metrics::register;

use crate::{
    key::{Caller, Keys},
    problem::Problem,
};

/// Requests by route. Labels are bounded: the pattern of the route, never the path that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct HttpMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
}

impl HttpMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let requests = Opts::new("windrow_http_requests_total", "Requests answered, by route, method and status.");
        let duration =
            HistogramOpts::new("windrow_http_request_duration_seconds", "From a request's head to its answer.");
        Self {
            requests: register(registry, IntCounterVec::new(requests, &["route", "method", "status"])),
            duration: register(registry, HistogramVec::new(duration, &["route", "method"])),
        }
    }
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Counts the request, and sets the headers that every answer has.
pub(crate) async fn observe(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let mut response = next.run(request).await;
    metrics.requests.with_label_values(&[route, method, response.status().as_str()]).inc();
    metrics.duration.with_label_values(&[route, method]).observe(started.elapsed().as_secs_f64());
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    response
}

/// A panic costs its own request only.
pub(crate) async fn catch_panic(request: Request, next: Next) -> Response {
    // The route, not the path: that may hold a secret.
    let route = request.extensions().get::<MatchedPath>().map_or("(no route)", MatchedPath::as_str);
    let what = format!("{} {route}", request.method());
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(request = what, panic = message.unwrap_or("(no message)"), "a request panicked");
        Problem::internal().into_response()
    })
}

/// An answer comes in time, or says that it did not.
pub(crate) async fn limit_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            "Not answered in time",
            format!(
                "The request took longer than {limit:?}, and may or may not have had its effect. Send it again, with the same Idempotency-Key: it is then enqueued once."
            ),
        )
        .retry_after(Duration::from_secs(1))
        .into_response()
    })
}

/// Lets in who has a key, and says who it is. `None`: an open API.
pub(crate) async fn authenticate(
    State(keys): State<Option<Arc<Keys>>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = match keys {
        None => Caller { name: "open".into(), tenant: None },
        Some(keys) => {
            let presented = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let presented = presented.ok_or_else(|| unauthorized("The request has no Authorization header."))?;
            let (scheme, secret) = presented.split_once(' ').unwrap_or((presented, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(unauthorized("The Authorization header has another scheme than Bearer."));
            }
            keys.caller(secret.trim()).cloned().ok_or_else(|| unauthorized("The API key is not known here."))?
        }
    };
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn unauthorized(what: &str) -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "An API key is needed",
        format!("{what} Send `Authorization: Bearer <key>`, with a key whose hash is in the server's api.keys."),
    )
}
