//! API keys: only their SHA-256 is configured, so that who reads the configuration cannot call the API.

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use windrow_queue::Tenant;

/// A key as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// What logs call it.
    pub name: String,
    /// SHA-256 of the key, 64 hexadecimal digits; `windrow api-keys new` prints key and hash.
    pub sha256: String,
    /// The only tenant it may act for; without it, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
}

/// A key that was just made. The secret is shown once and stored nowhere.
#[derive(Clone)]
pub struct NewKey {
    /// What the client sends.
    pub secret: String,
    /// What the server is configured with.
    pub sha256: String,
}

impl NewKey {
    /// A key of 256 random bits. The random source must be one for secrets.
    #[must_use]
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 32];
        random.fill_bytes(&mut bytes);
        let secret = format!("windrow_{}", hex(&bytes));
        let sha256 = hex(&Sha256::digest(&secret));
        Self { secret, sha256 }
    }
}

impl std::fmt::Debug for NewKey {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing into a string cannot fail");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        // `from_str_radix` takes a sign.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key's name.
    pub name: String,
    /// The only tenant it may act for.
    pub tenant: Option<Tenant>,
}

/// The keys, checked and ready to compare.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    keys: Vec<([u8; 32], Caller)>,
}

/// A configured key that is no good.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidKey {
    /// The hash is none.
    #[error(
        "the sha256 of key {name:?} is not a hash: 64 hexadecimal digits are expected, as `windrow api-keys new` prints them"
    )]
    Hash {
        /// The key's name.
        name: String,
    },
    /// Two keys are alike.
    #[error("{what} stands for two keys, {name:?} is one of them: each key has a name and a hash of its own")]
    Twice {
        /// Name or hash.
        what: &'static str,
        /// The key's name.
        name: String,
    },
    /// The name is empty or too long.
    #[error("a key's name has 1 to 64 characters, so that logs can tell who called")]
    Name,
}

impl Keys {
    /// Checks configured keys.
    ///
    /// # Errors
    /// The key that is no good.
    pub fn new(configured: &[ApiKey]) -> Result<Self, InvalidKey> {
        let mut keys: Vec<([u8; 32], Caller)> = Vec::with_capacity(configured.len());
        for ApiKey { name, sha256, tenant } in configured {
            if name.is_empty() || name.chars().count() > 64 {
                return Err(InvalidKey::Name);
            }
            let hash = unhex(sha256).ok_or_else(|| InvalidKey::Hash { name: name.clone() })?;
            if keys.iter().any(|(_, caller)| caller.name == *name) {
                return Err(InvalidKey::Twice { what: "one name", name: name.clone() });
            }
            if keys.iter().any(|(known, _)| *known == hash) {
                return Err(InvalidKey::Twice { what: "one hash", name: name.clone() });
            }
            keys.push((hash, Caller { name: name.clone(), tenant: tenant.clone() }));
        }
        Ok(Self { keys })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whose key this is. Takes the same time whichever key it is, and if it is none: all are compared to the end.
    #[must_use]
    pub fn caller(&self, presented: &str) -> Option<&Caller> {
        let hash: [u8; 32] = Sha256::digest(presented).into();
        let (mut index, mut found) = (0_u64, Choice::from(0));
        for (position, (known, _)) in (0_u64..).zip(&self.keys) {
            let same = known.ct_eq(&hash);
            index.conditional_assign(&position, same);
            found |= same;
        }
        if bool::from(found) { self.keys.get(usize::try_from(index).ok()?).map(|(_, caller)| caller) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    fn key(name: &str, secret: &str) -> ApiKey {
        ApiKey { name: name.into(), sha256: hex(&Sha256::digest(secret)), tenant: None }
    }

    #[test]
    fn only_the_secret_itself_opens() {
        let keys = Keys::new(&[key("first", "one"), key("second", "two"), key("third", "three")]).unwrap();
        assert_eq!(keys.caller("two").map(|caller| &*caller.name), Some("second"));
        assert_eq!(keys.caller("three").map(|caller| &*caller.name), Some("third"));
        for wrong in ["", "on", "onE", &hex(&Sha256::digest("one"))] {
            assert!(keys.caller(wrong).is_none(), "{wrong:?} opened");
        }
        assert!(Keys::default().caller("").is_none());
    }

    #[test]
    fn a_new_key_opens_what_its_hash_configures_and_its_debug_form_hides_it() {
        let new = NewKey::generate(&mut StdRng::seed_from_u64(1));
        let keys = Keys::new(&[ApiKey { name: "n".into(), sha256: new.sha256.clone(), tenant: None }]).unwrap();
        assert!(keys.caller(&new.secret).is_some());
        assert!(!format!("{new:?}").contains(&new.secret));
    }

    #[test]
    fn keys_that_cannot_be_told_apart_or_are_no_hash_are_refused() {
        let twice = Keys::new(&[key("a", "one"), key("a", "two")]).unwrap_err();
        assert!(matches!(twice, InvalidKey::Twice { what: "one name", .. }));
        let twice = Keys::new(&[key("a", "one"), key("b", "one")]).unwrap_err();
        assert!(matches!(twice, InvalidKey::Twice { what: "one hash", .. }));
        let signed = "+f".repeat(32);
        for hash in ["", "abc", "zz", &"é".repeat(32), &signed] {
            let key = ApiKey { name: "a".into(), sha256: (*hash).to_owned(), tenant: None };
            assert_eq!(Keys::new(&[key]).unwrap_err(), InvalidKey::Hash { name: "a".into() });
        }
        assert_eq!(Keys::new(&[key("", "one")]).unwrap_err(), InvalidKey::Name);
    }
}
