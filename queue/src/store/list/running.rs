//! Running jobs, session by session.

use redis::Value;

use super::{
    Ask, CALLS, Page,
    answer::{ODD, array, field, parts, whole},
    entry::{Listed, Progress, Unreadable, of_lane},
};
use crate::{
    id::Member,
    store::{
        JobState, Lane, StoreError,
        cursor::{Cursor, Place},
        envelope::{Mut, read6},
        script::LIST_RUNNING,
        session::instant,
    },
};

impl Ask<'_> {
    /// Sessions come in parts, too, and so do the jobs of each.
    pub(super) async fn running(self, after: Option<&Place>, limit: usize) -> Result<Page<Listed>, StoreError> {
        let mut page = Page::default();
        let (mut scan, mut sid, mut inner) = match after {
            Some(Place::Running { scan, sid, inner }) => (*scan, sid.clone(), *inner),
            _ => (0, String::new(), 0),
        };
        let mut calls = 0;
        while page.len() < limit && calls < CALLS {
            let (sessions, next) = self.store.sessions_part(self.keys, scan).await?;
            calls += 1;
            let mut ids: Vec<&str> = sessions.iter().filter(|one| one.running > 0).map(|one| &*one.id).collect();
            ids.sort_unstable();
            // The session in which the page before ended may be gone; those before it were listed.
            let (begin, is_within) = (sid.clone(), inner != 0);
            for id in ids.into_iter().filter(|&id| id > &*begin || (is_within && id == &*begin)) {
                if id != begin {
                    inner = 0;
                }
                id.clone_into(&mut sid);
                loop {
                    inner = self.jobs_of(id, inner, &mut page).await?;
                    calls += 1;
                    if page.len() >= limit || calls >= CALLS {
                        page.next = Some(Cursor(Place::Running { scan, sid, inner }));
                        return Ok(page);
                    }
                    if inner == 0 {
                        break;
                    }
                }
            }
            if next == 0 {
                return Ok(page);
            }
            (scan, sid, inner) = (next, String::new(), 0);
        }
        page.next = Some(Cursor(Place::Running { scan, sid, inner }));
        Ok(page)
    }

    /// A part of the jobs of a session, into the page. Returns where to go on, 0 at the end.
    async fn jobs_of(self, sid: &str, inner: u64, page: &mut Page<Listed>) -> Result<u64, StoreError> {
        let mut call = LIST_RUNNING.call(self.keys, None, self.store.clock());
        call.arg(sid).arg(inner).arg(self.filter.kind_arg()).arg(self.filter.tenant_arg());
        let answer: Vec<Value> = self.store.link().run(&LIST_RUNNING, &call).await?;
        let [next, entries] = parts(&answer)?;
        for entry in array(entries)?.as_chunks::<5>().0 {
            let [m, lease, old, progress, _] = entry.each_ref().map(field);
            let at = instant(claimed_ms(lease));
            let lane = lease.get(15).and_then(|&length| lease.get(20..20 + usize::from(length))).and_then(Lane::decode);
            let (Some(member), Some(lane)) = (Member::from_bytes(m), lane) else {
                page.unreadable.push(Unreadable::new(m, at));
                continue;
            };
            if self.filter.takes_time(at) {
                page.items.push(Listed {
                    session: Some(sid.to_owned()),
                    progress: Progress::decode(progress),
                    stopping: whole(&entry[4]) == Some(1),
                    at,
                    ..of_lane(member, lane, Mut::decode(old), JobState::Running)
                });
            }
        }
        whole(next).ok_or(ODD)
    }
}

/// When a job was claimed, by its lease.
fn claimed_ms(lease: &[u8]) -> u64 {
    read6(lease.get(8..14).unwrap_or_default())
}
