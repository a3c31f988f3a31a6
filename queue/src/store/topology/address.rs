//! The address of a server, as servers and people write it.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo};

/// Host and port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Reads `host`, `host:port`, `[::1]` or `[::1]:port`. Anything else, such as a URL with its password, is none.
    pub(crate) fn parse(text: &str, default_port: u16) -> Option<Self> {
        let text = text.trim();
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, (!rest.is_empty()).then(|| rest.strip_prefix(':').unwrap_or("none")))
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) {
            return None;
        }
        let port = port.map_or(Some(default_port), |port| port.parse().ok().filter(|&port| port > 0))?;
        Some(Self { host: host.to_owned(), port })
    }

    /// As servers write it in MOVED: a bare host, also an IPv6 one, and behind the last colon the port. A server that does not
    /// know its own name leaves it empty, or writes a question mark: then it is the one that was asked.
    pub(crate) fn of_server(text: &str, asked: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self::named(host, port.parse().ok()?, asked))
    }

    /// The same from its parts.
    pub(crate) fn named(host: &str, port: u16, asked: &Self) -> Self {
        let host = if matches!(host, "" | "?") { &asked.host } else { host };
        Self { host: host.to_owned(), port }
    }

    /// Where a URL leads; none if that is a Unix socket.
    pub(crate) fn of_url(info: &ConnectionInfo) -> Option<Self> {
        match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some(Self { host: host.clone(), port: *port })
            }
            _ => None,
        }
    }

    /// The same way to connect (TLS and all), to this address.
    pub(crate) fn on(&self, info: &ConnectionInfo) -> ConnectionInfo {
        let addr = match info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: self.host.clone(),
                port: self.port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(self.host.clone(), self.port),
        };
        info.clone().set_addr(addr)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn addresses_are_read_as_people_and_as_servers_write_them() {
        let read = |text| Address::parse(text, 6379).map(|address| address.to_string());
        assert_eq!(read("redis-1").as_deref(), Some("redis-1:6379"));
        assert_eq!(read(" 10.0.0.7:7000 ").as_deref(), Some("10.0.0.7:7000"));
        assert_eq!(read("[::1]:7000").as_deref(), Some("[::1]:7000"));
        assert_eq!(read("[fe80::2]").as_deref(), Some("[fe80::2]:6379"));
        for wrong in
            ["", ":7000", "a:b", "a:0", "a:70000", "::1", "redis://:secret@a:1", "user@a", "a b", "[::1]7", "[a]:1"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let asked = Address { host: "a".into(), port: 1 };
        let moved = |text| Address::of_server(text, &asked).map(|address| address.to_string());
        assert_eq!(moved("10.0.0.7:7000").as_deref(), Some("10.0.0.7:7000"));
        assert_eq!(moved("::1:7000").as_deref(), Some("[::1]:7000"));
        assert_eq!(moved(":7000").as_deref(), Some("a:7000"));
        assert_eq!(moved("?:7000").as_deref(), Some("a:7000"));
        assert_eq!(moved("nonsense"), None);
    }
}
