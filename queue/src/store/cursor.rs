//! Where a page of a list ended, as text that goes through programs and URLs.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::{StoreError, envelope::Lane, session::instant};
use crate::id::{JobId, Member};

/// Where a page ended. Opaque: only the list that made it can go on from it, at any later time and with the same filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor(pub(super) Place);

/// What a list needs to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Behind this entry of a sorted set.
    Due { set: DueSet, score: u64, member: Member },
    /// Among the ready jobs.
    Ready(ReadyPlace),
    /// Within the session of this part of the sessions; behind it if `inner` is 0; before the first if `sid` is empty.
    Running { scan: u64, sid: String, inner: u64 },
    /// A part of a set that has no order.
    Scan(u64),
}

/// Within a spot of this part of the lanes, behind this member, which was seen at this index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ReadyPlace {
    pub(super) scan: u64,
    pub(super) spot: Spot,
    pub(super) index: u64,
    pub(super) member: Option<Member>,
}

/// Where ready jobs stand.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Spot {
    /// Among the suspects, which come first.
    #[default]
    Suspects,
    /// Before the first lane of the part.
    Part,
    /// In this lane.
    Lane(Vec<u8>),
}

/// The sorted sets that are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DueSet {
    Scheduled,
    Parked,
    Dead,
}

impl DueSet {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Parked => "parked",
            Self::Dead => "dead",
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::Scheduled => b's',
            Self::Parked => b'p',
            Self::Dead => b'd',
        }
    }
}

/// A text that no list has made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is no cursor of a list: give the one that the page before came with, or none to begin")]
pub struct InvalidCursor;

impl From<InvalidCursor> for StoreError {
    fn from(error: InvalidCursor) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl Cursor {
    /// Among the dead of a queue, behind a time (milliseconds since 1970) and a member, whether such a one is there or not.
    #[must_use]
    pub const fn of_dead(died_ms: u64, member: Member) -> Self {
        Self(Place::Due { set: DueSet::Dead, score: died_ms, member })
    }

    /// The time and the job behind which a list of the dead goes on; `None` for any other list's cursor.
    #[must_use]
    pub fn dead_place(&self) -> Option<(DateTime<Utc>, JobId)> {
        match &self.0 {
            Place::Due { set: DueSet::Dead, score, member } => Some((instant(*score)?, member.id)),
            _ => None,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let mut field = |part: &[u8]| {
            bytes.push(u8::try_from(part.len()).expect("names, members and numbers have less than 256 bytes"));
            bytes.extend_from_slice(part);
        };
        match &self.0 {
            Place::Due { set, score, member } => {
                field(&[set.tag()]);
                field(&score.to_be_bytes());
                field(&member.to_bytes());
            }
            Place::Ready(ReadyPlace { scan, spot, index, member }) => {
                field(b"r");
                field(&scan.to_be_bytes());
                field(match spot {
                    Spot::Suspects => b"s",
                    Spot::Part => b"",
                    Spot::Lane(lane) => lane,
                });
                field(&index.to_be_bytes());
                field(&member.map(Member::to_bytes).unwrap_or_default());
            }
            Place::Running { scan, sid, inner } => {
                field(b"x");
                field(&scan.to_be_bytes());
                field(sid.as_bytes());
                field(&inner.to_be_bytes());
            }
            Place::Scan(scan) => {
                field(b"n");
                field(&scan.to_be_bytes());
            }
        }
        bytes
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut fields = Vec::new();
        while let Some((&length, rest)) = bytes.split_first() {
            let (field, rest) = rest.split_at_checked(usize::from(length))?;
            fields.push(field);
            bytes = rest;
        }
        let number = |field: &[u8]| Some(u64::from_be_bytes(field.try_into().ok()?));
        let due =
            |set, score, member| Some(Place::Due { set, score: number(score)?, member: Member::from_bytes(member)? });
        let place = match fields[..] {
            [b"s", score, member] => due(DueSet::Scheduled, score, member)?,
            [b"p", score, member] => due(DueSet::Parked, score, member)?,
            [b"d", score, member] => due(DueSet::Dead, score, member)?,
            [b"r", scan, spot, index, member] => Place::Ready(ReadyPlace {
                scan: number(scan)?,
                spot: match spot {
                    b"s" => Spot::Suspects,
                    b"" => Spot::Part,
                    // A lane that is none would be no key of ours.
                    lane => Lane::decode(lane).map(|_| Spot::Lane(lane.to_vec()))?,
                },
                index: number(index)?,
                member: if member.is_empty() { None } else { Some(Member::from_bytes(member)?) },
            }),
            [b"x", scan, sid, inner] => Place::Running {
                scan: number(scan)?,
                sid: std::str::from_utf8(sid).ok().filter(|sid| sid.is_empty() || is_sid(sid))?.to_owned(),
                inner: number(inner)?,
            },
            [b"n", scan] => Place::Scan(number(scan)?),
            _ => return None,
        };
        Some(Self(place))
    }
}

fn is_sid(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if text.len() > 1024 || !text.len().is_multiple_of(2) {
            return Err(InvalidCursor);
        }
        let bytes: Option<Vec<u8>> =
            text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect();
        bytes.and_then(|bytes| Self::from_bytes(&bytes)).ok_or(InvalidCursor)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_cursor_survives_as_text_and_no_other_text_is_one() {
        let member = Member::journaled(JobId::new(), 3);
        let lane = b"2\x1facme\x1fa.run".to_vec();
        for place in [
            Place::Due { set: DueSet::Scheduled, score: 1_700_000_000_123, member },
            Place::Due { set: DueSet::Parked, score: 0, member },
            Place::Due { set: DueSet::Dead, score: u64::MAX, member },
            Place::Ready(ReadyPlace { scan: 7, spot: Spot::Lane(lane), index: 12, member: Some(member) }),
            Place::Ready(ReadyPlace { spot: Spot::Part, ..ReadyPlace::default() }),
            Place::Ready(ReadyPlace::default()),
            Place::Running { scan: 3, sid: "00ff00ff00ff00ff".into(), inner: 9 },
            Place::Scan(5),
        ] {
            let cursor = Cursor(place);
            let text = cursor.to_string();
            assert_eq!(text.parse::<Cursor>(), Ok(cursor));
            for end in 0..text.len() {
                assert!(text[..end].parse::<Cursor>().is_err(), "cut at {end}: {text}");
            }
        }
        let evil = Cursor(Place::Ready(ReadyPlace { spot: Spot::Lane(b"meta".to_vec()), ..ReadyPlace::default() }));
        assert_eq!(evil.to_string().parse::<Cursor>(), Err(InvalidCursor));
        for text in ["é0", "zz", "+1", &"00".repeat(600)] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }
}
