//! Calls to the outside: one HTTP client, through which everything goes that a tenant's settings can point somewhere.
//!
//! - Only `http` and `https`, and only public addresses, checked after DNS resolution (so a name cannot be rebound between
//!   check and connection), for hosts that are addresses themselves, and again at every redirect. The operator opens
//!   further networks with `allow_networks`. No proxy from the environment is used: it would resolve names for itself.
//! - Every call has a time limit as a whole and a size limit on the decompressed body, which is read chunk by chunk.
//! - Redirects are followed by hand, for GET alone, and capped; what the caller put into the headers does not go along to
//!   another origin.
//! - [`OutwardError`] names hosts, never paths, queries or credentials: those of a webhook are its secret. What is to happen
//!   to the job is decided in one place, [`OutwardError::decision`].
//!
//! Calls are not limited in rate per host; a 429 or 503 with `Retry-After` is honoured by the job that meets it.

mod address;
mod client;
mod config;
mod error;
mod request;
mod resolver;
mod retry_after;
mod tls;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use config::Config;
pub use error::{MAX_RETRY_AFTER, OutwardError};
pub use request::{Request, Response};
