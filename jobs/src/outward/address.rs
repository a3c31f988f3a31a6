//! Which addresses may be called.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

use super::error::{OutwardError, origin};

/// IPv4 networks that are not the public internet, by the IANA special-purpose registry.
const NOT_PUBLIC_V4: &[Ipv4Net] = &[
    v4([0, 0, 0, 0], 8),       // this host, this network
    v4([10, 0, 0, 0], 8),      // private
    v4([100, 64, 0, 0], 10),   // carrier-grade NAT
    v4([127, 0, 0, 0], 8),     // loopback
    v4([169, 254, 0, 0], 16),  // link-local; the metadata services of clouds
    v4([172, 16, 0, 0], 12),   // private
    v4([192, 0, 0, 0], 24),    // protocol assignments
    v4([192, 0, 2, 0], 24),    // documentation
    v4([192, 88, 99, 0], 24),  // 6to4 relays
    v4([192, 168, 0, 0], 16),  // private
    v4([198, 18, 0, 0], 15),   // benchmarks
    v4([198, 51, 100, 0], 24), // documentation
    v4([203, 0, 113, 0], 24),  // documentation
    v4([224, 0, 0, 0], 4),     // multicast
    v4([240, 0, 0, 0], 4),     // reserved, broadcast
];

/// All public IPv6 addresses are in here: loopback, mapped, NAT64, unique local, link-local and multicast are outside.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

/// IPv6 networks inside [`GLOBAL_V6`] that are not public, or lead to an IPv4 address of the caller's choice.
const NOT_PUBLIC_V6: &[Ipv6Net] = &[
    v6([0x2001, 0, 0], 23),     // protocol assignments: Teredo, ORCHID, benchmarks
    v6([0x2001, 0xdb8, 0], 32), // documentation
    v6([0x2002, 0, 0], 16),     // 6to4
    v6([0x3fff, 0, 0], 20),     // documentation
];

const fn v4(address: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = address;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(address: [u16; 3], prefix: u8) -> Ipv6Net {
    let [a, b, c] = address;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => GLOBAL_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&address)),
    }
}

/// Decides where calls may go.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    allowed: Vec<IpNet>,
}

impl Guard {
    pub(super) fn new(allowed: &[IpNet]) -> Self {
        Self { allowed: allowed.to_vec() }
    }

    /// Whether this address may be connected to.
    pub(super) fn permits(&self, address: IpAddr) -> bool {
        // ::ffff:127.0.0.1 reaches 127.0.0.1.
        let address = address.to_canonical();
        is_public(address) || self.allowed.iter().any(|net| net.contains(&address))
    }

    /// Checks what can be checked before a connection: the scheme, and hosts that are addresses, which no resolver sees.
    pub(super) fn check(&self, url: &Url) -> Result<(), OutwardError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(OutwardError::Scheme { scheme: url.scheme().chars().take(20).collect() });
        }
        let address = match url.host() {
            None => return Err(OutwardError::InvalidUrl { reason: "it names no host".to_owned() }),
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
        };
        if self.permits(address) { Ok(()) } else { Err(OutwardError::Forbidden { origin: origin(url) }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allowed: &[&str]) -> Guard {
        Guard::new(&allowed.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn no_address_outside_the_public_internet_is_permitted() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!guard(&[]).permits(address.parse().unwrap()), "{address} was permitted");
        }
    }

    #[test]
    fn public_addresses_are_permitted() {
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(guard(&[]).permits(address.parse().unwrap()), "{address} was refused");
        }
    }

    #[test]
    fn an_allowed_network_is_permitted_also_in_its_mapped_form_and_no_other() {
        let guard = guard(&["127.0.0.0/8", "fd00::/8"]);
        for address in ["127.0.0.1", "::ffff:127.9.9.9", "fd00::5"] {
            assert!(guard.permits(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "::1", "fc00::1"] {
            assert!(!guard.permits(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_address_in_disguise_is_seen() {
        for url in [
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://[::1]/",
            "http://127.0.0.1./",
            "http://[::ffff:a9fe:a9fe]/",
            "http://１２７.0.0.1/",
            "http://user@169.254.169.254/",
        ] {
            let checked = guard(&[]).check(&url.parse().unwrap());
            assert!(matches!(checked, Err(OutwardError::Forbidden { .. })), "{url}: {checked:?}");
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        for url in ["file:///etc/passwd", "ftp://example.org/", "gopher://example.org/", "data:text/plain,x"] {
            assert!(guard(&["0.0.0.0/0"]).check(&url.parse().unwrap()).is_err(), "{url}");
        }
    }
}
