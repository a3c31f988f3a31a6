//! What server this is: for `windrow check` and readiness.

use std::collections::HashMap;

use futures::future::try_join_all;
use sha2::{Digest, Sha256};

use super::{Store, StoreError, link::Link};

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

    /// The worst of several; none of none.
    fn together(mut all: Vec<Self>) -> Option<Self> {
        let is_good = |policy: &Option<String>| policy.as_deref() == Some("noeviction");
        // In an order that does not depend on who was asked first.
        all.sort_by(|a, b| a.run_id.cmp(&b.run_id));
        let run_ids: Vec<String> = all.iter().map(|info| info.run_id.clone()).collect();
        let mut sum = all.into_iter().reduce(|a, b| {
            let a_is_fuller = u128::from(a.used_memory) * u128::from(b.maxmemory)
                >= u128::from(b.used_memory) * u128::from(a.maxmemory);
            let (used_memory, maxmemory) =
                if a_is_fuller { (a.used_memory, a.maxmemory) } else { (b.used_memory, b.maxmemory) };
            Self {
                version: if a.is_new_enough() == Some(true) { b.version } else { a.version },
                run_id: String::new(),
                maxmemory_policy: if is_good(&a.maxmemory_policy) { b.maxmemory_policy } else { a.maxmemory_policy },
                appendonly: if a.appendonly == Some(true) { b.appendonly } else { a.appendonly },
                loading: a.loading || b.loading,
                cluster: a.cluster || b.cluster,
                used_memory,
                maxmemory,
                time_us: a.time_us.min(b.time_us),
            }
        })?;
        if run_ids.len() > 1 {
            let digest = Sha256::digest(run_ids.join(" "));
            sum.run_id = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        }
        Some(sum)
    }
}

impl Store {
    /// Asks the server about itself. Uses INFO, which is allowed where CONFIG is not. Of a cluster it tells the worst of its
    /// masters, and a `run_id` that changes whenever one of theirs does.
    ///
    /// # Errors
    /// When Redis is away; in a cluster, when one of its masters is.
    pub async fn server(&self) -> Result<ServerInfo, StoreError> {
        let servers = self.servers().await?.into_iter().map(|(_, info)| info).collect();
        ServerInfo::together(servers).ok_or(StoreError::Unreadable("no server"))
    }

    /// The same of each server that holds queues, with its address: one, or the masters of a cluster.
    ///
    /// # Errors
    /// When one of them is away.
    pub async fn servers(&self) -> Result<Vec<(String, ServerInfo)>, StoreError> {
        let links = self.link().all().await?;
        try_join_all(links.iter().map(|(address, link)| async move { Ok((address.clone(), ask(link).await?)) })).await
    }

    /// Whether the server answers; of a cluster, whether all its masters do.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let (links, ping) = (self.link().all().await?, redis::cmd("PING"));
        try_join_all(links.iter().map(|(_, link)| link.send::<String>(&ping))).await.map(drop)
    }
}

async fn ask(link: &Link) -> Result<ServerInfo, StoreError> {
    let text: String = link.send(&redis::cmd("INFO")).await?;
    let (seconds, micros): (i64, i64) = link.send(&redis::cmd("TIME")).await?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn info(run_id: &str) -> ServerInfo {
        ServerInfo {
            version: "7.2.1".into(),
            run_id: run_id.into(),
            maxmemory_policy: Some("noeviction".into()),
            appendonly: Some(true),
            loading: false,
            cluster: true,
            used_memory: 10,
            maxmemory: 100,
            time_us: 5,
        }
    }

    #[test]
    fn of_several_servers_the_worst_is_told_whoever_was_asked_first() {
        let bad = ServerInfo {
            version: "6.2.0".into(),
            maxmemory_policy: Some("allkeys-lru".into()),
            appendonly: Some(false),
            used_memory: 9,
            maxmemory: 10,
            time_us: 4,
            ..info("b")
        };
        for all in [vec![info("a"), bad.clone(), info("c")], vec![info("c"), info("a"), bad.clone()]] {
            let sum = ServerInfo::together(all).unwrap();
            assert_eq!((&*sum.version, sum.appendonly), ("6.2.0", Some(false)));
            assert_eq!((sum.used_memory, sum.maxmemory, sum.time_us), (9, 10, 4));
            assert_eq!(sum.maxmemory_policy.as_deref(), Some("allkeys-lru"));
        }
        let of = |ids: &[&str]| ServerInfo::together(ids.iter().map(|id| info(id)).collect()).unwrap().run_id;
        assert_eq!(of(&["a"]), "a", "as it is where there is one");
        assert_eq!(of(&["a", "b"]), of(&["b", "a"]));
        assert_ne!(of(&["a", "b"]), of(&["a", "c"]), "one was restarted, or failed over");
        assert!(ServerInfo::together(Vec::new()).is_none());
    }
}
