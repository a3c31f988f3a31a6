//! A small Redis Cluster, and the moving of its slots.

use std::fmt::Display;

use crate::error::Error;
use crate::random;
use crate::redis::{RedisOptions, RedisServer};
use crate::redis_sentinel::settle;
use crate::resp::{Connection, Reply};

const PORT_ATTEMPTS: usize = 5;
const SLOTS: usize = 16384;

/// How a private cluster is set up.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Masters, among which the slots are divided evenly; three at least can agree on a failover.
    pub masters: usize,
    /// Replicas of each master.
    pub replicas: usize,
    /// Further settings of all nodes, as in redis.conf.
    pub settings: Vec<(String, String)>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { masters: 3, replicas: 0, settings: Vec::new() }
    }
}

/// A running cluster of one's own, all on 127.0.0.1. It ends when this is dropped, and when this process ends.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts the nodes and waits until they agree. Blocks for about two seconds.
    pub fn start(options: &ClusterOptions) -> Result<Self, Error> {
        let password = random::password()?;
        let total = options.masters * (1 + options.replicas);
        let nodes = (0..total).map(|_| start_node(options, &password)).collect::<Result<Vec<_>, _>>()?;
        let cluster = Self { nodes };
        for (index, node) in cluster.nodes.iter().enumerate() {
            // Distinct, or nodes that meet would first have to agree on who is the newer one.
            cluster_command(node, &["SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
            if index < options.masters {
                let bound = |index: usize| index * SLOTS / options.masters;
                let (first, last) = (bound(index), bound(index + 1) - 1);
                cluster_command(node, &["ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
            }
            if index > 0 {
                let bus = setting(node, "cluster-port")?;
                cluster_command(&cluster.nodes[0], &["MEET", "127.0.0.1", &node.port().to_string(), &bus])?;
            }
        }
        cluster.agreed(total)?;
        for replica in options.masters..total {
            let master = cluster.id(&cluster.nodes[replica % options.masters])?;
            cluster_command(&cluster.nodes[replica], &["REPLICATE", &master])?;
        }
        settle("the replicas have their masters' data", || {
            cluster.nodes[options.masters..].iter().try_fold(true, |all, replica| {
                Ok(all && replica.command(&["INFO", "replication"])?.text().contains("master_link_status:up"))
            })
        })?;
        Ok(cluster)
    }

    /// Waits until every node that runs knows this many, and has an owner for every slot.
    fn agreed(&self, total: usize) -> Result<(), Error> {
        settle("the nodes of the cluster know each other", || {
            for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
                let info = cluster_command(node, &["INFO"])?.text();
                let has = |line: &str| info.lines().any(|found| found.trim() == line);
                if !has("cluster_state:ok") || !has(&format!("cluster_known_nodes:{total}")) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// The address of the first node: `redis://:…@127.0.0.1:…/0`.
    #[must_use]
    pub fn url(&self) -> String {
        self.nodes[0].url()
    }

    /// The addresses of the other nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes[1..].iter().map(|node| format!("127.0.0.1:{}", node.port())).collect()
    }

    /// The nodes: masters first, as they were to begin with.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> Result<u16, Error> {
        match cluster_command(&self.nodes[0], &["KEYSLOT", key])? {
            Reply::Number(slot) => Ok(u16::try_from(slot).unwrap_or_default()),
            other => Err(refused("KEYSLOT", format!("{other:?}"))),
        }
    }

    /// The node that owns a slot, as the first node that answers sees it.
    pub fn owner(&self, slot: u16) -> Result<&RedisServer, Error> {
        let mut failed = Error::NotRunning { server: "Redis Cluster" };
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            let answer = match cluster_command(node, &["SLOTS"]) {
                Ok(answer) => answer,
                Err(error) => {
                    failed = error;
                    continue;
                }
            };
            for range in answer.list() {
                let [Reply::Number(first), Reply::Number(last), master, ..] = range.list() else { continue };
                if !(*first..=*last).contains(&slot.into()) {
                    continue;
                }
                let port = master.list().get(1);
                if let Some(owner) = self.nodes.iter().find(|node| port == Some(&Reply::Number(node.port().into()))) {
                    return Ok(owner);
                }
            }
        }
        Err(failed)
    }

    /// Waits until a replica has taken a slot over from this node, and the cluster is whole again.
    pub fn until_taken_over(&self, slot: u16, from: &RedisServer) -> Result<&RedisServer, Error> {
        settle("a replica has taken over", || {
            let owner = self.owner(slot)?;
            Ok(owner.port() != from.port() && cluster_command(owner, &["INFO"])?.text().contains("cluster_state:ok"))
        })?;
        self.owner(slot)
    }

    /// A replica of this node.
    pub fn replica_of(&self, master: &RedisServer) -> Result<&RedisServer, Error> {
        let port = master.port().to_string();
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            let role = node.command(&["ROLE"])?;
            if role.list().first().map(Reply::text).as_deref() == Some("slave")
                && role.list().get(2) == Some(&Reply::Number(master.port().into()))
            {
                return Ok(node);
            }
        }
        Err(refused("ROLE", format!("no replica of the node on port {port}")))
    }

    fn id(&self, node: &RedisServer) -> Result<String, Error> {
        Ok(cluster_command(node, &["MYID"])?.text())
    }

    /// Begins to move a slot: from now on either node knows of the other.
    pub fn begin_move(&self, slot: u16, from: &RedisServer, to: &RedisServer) -> Result<(), Error> {
        let slot = slot.to_string();
        cluster_command(to, &["SETSLOT", &slot, "IMPORTING", &self.id(from)?])?;
        cluster_command(from, &["SETSLOT", &slot, "MIGRATING", &self.id(to)?])?;
        Ok(())
    }

    /// Moves up to this many of a slot's keys, each whole. Answers how many are left.
    pub fn move_keys(&self, slot: u16, from: &RedisServer, to: &RedisServer, count: usize) -> Result<usize, Error> {
        let mut connection = Connection::open(from.port(), from.password())?;
        let keys = connection.command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &count.to_string()])?;
        let port = to.port().to_string();
        let mut migrate: Vec<&[u8]> = vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0", b"5000"];
        migrate.extend([b"AUTH", to.password().as_bytes(), b"KEYS"]);
        let keys: Vec<&[u8]> =
            keys.list().iter().filter_map(|key| if let Reply::Text(key) = key { Some(&**key) } else { None }).collect();
        if !keys.is_empty() {
            migrate.extend(keys);
            connection.command(&migrate)?;
        }
        match connection.command(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()])? {
            Reply::Number(left) => Ok(usize::try_from(left).unwrap_or_default()),
            other => Err(refused("COUNTKEYSINSLOT", format!("{other:?}"))),
        }
    }

    /// Ends the move: the slot is the other node's from now on, and all are told.
    pub fn finish_move(&self, slot: u16, to: &RedisServer) -> Result<(), Error> {
        let id = self.id(to)?;
        let others = self.nodes.iter().filter(|node| node.port() != to.port() && node.pid().is_some());
        for node in std::iter::once(to).chain(others) {
            match cluster_command(node, &["SETSLOT", &slot.to_string(), "NODE", &id]) {
                // Replicas learn it from their master.
                Err(Error::Refused { answer, .. }) if answer.contains("only with masters") => {}
                answer => drop(answer?),
            }
        }
        Ok(())
    }
}

fn start_node(options: &ClusterOptions, password: &str) -> Result<RedisServer, Error> {
    let mut attempt = 1;
    loop {
        let mut settings: Vec<(String, String)> = [
            ("cluster-enabled", "yes".to_owned()),
            // Ten thousand above its port, the default, outgoing connections may already have been given it.
            ("cluster-port", random::free_port()?.to_string()),
            ("cluster-node-timeout", "2000".to_owned()),
            ("masterauth", password.to_owned()),
            ("repl-diskless-sync-delay", "0".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        settings.extend(options.settings.iter().cloned());
        let password = Some(password.to_owned());
        match RedisServer::start(RedisOptions { password, settings, ..RedisOptions::default() }) {
            Err(error) if error.is_port_taken() && attempt < PORT_ATTEMPTS => attempt += 1,
            started => return started,
        }
    }
}

fn cluster_command(node: &RedisServer, args: &[&str]) -> Result<Reply, Error> {
    let mut all = vec!["CLUSTER"];
    all.extend(args);
    node.command(&all)
}

fn setting(node: &RedisServer, name: &str) -> Result<String, Error> {
    let answer = node.command(&["CONFIG", "GET", name])?;
    answer.list().get(1).map(Reply::text).ok_or_else(|| refused("CONFIG GET", format!("no {name}")))
}

fn refused(command: &str, answer: impl Display) -> Error {
    Error::Refused { command: command.to_owned(), answer: answer.to_string() }
}
