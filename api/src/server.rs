//! Listening and serving over HTTP/1: bounded in connections and time, ended in two steps.
//!
//! Not `axum::serve`: it neither limits connections nor the time in which a client sends its request's head, so that a few
//! thousand silent clients would hold it for ever.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use windrow_queue::shutdown::Shutdown;

/// Longest time for a request's head, and for a connection between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for a request's head.
const HEAD_BYTES: usize = 32 * 1024;
/// Pause after a failed accept (no file descriptor left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How much a server takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long requests in flight may go on after the soft stop.
    pub grace: Duration,
}

/// A port that is ours.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes the port. `setting` is the name of the setting that holds the address, for the error.
    ///
    /// # Errors
    /// When the port is taken, or may not be taken.
    pub async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::AddrInUse => "another process listens there: end it, or choose another port",
                io::ErrorKind::PermissionDenied => "this user may not listen there: choose a port above 1023",
                io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
                _ => "choose another address",
            };
            anyhow::anyhow!("cannot listen on {address} ({setting}): {advice} ({error})")
        })?;
        let address = listener.local_addr().context("the listener has no address")?;
        Ok(Self { listener, address })
    }

    /// Where it listens: with the real port where port 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the soft stop, then lets requests in flight finish within the grace period.
    pub async fn serve(self, router: Router, limits: Limits, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(limits.max_connections));
        let graceful = GracefulShutdown::new();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
        while let Some((slot, accepted)) = shutdown.soft.run_until_cancelled(self.accept(&slots)).await {
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "a connection could not be accepted");
                    shutdown.soft.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
                    continue;
                }
            };
            let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
            let (connection, cut) = (graceful.watch(connection), cut.clone());
            tokio::spawn(async move {
                if let Some(Err(error)) = cut.run_until_cancelled(connection).await {
                    tracing::debug!(%error, "a connection ended early");
                }
                drop(slot);
            });
        }
        drop(self.listener);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(limits.grace) => {
                tracing::warn!(address = %self.address, "requests were still running when the grace period ended");
            }
            () = shutdown.hard.cancelled() => {}
        }
    }

    async fn accept(
        &self,
        slots: &Arc<Semaphore>,
    ) -> (tokio::sync::OwnedSemaphorePermit, io::Result<(tokio::net::TcpStream, SocketAddr)>) {
        let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
        (slot, self.listener.accept().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_setting_and_what_to_do() {
        let first = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "api.listen").await.unwrap();
        let error = Listener::bind(first.address(), "worker.listen").await.unwrap_err().to_string();
        assert!(error.contains("worker.listen") && error.contains("another process listens there"), "{error}");
    }
}
