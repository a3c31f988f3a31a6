//! A client of Redis' protocol, as small as private servers need it: this crate depends on no other's.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{Error, io_error};

/// Above the time for which a server may be busy moving keys.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a private server answers is small; more is not read.
const MAX_LENGTH: usize = 64 << 20;

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A word such as `OK`, or any text.
    Text(Vec<u8>),
    /// A number.
    Number(i64),
    /// A list.
    List(Vec<Reply>),
    /// Nothing.
    Nil,
}

impl Reply {
    /// As text, with whatever is none replaced; empty if it is a number, a list or nothing.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        }
    }

    /// As a list; empty if it is none.
    #[must_use]
    pub fn list(&self) -> &[Reply] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }
}

/// A connection to a server on 127.0.0.1.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(port: u16, password: &str) -> Result<Self, Error> {
        let open = || -> io::Result<TcpStream> {
            let stream =
                TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_secs(1))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = open().map_err(io_error(format!("cannot connect to the Redis on port {port}")))?;
        let mut connection = Self { stream: BufReader::new(stream) };
        connection.command(&["AUTH", password])?;
        Ok(connection)
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply, Error> {
        let name = args.first().map(|name| String::from_utf8_lossy(name.as_ref()).into_owned()).unwrap_or_default();
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            bytes.extend_from_slice(format!("${}\r\n", arg.as_ref().len()).as_bytes());
            bytes.extend_from_slice(arg.as_ref());
            bytes.extend_from_slice(b"\r\n");
        }
        let asked = self.stream.get_mut().write_all(&bytes).and_then(|()| self.read());
        // Arguments are not repeated: one may be a password.
        let answer = asked.map_err(io_error(format!("cannot send {name} to a private Redis")))?;
        answer.map_err(|answer| Error::Refused { command: name, answer })
    }

    /// The inner result is the server's: its error, if it answers with one.
    fn read(&mut self) -> io::Result<Result<Reply, String>> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut line = String::new();
        if self.stream.by_ref().take(64 << 10).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (sort, rest) = line.trim_end().split_at_checked(1).ok_or_else(|| wrong("an empty line"))?;
        let length = || match rest.parse::<i64>() {
            Ok(-1) => Ok(None),
            Ok(length) => match usize::try_from(length) {
                Ok(length) if length <= MAX_LENGTH => Ok(Some(length)),
                _ => Err(wrong("a length that cannot be")),
            },
            Err(_) => Err(wrong("no length")),
        };
        Ok(Ok(match sort {
            "+" => Reply::Text(rest.as_bytes().to_vec()),
            "-" => return Ok(Err(rest.to_owned())),
            ":" => Reply::Number(rest.parse().map_err(|_| wrong("no number"))?),
            "$" => match length()? {
                None => Reply::Nil,
                Some(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Reply::Text(bytes)
                }
            },
            "*" => match length()? {
                None => Reply::Nil,
                Some(length) => {
                    let mut list = Vec::new();
                    for _ in 0..length {
                        match self.read()? {
                            Ok(item) => list.push(item),
                            Err(refused) => return Ok(Err(refused)),
                        }
                    }
                    Reply::List(list)
                }
            },
            _ => return Err(wrong("an answer of an unknown sort")),
        }))
    }
}
