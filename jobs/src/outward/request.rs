//! What is sent, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Serialize;
use url::Url;

/// One call. Secrets may be in its headers and URL: it has no `Debug`.
#[derive(Clone)]
pub struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_body_bytes: Option<usize>,
}

impl Request {
    /// Asks for a document. Redirects are followed.
    #[must_use]
    pub fn get(url: Url) -> Self {
        let headers = HeaderMap::new();
        Self { method: Method::GET, url, headers, body: None, timeout: None, max_body_bytes: None }
    }

    /// Sends JSON. Redirects are not followed: they would turn it into a GET, or send it where nobody meant it to go.
    ///
    /// # Errors
    /// When the value does not serialise.
    pub fn post_json(url: Url, value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let mut request = Self::get(url);
        request.method = Method::POST;
        request.body = Some(serde_json::to_vec(value)?.into());
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(request)
    }

    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets a header whose value was computed or stored; one that no header can carry is left out.
    #[must_use]
    pub fn text_header(self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.header(name, value),
            Err(_) => self,
        }
    }

    /// `Idempotency-Key`: the same over all attempts of a job (`ctx.idempotency_key()`), so that the other side can tell a
    /// repetition from a second order.
    #[must_use]
    pub fn idempotency_key(self, key: &str) -> Self {
        self.text_header(HeaderName::from_static("idempotency-key"), key)
    }

    /// W3C trace context.
    #[must_use]
    pub fn traceparent(self, traceparent: Option<&str>) -> Self {
        match traceparent {
            Some(value) => self.text_header(HeaderName::from_static("traceparent"), value),
            None => self,
        }
    }

    /// A time limit of its own for the whole call.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// A size limit of its own; the client's holds too.
    #[must_use]
    pub const fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = Some(bytes);
        self
    }
}

/// An answer: a success, or 304 to a conditional request.
#[derive(Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// Where the answer came from, after redirects.
    pub url: Url,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, decompressed.
    pub body: Vec<u8>,
}

impl Response {
    /// Whether a conditional request found nothing new.
    #[must_use]
    pub fn is_not_modified(&self) -> bool {
        self.status == StatusCode::NOT_MODIFIED
    }

    /// A header's text, if it has any.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
