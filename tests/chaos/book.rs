//! What the producer was told. Jobs that it asked for in PostgreSQL are in `chaos_sent` as well, if and only if they stand.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// What came of an enqueue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It was accepted.
    Accepted,
    /// It was refused: nothing of it may ever be seen.
    Refused,
    /// No answer came: it may have been accepted.
    Unknown,
}

/// A fast job that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FastSent {
    /// Between these two moments Redis took it, if it did.
    pub(crate) begin_ms: i64,
    pub(crate) end_ms: i64,
    pub(crate) answer: Answer,
    /// When it was first found, right before data of Redis were destroyed, that it had not run and was not there. What was
    /// destroyed from then on did not lose it.
    pub(crate) missing_at_ms: Option<i64>,
}

/// The producer's book.
#[derive(Debug, Default)]
pub(crate) struct Book {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// Journaled jobs whose transaction was reported as committed.
    pub(crate) committed: HashSet<Uuid>,
    /// Journaled jobs of a transaction that was rolled back for certain.
    pub(crate) rolled_back: HashSet<Uuid>,
    /// Transactions of which nothing is known.
    pub(crate) unknown: u64,
    pub(crate) fast: HashMap<Uuid, FastSent>,
}

impl Book {
    pub(crate) fn open(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
