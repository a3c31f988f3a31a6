//! Passwords and ports: the only randomness a private server needs.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};

use crate::error::{Error, io_error};

/// Ports below the ranges from which Linux (32768) and macOS (49152) take the local port of an outgoing connection.
///
/// While a server is down its clients keep connecting to its port. Were the port in that range, such an attempt could
/// be given the very same number as its local port, connect to itself, and keep the server from coming back.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// 128 random bits in hexadecimal: needs no escaping in a URL, a configuration file or SQL.
pub(crate) fn password() -> Result<String, Error> {
    Ok(bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A port of 127.0.0.1 that nobody listens on at this moment. The caller retries when it is taken before it is used.
pub(crate) fn free_port() -> Result<u16, Error> {
    let mut last = None;
    for _ in 0..100 {
        let port = PORTS.start + u16::from_le_bytes(bytes()?) % (PORTS.end - PORTS.start);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    let last = last.expect("the loop ran and did not return");
    Err(io_error(format!("no free port found on 127.0.0.1 in {PORTS:?}"))(last))
}

fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(io_error("cannot read /dev/urandom"))?;
    Ok(bytes)
}
