//! A way to a server that can be broken. It carries bytes and knows no protocol.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What happens to bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    /// They arrive.
    Fair,
    /// Connections are closed as soon as they are made.
    Refuse,
    /// They wait. What a client sent before it gave up still arrives afterwards.
    Hold,
    /// Requests arrive; of an answer so many bytes do, and then the connection is closed.
    CutReply(usize),
}

#[derive(Clone, Copy)]
struct Sky {
    weather: Weather,
    /// Connections older than this are closed.
    era: u64,
}

/// One way, on a port of its own.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    sky: watch::Sender<Sky>,
    accepting: JoinHandle<()>,
}

impl std::fmt::Debug for Sky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.weather.fmt(f)
    }
}

impl Proxy {
    /// A way to a port of this machine.
    pub(crate) async fn new(upstream: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let sky = watch::channel(Sky { weather: Weather::Fair, era: 0 }).0;
        let above = sky.clone();
        let accepting = tokio::spawn(async move {
            // An accept that fails is tried again: descriptors may be short for a moment.
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let sky = above.subscribe();
                if sky.borrow().weather != Weather::Refuse {
                    tokio::spawn(carry(client, upstream, sky));
                }
            }
        });
        Ok(Self { port, sky, accepting })
    }

    /// Changes the weather, for connections that stand as well.
    pub(crate) fn set(&self, weather: Weather) {
        self.sky.send_modify(|sky| {
            sky.weather = weather;
            sky.era += u64::from(weather == Weather::Refuse);
        });
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        self.sky.send_modify(|sky| sky.era += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, upstream: u16, sky: watch::Receiver<Sky>) {
    let born = sky.borrow().era;
    // A server that is down: the client is hung up on, as it would be.
    let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, upstream))).await else { return };
    for stream in [&client, &server] {
        // Without it small answers wait for acknowledgements; that it cannot be set means that the stream is closed already.
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (closing, closed) = watch::channel(false);
    let closing = Arc::new(closing);
    let cut = async {
        let mut sky = sky.clone();
        // The proxy is gone: so is the connection.
        let _ = sky.wait_for(|sky| sky.era > born).await;
    };
    let there = pump(from_client, to_server, sky.clone(), closed.clone(), false);
    let back = async {
        pump(from_server, to_client, sky.clone(), closed, true).await;
        closing.send_replace(true);
    };
    tokio::select! {
        () = cut => {}
        _ = async { tokio::join!(there, back) } => {}
    }
}

/// Carries one direction until its end.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut sky: watch::Receiver<Sky>,
    mut closed: watch::Receiver<bool>,
    is_reply: bool,
) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // The server hung up: there is nobody to ask any more.
            _ = closed.wait_for(|closed| *closed) => return,
        };
        let Ok(length @ 1..) = read else { break };
        let Ok(now) = sky.wait_for(|sky| sky.weather != Weather::Hold).await.map(|sky| sky.weather) else { return };
        match now {
            Weather::CutReply(bytes) if is_reply => {
                let _ = to.write_all(&buffer[..length.min(bytes)]).await;
                return;
            }
            _ if to.write_all(&buffer[..length]).await.is_err() => return,
            _ => {}
        }
    }
    // Half closed: the other direction may have something to say.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A server that answers every byte with two.
    async fn doubling() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        stream.write_all(&[byte, byte]).await.unwrap();
                    }
                });
            }
        });
        port
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).await.unwrap()
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<u16> {
        stream.write_u8(1).await?;
        stream.read_u16().await
    }

    #[tokio::test]
    async fn each_weather_does_what_it_says_and_fair_weather_comes_back() {
        let proxy = Proxy::new(doubling().await).await.unwrap();
        let mut old = connect(&proxy).await;
        assert_eq!(ask(&mut old).await.unwrap(), 0x0101);

        proxy.cut();
        assert!(ask(&mut old).await.is_err(), "it was closed");
        let mut old = connect(&proxy).await;
        assert_eq!(ask(&mut old).await.unwrap(), 0x0101);

        proxy.set(Weather::Refuse);
        assert!(ask(&mut old).await.is_err() && ask(&mut connect(&proxy).await).await.is_err());

        proxy.set(Weather::CutReply(1));
        let mut cut = connect(&proxy).await;
        cut.write_u8(1).await.unwrap();
        assert_eq!(cut.read_u8().await.unwrap(), 1);
        assert!(cut.read_u8().await.is_err(), "the second byte was cut off");

        proxy.set(Weather::Hold);
        let mut held = connect(&proxy).await;
        held.write_u8(1).await.unwrap();
        let mut answer = Box::pin(held.read_u16());
        assert!(futures::poll!(&mut answer).is_pending());
        proxy.set(Weather::Fair);
        assert_eq!(answer.await.unwrap(), 0x0101, "what was held back arrives");
    }
}
