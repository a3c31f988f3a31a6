//! Jobs by state, page by page. No call looks at more than 200 jobs or reads more than about 4 MiB; a page makes a bounded
//! number of them, and says where the next goes on.
//!
//! What stands in a list throughout is listed, however the list changes between two pages; what moves may be listed twice or
//! not at all. Sorted lists go on behind the place of the last entry, whether that is still there or not.

use chrono::{DateTime, Utc};
use redis::Value;
use serde::Serialize;
use uuid::Uuid;

use super::{
    Lane, Store, StoreError,
    cursor::{Cursor, DueSet, InvalidCursor, Place, ReadyPlace, Spot},
    envelope::{Mut, read6},
    keys::Keys,
    script::{LIST_DUE, LIST_LANE, LIST_LANES, LIST_RUNNING},
    session::{bytes, instant, int},
};
use crate::{
    id::{JobId, Member},
    job::BatchId,
    name::{Kind, QueueName, Tenant},
    policy::Band,
    store::JobState,
};

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
    pub(super) fn kind_arg(&self) -> &str {
        self.kind.as_ref().map_or("", Kind::as_str)
    }

    pub(super) fn tenant_arg(&self) -> String {
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

/// Why ready jobs of a lane are not claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldWhy {
    /// Somebody paused it.
    Paused,
    /// As many run as may.
    Concurrency,
    /// As many were started as may; time will let more in.
    Rate,
}

/// What holds ready jobs back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HeldBy {
    /// Why.
    pub why: HeldWhy,
    /// By the limit of this scope: `queue`, `kind=…`, `tenant=…` or `kind=…,tenant=…`.
    pub scope: String,
}

impl HeldBy {
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let (why, id) = text.split_first()?;
        let why = match why {
            b'p' => HeldWhy::Paused,
            b'c' => HeldWhy::Concurrency,
            b'r' => HeldWhy::Rate,
            _ => return None,
        };
        let parts: Vec<&str> = std::str::from_utf8(id).ok()?.split('\x1f').collect();
        let scope = match parts[..] {
            ["k", kind] => format!("kind={kind}"),
            ["t", tenant] => format!("tenant={tenant}"),
            ["b", kind, tenant] => format!("kind={kind},tenant={tenant}"),
            _ => "queue".to_owned(),
        };
        Some(Self { why, scope })
    }
}

/// How far a job has come, by its own account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Progress {
    /// So much is done.
    pub done: u64,
    /// Of so much; 0 if it is not known.
    pub total: u64,
}

impl Progress {
    pub(super) fn decode(packed: &[u8]) -> Option<Self> {
        (packed.len() == 12).then(|| Self { done: read6(&packed[..6]), total: read6(&packed[6..]) })
    }
}

/// A job as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The job.
    pub id: JobId,
    /// What Redis knows it by.
    #[serde(skip)]
    pub member: Member,
    /// Where it is.
    pub state: JobState,
    /// What it is.
    pub kind: Kind,
    /// Whom it is done for.
    pub tenant: Option<Tenant>,
    /// Priority.
    pub band: Band,
    /// Whether it is in the journal.
    pub journaled: bool,
    /// The batch of a fast job.
    pub batch: Option<BatchId>,
    /// Attempts that count.
    pub attempt: u32,
    /// When Redis took it; not said of running jobs.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// The time of its state: see [`Standing`].
    pub at: Option<DateTime<Utc>>,
    /// Who runs it.
    pub session: Option<String>,
    /// How far it says it has come, while it runs.
    pub progress: Option<Progress>,
    /// It runs, and was told to stop.
    pub stopping: bool,
    /// What keeps it from being claimed, while it is ready.
    pub held_by: Option<HeldBy>,
}

/// An entry that this version cannot read. It is shown, so that nothing is missing without a word.
#[derive(Clone, Debug, Serialize)]
pub struct Unreadable {
    /// The job, if even that can be read.
    pub id: Option<JobId>,
    /// The entry in hexadecimal.
    pub member: String,
    /// Since when, or for when, it stands in the list.
    pub at: Option<DateTime<Utc>>,
}

impl Unreadable {
    pub(super) fn new(member: &[u8], at: Option<DateTime<Utc>>) -> Self {
        use std::fmt::Write;
        let id = Member::from_bytes(member).map(|member| member.id);
        // An entry of any other length was not written by us, and need not be shown whole.
        let member = member.iter().take(64).fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing into a string cannot fail");
            text
        });
        Self { id, member, at }
    }
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

const ODD: StoreError = StoreError::Unreadable("an answer to a list");

/// The parts of an answer, as many as are expected.
pub(super) fn parts<const N: usize>(answer: &[Value]) -> Result<&[Value; N], StoreError> {
    answer.try_into().map_err(|_| ODD)
}

pub(super) fn array(value: &Value) -> Result<&[Value], StoreError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(ODD),
    }
}

/// A whole number, whether it came as one or as text (scores and cursors of scans do).
pub(super) fn whole(value: &Value) -> Option<u64> {
    if let Some(number) = int(value) {
        return u64::try_from(number).ok();
    }
    let text = std::str::from_utf8(bytes(value)?).ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "scores are times in milliseconds")]
    text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|score| score as u64))
}

fn field(value: &Value) -> &[u8] {
    bytes(value).unwrap_or_default()
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

/// A part of a sorted set: entries, and the place behind them.
pub(super) struct DuePart<'a> {
    pub(super) entries: &'a [Value],
    pub(super) next: Option<(u64, Member)>,
}

impl<'a> DuePart<'a> {
    pub(super) fn read(answer: &'a [Value]) -> Result<Self, StoreError> {
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
    async fn due(
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

    /// The suspects, then the lanes. Those come in parts; within a part they are in the order of their names, so that a page
    /// can end at any of them.
    async fn ready(self, after: Option<&Place>, limit: usize) -> Result<Page<Listed>, StoreError> {
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

    /// Sessions come in parts, too, and so do the jobs of each.
    async fn running(self, after: Option<&Place>, limit: usize) -> Result<Page<Listed>, StoreError> {
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
pub(super) fn claimed_ms(lease: &[u8]) -> u64 {
    read6(lease.get(8..14).unwrap_or_default())
}

/// A part of the lanes, and where the next one begins; 0 at the end.
struct Lanes {
    names: Vec<Vec<u8>>,
    next: u64,
}

/// The beginning of an envelope, which says what a job is.
pub(super) struct Head {
    pub(super) enqueued_ms: u64,
    pub(super) ready_ms: u64,
    pub(super) lane: Lane,
    pub(super) batch: Option<BatchId>,
}

impl Head {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (times, rest) = bytes.split_at_checked(12)?;
        let ([1, flags, length, _], rest) = rest.split_first_chunk::<4>()? else { return None };
        let (lane, rest) = rest.split_at_checked(usize::from(*length))?;
        let rest = if flags & 2 == 0 { rest } else { rest.split_at_checked(16)?.1 };
        let batch = if flags & 4 == 0 { None } else { Some(BatchId(Uuid::from_bytes(*rest.first_chunk()?))) };
        Some(Self { enqueued_ms: read6(&times[..6]), ready_ms: read6(&times[6..]), lane: Lane::decode(lane)?, batch })
    }
}

/// A job by its envelope without args.
fn listed(member: &[u8], head: &[u8], old: &[u8], state: JobState) -> Option<Listed> {
    let (member, head, old) = (Member::from_bytes(member)?, Head::decode(head)?, Mut::decode(old));
    Some(Listed {
        batch: head.batch,
        enqueued_at: instant(head.enqueued_ms),
        at: instant(old.ready_ms.unwrap_or(head.ready_ms)),
        ..of_lane(member, head.lane, old, state)
    })
}

fn of_lane(member: Member, lane: Lane, old: Mut, state: JobState) -> Listed {
    Listed {
        id: member.id,
        member,
        state,
        kind: lane.kind,
        tenant: lane.tenant,
        band: lane.band,
        journaled: member.generation.is_some(),
        batch: None,
        attempt: old.attempt,
        enqueued_at: None,
        at: None,
        session: None,
        progress: None,
        stopping: false,
        held_by: None,
    }
}

impl Store {
    /// A part of a sorted set: at most `look` entries behind a place.
    pub(super) async fn due_part(
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
