//! Settings of fetching.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of one fetch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time for all pages of a source together. Less than the two minutes that an attempt has, so that a source which is slow
    /// page after page fails with its own error. Default `100s`.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Pages of one source, at most; a source may set fewer. Default 10.
    pub max_pages: u32,
    /// Items of one fetch, at most; what is beyond is left for the next time it is nearer the front. Default 5000.
    pub max_items: usize,
    /// Bytes of text that the items of one fetch may have together. Default 33554432 (32 MiB).
    pub max_text_bytes: usize,
    /// Time for one page to be parsed. Default `10s`.
    #[serde(with = "humantime_serde")]
    pub parse_timeout: Duration,
    /// Documents that this process parses at the same time. Default 2.
    pub parse_slots: usize,
    /// Whether a vacancy whose content changed is scored again (by the sweep). Default false.
    pub rescore_changed: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(100),
            max_pages: 10,
            max_items: 5000,
            max_text_bytes: 32 * 1024 * 1024,
            parse_timeout: Duration::from_secs(10),
            parse_slots: 2,
            rescore_changed: false,
        }
    }
}
