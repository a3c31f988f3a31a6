//! A TCP proxy that can lose what the server answers, or hold back what a client asks.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What happens to what is sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    /// It arrives.
    Fair,
    /// Requests arrive; their answers are lost, and the connection with them.
    LoseAnswers,
    /// Requests arrive; of their answers so many bytes do, and the connection is lost.
    CutAnswers(usize),
    /// Requests are held back until they are released, even if nobody waits for the answer any more.
    HoldRequests,
}

#[derive(Debug)]
struct Sky {
    weather: watch::Sender<Weather>,
    /// How many requests were held back so far, and whether they may go on.
    held: watch::Sender<usize>,
    released: watch::Sender<bool>,
    /// What the server answered to requests that had been held back.
    late: Mutex<Vec<u8>>,
}

/// A proxy on a port of its own.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    sky: Arc<Sky>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn new(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sky = Arc::new(Sky {
            weather: watch::channel(Weather::Fair).0,
            held: watch::channel(0).0,
            released: watch::channel(false).0,
            late: Mutex::default(),
        });
        let above = Arc::clone(&sky);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, upstream))).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let was_held = Arc::new(watch::channel(false).0);
                tokio::spawn(requests(from_client, to_server, Arc::clone(&above), Arc::clone(&was_held)));
                tokio::spawn(answers(from_server, to_client, Arc::clone(&above), was_held));
            }
        });
        Self { port, sky, accepting }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.sky.weather.send_replace(weather);
    }

    /// Waits until a request was held back.
    pub(crate) async fn until_held(&self) {
        self.sky.held.subscribe().wait_for(|held| *held > 0).await.unwrap();
    }

    /// Lets what was held back go on.
    pub(crate) fn release(&self) {
        self.sky.released.send_replace(true);
    }

    pub(crate) fn late_answers(&self) -> String {
        String::from_utf8_lossy(&self.sky.late.lock().unwrap()).into_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, sky: Arc<Sky>, was_held: Arc<watch::Sender<bool>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if *sky.weather.borrow() == Weather::HoldRequests {
            was_held.send_replace(true);
            sky.held.send_modify(|held| *held += 1);
            if sky.released.subscribe().wait_for(|released| *released).await.is_err() {
                return;
            }
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // Who hung up while his request was held back does not call it back: the answer is still read.
    if *was_held.borrow() {
        was_held.subscribe().wait_for(|held| !*held).await.ok();
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, sky: Arc<Sky>, was_held: Arc<watch::Sender<bool>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if *was_held.borrow() {
            sky.late.lock().unwrap().extend_from_slice(&buffer[..length]);
            was_held.send_replace(false);
            continue;
        }
        let weather = *sky.weather.borrow();
        let arrives = match weather {
            Weather::LoseAnswers => return,
            Weather::CutAnswers(bytes) => bytes.min(length),
            Weather::Fair | Weather::HoldRequests => length,
        };
        if to.write_all(&buffer[..arrives]).await.is_err() || arrives < length {
            return;
        }
    }
}
