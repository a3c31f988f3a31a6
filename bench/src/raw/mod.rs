//! The raw limit: the plainest possible scripts that make the same changes of state as the queue does, with the same batch
//! size, connections and persistence. No tenants, no bands, no retries, no metrics, no fencing.

use anyhow::Result;
use redis::{Client, Script, aio::MultiplexedConnection};

/// The scripts and a connection. Cheap to clone: clones share the connection, and their requests are pipelined on it.
#[derive(Clone)]
pub(crate) struct Raw {
    connection: MultiplexedConnection,
    enqueue: Script,
    claim: Script,
    acknowledge: Script,
}

const READY: &str = "raw:ready";
const JOBS: &str = "raw:jobs";
const LEASES: &str = "raw:leases";

impl Raw {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        Ok(Self {
            connection: Client::open(url)?.get_multiplexed_async_connection().await?,
            enqueue: Script::new(include_str!("enqueue.lua")),
            claim: Script::new(include_str!("claim.lua")),
            acknowledge: Script::new(include_str!("acknowledge.lua")),
        })
    }

    /// Puts the jobs of these numbers in, in one call.
    pub(crate) async fn enqueue(&mut self, ids: std::ops::Range<usize>, payload: &[u8]) -> Result<()> {
        let mut call = self.enqueue.key(READY);
        call.key(JOBS);
        for id in ids {
            call.arg(id).arg(payload);
        }
        call.invoke_async::<i64>(&mut self.connection).await?;
        Ok(())
    }

    /// Puts jobs in, `batch` at a time.
    pub(crate) async fn fill(&mut self, jobs: usize, payload: &[u8], batch: usize) -> Result<()> {
        for first in (0..jobs).step_by(batch) {
            self.enqueue(first..(first + batch).min(jobs), payload).await?;
        }
        Ok(())
    }

    /// How many jobs are ready.
    pub(crate) async fn ready(&mut self) -> Result<usize> {
        Ok(redis::cmd("LLEN").arg(READY).query_async(&mut self.connection).await?)
    }

    /// Claims and acknowledges until nothing is left; answers how many.
    pub(crate) async fn drain(&mut self, batch: usize) -> Result<usize> {
        let mut done = 0;
        loop {
            let (ids, payloads): (Vec<String>, Vec<Vec<u8>>) = self
                .claim
                .key(READY)
                .key(JOBS)
                .key(LEASES)
                .arg(batch)
                .arg(1)
                .invoke_async(&mut self.connection)
                .await?;
            if ids.is_empty() {
                return Ok(done);
            }
            anyhow::ensure!(payloads.iter().all(|payload| !payload.is_empty()), "a claimed job had no payload");
            let acknowledged: usize =
                self.acknowledge.key(JOBS).key(LEASES).arg(&ids).invoke_async(&mut self.connection).await?;
            done += acknowledged;
        }
    }
}
