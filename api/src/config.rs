//! The `[api]` section.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::key::{ApiKey, InvalidKey, Keys};

/// Where the API listens, and who may call it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port. TLS ends in front of it.
    pub listen: SocketAddr,
    /// No keys at all: for development, and only on a loopback address.
    pub open: bool,
    /// Who may call.
    pub keys: Vec<ApiKey>,
    /// Longest time for one request, its body included.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Connections at a time; more wait to be accepted.
    pub max_connections: usize,
    /// How long requests in flight may go on after the soft stop.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            open: false,
            keys: Vec::new(),
            request_timeout: Duration::from_secs(10),
            max_connections: 1024,
            grace: Duration::from_secs(10),
        }
    }
}

/// A setting that cannot stand. Begins with the setting's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidConfig {
    /// One of the keys is no good.
    #[error("api.keys: {0}")]
    Key(#[from] InvalidKey),
    /// Nobody could call.
    #[error(
        "api.keys: no key is configured, so nobody could call the API: make one with `windrow api-keys new` and put its hash here (or set api.open = true on a loopback address, for development)"
    )]
    NoKeys,
    /// Everybody could call.
    #[error(
        "api.open: an API without keys may listen only on a loopback address, and api.listen is {0}: configure api.keys instead"
    )]
    OpenToAll(SocketAddr),
    /// Both at once.
    #[error("api.open: keys are configured as well, and would not be asked for: take out api.open or api.keys")]
    OpenWithKeys,
    /// Nothing could be served.
    #[error("{0}: must be more than zero")]
    Zero(&'static str),
}

impl Config {
    /// Checks what types cannot say. `None` for an open API.
    ///
    /// # Errors
    /// The setting that cannot stand.
    pub fn keys(&self) -> Result<Option<Keys>, InvalidConfig> {
        if self.request_timeout.is_zero() {
            return Err(InvalidConfig::Zero("api.request_timeout"));
        }
        if self.max_connections == 0 {
            return Err(InvalidConfig::Zero("api.max_connections"));
        }
        let keys = Keys::new(&self.keys)?;
        match (self.open, keys.is_empty()) {
            (false, true) => Err(InvalidConfig::NoKeys),
            (false, false) => Ok(Some(keys)),
            (true, false) => Err(InvalidConfig::OpenWithKeys),
            (true, true) if !self.listen.ip().is_loopback() => Err(InvalidConfig::OpenToAll(self.listen)),
            (true, true) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_that_nobody_or_everybody_could_call_is_refused() {
        let key = ApiKey { name: "ci".into(), sha256: "0".repeat(64), tenant: None };
        let public: SocketAddr = "0.0.0.0:80".parse().unwrap();
        let default = Config::default;
        assert_eq!(default().keys().unwrap_err(), InvalidConfig::NoKeys);
        assert!(Config { keys: vec![key.clone()], ..default() }.keys().unwrap().is_some());
        assert!(Config { open: true, ..default() }.keys().unwrap().is_none());
        let open = Config { open: true, listen: public, ..default() };
        assert_eq!(open.keys().unwrap_err(), InvalidConfig::OpenToAll(public));
        let both = Config { open: true, keys: vec![key], ..default() };
        assert_eq!(both.keys().unwrap_err(), InvalidConfig::OpenWithKeys);
        let zero = Config { request_timeout: Duration::ZERO, ..default() };
        assert!(zero.keys().unwrap_err().to_string().starts_with("api.request_timeout"));
    }
}
