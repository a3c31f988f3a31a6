//! What server this is: for `windrow check` and readiness.

use std::collections::HashMap;

use super::{Store, StoreError};

/// The oldest Redis that Windrow runs on.
pub const MIN_REDIS: (u32, u32) = (7, 0);

/// What a Redis says of itself.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// `redis_version`.
    pub version: String,
    /// Changes with every start of the server.
    pub run_id: String,
    /// `noeviction` is the only right one; `None` if the server does not say.
    pub maxmemory_policy: Option<String>,
    /// Whether writes go to an append-only file; `None` if the server does not say.
    pub appendonly: Option<bool>,
    /// Whether it still reads its data.
    pub loading: bool,
    /// Whether it is a node of a cluster.
    pub cluster: bool,
    /// Bytes in use.
    pub used_memory: u64,
    /// Bytes it may use; 0 is no limit.
    pub maxmemory: u64,
    /// Its clock, in microseconds since 1970.
    pub time_us: i64,
}

impl ServerInfo {
    /// Whether the version is one that Windrow runs on; `None` if it cannot be read.
    #[must_use]
    pub fn is_new_enough(&self) -> Option<bool> {
        let mut parts = self.version.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?) >= MIN_REDIS)
    }
}

impl Store {
    /// Asks the server about itself. Uses INFO, which is allowed where CONFIG is not.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn server(&self) -> Result<ServerInfo, StoreError> {
        let text: String = self.link().send(&redis::cmd("INFO")).await?;
        let (seconds, micros): (i64, i64) = self.link().send(&redis::cmd("TIME")).await?;
        let fields: HashMap<&str, &str> = text.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let field = |name: &str| fields.get(name).map(|value| (*value).to_owned());
        let number = |name: &str| field(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        Ok(ServerInfo {
            version: field("redis_version").unwrap_or_default(),
            run_id: field("run_id").unwrap_or_default(),
            maxmemory_policy: field("maxmemory_policy"),
            appendonly: field("aof_enabled").map(|value| value == "1"),
            loading: field("loading").as_deref() == Some("1"),
            cluster: field("cluster_enabled").as_deref() == Some("1"),
            used_memory: number("used_memory"),
            maxmemory: number("maxmemory"),
            time_us: seconds * 1_000_000 + micros,
        })
    }

    /// Whether the server answers.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.link().send::<String>(&redis::cmd("PING")).await.map(drop)
    }
}
