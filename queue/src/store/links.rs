//! The connections of a [`Store`](super::Store): one, or in a cluster one for each node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{Cmd, FromRedisValue};

use super::{
    Metrics, StoreError,
    keys::Keys,
    link::{Link, RESPONSE_TIMEOUT, Target},
    script::{Call, NamedScript},
    topology::{Address, Topology, slot_of},
};
use crate::name::QueueName;

/// Finds the connection for a queue, and makes connections for one's own use.
pub(crate) struct Links {
    topology: Arc<Topology>,
    metrics: Metrics,
    /// What all use, but for a cluster's.
    main: Arc<Link>,
    nodes: Mutex<HashMap<Address, Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(topology: Arc<Topology>, metrics: &Metrics) -> Self {
        let main = Link::new(Arc::clone(&topology), Target::Slot(0), RESPONSE_TIMEOUT, metrics);
        Self { topology, metrics: Metrics::clone(metrics), main: Arc::new(main), nodes: Mutex::default() }
    }

    /// The same servers over connections of their own.
    pub(crate) fn detached(&self) -> Self {
        Self::new(Arc::clone(&self.topology), &self.metrics)
    }

    /// A connection to the server of one queue, which nobody else uses. An answer may take `blocks` longer than usual.
    pub(crate) fn own(&self, keys: &Keys, blocks: Duration) -> Link {
        let target = Target::Slot(slot_of(keys.prefix.as_bytes()));
        Link::new(Arc::clone(&self.topology), target, RESPONSE_TIMEOUT + blocks, &self.metrics)
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The connection to the server of a slot.
    pub(crate) async fn of(&self, slot: u16) -> Result<Arc<Link>, StoreError> {
        if !self.topology.is_cluster() {
            return Ok(Arc::clone(&self.main));
        }
        match self.topology.locate(slot).await?.address {
            Some(address) => self.node(address).await,
            None => Ok(Arc::clone(&self.main)),
        }
    }

    /// The connection to a node of a cluster.
    async fn node(&self, address: Address) -> Result<Arc<Link>, StoreError> {
        if let Some(link) = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&address) {
            return Ok(Arc::clone(link));
        }
        let masters = self.topology.masters().await?;
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        // Nodes that left the cluster are forgotten.
        nodes.retain(|node, _| masters.contains(node));
        Ok(Arc::clone(nodes.entry(address).or_insert_with_key(|address| {
            let target = Target::Node(address.clone());
            Arc::new(Link::new(Arc::clone(&self.topology), target, RESPONSE_TIMEOUT, &self.metrics))
        })))
    }

    /// The connections to all servers that hold queues, with their addresses: one, or the masters of a cluster.
    pub(crate) async fn all(&self) -> Result<Vec<(String, Arc<Link>)>, StoreError> {
        if !self.topology.is_cluster() {
            let place = self.topology.locate(0).await?;
            return Ok(vec![(place.to_string(), Arc::clone(&self.main))]);
        }
        let mut all = Vec::new();
        for address in self.topology.masters().await? {
            all.push((address.to_string(), self.node(address).await?));
        }
        Ok(all)
    }

    /// Calls a script on the server of its queue.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &NamedScript, call: &Call) -> Result<T, StoreError> {
        self.of(call.slot).await?.run(script, call).await
    }

    /// Sends a command on the server of its queue. The first argument is its only key.
    pub(crate) async fn send<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let key = cmd.args_iter().nth(1);
        let slot = match key {
            Some(redis::Arg::Simple(key)) => slot_of(key),
            _ => 0,
        };
        self.of(slot).await?.send(cmd).await
    }

    /// The servers of these queues, each with the queues that it has.
    pub(crate) async fn by_server<'a>(
        &self,
        queues: &'a [QueueName],
    ) -> Result<Vec<(Arc<Link>, Vec<&'a QueueName>)>, StoreError> {
        let mut servers: Vec<(Arc<Link>, Vec<&QueueName>)> = Vec::new();
        for queue in queues {
            let link = self.of(slot_of(Keys::new(queue).prefix.as_bytes())).await?;
            match servers.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &link)) {
                Some((_, queues)) => queues.push(queue),
                None => servers.push((link, vec![queue])),
            }
        }
        Ok(servers)
    }
}
