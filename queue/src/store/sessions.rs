//! Who runs what.

use chrono::{DateTime, Utc};
use redis::Value;
use serde::Serialize;

use super::{
    Store, StoreError,
    cursor::{Cursor, InvalidCursor, Place},
    keys::Keys,
    list::{Page, array, parts, whole},
    script::SESSIONS,
    session::{bytes, instant},
};
use crate::name::QueueName;

/// A worker's hold on a queue.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    /// The session.
    pub id: String,
    /// What its process says of itself.
    pub info: String,
    /// How many jobs it runs at a time.
    pub slots: u64,
    /// How many it runs now.
    pub running: u64,
    /// When its lease is over, unless it is heard of before.
    pub deadline: Option<DateTime<Utc>>,
    /// Whether its requests still count. If not, its jobs are being given back.
    pub alive: bool,
}

const ODD: StoreError = StoreError::Unreadable("an answer to sessions");

impl Store {
    /// A page of the sessions of a queue, about 100 at a time, in no order. What is there throughout is listed at least once.
    ///
    /// # Errors
    /// When Redis is away, or the cursor is another list's.
    pub async fn sessions(&self, queue: &QueueName, after: Option<&Cursor>) -> Result<Page<SessionInfo>, StoreError> {
        let scan = match after.map(|cursor| &cursor.0) {
            None => 0,
            Some(Place::Scan(scan)) => *scan,
            Some(_) => return Err(InvalidCursor.into()),
        };
        let (items, next) = self.sessions_part(&Keys::new(queue), scan).await?;
        Ok(Page { items, unreadable: Vec::new(), next: (next != 0).then_some(Cursor(Place::Scan(next))) })
    }

    /// A part of the sessions, and where the next one begins; 0 at the end.
    pub(super) async fn sessions_part(&self, keys: &Keys, scan: u64) -> Result<(Vec<SessionInfo>, u64), StoreError> {
        let mut call = SESSIONS.call(keys, None, self.clock());
        call.arg(scan);
        let answer: Vec<Value> = self.link().run(&SESSIONS, &call).await?;
        let [_, next, entries] = parts(&answer)?;
        let text = |value: &Value| String::from_utf8_lossy(bytes(value).unwrap_or_default()).into_owned();
        let sessions =
            array(entries)?.as_chunks::<6>().0.iter().map(|[id, deadline, running, slots, info, alive]| SessionInfo {
                id: text(id),
                info: text(info),
                slots: whole(slots).unwrap_or(0),
                running: whole(running).unwrap_or(0),
                deadline: whole(deadline).and_then(instant),
                alive: whole(alive) == Some(1),
            });
        Ok((sessions.collect(), whole(next).ok_or(ODD)?))
    }
}
