//! Stages and places whose Redis is behind Sentinels, or a cluster. Their own Redis stays unused.

use windrow_devserver::{ClusterOptions, RedisCluster, SentinelGroup, SentinelOptions};
use windrow_queue::{
    QueueName,
    store::{Config, Store},
};

use crate::{Place, Stage};

/// Starts a master with a replica and three Sentinels, and says how to reach them.
pub async fn sentinels() -> (SentinelGroup, Config) {
    let options = SentinelOptions { aof: true, settings: limited(), ..SentinelOptions::default() };
    let group = tokio::task::spawn_blocking(move || SentinelGroup::start(&options)).await.unwrap().unwrap();
    let config = Config {
        url: group.url(),
        sentinel_master: group.name().into(),
        sentinel_password: group.sentinel_password().into(),
        nodes: group.nodes(),
        ..Config::default()
    };
    (group, config)
}

/// Starts a cluster of three masters, and says how to reach it.
pub async fn cluster() -> (RedisCluster, Config) {
    let options = ClusterOptions { settings: limited(), ..ClusterOptions::default() };
    let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await.unwrap().unwrap();
    let config = Config { url: cluster.url(), cluster: true, nodes: cluster.addresses(), ..Config::default() };
    (cluster, config)
}

/// What `windrow check` asks for.
fn limited() -> Vec<(String, String)> {
    vec![("maxmemory".to_owned(), "256mb".to_owned())]
}

/// Moves the slot of a queue to another node of its cluster, a few keys at a time.
pub fn move_queue(cluster: &RedisCluster, queue: &QueueName) {
    tokio::task::block_in_place(|| {
        let slot = cluster.slot_of(&format!("windrow:{{{queue}}}:meta")).unwrap();
        let from = cluster.owner(slot).unwrap();
        let to = cluster.nodes().iter().find(|node| node.port() != from.port()).unwrap();
        cluster.begin_move(slot, from, to).unwrap();
        while cluster.move_keys(slot, from, to, 2).unwrap() > 0 {}
        cluster.finish_move(slot, to).unwrap();
    });
}

impl Stage {
    /// A stage whose jobs are in another Redis than its own.
    pub async fn elsewhere(config: &Config) -> Self {
        Self { store: Store::new(config).unwrap(), ..Self::new().await }
    }
}

impl Place {
    /// The same for what is started from now on.
    pub fn move_elsewhere(&mut self, config: &Config) {
        self.store = Store::new(config).unwrap();
        self.set("REDIS_URL", &config.url);
        self.set("REDIS__SENTINEL_MASTER", &config.sentinel_master);
        self.set("REDIS__SENTINEL_PASSWORD", &config.sentinel_password);
        self.set("REDIS__CLUSTER", if config.cluster { "true" } else { "false" });
        self.set("REDIS__NODES", &config.nodes.join(","));
    }
}
