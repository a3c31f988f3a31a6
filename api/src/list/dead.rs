//! Dead jobs of all queues and of the journal as one list, newest first.
//!
//! Each source is asked for what lies behind the cursor, a time and an id. A source that has more than it gave has a frontier:
//! what other sources have beyond the newest frontier waits for the next page, so that the pages together are in order.

use std::cmp::Reverse;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use windrow_queue::{
    JobId, QueueName,
    id::Member,
    journal::{self, CloseState, ClosedCursor},
    store::{Cursor, InvalidCursor},
};

use super::{JobPage, ListError, ListQuery, Stores, closed_cursor, closed_text, summary};
use crate::find::{JobView, hex};

/// A place in the list: later is further up.
type Place = (DateTime<Utc>, Uuid);

fn place_of(job: &JobView) -> Place {
    (job.closed_at.unwrap_or(DateTime::UNIX_EPOCH), job.id.0)
}

impl Stores<'_> {
    pub(super) async fn dead(self, query: &ListQuery) -> Result<JobPage, ListError> {
        let after = query.cursor.as_deref().map(closed_cursor).transpose()?;
        let (mut page, mut frontiers) = (JobPage::default(), Vec::new());
        let found = journal::find_closed(self.database, &query.closed(CloseState::Dead), after, query.limit).await?;
        frontiers.extend(found.next.map(|cursor| (cursor.closed_at, cursor.id)));
        page.jobs.extend(found.jobs.into_iter().map(summary));
        for queue in self.queues {
            frontiers.extend(self.dead_of(queue, after, query, &mut page).await?);
        }
        page.jobs.sort_by_key(|job| Reverse(place_of(job)));
        let bound = frontiers.into_iter().max();
        let within = page.jobs.iter().take_while(|job| bound.is_none_or(|bound| place_of(job) >= bound)).count();
        let rest = page.jobs.len() > query.limit.min(within);
        page.jobs.truncate(query.limit.min(within));
        let end = if page.jobs.len() == query.limit { page.jobs.last().map(place_of) } else { bound };
        if rest || bound.is_some() {
            page.next = end.map(|(closed_at, id)| closed_text(ClosedCursor { closed_at, id }));
        }
        // What lies behind the end of this page is met again on the next.
        if page.next.is_some()
            && let Some((at, _)) = end
        {
            page.unreadable.retain(|entry| entry.entry.at.is_none_or(|died| died >= at));
        }
        Ok(page)
    }

    /// Those of one queue, and how far it was looked through, unless to its end.
    async fn dead_of(
        self,
        queue: &QueueName,
        after: Option<ClosedCursor>,
        query: &ListQuery,
        page: &mut JobPage,
    ) -> Result<Option<Place>, ListError> {
        let begin = after.map(|after| before(after).ok_or(InvalidCursor)).transpose()?;
        let part = self.store.dead(queue, &query.filter(), begin.as_ref(), query.limit).await?;
        let print = query.fingerprint.map(|print| hex(&print));
        let views = part.items.into_iter().map(|job| JobView::dead(queue, job));
        page.jobs.extend(views.filter(|job| print.is_none() || job.fingerprint == print));
        page.add_unreadable(queue, part.unreadable, query);
        Ok(part.next.as_ref().and_then(Cursor::dead_place).map(|(at, id)| (at, id.0)))
    }
}

/// The cursor of a queue's dead jobs that is nearest behind a place. Redis counts milliseconds, the journal microseconds.
fn before(after: ClosedCursor) -> Option<Cursor> {
    let micros = u64::try_from(after.closed_at.timestamp_micros()).ok()?;
    if micros.is_multiple_of(1000) {
        return Some(Cursor::of_dead(micros / 1000, Member::fast(JobId(after.id))));
    }
    // All of that millisecond are older than the place.
    Some(Cursor::of_dead(micros / 1000 + 1, Member::fast(JobId(Uuid::nil()))))
}
