//! Ready jobs, lane by lane.

use redis::Value;

use super::{
    Ask, CALLS, Filter, Page,
    answer::{ODD, array, field, parts, whole},
    entry::{HeldBy, Listed, Unreadable, listed},
};
use crate::{
    id::Member,
    policy::Band,
    store::{
        JobState, Lane, StoreError,
        cursor::{Cursor, Place, ReadyPlace, Spot},
        script::{LIST_LANE, LIST_LANES},
    },
};

/// A part of the lanes, and where the next one begins; 0 at the end.
struct Lanes {
    names: Vec<Vec<u8>>,
    next: u64,
}

impl Ask<'_> {
    /// The suspects, then the lanes. Those come in parts; within a part they are in the order of their names, so that a page
    /// can end at any of them.
    pub(super) async fn ready(self, after: Option<&Place>, limit: usize) -> Result<Page<Listed>, StoreError> {
        let mut page = Page::default();
        let mut place = match after {
            Some(Place::Ready(place)) => place.clone(),
            _ => ReadyPlace::default(),
        };
        let (mut part, mut calls): (Option<Lanes>, usize) = (None, 0);
        while page.len() < limit && calls < CALLS {
            calls += 1;
            let behind = match place.spot.clone() {
                Spot::Part => {
                    part = Some(self.lanes(place.scan).await?);
                    None
                }
                Spot::Suspects => {
                    if self.lane(b"", &mut place, limit, &mut page).await? {
                        place = ReadyPlace { spot: Spot::Part, ..ReadyPlace::default() };
                    }
                    continue;
                }
                Spot::Lane(lane) => {
                    if !self.lane(&lane, &mut place, limit, &mut page).await? {
                        continue;
                    }
                    Some(lane)
                }
            };
            let lanes = match part.take() {
                Some(lanes) => lanes,
                None => self.lanes(place.scan).await?,
            };
            let following = lanes.names.iter().find(|&lane| behind.as_ref().is_none_or(|behind| lane > behind));
            place = match (following, lanes.next) {
                (Some(lane), _) => {
                    ReadyPlace { scan: place.scan, spot: Spot::Lane(lane.clone()), ..ReadyPlace::default() }
                }
                (None, 0) => return Ok(page),
                (None, next) => ReadyPlace { scan: next, spot: Spot::Part, ..ReadyPlace::default() },
            };
            part = Some(lanes);
        }
        page.next = Some(Cursor(Place::Ready(place)));
        Ok(page)
    }

    /// A part of the lanes that the filter takes, in the order of their names.
    async fn lanes(self, scan: u64) -> Result<Lanes, StoreError> {
        if let Filter { kind: Some(kind), tenant: Some(tenant), .. } = self.filter {
            let names = Band::ALL.map(|band| Lane::encode(band, Some(tenant), kind).into_bytes());
            return Ok(Lanes { names: names.to_vec(), next: 0 });
        }
        let mut call = LIST_LANES.call(self.keys, None, self.store.clock());
        call.arg(scan).arg(self.filter.kind_arg()).arg(self.filter.tenant_arg());
        let answer: Vec<Value> = self.store.link().run(&LIST_LANES, &call).await?;
        let [next, lanes] = parts(&answer)?;
        // What is no lane can be no key of ours, and no cursor.
        let names = array(lanes)?.as_chunks::<2>().0.iter().map(|[lane, _]| field(lane).to_vec());
        let mut names: Vec<Vec<u8>> = names.filter(|lane| Lane::decode(lane).is_some()).collect();
        names.sort();
        names.dedup();
        Ok(Lanes { names, next: whole(next).ok_or(ODD)? })
    }

    /// Goes on in one lane; true at its end.
    async fn lane(
        self,
        lane: &[u8],
        place: &mut ReadyPlace,
        limit: usize,
        page: &mut Page<Listed>,
    ) -> Result<bool, StoreError> {
        let mut call = LIST_LANE.call(self.keys, None, self.store.clock());
        call.arg(lane).arg(place.index).arg(place.member.map(Member::to_bytes).unwrap_or_default());
        call.arg(page.room(limit)).arg(self.filter.kind_arg()).arg(self.filter.tenant_arg());
        let answer: Vec<Value> = self.store.link().run(&LIST_LANE, &call).await?;
        if let [_, index] = &answer[..] {
            place.index = whole(index).ok_or(ODD)?;
            return Ok(false);
        }
        let [_, index, member, held_by, _, entries] = parts(&answer)?;
        let held_by = HeldBy::decode(field(held_by));
        for entry in array(entries)?.as_chunks::<4>().0 {
            let [m, _, head, old] = entry.each_ref().map(field);
            let Some(job) = listed(m, head, old, JobState::Ready) else {
                page.unreadable.push(Unreadable::new(m, None));
                continue;
            };
            if self.filter.takes_time(job.at) {
                page.items.push(Listed { held_by: held_by.clone(), ..job });
            }
        }
        place.index = whole(index).unwrap_or(0);
        place.member = Member::from_bytes(field(member));
        Ok(place.member.is_none())
    }
}
