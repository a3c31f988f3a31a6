//! Behind Redis Sentinel: which server is the master now.
//!
//! All Sentinels are asked at once, and the address that most of those which answer name is taken, as soon as no other can
//! have more: one that was cut off, and still believes in the old master, is outvoted.

use std::collections::HashMap;

use futures::{StreamExt, stream::FuturesUnordered};
use redis::{ConnectionInfo, RedisError};

use super::{Address, Lost, ask};

/// The Sentinels, and what to ask them.
pub(crate) struct Sentinels {
    pub(crate) master: String,
    pub(crate) addresses: Vec<Address>,
    /// How to connect to them: their own user and password, TLS like Redis'.
    pub(crate) info: ConnectionInfo,
}

impl Sentinels {
    /// The address of the master.
    pub(crate) async fn search(&self) -> Result<Address, Lost> {
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(async |address| (address, self.ask(address).await)).collect();
        let mut votes: HashMap<Address, usize> = HashMap::new();
        let mut lost = Lost::default();
        while let Some((address, answer)) = asked.next().await {
            match answer {
                Ok(Some((host, port))) => *votes.entry(Address::named(&host, port, address)).or_default() += 1,
                Ok(None) => lost.blame(address, format!("knows no master named {:?}", self.master)),
                Err(error) if error.detail().is_some_and(|detail| detail.contains("unknown command")) => {
                    lost.blame_setting("sentinel_master", address, "is no Sentinel");
                }
                Err(error) => lost.blame(address, error),
            }
            if votes.values().any(|&count| 2 * count > self.addresses.len()) {
                break;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address).ok_or(lost)
    }

    /// Whether a Sentinel is there, and sees enough others for a failover.
    pub(crate) async fn check(&self, address: &Address) -> Result<(), RedisError> {
        let mut cmd = redis::cmd("SENTINEL");
        ask::<String>(&address.on(&self.info), cmd.arg("CKQUORUM").arg(&self.master)).await.map(drop)
    }

    async fn ask(&self, address: &Address) -> Result<Option<(String, u16)>, RedisError> {
        let mut cmd = redis::cmd("SENTINEL");
        ask(&address.on(&self.info), cmd.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master)).await
    }
}
