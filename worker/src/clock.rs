//! Redis' time, as far as this process knows it: the last answer's, and what has passed since.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};

/// A clock that follows Redis. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedisClock {
    last: Arc<Mutex<Option<Answer>>>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    now: DateTime<Utc>,
    at: Instant,
}

impl RedisClock {
    pub(crate) fn saw(&self, now: DateTime<Utc>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Answer { now, at: Instant::now() });
    }

    /// The time. Before the first answer it is 1970; no job runs before it.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or(DateTime::UNIX_EPOCH, |Answer { now, at }| {
            now + TimeDelta::from_std(at.elapsed()).unwrap_or_default()
        })
    }
}
