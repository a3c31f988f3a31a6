//! The client.

use std::{error::Error, io, sync::Arc, time::Duration};

use reqwest::{
    Method, StatusCode,
    header::{self, HeaderMap, HeaderName},
};
use url::Url;

use super::{
    address::Guard,
    config::Config,
    error::{OutwardError, origin},
    request::{Request, Response},
    resolver::{GuardedResolver, NoPermittedAddress},
    retry_after::retry_after,
    tls,
};

/// Headers that go along to another origin. Others may be secrets that were meant for the first.
const HEADERS_FOR_ANYONE: &[HeaderName] = &[header::ACCEPT, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];

/// Calls the outside. Cheap to clone; one a process.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    guard: Arc<Guard>,
    connect_timeout: Duration,
    timeout: Duration,
    max_body_bytes: usize,
    max_redirects: usize,
}

impl Client {
    /// Sets the client up; connects nowhere.
    ///
    /// # Errors
    /// When TLS cannot be set up or the user agent is no header value.
    pub fn new(config: &Config) -> Result<Self, OutwardError> {
        let guard = Arc::new(Guard::new(&config.allow_networks));
        let tls = tls::config().map_err(|error| OutwardError::Setup { reason: error.to_string() })?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(GuardedResolver::new(Arc::clone(&guard)))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .user_agent(&config.user_agent)
            .connect_timeout(config.connect_timeout)
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| OutwardError::Setup { reason: root_cause(&error) })?;
        Ok(Self {
            http,
            guard,
            connect_timeout: config.connect_timeout,
            timeout: config.timeout,
            max_body_bytes: config.max_body_bytes,
            max_redirects: config.max_redirects,
        })
    }

    /// Makes the call and reads the whole answer.
    ///
    /// # Errors
    /// [`OutwardError`]; any status but 2xx (and 304 to a conditional request) is one.
    pub async fn send(&self, request: Request) -> Result<Response, OutwardError> {
        let limit = request.timeout.unwrap_or(self.timeout);
        let origin = origin(&request.url);
        tokio::time::timeout(limit, self.follow(request)).await.unwrap_or(Err(OutwardError::Timeout { origin, limit }))
    }

    async fn follow(&self, request: Request) -> Result<Response, OutwardError> {
        let Request { method, mut url, mut headers, body, max_body_bytes, .. } = request;
        let limit = max_body_bytes.map_or(self.max_body_bytes, |own| own.min(self.max_body_bytes));
        let is_conditional =
            headers.contains_key(header::IF_NONE_MATCH) || headers.contains_key(header::IF_MODIFIED_SINCE);
        for _ in 0..=self.max_redirects {
            self.guard.check(&url)?;
            let mut call = self.http.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(body) = &body {
                call = call.body(body.clone());
            }
            let response = call.send().await.map_err(|error| classify(&error, &url, self.connect_timeout))?;
            let status = response.status();
            if status.is_success() || (status == StatusCode::NOT_MODIFIED && is_conditional) {
                return read(response, url, limit).await;
            }
            if method != Method::GET || !is_redirect(status) {
                let retry_after = retry_after(response.headers());
                return Err(OutwardError::Status { origin: origin(&url), code: status.as_u16(), retry_after });
            }
            let next = target(&url, response.headers())?;
            if next.origin() != url.origin() {
                headers = HEADERS_FOR_ANYONE
                    .iter()
                    .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
                    .collect();
            }
            url = next;
        }
        Err(OutwardError::Redirects { origin: origin(&url), max: self.max_redirects })
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads. Credentials in it would become an `Authorization` header; they are dropped.
fn target(url: &Url, headers: &HeaderMap) -> Result<Url, OutwardError> {
    let nowhere = |reason: &str| OutwardError::Redirect { origin: origin(url), reason: reason.to_owned() };
    let location = headers.get(header::LOCATION).ok_or_else(|| nowhere("it names no location"))?;
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| nowhere("its location is no text"))?;
    let mut next = url.join(location).map_err(|error| nowhere(&error.to_string()))?;
    if !next.username().is_empty() || next.password().is_some() {
        // Only URLs without a host refuse this, and those are refused themselves.
        let _ = next.set_username("").and_then(|()| next.set_password(None));
    }
    Ok(next)
}

/// Reads the body chunk by chunk, as it comes out of decompression: a small body that inflates is stopped at the limit.
async fn read(mut response: reqwest::Response, url: Url, limit: usize) -> Result<Response, OutwardError> {
    let too_large = || OutwardError::TooLarge { origin: origin(&url), limit };
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    if announced > limit {
        return Err(too_large());
    }
    let mut body = Vec::with_capacity(announced);
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error, &url))? {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response { status: response.status(), headers: std::mem::take(response.headers_mut()), url, body })
}

fn broken(error: &reqwest::Error, url: &Url) -> OutwardError {
    OutwardError::Body { origin: origin(url), reason: root_cause(error) }
}

fn classify(error: &reqwest::Error, url: &Url, connect_timeout: Duration) -> OutwardError {
    let origin = origin(url);
    if find::<NoPermittedAddress>(error) {
        return OutwardError::Forbidden { origin };
    }
    let reason = root_cause(error);
    if error.is_timeout() {
        // The call as a whole is timed outside of reqwest, so this is the limit for connecting.
        OutwardError::Timeout { origin, limit: connect_timeout }
    } else if find::<rustls::Error>(error) {
        OutwardError::Tls { origin, reason }
    } else if error.is_dns() {
        OutwardError::Dns { origin, reason }
    } else if error.is_connect() {
        OutwardError::Connect { origin, reason }
    } else if error.is_builder() {
        OutwardError::InvalidUrl { reason }
    } else {
        OutwardError::Body { origin, reason }
    }
}

/// The causes of an error, itself first. An `io::Error` hides the error it wraps from `source`, so it is opened.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(|error| error.get_ref()) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
    .take(20)
}

fn find<T: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<T>())
}

/// The innermost cause, which names no URL: reqwest's own text does.
fn root_cause(error: &reqwest::Error) -> String {
    match causes(error).last() {
        Some(cause) if !cause.is::<reqwest::Error>() => cause.to_string().chars().take(300).collect(),
        _ => "the HTTP exchange failed".to_owned(),
    }
}
