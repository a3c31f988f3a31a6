//! Settings of the client.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Limits on calls to the outside, and where they may go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Longest time for DNS, TCP and TLS together. Default `5s`.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest time for a whole call, redirects and body included. Default `30s`.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Largest body, in bytes after decompression. Default 8388608 (8 MiB).
    pub max_body_bytes: usize,
    /// Redirects followed in one call. Default 5.
    pub max_redirects: usize,
    /// Networks that may be called although they are not public, such as `["127.0.0.0/8", "10.1.0.0/16"]`. Default none.
    pub allow_networks: Vec<IpNet>,
    /// What calls say they are. Default `windrow/VERSION`.
    pub user_agent: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            max_body_bytes: 8 * 1024 * 1024,
            max_redirects: 5,
            allow_networks: Vec::new(),
            user_agent: concat!("windrow/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
