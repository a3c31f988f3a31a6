//! Jobs by state, over all queues and both stores, page by page. The API and the command line both list through here.
//!
//! One page asks each store for a bounded part; what a cursor holds is for this program alone. Dead jobs come newest first over
//! everything; the other states come queue by queue, then those that only the journal knows.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;
use windrow_queue::{
    Catalog, Kind, QueueName, Tenant,
    journal::{self, CloseState, ClosedCursor, ClosedFilter, StandingCursor, StandingFilter},
    store::{Cursor, Ended, Filter, InvalidCursor, Standing, Store, Unreadable},
};

use crate::find::{FindError, JobView};

mod dead;

/// The states that can be listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListState {
    /// By due time. The filter's times are due times.
    Scheduled,
    /// By priority band and lane, in the order of claims. Times: ready since.
    Ready,
    /// By session. Times: running since.
    Running,
    /// Fast ones by deadline, then journaled ones by age. Times: the deadline, or when the job was accepted.
    Parked,
    /// Newest first. Times: of death.
    Dead,
    /// Journaled ones, newest first; a fast job that was cancelled is forgotten. Times: of cancelling.
    Cancelled,
    /// What finished lately, newest first: up to 1,000 jobs of each queue are remembered, all in one page. Times: of finishing.
    Finished,
}

/// What is to be listed.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// In this state.
    pub state: ListState,
    /// Of this queue.
    pub queue: Option<QueueName>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// Dead of this, by fingerprint.
    pub fingerprint: Option<[u8; 16]>,
    /// Not before this time: see [`ListState`].
    pub since: Option<DateTime<Utc>>,
    /// Not after this time.
    pub until: Option<DateTime<Utc>>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// How many jobs, at most (1 to 1,000; a page of running jobs may have some more).
    pub limit: usize,
}

impl ListQuery {
    /// All jobs in a state.
    #[must_use]
    pub const fn all(state: ListState, limit: usize) -> Self {
        Self {
            state,
            queue: None,
            kind: None,
            tenant: None,
            fingerprint: None,
            since: None,
            until: None,
            cursor: None,
            limit,
        }
    }

    pub(crate) fn filter(&self) -> Filter {
        Filter { kind: self.kind.clone(), tenant: self.tenant.clone(), since: self.since, until: self.until }
    }

    fn closed(&self, state: CloseState) -> ClosedFilter {
        ClosedFilter {
            state,
            kind: self.kind.clone(),
            tenant: self.tenant.clone(),
            queue: self.queue.clone(),
            fingerprint: self.fingerprint,
            since: self.since,
            until: self.until,
        }
    }
}

/// An entry of a queue that this version cannot read.
#[derive(Debug, Serialize)]
pub struct UnreadableEntry {
    /// The queue.
    pub queue: String,
    /// The entry.
    #[serde(flatten)]
    pub entry: Unreadable,
}

/// A page of jobs.
#[derive(Debug, Default, Serialize)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// What stands in a list and cannot be read; shown to callers who may see every tenant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableEntry>,
    /// Where to go on; absent at the end. A page may be short, even empty, and not the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Why a page could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The cursor is none of this list's.
    #[error("{0}")]
    Cursor(#[from] InvalidCursor),
    /// No time is within the bounds.
    #[error("since ({since}) is after until ({until}): no time is both not before the one and not after the other")]
    NoTime {
        /// The lower bound.
        since: DateTime<Utc>,
        /// The upper bound.
        until: DateTime<Utc>,
    },
    /// A store failed.
    #[error("{0}")]
    Find(#[from] FindError),
}

impl From<windrow_queue::store::StoreError> for ListError {
    fn from(error: windrow_queue::store::StoreError) -> Self {
        match error {
            // The only thing that a caller of a list can get wrong.
            windrow_queue::store::StoreError::Invalid(_) => Self::Cursor(InvalidCursor),
            error => Self::Find(error.into()),
        }
    }
}

impl From<sqlx::Error> for ListError {
    fn from(error: sqlx::Error) -> Self {
        Self::Find(error.into())
    }
}

/// What lists are made from.
#[derive(Clone, Copy)]
pub(crate) struct Stores<'a> {
    pub(crate) store: &'a Store,
    pub(crate) database: &'a PgPool,
    pub(crate) queues: &'a [QueueName],
}

/// Checks that some time can be within both bounds.
///
/// # Errors
/// [`ListError::NoTime`].
pub fn some_time(since: Option<DateTime<Utc>>, until: Option<DateTime<Utc>>) -> Result<(), ListError> {
    match (since, until) {
        (Some(since), Some(until)) if since > until => Err(ListError::NoTime { since, until }),
        _ => Ok(()),
    }
}

/// A page of jobs in a state.
///
/// # Errors
/// When the cursor is another list's, no time is within the bounds, or a store is away.
pub async fn list(
    store: &Store,
    database: &PgPool,
    catalog: &Catalog,
    query: &ListQuery,
) -> Result<JobPage, ListError> {
    some_time(query.since, query.until)?;
    let queues = query.queue.clone().map_or_else(|| catalog.queues(), |queue| vec![queue]);
    let stores = Stores { store, database, queues: &queues };
    match query.state {
        ListState::Scheduled => stores.standing(Standing::Scheduled, query).await,
        ListState::Ready => stores.standing(Standing::Ready, query).await,
        ListState::Running => stores.standing(Standing::Running, query).await,
        ListState::Parked => stores.standing(Standing::Parked, query).await,
        ListState::Dead => stores.dead(query).await,
        ListState::Cancelled => stores.cancelled(query).await,
        ListState::Finished => stores.finished(query).await,
    }
}

/// Parts of one page that came back empty, until it is given to the caller as it is.
const PARTS: usize = 8;

impl Stores<'_> {
    /// Queue by queue; parked ones also in the journal. A cursor is the queue's name and its own cursor, `~` between them, and
    /// no queue's name for the journal.
    async fn standing(self, standing: Standing, query: &ListQuery) -> Result<JobPage, ListError> {
        let (mut page, filter) = (JobPage::default(), query.filter());
        let (begin, mut inner) = match &query.cursor {
            None => (Some(0), None),
            Some(cursor) => {
                let (queue, inner) = cursor.split_once('~').ok_or(InvalidCursor)?;
                let inner = if inner.is_empty() { None } else { Some(inner.to_owned()) };
                let place = self.queues.iter().position(|name| name.as_str() == queue);
                match (queue, standing, place) {
                    ("", Standing::Parked, _) => (None, inner),
                    (_, _, Some(place)) => (Some(place), inner),
                    _ => return Err(InvalidCursor.into()),
                }
            }
        };
        let mut parts = 0;
        for queue in begin.map_or(&[][..], |begin| &self.queues[begin..]) {
            loop {
                if page.jobs.len() >= query.limit || parts >= PARTS {
                    page.next = Some(format!("{queue}~{}", inner.unwrap_or_default()));
                    return Ok(page);
                }
                let after: Option<Cursor> = inner.take().map(|text| text.parse()).transpose()?;
                let left = query.limit - page.jobs.len();
                let part = self.store.list(queue, standing, &filter, after.as_ref(), left).await?;
                // A queue that holds nothing costs little, and there may be many.
                parts += usize::from(!part.items.is_empty() || part.next.is_some());
                page.jobs.extend(part.items.into_iter().map(|job| JobView::listed(queue, job)));
                page.add_unreadable(queue, part.unreadable, query);
                inner = part.next.map(|cursor| cursor.to_string());
                if inner.is_none() {
                    break;
                }
            }
        }
        if standing == Standing::Parked {
            self.parked_in_journal(inner, query, &mut page).await?;
        }
        Ok(page)
    }

    async fn parked_in_journal(
        self,
        after: Option<String>,
        query: &ListQuery,
        page: &mut JobPage,
    ) -> Result<(), ListError> {
        let after: Option<Uuid> = after.map(|text| text.parse().map_err(|_| InvalidCursor)).transpose()?;
        if page.jobs.len() >= query.limit {
            page.next = Some(format!("~{}", after.map(|id| id.to_string()).unwrap_or_default()));
            return Ok(());
        }
        let filter = StandingFilter {
            kind: query.kind.clone(),
            tenant: query.tenant.clone(),
            queue: query.queue.clone(),
            parked: Some(true),
            since: query.since,
            until: query.until,
        };
        let left = query.limit - page.jobs.len();
        let found = journal::find_standing(self.database, &filter, after.map(StandingCursor), left).await?;
        page.jobs.extend(found.jobs.into_iter().map(JobView::parked));
        page.next = found.next.map(|StandingCursor(id)| format!("~{id}"));
        Ok(())
    }

    async fn cancelled(self, query: &ListQuery) -> Result<JobPage, ListError> {
        let after = query.cursor.as_deref().map(closed_cursor).transpose()?;
        let filter = query.closed(CloseState::Cancelled);
        let found = journal::find_closed(self.database, &filter, after, query.limit).await?;
        Ok(JobPage {
            jobs: found.jobs.into_iter().map(summary).collect(),
            next: found.next.map(closed_text),
            ..JobPage::default()
        })
    }

    async fn finished(self, query: &ListQuery) -> Result<JobPage, ListError> {
        if query.cursor.is_some() {
            return Err(InvalidCursor.into());
        }
        let mut page = JobPage::default();
        for queue in self.queues {
            let (finished, unreadable) = self.store.recent(queue, windrow_queue::store::RECENT).await?;
            page.add_unreadable(queue, unreadable, query);
            page.jobs.extend(
                finished.into_iter().filter(|job| query.takes(&job.kind, job.tenant.as_ref(), job.finished_at)).map(
                    |job| JobView {
                        kind: Some(job.kind.into()),
                        tenant: job.tenant.map(String::from),
                        running_since: job.claimed_at,
                        closed_at: job.finished_at,
                        ..JobView::new(job.id, queue.as_str(), ended(job.outcome), job.journaled)
                    },
                ),
            );
        }
        page.jobs.sort_by_key(|job| std::cmp::Reverse(job.closed_at));
        page.jobs.truncate(query.limit);
        Ok(page)
    }
}

const fn ended(outcome: Ended) -> &'static str {
    match outcome {
        Ended::Completed | Ended::Gone => "completed",
        Ended::Cancelled => "cancelled",
        Ended::Dead => "dead",
    }
}

impl ListQuery {
    fn takes(&self, kind: &Kind, tenant: Option<&Tenant>, at: Option<DateTime<Utc>>) -> bool {
        self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && self.tenant.as_ref().is_none_or(|wanted| Some(wanted) == tenant)
            && self.since.is_none_or(|since| at >= Some(since))
            && self.until.is_none_or(|until| at.is_some_and(|at| at <= until))
    }
}

impl JobPage {
    /// Whose an unreadable entry is, nobody knows: a caller who asks for one tenant's jobs is not shown it.
    fn add_unreadable(&mut self, queue: &QueueName, entries: Vec<Unreadable>, query: &ListQuery) {
        if query.tenant.is_none() {
            let named = |entry| UnreadableEntry { queue: queue.to_string(), entry };
            self.unreadable.extend(entries.into_iter().map(named));
        }
    }
}

/// A closed job as lists show it.
fn summary(closed: journal::Closed) -> JobView {
    JobView { errors: Vec::new(), ..JobView::closed(closed) }
}

/// Microseconds and id.
fn closed_text(cursor: ClosedCursor) -> String {
    format!("{}.{}", cursor.closed_at.timestamp_micros(), cursor.id)
}

fn closed_cursor(text: &str) -> Result<ClosedCursor, InvalidCursor> {
    let (micros, id) = text.split_once('.').ok_or(InvalidCursor)?;
    let closed_at = micros.parse().ok().and_then(DateTime::from_timestamp_micros).ok_or(InvalidCursor)?;
    Ok(ClosedCursor { closed_at, id: id.parse().map_err(|_| InvalidCursor)? })
}
