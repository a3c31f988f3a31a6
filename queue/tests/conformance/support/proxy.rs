//! A TCP proxy that can lose what the server answers, or hold back what a client asks.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

/// What happens to the bytes on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    /// They arrive.
    Fair,
    /// Requests arrive; the answer is lost together with the connection.
    LoseAnswers,
    /// Requests wait on the way, and arrive when the weather is fair again, even if nobody waits for the answer any more.
    HoldRequests,
}

/// A proxy on a port of its own.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    weather: Arc<watch::Sender<Weather>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn new(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let weather = Arc::new(watch::channel(Weather::Fair).0);
        let sky = Arc::clone(&weather);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, upstream))).await;
                if let Ok(server) = server {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::spawn(forward_requests(from_client, to_server, sky.subscribe()));
                    tokio::spawn(forward_answers(from_server, to_client, sky.subscribe()));
                }
            }
        });
        Self { port, weather, accepting }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward_requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; 64 << 10];
    // A client that hung up while its request was held back does not call it back.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if weather.wait_for(|weather| *weather != Weather::HoldRequests).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}

async fn forward_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if *weather.borrow() == Weather::LoseAnswers || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
