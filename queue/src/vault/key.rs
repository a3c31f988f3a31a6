//! Keys: where they come from, and what is refused.

use std::{fmt, path::PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{Key as Bytes, KeyInit, XChaCha20Poly1305};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Bytes of a key.
const BYTES: usize = 32;
/// The longest id.
const MAX_ID: usize = 32;
/// The largest file of keys: hundreds of them.
const MAX_FILE: u64 = 64 * 1024;

/// Where the keys come from.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `id:base64 of 32 bytes`; the first one seals, all open.
    pub keys: Vec<String>,
    /// A file of such keys, one a line, in the place of `keys`.
    pub keys_file: PathBuf,
}

impl fmt::Debug for Config {
    /// Leaves the keys out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("keys", &self.keys.len()).field("keys_file", &self.keys_file).finish()
    }
}

/// A setting of keys that is not usable. Says nothing of what a key is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("encryption.{key}: {reason}")]
pub struct ConfigError {
    /// The key of the setting.
    pub key: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// What a key is called: 1 to 32 letters, digits, `-` and `_`. It stands beside what was sealed, and is no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// Checks an id.
    ///
    /// # Errors
    /// What an id is.
    pub fn new(id: impl Into<String>) -> Result<Self, String> {
        let id = id.into();
        if Self::is_valid(&id) {
            Ok(Self(id))
        } else {
            Err(format!("the id of a key has 1 to {MAX_ID} letters, digits, - and _"))
        }
    }

    pub(super) fn is_valid(id: &str) -> bool {
        (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for KeyId {
    type Err = String;

    fn from_str(id: &str) -> Result<Self, String> {
        Self::new(id)
    }
}

/// One key. The cipher holds it, and wipes it when it is dropped.
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) cipher: XChaCha20Poly1305,
}

impl Config {
    /// The keys, in order.
    pub(super) fn read(&self) -> Result<Vec<Key>, ConfigError> {
        if self.keys_file.as_os_str().is_empty() {
            return parse(self.keys.iter().map(|key| key.trim())).map_err(|reason| ConfigError { key: "keys", reason });
        }
        let refuse = |reason: String| ConfigError { key: "keys_file", reason };
        if !self.keys.is_empty() {
            return Err(refuse("encryption.keys is set as well: use one of the two".into()));
        }
        let shown = self.keys_file.display();
        let unreadable = |error: std::io::Error| refuse(format!("cannot read {shown}: {error}"));
        let size = std::fs::metadata(&self.keys_file).map_err(unreadable)?.len();
        if size > MAX_FILE {
            return Err(refuse(format!("{shown} has {size} bytes, more than {MAX_FILE}: it is no file of keys")));
        }
        let mut text = std::fs::read_to_string(&self.keys_file).map_err(unreadable)?;
        let lines = text.split(['\n', ',']).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = parse(lines).map_err(|reason| refuse(format!("{shown}: {reason}")));
        text.zeroize();
        match keys {
            Ok(keys) if keys.is_empty() => Err(refuse(format!("{shown} has no key"))),
            keys => keys,
        }
    }
}

fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Vec<Key>, String> {
    let mut keys: Vec<Key> = Vec::new();
    let mut known: Vec<[u8; BYTES]> = Vec::new();
    let outcome = entries.enumerate().try_for_each(|(at, entry)| {
        // Not what it says: a key without its id would be taken for one.
        let place = || format!("key number {}", at + 1);
        let (id, text) =
            entry.split_once(':').ok_or_else(|| format!("{} is not an id, a colon and 32 bytes as base64", place()))?;
        let id = KeyId::new(id.trim()).map_err(|expected| format!("{}: {expected}", place()))?;
        let mut bytes = BASE64_STANDARD
            .decode(text.trim())
            .map_err(|_| format!("key {id}: what follows the colon is not base64"))?;
        let given = bytes.len();
        let key = <[u8; BYTES]>::try_from(&*bytes);
        bytes.zeroize();
        let key = key.map_err(|_| format!("key {id} has {given} bytes, not {BYTES}; `windrow keys new` makes one"))?;
        if key == [0; BYTES] {
            return Err(format!("key {id} is all zeroes: `windrow keys new` makes one"));
        }
        if keys.iter().any(|other| other.id == id) {
            return Err(format!("two keys have the id {id}: each needs its own"));
        }
        if let Some(other) = known.iter().position(|other| *other == key) {
            return Err(format!("keys {} and {id} are the same key: give each its own 32 bytes", keys[other].id));
        }
        keys.push(Key { id, cipher: XChaCha20Poly1305::new(&Bytes::from(key)) });
        known.push(key);
        Ok(())
    });
    known.zeroize();
    outcome.map(|()| keys)
}

/// A key that was just made.
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// `id:base64`, as the settings take it. Secret.
    pub line: String,
}

impl fmt::Debug for NewKey {
    /// Its id only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl NewKey {
    /// Makes a key; without an id it gets a random one.
    pub fn generate(id: Option<KeyId>, random: &mut impl CryptoRng) -> Self {
        let id = id.unwrap_or_else(|| KeyId(format!("k{:08x}", random.next_u32())));
        let mut bytes = [0; BYTES];
        random.fill_bytes(&mut bytes);
        let line = format!("{id}:{}", BASE64_STANDARD.encode(bytes));
        bytes.zeroize();
        Self { id, line }
    }
}
