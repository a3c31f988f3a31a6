//! Job ids, and the members under which Redis knows a job.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of a job over all its attempts: a `UUIDv7`, so that ids sort by creation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl JobId {
    /// A new id. Its time is the host's and decides nothing; it only makes ids sort.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        clippy::disallowed_methods,
        reason = "every call gives another id; the one place where ids are made"
    )]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for JobId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}

/// What Redis holds for a job: its id and, for a journaled job, the generation of its journal row.
///
/// The generation is part of the member so that a job that was parked or redriven is never taken for its earlier life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// The job.
    pub id: JobId,
    /// The journal row's generation; `None` for a fast job.
    pub generation: Option<Generation>,
}

/// The generation of a journal row: 1 at first, one more at every return to work.
pub type Generation = i32;

impl Member {
    /// The member of a fast job.
    #[must_use]
    pub const fn fast(id: JobId) -> Self {
        Self { id, generation: None }
    }

    /// The member of a journaled job.
    #[must_use]
    pub const fn journaled(id: JobId, generation: Generation) -> Self {
        Self { id, generation: Some(generation) }
    }

    /// The bytes in Redis: 16 of the id, then 4 of the generation when journaled.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend_from_slice(self.id.0.as_bytes());
        if let Some(generation) = self.generation {
            bytes.extend_from_slice(&generation.to_be_bytes());
        }
        bytes
    }

    /// Reads the bytes that Redis holds; `None` when they are no member.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let generation = match rest {
            [] => None,
            rest => Some(Generation::from_be_bytes(rest.try_into().ok()?)),
        };
        Some(Self { id: JobId(Uuid::from_bytes(*id)), generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_survives_the_way_through_redis() {
        for member in [Member::fast(JobId::new()), Member::journaled(JobId::new(), 7)] {
            assert_eq!(Member::from_bytes(&member.to_bytes()), Some(member));
        }
        assert_eq!(Member::from_bytes(b"short"), None);
        assert_eq!(Member::from_bytes(&[0; 18]), None);
    }
}
