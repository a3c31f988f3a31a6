//! What `/readyz` says: every part of a process that can be out of order, and why it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The parts of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

/// One part's own view: it says when it fails and when it is well again.
#[derive(Clone, Debug)]
pub struct HealthPart {
    health: Health,
    name: String,
}

impl Health {
    /// Adds a part, out of order until it says otherwise.
    #[must_use]
    pub fn part(&self, name: impl Into<String>) -> HealthPart {
        let part = HealthPart { health: self.clone(), name: name.into() };
        part.failing("starting");
        part
    }

    /// Each part with the reason why it is out of order; `None` is well.
    #[must_use]
    pub fn report(&self) -> BTreeMap<String, Option<String>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether all parts are well.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().values().all(Option::is_none)
    }
}

impl HealthPart {
    /// It is well.
    pub fn ok(&self) {
        self.set(None);
    }

    /// It is out of order. The reason is shown to anybody who may read `/readyz`: no secret.
    pub fn failing(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        let mut parts = self.health.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(self.name.clone(), reason);
    }
}
