//! Sorted sets, page by page: what waits for its time, what is parked, and the dead.

use chrono::{DateTime, Utc};
use redis::Value;

use super::{
    Ask, CALLS, Filter, LOOK, Page,
    answer::{ODD, array, field, parts, whole},
    entry::{Listed, Unreadable, listed},
};
use crate::{
    id::Member,
    store::{
        JobState, Store, StoreError,
        cursor::{Cursor, DueSet, Place},
        keys::Keys,
        script::LIST_DUE,
        session::instant,
    },
};

/// A part of a sorted set: entries, and the place behind them.
pub(in crate::store) struct DuePart<'a> {
    pub(in crate::store) entries: &'a [Value],
    pub(in crate::store) next: Option<(u64, Member)>,
}

impl<'a> DuePart<'a> {
    pub(in crate::store) fn read(answer: &'a [Value]) -> Result<Self, StoreError> {
        let [score, member, _, entries] = parts(answer)?;
        let member = field(member);
        let next = match (member.is_empty(), Member::from_bytes(member)) {
            (true, _) => None,
            (false, Some(member)) => Some((whole(score).ok_or(ODD)?, member)),
            // Nobody writes such an entry; the list ends at it rather than going round for ever.
            (false, None) => None,
        };
        Ok(Self { entries: array(entries)?, next })
    }
}

impl Ask<'_> {
    pub(super) async fn due(
        self,
        set: DueSet,
        state: JobState,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Page<Listed>, StoreError> {
        let mut place = match after {
            Some(Place::Due { score, member, .. }) => Some((*score, *member)),
            _ => None,
        };
        let mut page = Page::default();
        for _ in 0..CALLS {
            let answer = self.store.due_part(self.keys, set, self.filter, place, page.room(limit)).await?;
            let part = DuePart::read(&answer)?;
            for entry in part.entries.as_chunks::<5>().0 {
                let [m, _, head, old, _] = entry.each_ref().map(field);
                let at = whole(&entry[1]).and_then(instant);
                match listed(m, head, old, state) {
                    Some(job) => page.items.push(Listed { at, ..job }),
                    None => page.unreadable.push(Unreadable::new(m, at)),
                }
            }
            place = part.next;
            if place.is_none() || page.len() >= limit {
                break;
            }
        }
        page.next = place.map(|(score, member)| Cursor(Place::Due { set, score, member }));
        Ok(page)
    }
}

impl Store {
    /// A part of a sorted set: at most `look` entries behind a place.
    pub(in crate::store) async fn due_part(
        &self,
        keys: &Keys,
        set: DueSet,
        filter: &Filter,
        after: Option<(u64, Member)>,
        look: usize,
    ) -> Result<Vec<Value>, StoreError> {
        let mut call = LIST_DUE.call(keys, None, self.clock());
        call.arg(set.as_str()).arg(look.min(LOOK));
        match after {
            Some((score, member)) => call.arg(score).arg(member.to_bytes()),
            None => call.arg("").arg(""),
        };
        let bound =
            |at: Option<DateTime<Utc>>, none: &str| at.map_or(none.to_owned(), |at| at.timestamp_millis().to_string());
        call.arg(bound(filter.since, "-inf")).arg(bound(filter.until, "+inf"));
        call.arg(filter.kind_arg()).arg(filter.tenant_arg());
        self.link().run(&LIST_DUE, &call).await
    }
}
