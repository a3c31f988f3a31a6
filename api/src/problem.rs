//! Errors as clients see them: RFC 9457 problem details.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// A refused request: what was wrong, where, and what to do.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// `urn:windrow:problem:…`, stable: what a program may branch on.
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    detail: String,
    /// RFC 6901 pointer to the field of the request's body that is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    /// A problem of a stable type (`slug`), with words for a person.
    pub(crate) fn new(status: StatusCode, slug: &str, title: &'static str, detail: impl Into<String>) -> Self {
        let kind = format!("urn:windrow:problem:{slug}");
        Self { kind, title, status, detail: detail.into(), pointer: None, retry_after: None }
    }

    /// The field at fault.
    pub(crate) fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// The same problem of a part of the body.
    pub(crate) fn within(mut self, part: &str) -> Self {
        self.pointer = Some(format!("{part}{}", self.pointer.unwrap_or_default()));
        self
    }

    /// When the same request may succeed.
    pub(crate) fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// A store is away. Its own words go to the log, not to the client.
    pub(crate) fn unavailable(store: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "store-unavailable",
            "A store is not available",
            format!(
                "{store} does not answer. Send the request again, with the same Idempotency-Key: it is then enqueued once."
            ),
        )
        .retry_after(Duration::from_secs(2))
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "The request failed through a fault of the server, which its log describes.",
        )
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The words for a person.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The field at fault.
    #[must_use]
    pub fn pointer(&self) -> Option<&str> {
        self.pointer.as_deref()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("a struct of strings serialises");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(delay) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"windrow\""));
        }
        response
    }
}
