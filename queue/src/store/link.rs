//! One connection to Redis that is made when it is needed and made again when it broke.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError, ServerErrorKind, Value, aio::MultiplexedConnection,
};

use super::{
    Metrics, StoreError,
    script::{Call, NamedScript},
    topology::{Address, Place, Topology},
};

/// How long an answer may take. Above the longest script, far below a lease.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Whose connection it is.
pub(crate) enum Target {
    /// The server of this slot, wherever that is when the connection is made.
    Slot(u16),
    /// One node of a cluster.
    Node(Address),
}

/// A connection shared by everybody who has the link.
pub(crate) struct Link {
    topology: Arc<Topology>,
    target: Target,
    timeout: Duration,
    current: Mutex<Current>,
    metrics: Metrics,
}

#[derive(Default)]
struct Current {
    /// Rises with every new connection.
    number: u64,
    connection: Option<Connection>,
}

#[derive(Clone)]
struct Connection {
    number: u64,
    redis: MultiplexedConnection,
    /// Where it leads, and the search that found that.
    address: Option<Address>,
    search: u64,
}

impl Link {
    /// A link on which an answer may take `timeout`, which is above the time for which its commands block.
    pub(crate) fn new(topology: Arc<Topology>, target: Target, timeout: Duration, metrics: &Metrics) -> Self {
        Self { topology, target, timeout, current: Mutex::default(), metrics: Metrics::clone(metrics) }
    }

    async fn connection(&self) -> Result<Connection, StoreError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).connection.clone();
        if let Some(connection) = current {
            return Ok(connection);
        }
        let place = match &self.target {
            Target::Slot(slot) => self.topology.locate(*slot).await?,
            Target::Node(address) => self.topology.at(address),
        };
        // Several callers may connect at the same time after a break; the last one's connection is kept.
        let redis = self.connect(&place).await.inspect_err(|_| self.topology.doubt(place.number))?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.number += 1;
        let connection = Connection { number: current.number, redis, address: place.address, search: place.number };
        current.connection = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self, place: &Place) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.timeout));
        let client = Client::open(place.info.clone())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if self.topology.sentinels().is_some() {
            // A Sentinel may name a server that was the master until now, or is not yet.
            let role: Result<Vec<Value>, RedisError> = redis::cmd("ROLE").query_async(&mut connection).await;
            match role {
                Ok(role) if !matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") => {
                    return Err(not_a_master(place).into());
                }
                // A user who may not ask learns of a replica when it refuses to write.
                Err(error) if error.code() != Some("NOPERM") => return Err(error.into()),
                _ => {}
            }
        }
        Ok(connection)
    }

    fn drop_connection(&self, number: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.number == number {
            current.connection = None;
        }
    }

    /// Draws from an error what it says of the connection and of where Redis is.
    fn learn(&self, connection: &Connection, error: &RedisError) {
        if let (Some("MOVED"), Some((to, slot)), Some(asked)) =
            (error.code(), error.redirect_node(), &connection.address)
        {
            if let Some(to) = Address::of_server(to, asked) {
                self.topology.moved(slot, to);
            }
            self.drop_connection(connection.number);
        } else if is_broken(error) {
            self.topology.doubt(connection.search);
            self.drop_connection(connection.number);
        }
    }

    fn refused(&self, connection: &Connection, error: RedisError) -> StoreError {
        self.learn(connection, &error);
        self.topology.judge(&error).unwrap_or_else(|| StoreError::from(error))
    }

    /// Sends a command. It is not sent again after an error: what it did is not known then.
    pub(crate) async fn send<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let mut connection = self.connection().await?;
        let answer = cmd.query_async(&mut connection.redis).await;
        answer.map_err(|error| self.refused(&connection, error))
    }

    /// Sends a command that blocks at the server. A caller that goes away takes the connection with it: a command left behind
    /// would take what the next one waits for, and hold that one up.
    pub(crate) async fn block<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let mut connection = self.connection().await?;
        let mut guard = Abandoned { link: self, number: Some(connection.number) };
        let answer: Result<T, RedisError> = cmd.query_async(&mut connection.redis).await;
        if answer.is_ok() {
            guard.number = None;
        }
        answer.map_err(|error| self.refused(&connection, error))
    }

    /// Calls a script. One that the server did not know has done nothing: it is loaded, and the call sent again.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &NamedScript, call: &Call) -> Result<T, StoreError> {
        let started = Instant::now();
        let mut connection = self.connection().await?;
        let mut answer = call.cmd.query_async(&mut connection.redis).await;
        if answer.as_ref().is_err_and(|error: &RedisError| error.kind() == ServerErrorKind::NoScript.into()) {
            answer = match script.script.load_async(&mut connection.redis).await {
                Ok(_) => call.cmd.query_async(&mut connection.redis).await,
                Err(error) => Err(error),
            };
        }
        if let Some(metrics) = self.metrics.get() {
            metrics.script.with_label_values(&[script.name]).observe(started.elapsed().as_secs_f64());
        }
        answer.map_err(|error| self.refused(&connection, error).of_script(script.name))
    }
}

/// Drops the connection unless told that its command was answered.
struct Abandoned<'a> {
    link: &'a Link,
    number: Option<u64>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.link.drop_connection(number);
        }
    }
}

fn not_a_master(place: &Place) -> RedisError {
    let address = place.address.as_ref().map(ToString::to_string).unwrap_or_default();
    io::Error::new(io::ErrorKind::NotConnected, format!("{address} is named as the master, and is none")).into()
}

/// Whether nothing more can be expected of the connection. A timeout counts: the answer that comes too late would be taken
/// for the answer to nothing, but the requests queued behind a stuck one would wait for ever. So do the words of a server
/// that is not, or no longer, the one to speak to; `NOREPLICAS` may be those of a master that was cut off and replaced.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.is_timeout()
        || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "UNBLOCKED" | "CLUSTERDOWN" | "NOREPLICAS"))
}
