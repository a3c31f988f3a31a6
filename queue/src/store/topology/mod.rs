//! Where Redis is: one server, the master that Sentinels name, or the node of a Cluster that owns a queue's slot.
//!
//! What was found is kept until a connection gives reason to doubt it; then it is searched for anew, once for all who ask.
//! `docs/decisions/0020-sentinel-and-cluster.md` says why this is done here and not by the client library.

mod address;
mod cluster;
mod sentinel;
mod settings;
mod slot;

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, RedisError};
use tokio::sync::Mutex as AsyncMutex;

pub(crate) use address::Address;
use cluster::{Nodes, Slots};
pub(crate) use sentinel::Sentinels;
pub(crate) use slot::slot_of;

use super::StoreError;

/// How long one server is given to say where the others are.
const PATIENCE: Duration = Duration::from_secs(1);
/// A search that failed is not repeated before this: all who waited for it would ask one after the other.
const REPEAT: Duration = Duration::from_millis(100);

/// How the servers are arranged, and where what is.
pub(crate) struct Topology {
    /// User, password, database and TLS, with the address that the settings name.
    redis: ConnectionInfo,
    kind: Kind,
    found: Mutex<Found>,
    failed: AsyncMutex<Option<(Instant, Lost)>>,
}

enum Kind {
    Single,
    Sentinel(Box<Sentinels>),
    Cluster(Nodes),
}

#[derive(Clone, Default)]
struct Found {
    /// Rises with every search.
    number: u64,
    is_doubted: bool,
    map: Option<Arc<Map>>,
}

#[derive(Clone)]
enum Map {
    Master(Address),
    Slots(Slots),
}

/// Where to connect to.
pub(crate) struct Place {
    pub(crate) info: ConnectionInfo,
    /// None for a Unix socket.
    pub(crate) address: Option<Address>,
    /// The search that found it.
    pub(crate) number: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of an address, this leaves out user and password.
        self.info.addr().fmt(f)
    }
}

impl Topology {
    fn of(redis: ConnectionInfo, kind: Kind) -> Self {
        Self { redis, kind, found: Mutex::default(), failed: AsyncMutex::default() }
    }

    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Cluster(_))
    }

    pub(crate) fn sentinels(&self) -> Option<&Sentinels> {
        match &self.kind {
            Kind::Sentinel(sentinels) => Some(sentinels),
            _ => None,
        }
    }

    /// Where the keys of a slot are.
    pub(crate) async fn locate(&self, slot: u16) -> Result<Place, StoreError> {
        let Some((number, map)) = self.map().await? else {
            return Ok(Place { info: self.redis.clone(), address: Address::of_url(&self.redis), number: 0 });
        };
        let address = match &*map {
            Map::Master(address) => Some(address),
            Map::Slots(slots) => slots.owner(slot),
        };
        match address {
            Some(address) => Ok(self.place(address, number)),
            None => {
                self.doubt(number);
                Err(Lost { reasons: vec![format!("no node owns slot {slot}")], ..Lost::default() }.into())
            }
        }
    }

    /// A node that is known already.
    pub(crate) fn at(&self, address: &Address) -> Place {
        self.place(address, self.found().number)
    }

    fn place(&self, address: &Address, number: u64) -> Place {
        Place { info: address.on(&self.redis), address: Some(address.clone()), number }
    }

    /// The nodes of a cluster that own slots.
    pub(crate) async fn masters(&self) -> Result<Vec<Address>, StoreError> {
        Ok(match self.map().await?.as_ref().map(|(_, map)| &**map) {
            None => Vec::new(),
            Some(Map::Master(address)) => vec![address.clone()],
            Some(Map::Slots(slots)) => slots.masters().to_vec(),
        })
    }

    /// A connection broke, or was told that it leads to the wrong place: what that search found is doubted.
    pub(crate) fn doubt(&self, number: u64) {
        let mut found = self.found();
        if found.number == number {
            found.is_doubted = true;
        }
    }

    /// A node said who owns a slot now.
    pub(crate) fn moved(&self, slot: u16, to: Address) {
        let mut found = self.found();
        if let Some(Map::Slots(slots)) = found.map.as_mut().map(Arc::make_mut) {
            slots.moved(slot, to);
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn undoubted(&self) -> Option<(u64, Arc<Map>)> {
        let found = self.found();
        found.map.clone().filter(|_| !found.is_doubted).map(|map| (found.number, map))
    }

    /// What was found; none where nothing has to be searched for.
    async fn map(&self) -> Result<Option<(u64, Arc<Map>)>, StoreError> {
        if matches!(self.kind, Kind::Single) {
            return Ok(None);
        }
        if let Some(found) = self.undoubted() {
            return Ok(Some(found));
        }
        let mut failed = self.failed.lock().await;
        if let Some(found) = self.undoubted() {
            return Ok(Some(found));
        }
        if let Some((at, lost)) = &*failed
            && at.elapsed() < REPEAT
        {
            return Err(lost.clone().into());
        }
        let before = self.found().map.clone();
        match self.search(before.as_deref()).await {
            Ok(map) => {
                let map = Arc::new(map);
                let mut found = self.found();
                *found = Found { number: found.number + 1, is_doubted: false, map: Some(Arc::clone(&map)) };
                Ok(Some((found.number, map)))
            }
            Err(lost) => {
                *failed = Some((Instant::now(), lost.clone()));
                Err(lost.into())
            }
        }
    }

    async fn search(&self, before: Option<&Map>) -> Result<Map, Lost> {
        match &self.kind {
            Kind::Single => Err(Lost::default()),
            Kind::Sentinel(sentinels) => sentinels.search().await.map(Map::Master),
            Kind::Cluster(nodes) => {
                let known = before.map_or(&[][..], |map| match map {
                    Map::Slots(slots) => slots.masters(),
                    Map::Master(_) => &[],
                });
                nodes.search(&self.redis, known).await.map(Map::Slots)
            }
        }
    }

    /// What an error means here, which the same words from another arrangement would not mean.
    pub(crate) fn judge(&self, error: &RedisError) -> Option<StoreError> {
        let is_of_cluster = matches!(error.code(), Some("MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "CROSSSLOT"));
        (is_of_cluster && !self.is_cluster()).then(|| StoreError::Config {
            key: "cluster",
            reason: "is false, but that Redis is a node of a Redis Cluster: set redis.cluster = true".to_owned(),
        })
    }
}

/// Sends one command over a connection of its own, within a second.
async fn ask<T: FromRedisValue>(info: &ConnectionInfo, cmd: &Cmd) -> Result<T, RedisError> {
    let late = || RedisError::from(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}")));
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    let asking = async {
        let client = Client::open(info.clone())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        cmd.query_async(&mut connection).await
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(late()))
}

/// Why nobody could say where Redis is.
#[derive(Clone, Default, Debug)]
pub(crate) struct Lost {
    reasons: Vec<String>,
    /// The setting that a server speaks against, and how.
    wrong: Option<(&'static str, String)>,
    /// Whether a server did not, which may yet say where Redis is.
    may_come: bool,
}

impl Lost {
    /// What a server said, or what became of asking it. The library's errors hold no credentials.
    fn blame(&mut self, server: &Address, reason: impl fmt::Display) {
        self.reasons.push(format!("{server}: {reason}"));
        self.may_come = true;
    }

    /// A server of another sort than the settings say.
    fn blame_setting(&mut self, key: &'static str, server: &Address, reason: &str) {
        self.reasons.push(format!("{server} {reason}"));
        self.wrong = Some((key, format!("is set, but {server} {reason}")));
    }
}

impl From<Lost> for StoreError {
    fn from(lost: Lost) -> Self {
        match lost.wrong {
            Some((key, reason)) if !lost.may_come => Self::Config { key, reason },
            _ => Self::Unavailable(RedisError::from(io::Error::new(
                io::ErrorKind::NotConnected,
                format!("nobody says where it is ({})", lost.reasons.join("; ")),
            ))),
        }
    }
}
