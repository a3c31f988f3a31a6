//! One connection to Redis that is made when it is needed and made again when it broke.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError, ServerErrorKind, aio::MultiplexedConnection,
};

use super::{
    Metrics, StoreError,
    script::{Call, NamedScript},
};

/// How long an answer may take. Above the longest script, far below a lease.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection shared by everybody who has the link.
pub(crate) struct Link {
    client: Client,
    timeout: Duration,
    current: Mutex<(u64, Option<MultiplexedConnection>)>,
    metrics: Metrics,
}

impl Link {
    pub(crate) fn new(client: Client, metrics: &Metrics) -> Self {
        Self::with_timeout(client, metrics, RESPONSE_TIMEOUT)
    }

    /// A link for commands that block up to `timeout` at the server.
    pub(crate) fn with_timeout(client: Client, metrics: &Metrics, timeout: Duration) -> Self {
        Self { client, timeout, current: Mutex::new((0, None)), metrics: Metrics::clone(metrics) }
    }

    fn current(&self) -> (u64, Option<MultiplexedConnection>) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connection and its number; the number rises with every new connection.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), StoreError> {
        if let (number, Some(connection)) = self.current() {
            return Ok((number, connection));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.timeout));
        // Several callers may connect at the same time after a break; the last one's connection is kept.
        let connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(StoreError::from)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.0 += 1;
        current.1 = Some(connection.clone());
        Ok((current.0, connection))
    }

    fn drop_connection(&self, number: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == number {
            current.1 = None;
        }
    }

    /// Sends a command. It is not sent again after an error: what it did is not known then.
    pub(crate) async fn send<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let (number, mut connection) = self.connection().await?;
        cmd.query_async(&mut connection).await.map_err(|error| {
            if is_broken(&error) {
                self.drop_connection(number);
            }
            StoreError::from(error)
        })
    }

    /// Sends a command that blocks at the server. A caller that goes away takes the connection with it: a command left behind
    /// would take what the next one waits for, and hold that one up.
    pub(crate) async fn block<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let (number, mut connection) = self.connection().await?;
        let mut guard = Abandoned { link: self, number: Some(number) };
        let answer: Result<T, RedisError> = cmd.query_async(&mut connection).await;
        if answer.is_ok() {
            guard.number = None;
        }
        answer.map_err(StoreError::from)
    }

    /// Calls a script. One that the server did not know has done nothing: it is loaded, and the call sent again.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &NamedScript, call: &Call) -> Result<T, StoreError> {
        let started = Instant::now();
        let (number, mut connection) = self.connection().await?;
        let mut answer = call.cmd.query_async(&mut connection).await;
        if answer.as_ref().is_err_and(|error: &RedisError| error.kind() == ServerErrorKind::NoScript.into()) {
            answer = match script.script.load_async(&mut connection).await {
                Ok(_) => call.cmd.query_async(&mut connection).await,
                Err(error) => Err(error),
            };
        }
        if let Some(metrics) = self.metrics.get() {
            metrics.script.with_label_values(&[script.name]).observe(started.elapsed().as_secs_f64());
        }
        answer.map_err(|error| {
            if is_broken(&error) {
                self.drop_connection(number);
            }
            StoreError::of_script(script.name, error)
        })
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

/// Whether nothing more can be expected of the connection. A timeout counts: the answer that comes too late would be taken
/// for the answer to nothing, but the requests queued behind a stuck one would wait for ever.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.is_timeout()
        || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "UNBLOCKED"))
}
