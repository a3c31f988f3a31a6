//! Versions as the servers print them.

use std::fmt;

/// A server's version; what it does not print is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number; PostgreSQL has none.
    pub patch: u32,
}

impl Version {
    /// Reads `Redis server v=7.0.15 sha=… ` or `Valkey server v=8.0.1 …`.
    #[must_use]
    pub fn of_redis(output: &str) -> Option<Self> {
        Self::parse(output.split_whitespace().find_map(|word| word.strip_prefix("v="))?)
    }

    /// Reads `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`.
    #[must_use]
    pub fn of_postgres(output: &str) -> Option<Self> {
        Self::parse(output.split_once("(PostgreSQL)")?.1.split_whitespace().next()?)
    }

    /// Reads `PgBouncer 1.18.0`, the first of several lines.
    #[must_use]
    pub fn of_pgbouncer(output: &str) -> Option<Self> {
        Self::parse(output.lines().find_map(|line| line.strip_prefix("PgBouncer "))?)
    }

    /// Reads the leading numbers of `15.13`, `7.0.15` or `18beta1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut number = || {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let number = rest[..end].parse::<u32>().ok();
            // Only a dot leads on to the next number: what follows in "18beta1" is no minor version.
            rest = rest[end..].strip_prefix('.').unwrap_or("");
            number
        };
        Some(Self { major: number()?, minor: number().unwrap_or(0), patch: number().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 { write!(f, ".{}", self.patch) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32, patch: u32) -> Option<Version> {
        Some(Version { major, minor, patch })
    }

    #[test]
    fn what_the_servers_print_is_understood() {
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=d4f4a4d4c8bb1e5e";
        assert_eq!(Version::of_redis(redis), version(7, 0, 15));
        assert_eq!(Version::of_redis("Valkey server v=8.1.0 sha=00000000:0 bits=64"), version(8, 1, 0));
        let debian = "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n";
        assert_eq!(Version::of_postgres(debian), version(15, 13, 0));
        assert_eq!(Version::of_postgres("initdb (PostgreSQL) 18beta1"), version(18, 0, 0));
        assert_eq!(Version::of_postgres("postgres (PostgreSQL) 9.6.24"), version(9, 6, 24));
    }

    #[test]
    fn anything_else_is_no_version() {
        assert_eq!(Version::of_redis("redis-cli 7.0.15"), None);
        assert_eq!(Version::of_postgres("pg_ctl: cannot be run as root"), None);
        assert_eq!(Version::of_postgres("postgres (PostgreSQL) devel"), None);
        assert_eq!(Version::parse("99999999999.1"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn ten_is_newer_than_nine() {
        assert!(Version::parse("10.0") > Version::parse("9.6"));
        assert!(Version::parse("7.2.4") > Version::parse("7.2"));
    }
}
