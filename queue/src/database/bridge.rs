//! The way through a pooler in transaction mode that knows nothing of prepared statements (pgbouncer before 1.21).
//!
//! Such a pooler may give each transaction another server connection, and a statement by itself is one: what was prepared in one
//! is unknown in the next, or is what somebody else prepared under that name. The driver prepares in one step and executes in
//! another. So its connections lead through here, on this machine's loopback, where each execution gets its preparation put in
//! front, unnamed, in one piece with it:
//!
//! ```text
//! driver                                        pooler
//! Parse "s1" …, Describe "s1", Sync        ->   Parse "" …, Describe "", Sync            the text is remembered
//! Bind "s1" …, Execute, Close portal, Sync ->   Parse "" …, Bind "" …, Execute, Close portal, Sync
//! ```
//!
//! The driver passes over the one answer more (ParseComplete) that it gets. Answers are not looked at. What it costs: each
//! execution is planned anew, and a local copy. TLS ends at whoever speaks it, which is the driver: with a pooler that asks for
//! it, this way is refused.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, TcpListener as StdListener},
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// More than the driver ever sends before it is let in.
const LONGEST_STARTUP: usize = 16 * 1024;

/// More than PostgreSQL takes.
const LONGEST_MESSAGE: usize = 1 << 30;

/// What goes not together with `database.prepared = false`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unbridged {
    /// The URL asks for TLS.
    #[error(
        "asks for TLS, which does not go together with database.prepared = false: use pgbouncer 1.21 or newer with \
         max_prepared_statements and leave database.prepared on, or a pgbouncer on this machine with sslmode=disable"
    )]
    Tls,
    /// The URL names a socket.
    #[error(
        "names a socket, which does not go together with database.prepared = false: give the pooler's host and port"
    )]
    Socket,
}

impl From<Unbridged> for sqlx::Error {
    fn from(refusal: Unbridged) -> Self {
        Self::Configuration(refusal.into())
    }
}

/// A pool whose connections lead through a bridge, which ends with it.
///
/// # Errors
/// When the URL asks for TLS, or no port is free.
pub(super) fn pool(pool: PgPoolOptions, upstream: PgConnectOptions) -> Result<PgPool, sqlx::Error> {
    if matches!(upstream.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
        return Err(Unbridged::Tls.into());
    }
    if upstream.get_socket().is_some() || upstream.get_host().starts_with('/') {
        return Err(Unbridged::Socket.into());
    }
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    let way = (upstream.get_host().to_owned(), upstream.get_port());
    let here = upstream.ssl_mode(PgSslMode::Disable).host(&address.ip().to_string()).port(address.port());
    let pool = pool.connect_lazy_with(here);
    let closed = pool.close_event();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((driver, _)) => drop(connections.spawn(carry(driver, way.clone()))),
                    // Of one connection, or no file is free: the driver tries again.
                    Err(_) => tokio::task::yield_now().await,
                }
                while connections.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = accepting => {}
            () = closed => {}
        }
        // What the pool still says goodbye to is let through.
        while connections.join_next().await.is_some() {}
    });
    Ok(pool)
}

/// Carries one connection until either side ends it.
async fn carry(mut driver: TcpStream, way: (String, u16)) {
    let result = async {
        driver.set_nodelay(true)?;
        let startup = startup(&mut driver).await?;
        match TcpStream::connect((&*way.0, way.1)).await {
            Ok(pooler) => {
                pooler.set_nodelay(true)?;
                exchange(driver, pooler, &startup).await
            }
            Err(error) => {
                // As a server says it that cannot go on.
                let said = format!("the pooler of database.url cannot be reached: {error}");
                driver.write_all(&refusal(&said)).await?;
                driver.shutdown().await
            }
        }
    };
    if let Err(error) = result.await {
        // The driver notices by itself, and says so where it matters.
        tracing::debug!(%error, "a connection to the database was cut");
    }
}

/// The message with which a connection begins: it has a length and no type.
async fn startup(driver: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    driver.read_exact(&mut length).await?;
    let total = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(8..=LONGEST_STARTUP).contains(&total) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no beginning of a connection"));
    }
    let mut message = length.to_vec();
    message.resize(total, 0);
    driver.read_exact(&mut message[4..]).await?;
    Ok(message)
}

fn refusal(text: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C08001\0M{}\0\0", text.replace('\0', " "));
    let mut message = Vec::new();
    write_message(&mut message, b'E', &[fields.as_bytes()]);
    message
}

async fn exchange(driver: TcpStream, pooler: TcpStream, startup: &[u8]) -> io::Result<()> {
    let (mut from_driver, mut to_driver) = driver.into_split();
    let (mut from_pooler, mut to_pooler) = pooler.into_split();
    to_pooler.write_all(startup).await?;
    let there = async {
        let mut rewriter = Rewriter::default();
        let (mut read, mut write) = (Vec::with_capacity(16 * 1024), Vec::with_capacity(16 * 1024));
        while from_driver.read_buf(&mut read).await? > 0 {
            let taken = rewriter.rewrite(&read, &mut write)?;
            read.drain(..taken);
            to_pooler.write_all(&write).await?;
            write.clear();
        }
        Ok(())
    };
    let back = async { tokio::io::copy(&mut from_pooler, &mut to_driver).await.map(drop) };
    // Whichever side ends first ends the other.
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}

/// Puts preparations in front of executions.
#[derive(Debug, Default)]
struct Rewriter {
    /// What stands behind the name in each statement's Parse: as many as the driver caches.
    prepared: HashMap<Vec<u8>, Vec<u8>>,
}

impl Rewriter {
    /// Rewrites all messages that are whole; returns how many bytes they had.
    fn rewrite(&mut self, read: &[u8], write: &mut Vec<u8>) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(header) = read[taken..].first_chunk::<5>() {
            let [kind, length @ ..] = *header;
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if !(4..=LONGEST_MESSAGE).contains(&length) {
                return Err(broken());
            }
            let Some(body) = read.get(taken + 5..taken + 1 + length) else { break };
            self.message(kind, body, write)?;
            taken += 1 + length;
        }
        Ok(taken)
    }

    fn message(&mut self, kind: u8, body: &[u8], write: &mut Vec<u8>) -> io::Result<()> {
        match (kind, body.first()) {
            (b'P', _) => {
                let (name, rest) = text(body)?;
                if !name.is_empty() {
                    self.prepared.insert(name.to_vec(), rest.to_vec());
                }
                write_message(write, b'P', &[b"\0", rest]);
            }
            (b'B', _) => {
                let (portal, rest) = text(body)?;
                let (name, rest) = text(rest)?;
                if let Some(prepared) = self.prepared.get(name) {
                    write_message(write, b'P', &[b"\0", prepared]);
                }
                write_message(write, b'B', &[portal, b"\0\0", rest]);
            }
            // Described is only what was prepared just before.
            (b'D', Some(b'S')) => write_message(write, b'D', &[b"S\0"]),
            (b'C', Some(b'S')) => {
                self.prepared.remove(text(&body[1..])?.0);
                write_message(write, b'C', &[b"S\0"]);
            }
            _ => write_message(write, kind, &[body]),
        }
        Ok(())
    }
}

fn write_message(write: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    write.push(kind);
    write.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    parts.iter().for_each(|part| write.extend_from_slice(part));
}

/// A text up to its NUL, and what stands behind it.
fn text(bytes: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or_else(broken)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message to the database is broken")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        write_message(&mut message, kind, &[body]);
        message
    }

    #[test]
    fn every_execution_has_its_preparation_in_front_whichever_connection_it_meets() {
        let mut rewriter = Rewriter::default();
        let mut rewrite = |messages: &[Vec<u8>]| {
            let mut write = Vec::new();
            let read = messages.concat();
            assert_eq!(rewriter.rewrite(&read, &mut write).unwrap(), read.len());
            write
        };
        let parse = message(b'P', b"s1\0SELECT $1\0\0\x01\0\0\0\x17");
        let unnamed = message(b'P', b"\0SELECT $1\0\0\x01\0\0\0\x17");
        let sync = message(b'S', b"");
        let prepared = rewrite(&[parse, message(b'D', b"Ss1\0"), sync.clone()]);
        assert_eq!(prepared, [unnamed.clone(), message(b'D', b"S\0"), sync.clone()].concat());
        let execute = message(b'E', b"\0\0\0\0\0");
        for _ in 0..2 {
            let bound = rewrite(&[message(b'B', b"\0s1\0rest"), execute.clone(), message(b'C', b"P\0"), sync.clone()]);
            let expected =
                [unnamed.clone(), message(b'B', b"\0\0rest"), execute.clone(), message(b'C', b"P\0"), sync.clone()];
            assert_eq!(bound, expected.concat());
        }
        assert_eq!(rewrite(&[message(b'C', b"Ss1\0")]), message(b'C', b"S\0"));
        // Unnamed ones and the simple protocol stay as they are.
        for plain in
            [message(b'B', b"\0\0rest"), message(b'Q', b"BEGIN\0"), message(b'd', b"copied"), message(b'X', b"")]
        {
            assert_eq!(rewrite(std::slice::from_ref(&plain)), plain);
        }
    }

    #[test]
    fn messages_may_come_in_any_pieces_and_broken_ones_are_refused() {
        let whole = [message(b'P', b"s1\0SELECT 1\0\0\0"), message(b'B', b"\0s1\0x"), message(b'S', b"")].concat();
        let mut at_once = Vec::new();
        Rewriter::default().rewrite(&whole, &mut at_once).unwrap();
        let (mut rewriter, mut read, mut write) = (Rewriter::default(), Vec::new(), Vec::new());
        for byte in whole {
            read.push(byte);
            let taken = rewriter.rewrite(&read, &mut write).unwrap();
            read.drain(..taken);
        }
        assert_eq!((write, read), (at_once, Vec::new()));
        for broken in [&b"P\0\0\0\x03"[..], b"P\0\0\0\x06ab", b"B\0\0\0\x06a\0", b"Q\xff\xff\xff\xff"] {
            assert!(Rewriter::default().rewrite(broken, &mut Vec::new()).is_err(), "{broken:?}");
        }
    }
}
