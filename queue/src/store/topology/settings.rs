//! What the settings say of it.

use std::{fs, sync::atomic::AtomicUsize};

use redis::{Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo, TlsCertificates};

use super::{
    super::{Config, StoreError},
    Address, Kind, Topology,
    cluster::Nodes,
    sentinel::Sentinels,
};

const SENTINEL_PORT: u16 = 26379;
const REDIS_PORT: u16 = 6379;

impl Topology {
    /// Reads the settings; connects to nothing.
    ///
    /// # Errors
    /// [`StoreError::Config`], without a value that may be a secret.
    pub(crate) fn new(config: &Config) -> Result<Self, StoreError> {
        let redis = connection(config)?;
        let is_sentinel = !config.sentinel_master.is_empty();
        if is_sentinel && config.cluster {
            return Err(refuse(
                "cluster",
                "and redis.sentinel_master are both set: nodes of a cluster have no Sentinels",
            ));
        }
        let has_credentials = !config.sentinel_user.is_empty() || !config.sentinel_password.is_empty();
        if has_credentials && !is_sentinel {
            return Err(refuse("sentinel_master", "is missing, and a Sentinels' user or password is set"));
        }
        let kind = if is_sentinel {
            let addresses = addresses(config, &redis, SENTINEL_PORT)?;
            let info = sentinel_connection(config, &redis);
            Kind::Sentinel(Box::new(Sentinels { master: config.sentinel_master.clone(), addresses, info }))
        } else if config.cluster {
            if redis.redis_settings().db() != 0 {
                return Err(refuse("url", "names a database: a Redis Cluster has only number 0"));
            }
            Kind::Cluster(Nodes { seeds: addresses(config, &redis, REDIS_PORT)?, searches: AtomicUsize::new(0) })
        } else if config.nodes.is_empty() {
            Kind::Single
        } else {
            return Err(refuse(
                "nodes",
                "are set: say what they are, with redis.sentinel_master or redis.cluster = true",
            ));
        };
        Ok(Self::of(redis, kind))
    }
}

fn refuse(key: &'static str, reason: impl Into<String>) -> StoreError {
    StoreError::Config { key, reason: reason.into() }
}

fn connection(config: &Config) -> Result<ConnectionInfo, StoreError> {
    if config.url.is_empty() {
        return Err(refuse("url", "is missing: give redis://host:port or rediss://host:port"));
    }
    let client = if config.tls_ca.as_os_str().is_empty() {
        Client::open(&*config.url)
    } else {
        let ca = fs::read(&config.tls_ca)
            .map_err(|error| refuse("tls_ca", format!("cannot read {}: {error}", config.tls_ca.display())))?;
        Client::build_with_tls(&*config.url, TlsCertificates { client_tls: None, root_cert: Some(ca) })
    };
    // Not the error's words: they may quote a part of the URL.
    let client = client.map_err(|_| refuse("url", "is no redis:// or rediss:// URL"))?;
    Ok(client.get_connection_info().clone())
}

/// Sentinels have users of their own, no databases, and TLS if Redis has.
fn sentinel_connection(config: &Config, redis: &ConnectionInfo) -> ConnectionInfo {
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    if !config.sentinel_user.is_empty() {
        settings = settings.set_username(&config.sentinel_user);
    }
    if !config.sentinel_password.is_empty() {
        settings = settings.set_password(&config.sentinel_password);
    }
    redis.clone().set_redis_settings(settings)
}

/// The address of the URL, and those beside it.
fn addresses(config: &Config, redis: &ConnectionInfo, default_port: u16) -> Result<Vec<Address>, StoreError> {
    if matches!(redis.addr(), ConnectionAddr::Unix(_)) {
        return Err(refuse("url", "is a Unix socket: Sentinels and nodes of a cluster are reached by host and port"));
    }
    let mut all: Vec<Address> = Address::of_url(redis).into_iter().collect();
    for (node, number) in config.nodes.iter().zip(1..) {
        let address = Address::parse(node, default_port).ok_or_else(|| {
            refuse("nodes", format!("number {number} is no host:port (user, password and TLS are those of redis.url)"))
        })?;
        if !all.contains(&address) {
            all.push(address);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn refused(config: Config) -> String {
        Topology::new(&config).map(|_| ()).unwrap_err().to_string()
    }

    fn sentinels(config: &Config) -> Vec<String> {
        Topology::new(config).unwrap().sentinels().unwrap().addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_that_cannot_stand_are_refused_without_their_secrets() {
        let good = Config { url: "redis://u:hunter2@a:1/0".into(), ..Config::default() };
        let node = |node: &str| vec![node.to_owned()];
        let cases = [
            (Config::default(), "redis.url: is missing"),
            (Config { url: "http://u:hunter2@a".into(), ..Config::default() }, "redis.url: is no redis://"),
            (Config { nodes: node("b:2"), ..good.clone() }, "redis.nodes: are set: say what they are"),
            (
                Config { cluster: true, sentinel_master: "m".into(), ..good.clone() },
                "redis.cluster: and redis.sentinel_master are both set",
            ),
            (Config { sentinel_password: "hunter2".into(), ..good.clone() }, "redis.sentinel_master: is missing"),
            (
                Config { cluster: true, nodes: node("redis://:hunter2@b:2"), ..good.clone() },
                "redis.nodes: number 1 is no host:port",
            ),
            (
                Config { cluster: true, url: "redis://:hunter2@a:1/3".into(), ..Config::default() },
                "redis.url: names a database",
            ),
            (
                Config { cluster: true, url: "redis+unix:///tmp/x?pass=hunter2".into(), ..Config::default() },
                "redis.url: is a Unix socket",
            ),
        ];
        for (config, expected) in cases {
            assert!(!format!("{config:?}").contains("hunter2"));
            let refused = refused(config);
            assert!(refused.starts_with(expected) && !refused.contains("hunter2"), "{refused}, not {expected}");
        }
    }

    #[test]
    fn the_url_and_the_nodes_together_are_the_sentinels() {
        let config = Config {
            url: "redis://:secret@a:1/2".into(),
            sentinel_master: "jobs".into(),
            sentinel_password: "other".into(),
            nodes: vec!["b".into(), "[::1]:3".into(), "a:1".into()],
            ..Config::default()
        };
        assert_eq!(sentinels(&config), ["a:1", "b:26379", "[::1]:3"]);
        let topology = Topology::new(&config).unwrap();
        let info = &topology.sentinels().unwrap().info;
        assert_eq!((info.redis_settings().password(), info.redis_settings().db()), (Some("other"), 0));
        assert_eq!(
            (topology.redis.redis_settings().password(), topology.redis.redis_settings().db()),
            (Some("secret"), 2)
        );
    }
}
