//! How long Postgres may take for the worker's own statements. A server that vanished without a word would otherwise be waited
//! for until the kernel gives up, a quarter of an hour.

use std::{future::Future, io, time::Duration};

use tokio::time::timeout;

/// Longer than `lock_timeout` and a pool's wait for a connection; about as long as a lease.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for a statement, and takes a server that says nothing for one that is away.
pub(crate) async fn patiently<T, E: From<sqlx::Error>>(statement: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    timeout(PATIENCE, statement).await.unwrap_or_else(|_| {
        let silence = format!("Postgres said nothing for {PATIENCE:?}");
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, silence)).into())
    })
}
