//! Encryption at rest of what kinds with [`Policy::encrypted`](crate::Policy::encrypted) carry: sealed by whoever enqueues,
//! opened by the worker just before the handler runs. Redis, PostgreSQL, their backups and whoever looks at jobs see sealed
//! text only.
//!
//! ```text
//! {"$sealed":"<key id>.<base64url(nonce24 ‖ ciphertext ‖ tag16)>"}      XChaCha20-Poly1305, a random nonce each time
//! authenticated with it: "windrow sealed 1", purpose, kind, tenant     each behind its length (u32, big-endian)
//! ```
//!
//! Of a callback it is the queue in the place of the kind, and no tenant: whoever takes it in knows its token only.
//!
//! So a sealed text opens only as what it was sealed as, and only for jobs of its kind and tenant. It is not tied to a job's
//! id: a redrive gives args a new one. `docs/decisions/0022-sealed-args.md` has the reasons.

mod key;
mod sealed;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chacha20poly1305::{AeadInOut, XNonce};
use rand::Rng;
use serde_json::value::RawValue;

pub use key::{Config, ConfigError, KeyId, NewKey};
pub use sealed::{Seal, decode_error, looks_sealed, shown, shown_value};

use crate::{
    error::JobError,
    job::NewJob,
    name::{Kind, QueueName, Tenant},
};
use key::Key;
use sealed::Marker;

/// Bytes of a nonce: enough for random ones never to repeat.
const NONCE: usize = 24;
/// Bytes of a tag.
const TAG: usize = 16;
/// In front of all that is authenticated. Changes with the format.
const FORMAT: &str = "windrow sealed 1";
/// How long a job waits whose key is missing here, before somebody looks again.
const KEY_SNOOZE: Duration = Duration::from_secs(60);

/// As what a text was sealed: it opens as nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A job's args.
    Args,
    /// What an attempt left for the next one.
    Checkpoint,
    /// What an outside callback brought.
    Callback,
}

impl Purpose {
    const fn word(self) -> &'static str {
        match self {
            Self::Args => "args",
            Self::Checkpoint => "checkpoint",
            Self::Callback => "callback",
        }
    }
}

/// What cannot be sealed or opened. Never says what is inside.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VaultError {
    /// Nothing to seal with.
    #[error(
        "{kind} is encrypted, and this process has no key: set encryption.keys (WINDROW_ENCRYPTION_KEYS) as its workers have it; `windrow keys new` makes one"
    )]
    NoKey {
        /// The job's kind.
        kind: Kind,
    },
    /// A job was handed to a store as it is, or was changed after it was sealed.
    #[error(
        "{kind} is encrypted, and this job was not sealed as it stands: seal it last, with ctx.seal in a handler, else with Vault::seal"
    )]
    Unsealed {
        /// The job's kind.
        kind: Kind,
    },
    /// It was sealed with a key that this process does not have.
    #[error("sealed with key {id:?}, which is not among this process' encryption.keys: add it")]
    UnknownKey {
        /// The key's id.
        id: String,
    },
    /// It was altered, or sealed for another kind, tenant or purpose, or the key of this id is another one.
    #[error(
        "does not open with key {id:?}: it was altered, belongs to another kind or tenant, or the key is another one"
    )]
    Damaged {
        /// The key's id.
        id: String,
    },
}

impl From<VaultError> for JobError {
    /// A missing key is the settings' fault and costs no attempt; a forgotten seal is the program's.
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::NoKey { .. } | VaultError::UnknownKey { .. } => Self::snooze(KEY_SNOOZE, "unknown_key", error),
            VaultError::Unsealed { .. } => Self::retry("unsealed", error),
            VaultError::Damaged { .. } => Self::bury("sealed_damaged", error),
        }
    }
}

/// The keys of this process: one seals, all open. Cheap to clone; without keys ([`Vault::default`]) it seals and opens nothing.
#[derive(Clone, Default)]
pub struct Vault {
    /// The first one seals.
    keys: Arc<[Key]>,
}

impl fmt::Debug for Vault {
    /// Ids only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.key_ids()).finish()
    }
}

/// Args as a store may hold them. Only [`Vault::stored`] makes one.
pub(crate) struct StoredArgs<'a>(Cow<'a, RawValue>);

impl StoredArgs<'_> {
    pub(crate) fn get(&self) -> &str {
        self.0.get()
    }
}

impl Vault {
    /// The keys of the settings.
    ///
    /// # Errors
    /// The setting that is not usable, and why; never a part of a key.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self { keys: config.read()?.into() })
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The ids of the keys; the first one seals.
    pub fn key_ids(&self) -> impl Iterator<Item = &KeyId> {
        self.keys.iter().map(|key| &key.id)
    }

    /// Seals a job's args, if its kind is encrypted and they are not sealed yet. Set the tenant before: what is changed
    /// afterwards makes the job unsealed, and stores refuse it.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub fn seal(&self, job: &mut NewJob) -> Result<(), VaultError> {
        if let StoredArgs(Cow::Owned(sealed)) = self.stored(job)? {
            job.args = sealed;
            job.seal = Seal::of(&job.kind, job.tenant.as_ref(), &job.args);
        }
        Ok(())
    }

    /// The same for several, which are copied only if any of them needs it.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub fn seal_all<'a>(&self, jobs: &'a [NewJob]) -> Result<Cow<'a, [NewJob]>, VaultError> {
        if jobs.iter().all(|job| job.stored_args().is_ok()) {
            return Ok(Cow::Borrowed(jobs));
        }
        let mut jobs = jobs.to_vec();
        jobs.iter_mut().try_for_each(|job| self.seal(job))?;
        Ok(Cow::Owned(jobs))
    }

    /// A job's args as a store may hold them: as they are if the kind is not encrypted or they are sealed, else sealed now.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub(crate) fn stored<'a>(&self, job: &'a NewJob) -> Result<StoredArgs<'a>, VaultError> {
        let args = match job.stored_args() {
            Ok(args) => Cow::Borrowed(args),
            Err(_) => Cow::Owned(self.seal_value(Purpose::Args, &job.kind, job.tenant.as_ref(), &job.args)?),
        };
        Ok(StoredArgs(args))
    }

    /// Seals a JSON text with the first key.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub fn seal_value(
        &self,
        purpose: Purpose,
        kind: &Kind,
        tenant: Option<&Tenant>,
        plain: &RawValue,
    ) -> Result<Box<RawValue>, VaultError> {
        let key = self.keys.first().ok_or_else(|| VaultError::NoKey { kind: kind.clone() })?;
        Ok(seal(key, random_nonce(), &authenticated(purpose, kind.as_str(), tenant), plain))
    }

    /// Seals what a callback brought for a job of a queue. `kind` is one for whose sake it is done.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub fn seal_callback(
        &self,
        kind: &Kind,
        queue: &QueueName,
        payload: &RawValue,
    ) -> Result<Box<RawValue>, VaultError> {
        let key = self.keys.first().ok_or_else(|| VaultError::NoKey { kind: kind.clone() })?;
        Ok(seal(key, random_nonce(), &authenticated(Purpose::Callback, queue.as_str(), None), payload))
    }

    /// What a callback brought, as the handler takes it, by the rules of [`open_args`](Self::open_args).
    ///
    /// # Errors
    /// As [`open_args`](Self::open_args).
    pub fn open_callback(
        &self,
        encrypted: bool,
        queue: &QueueName,
        payload: Box<RawValue>,
    ) -> Result<Box<RawValue>, VaultError> {
        self.open_if(encrypted, &authenticated(Purpose::Callback, queue.as_str(), None), payload)
    }

    /// Opens what [`seal_value`](Self::seal_value) made. `None`: it is no sealed text.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`], or [`VaultError::Damaged`].
    pub fn open_value(
        &self,
        purpose: Purpose,
        kind: &Kind,
        tenant: Option<&Tenant>,
        sealed: &RawValue,
    ) -> Result<Option<Box<RawValue>>, VaultError> {
        self.open(&authenticated(purpose, kind.as_str(), tenant), sealed)
    }

    fn open(&self, authenticated: &[u8], sealed: &RawValue) -> Result<Option<Box<RawValue>>, VaultError> {
        let Some(marker) = Marker::parse(sealed.get()) else { return Ok(None) };
        let key = self.key_of(&marker)?;
        let damaged = || VaultError::Damaged { id: key.id.to_string() };
        let mut nonce = BASE64_URL_SAFE_NO_PAD.decode(marker.body()).map_err(|_| damaged())?;
        if nonce.len() < NONCE + TAG {
            return Err(damaged());
        }
        let mut body = nonce.split_off(NONCE);
        let nonce = XNonce::try_from(&*nonce).map_err(|_| damaged())?;
        key.cipher.decrypt_in_place(&nonce, authenticated, &mut body).map_err(|_| damaged())?;
        let plain = String::from_utf8(body).ok().and_then(|plain| RawValue::from_string(plain).ok());
        plain.map(Some).ok_or_else(damaged)
    }

    /// A job's args as its handler takes them. Those that are not sealed are what they are: they were enqueued before the
    /// kind was encrypted. Sealed ones of a kind that is no longer encrypted open, too.
    ///
    /// # Errors
    /// As [`open_value`](Self::open_value), for encrypted kinds.
    pub fn open_args(
        &self,
        encrypted: bool,
        kind: &Kind,
        tenant: Option<&Tenant>,
        args: Box<RawValue>,
    ) -> Result<Box<RawValue>, VaultError> {
        self.open_if(encrypted, &authenticated(Purpose::Args, kind.as_str(), tenant), args)
    }

    fn open_if(&self, encrypted: bool, authenticated: &[u8], text: Box<RawValue>) -> Result<Box<RawValue>, VaultError> {
        if !encrypted && !sealed::begins_sealed(text.get()) {
            return Ok(text);
        }
        match self.open(authenticated, &text) {
            Ok(Some(plain)) => Ok(plain),
            // To a kind that is not encrypted it may be just an object with an odd name.
            Ok(None) => Ok(text),
            Err(error) if encrypted => Err(error),
            Err(_) => Ok(text),
        }
    }

    /// Whether the key is here with which these args of an encrypted kind were sealed: cheaper than to open them, which tells
    /// whether they are damaged.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`].
    pub fn knows_key_of(&self, args: &RawValue) -> Result<(), VaultError> {
        match Marker::parse(args.get()).map(|marker| self.key_of(&marker).map(drop)) {
            Some(Err(unknown @ VaultError::UnknownKey { .. })) => Err(unknown),
            _ => Ok(()),
        }
    }

    fn key_of(&self, marker: &Marker<'_>) -> Result<&Key, VaultError> {
        let id = marker.key_id();
        if !KeyId::is_valid(id) {
            // No key will ever have this name.
            return Err(VaultError::Damaged { id: sealed::printable_id(id).to_owned() });
        }
        self.keys.iter().find(|key| key.id.as_str() == id).ok_or_else(|| VaultError::UnknownKey { id: id.to_owned() })
    }
}

fn random_nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

fn seal(key: &Key, nonce: [u8; NONCE], authenticated: &[u8], plain: &RawValue) -> Box<RawValue> {
    let plain = plain.get().as_bytes();
    // With room for the tag: growing would leave a copy of the plain text behind.
    let mut body = Vec::with_capacity(plain.len() + TAG);
    body.extend_from_slice(plain);
    key.cipher
        .encrypt_in_place(&XNonce::from(nonce), authenticated, &mut body)
        .expect("the cipher takes 256 GiB, and a vector grows");
    let text = BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &body].concat());
    let json = format!(r#"{{"$sealed":"{}.{text}"}}"#, key.id);
    RawValue::from_string(json).expect("ids and base64 need no escapes")
}

/// `scope`: the kind; of a callback the queue.
fn authenticated(purpose: Purpose, scope: &str, tenant: Option<&Tenant>) -> Vec<u8> {
    let mut data = Vec::with_capacity(128);
    for part in [FORMAT, purpose.word(), scope, tenant.map_or("", Tenant::as_str)] {
        let length = u32::try_from(part.len()).expect("names have at most 64 bytes");
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(part.as_bytes());
    }
    data
}
