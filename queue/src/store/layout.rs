//! How the servers are arranged, and how well: for `windrow check`.

use futures::future::join_all;
use redis::Value;

use super::{
    Store, StoreError,
    keys::Keys,
    topology::{Sentinels, slot_of},
};
use crate::name::QueueName;

/// How the servers are arranged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One server, which nobody stands in for.
    Single,
    /// A master that Sentinels watch over.
    Sentinel {
        /// The name under which they know it.
        name: String,
        /// Its address now.
        master: String,
        /// Replicas that are connected to it; none if it does not say.
        replicas: Option<usize>,
        /// How many Sentinels the settings name.
        sentinels: usize,
        /// Those of them which do not answer, or would not agree on a failover now: address and reason.
        failing: Vec<(String, String)>,
    },
    /// A Redis Cluster.
    Cluster {
        /// Nodes that own slots.
        masters: usize,
        /// Those of them that say that the cluster is not whole, or say nothing: address and reason.
        failing: Vec<(String, String)>,
        /// Where the queues are.
        queues: Vec<QueuePlace>,
    },
}

/// Where a queue is in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// The queue.
    pub queue: QueueName,
    /// The slot in which all its keys are.
    pub slot: u16,
    /// The node that owns it; none if no node does.
    pub node: Option<String>,
    /// Whether the slot is being moved: until that is finished, the queue waits.
    pub moving: bool,
}

impl Store {
    /// Looks at how the servers are arranged, and at where these queues are.
    ///
    /// # Errors
    /// When nobody says where Redis is.
    pub async fn layout(&self, queues: &[QueueName]) -> Result<Layout, StoreError> {
        if let Some(sentinels) = self.link().topology().sentinels() {
            return self.sentinel_layout(sentinels).await;
        }
        if self.link().topology().is_cluster() {
            return self.cluster_layout(queues).await;
        }
        Ok(Layout::Single)
    }

    async fn sentinel_layout(&self, sentinels: &Sentinels) -> Result<Layout, StoreError> {
        let master = self.link().topology().locate(0).await?.to_string();
        let checked = join_all(sentinels.addresses.iter().map(|address| async move {
            let failed = sentinels.check(address).await.err()?;
            Some((address.to_string(), failed.to_string()))
        }));
        let failing = checked.await.into_iter().flatten().collect();
        let replicas = match self.link().of(0).await?.send::<Vec<Value>>(&redis::cmd("ROLE")).await {
            Ok(role) => match role.get(2) {
                Some(Value::Array(replicas)) => Some(replicas.len()),
                _ => None,
            },
            // This user may not ask, or it is away: that is said elsewhere, and what the Sentinels say is worth the more.
            Err(_) => None,
        };
        let (name, count) = (sentinels.master.clone(), sentinels.addresses.len());
        Ok(Layout::Sentinel { name, master, replicas, sentinels: count, failing })
    }

    async fn cluster_layout(&self, queues: &[QueueName]) -> Result<Layout, StoreError> {
        let links = self.link().all().await?;
        let mut cmd = redis::cmd("CLUSTER");
        cmd.arg("INFO");
        let states = join_all(links.iter().map(|(address, link)| {
            let cmd = &cmd;
            async move {
                let reason = match link.send::<String>(cmd).await {
                    Ok(info) if info.lines().any(|line| line.trim() == "cluster_state:ok") => return None,
                    Ok(_) => "says that the cluster is not whole".to_owned(),
                    Err(error) => error.to_string(),
                };
                Some((address.clone(), reason))
            }
        }));
        let failing = states.await.into_iter().flatten().collect();
        let mut places = Vec::new();
        for queue in queues {
            let slot = slot_of(Keys::new(queue).prefix.as_bytes());
            let node = self.link().topology().locate(slot).await.ok().map(|place| place.to_string());
            let moving = match &node {
                Some(_) => self.is_moving(slot).await,
                None => false,
            };
            places.push(QueuePlace { queue: queue.clone(), slot, node, moving });
        }
        Ok(Layout::Cluster { masters: links.len(), failing, queues: places })
    }

    /// Whether the owner of a slot says that it is being moved; not, if it does not answer.
    async fn is_moving(&self, slot: u16) -> bool {
        let mut cmd = redis::cmd("CLUSTER");
        cmd.arg("NODES");
        let Ok(link) = self.link().of(slot).await else { return false };
        let nodes: String = link.send(&cmd).await.unwrap_or_default();
        // A node tells this of itself alone: [slot->-target] or [slot-<-source].
        let mark = format!("[{slot}-");
        nodes.lines().filter(|line| line.contains("myself")).any(|line| line.contains(&mark))
    }
}
