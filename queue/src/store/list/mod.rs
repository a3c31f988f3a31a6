//! Jobs by state, page by page. No call looks at more than 200 jobs or reads more than about 4 MiB; a page makes a bounded
//! number of them, and says where the next goes on.
//!
//! What stands in a list throughout is listed, however the list changes between two pages; what moves may be listed twice or
//! not at all. Sorted lists go on behind the place of the last entry, whether that is still there or not.

mod answer;
mod due;
mod entry;
mod ready;
mod running;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    Store, StoreError,
    cursor::{Cursor, DueSet, InvalidCursor, Place},
    inspect::JobState,
    keys::Keys,
};
use crate::name::{Kind, QueueName, Tenant};

pub use entry::{HeldBy, HeldWhy, Listed, Progress, Unreadable};

pub(super) use answer::{array, parts, whole};
pub(super) use due::DuePart;
pub(super) use entry::Head;

/// Most jobs in one page.
pub const MAX_PAGE: usize = 1000;
/// Most jobs that one call of a script looks at.
const LOOK: usize = 200;
/// Most calls for one page: a filter that fits few jobs gives short pages, which still say where to go on.
pub(super) const CALLS: usize = 25;

/// Which jobs. What is `None` is any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// Not before this time. Which time is meant is said of each list.
    pub since: Option<DateTime<Utc>>,
    /// Not after this time.
    pub until: Option<DateTime<Utc>>,
}

impl Filter {
    fn kind_arg(&self) -> &str {
        self.kind.as_ref().map_or("", Kind::as_str)
    }

    fn tenant_arg(&self) -> String {
        self.tenant.as_ref().map_or_else(String::new, |tenant| format!("={tenant}"))
    }

    fn takes_time(&self, at: Option<DateTime<Utc>>) -> bool {
        let Some(at) = at else { return self.since.is_none() && self.until.is_none() };
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at <= until)
    }
}

/// States in which jobs stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Waiting for their time, the next first. Their time: when they are due.
    Scheduled,
    /// Waiting for a worker: suspects, then lane by lane in the order in which a lane is claimed. Their time: ready since.
    Ready,
    /// In work, session by session. Their time: running since.
    Running,
    /// Fast jobs that wait for a callback, the next deadline first. Their time: the deadline.
    Parked,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// What was found.
    pub items: Vec<T>,
    /// What stands in the list and cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// Where to go on; `None` at the end. With a filter a page may be short, even empty, and not the last.
    pub next: Option<Cursor>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { items: Vec::new(), unreadable: Vec::new(), next: None }
    }
}

impl<T> Page<T> {
    pub(super) fn len(&self) -> usize {
        self.items.len() + self.unreadable.len()
    }

    pub(super) fn room(&self, limit: usize) -> usize {
        limit.saturating_sub(self.len()).clamp(1, LOOK)
    }
}

/// What is the same for all calls for one page.
#[derive(Clone, Copy)]
struct Ask<'a> {
    store: &'a Store,
    keys: &'a Keys,
    filter: &'a Filter,
}

impl Store {
    /// A page of the jobs in a state, with at most `limit` (1 to [`MAX_PAGE`]) of them; a page of running ones may have some
    /// more.
    ///
    /// # Errors
    /// When Redis is away, or the cursor is another list's.
    pub async fn list(
        &self,
        queue: &QueueName,
        standing: Standing,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<Listed>, StoreError> {
        let keys = Keys::new(queue);
        let ask = Ask { store: self, keys: &keys, filter };
        let limit = limit.clamp(1, MAX_PAGE);
        let after = after.map(|cursor| &cursor.0);
        let fits = |place: &Place| match (standing, place) {
            (Standing::Scheduled, Place::Due { set, .. }) => *set == DueSet::Scheduled,
            (Standing::Parked, Place::Due { set, .. }) => *set == DueSet::Parked,
            (Standing::Ready, Place::Ready(_)) | (Standing::Running, Place::Running { .. }) => true,
            _ => false,
        };
        if !after.is_none_or(fits) {
            return Err(InvalidCursor.into());
        }
        match standing {
            Standing::Scheduled => ask.due(DueSet::Scheduled, JobState::Scheduled, after, limit).await,
            Standing::Parked => ask.due(DueSet::Parked, JobState::Parked, after, limit).await,
            Standing::Ready => ask.ready(after, limit).await,
            Standing::Running => ask.running(after, limit).await,
        }
    }
}
