//! What can go wrong with a call, and what that means for the job.

use std::time::Duration;

use url::Url;
use windrow_queue::{Decision, JobError};

/// The shortest delay after a `Retry-After`: a server that says "at once" is not asked in a tight loop.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is honoured; a server that names more is asked again after this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A call that did not bring an answer. Its text has no path, query, credentials or content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutwardError {
    /// The client could not be built.
    #[error("the HTTP client cannot be set up: {reason}")]
    Setup {
        /// Why.
        reason: String,
    },
    /// What was to be called is no URL.
    #[error("the URL cannot be called: {reason}")]
    InvalidUrl {
        /// Why.
        reason: String,
    },
    /// Another scheme than http and https.
    #[error("the scheme {scheme:?} is not allowed: use http or https")]
    Scheme {
        /// The scheme, cut to a readable length.
        scheme: String,
    },
    /// The host is, or resolves to, an address that is not public.
    #[error(
        "{origin} is not a public address, or leads to none; if it is meant, the operator allows its network with outward.allow_networks"
    )]
    Forbidden {
        /// Scheme, host and port.
        origin: String,
    },
    /// More redirects than allowed.
    #[error("{origin} led to more than {max} redirects")]
    Redirects {
        /// Scheme, host and port of the last one.
        origin: String,
        /// The limit.
        max: usize,
    },
    /// A redirect without a usable address.
    #[error("{origin} redirects to nowhere: {reason}")]
    Redirect {
        /// Scheme, host and port.
        origin: String,
        /// Why.
        reason: String,
    },
    /// The name does not resolve.
    #[error("the name of {origin} does not resolve: {reason}")]
    Dns {
        /// Scheme, host and port.
        origin: String,
        /// What the resolver said.
        reason: String,
    },
    /// No connection.
    #[error("no connection to {origin}: {reason}")]
    Connect {
        /// Scheme, host and port.
        origin: String,
        /// What the system said.
        reason: String,
    },
    /// No TLS session; mostly a certificate.
    #[error("no secure connection to {origin}: {reason}")]
    Tls {
        /// Scheme, host and port.
        origin: String,
        /// What TLS said.
        reason: String,
    },
    /// Too slow.
    #[error("{origin} did not answer in full within {limit:?}")]
    Timeout {
        /// Scheme, host and port.
        origin: String,
        /// The limit.
        limit: Duration,
    },
    /// A status that is no success.
    #[error("{origin} answered with status {code}")]
    Status {
        /// Scheme, host and port.
        origin: String,
        /// The status.
        code: u16,
        /// What the server asked for with `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// A body over the limit.
    #[error("the answer of {origin} has more than {limit} bytes")]
    TooLarge {
        /// Scheme, host and port.
        origin: String,
        /// The limit.
        limit: usize,
    },
    /// The answer broke off, or is no HTTP, or does not decompress.
    #[error("the answer of {origin} cannot be read: {reason}")]
    Body {
        /// Scheme, host and port.
        origin: String,
        /// Why.
        reason: String,
    },
}

impl OutwardError {
    /// The class for metrics and dead letters.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Setup { .. } => "outward_setup",
            Self::InvalidUrl { .. } => "invalid_url",
            Self::Scheme { .. } => "forbidden_scheme",
            Self::Forbidden { .. } => "forbidden_address",
            Self::Redirects { .. } | Self::Redirect { .. } => "redirect",
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Timeout { .. } => "timeout",
            Self::Status { code: 429, .. } => "http_429",
            Self::Status { code: 400..=499, .. } => "http_4xx",
            Self::Status { code: 500..=599, .. } => "http_5xx",
            Self::Status { .. } => "http_status",
            Self::TooLarge { .. } => "too_large",
            Self::Body { .. } => "broken_answer",
        }
    }

    /// All classes, so that their counters stand at zero before the first error.
    pub const CLASSES: &[&str] = &[
        "outward_setup",
        "invalid_url",
        "forbidden_scheme",
        "forbidden_address",
        "redirect",
        "dns",
        "connect",
        "tls",
        "timeout",
        "http_429",
        "http_4xx",
        "http_5xx",
        "http_status",
        "too_large",
        "broken_answer",
    ];

    /// What is to happen to a job that met this: the one place where it is decided.
    ///
    /// Buried is what only a person can change: where the call goes, what it asks for, a document over the limit. What the
    /// other side or the network may mend by itself is tried again.
    #[must_use]
    pub fn decision(&self) -> Decision {
        match self {
            Self::InvalidUrl { .. }
            | Self::Scheme { .. }
            | Self::Forbidden { .. }
            | Self::TooLarge { .. }
            | Self::Redirects { .. }
            | Self::Redirect { .. } => Decision::Bury,
            Self::Status { code: 429 | 503, retry_after: Some(delay), .. } => {
                Decision::RetryAfter((*delay).clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER))
            }
            Self::Status { code: 408 | 425 | 429, .. } => Decision::Retry,
            Self::Status { code, .. } if *code < 500 => Decision::Bury,
            Self::Status { .. }
            | Self::Setup { .. }
            | Self::Dns { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Timeout { .. }
            | Self::Body { .. } => Decision::Retry,
        }
    }
}

impl From<OutwardError> for JobError {
    fn from(error: OutwardError) -> Self {
        Self::new(error.decision(), error.class(), error)
    }
}

/// Scheme, host and port: all of a URL that may be shown.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, seconds: Option<u64>) -> Decision {
        let retry_after = seconds.map(Duration::from_secs);
        OutwardError::Status { origin: "http://x".to_owned(), code, retry_after }.decision()
    }

    #[test]
    fn a_status_is_retried_only_when_waiting_may_help() {
        for code in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(status(code, None), Decision::Retry, "{code}");
        }
        for code in [204, 302, 400, 401, 403, 404, 410, 422, 451] {
            assert_eq!(status(code, None), Decision::Bury, "{code}");
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_an_hour_and_only_with_429_and_503() {
        assert_eq!(status(429, Some(90)), Decision::RetryAfter(Duration::from_secs(90)));
        assert_eq!(status(503, Some(86_400)), Decision::RetryAfter(MAX_RETRY_AFTER));
        assert_eq!(status(429, Some(0)), Decision::RetryAfter(MIN_RETRY_AFTER));
        assert_eq!(status(500, Some(90)), Decision::Retry);
        assert_eq!(status(404, Some(90)), Decision::Bury);
    }

    #[test]
    fn what_is_shown_of_a_url_has_no_secret() {
        let url = "https://user:hunter2@hooks.example.org:8443/webhook/s3cret?token=abc#frag".parse().unwrap();
        assert_eq!(origin(&url), "https://hooks.example.org:8443");
    }
}
