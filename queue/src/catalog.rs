//! Which kinds exist: what the API, the CLI and the schedules check a job against before they accept it.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

use crate::{
    job::JobArgs,
    name::{Kind, QueueName},
    policy::Policy,
    vault::{Vault, VaultError},
};

/// One kind, without its type.
#[derive(Clone, Debug)]
pub struct KindInfo {
    /// Its name.
    pub kind: Kind,
    /// Where its jobs wait.
    pub queue: QueueName,
    /// How they are executed.
    pub policy: Policy,
    /// Whether a caller bound to a tenant may not enqueue it.
    pub operators_only: bool,
    /// Names that its args must have, as far as it says.
    pub required: &'static [&'static str],
    check: fn(&RawValue) -> Result<(), serde_json::Error>,
}

impl KindInfo {
    /// The description of a kind.
    #[must_use]
    pub fn of<A: JobArgs>() -> Self {
        Self {
            kind: A::KIND,
            queue: A::QUEUE,
            policy: A::POLICY,
            operators_only: A::OPERATORS_ONLY,
            required: A::REQUIRED,
            check: |args| serde_json::from_str::<A>(args.get()).map(drop),
        }
    }

    /// Whether these args decode as the kind's own.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub fn check_args(&self, args: &RawValue) -> Result<(), serde_json::Error> {
        (self.check)(args)
    }
}

/// All kinds that this program knows.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    kinds: BTreeMap<Kind, KindInfo>,
    vault: Vault,
}

/// A kind that this program does not know.
#[derive(Debug, thiserror::Error)]
#[error("there is no kind {kind:?}; known are: {known}")]
pub struct UnknownKind {
    kind: String,
    known: String,
}

impl Catalog {
    /// Adds a kind.
    ///
    /// # Panics
    /// When a kind of this name is there already: two types for one kind is a programming error.
    #[must_use]
    pub fn with<A: JobArgs>(mut self) -> Self {
        self.add(KindInfo::of::<A>());
        self
    }

    /// Adds the description of a kind.
    ///
    /// # Panics
    /// When a kind of this name is there already.
    pub fn add(&mut self, info: KindInfo) {
        let kind = info.kind.clone();
        assert!(self.kinds.insert(kind.clone(), info).is_none(), "kind {kind} is registered twice");
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// [`UnknownKind`], which lists those that exist.
    pub fn get(&self, kind: &str) -> Result<&KindInfo, UnknownKind> {
        self.iter().find(|info| info.kind.as_str() == kind).ok_or_else(|| UnknownKind {
            kind: kind.chars().take(80).collect(),
            known: self.iter().map(|info| info.kind.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// With the keys for the args of encrypted kinds: for services that make jobs of kinds which they know by name only.
    #[must_use]
    pub fn with_vault(self, vault: Vault) -> Self {
        Self { vault, ..self }
    }

    /// The keys that it was given.
    #[must_use]
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// What a callback brought for a job of a queue, as stores may hold it: sealed, if any kind of the queue is encrypted. Whoever
    /// takes it in does not know which kind it is for.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub fn stored_callback<'a>(
        &self,
        queue: &QueueName,
        payload: &'a RawValue,
    ) -> Result<Cow<'a, RawValue>, VaultError> {
        match self.iter().find(|info| info.queue == *queue && info.policy.encrypted) {
            Some(info) => self.vault.seal_callback(&info.kind, queue, payload).map(Cow::Owned),
            None => Ok(Cow::Borrowed(payload)),
        }
    }

    /// All kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = &KindInfo> {
        self.kinds.values()
    }

    /// All queues in which known kinds wait, each once.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueName> {
        let mut queues: Vec<_> = self.iter().map(|info| info.queue.clone()).collect();
        queues.sort();
        queues.dedup();
        queues
    }
}
