//! What it means when a queue's Redis and PostgreSQL do not remember the same. Decision 23 has the table.

use std::fmt;

use sqlx::FromRow;
use uuid::Uuid;
use windrow_queue::store::Pulse;

/// What PostgreSQL remembers of a queue's Redis.
#[derive(Clone, Debug, Default, FromRow)]
pub(crate) struct Known {
    pub(crate) queue: String,
    pub(crate) epoch: Option<Uuid>,
    pub(crate) beat: i64,
    pub(crate) run_id: Option<String>,
    /// It is time for the second look after PostgreSQL was found behind.
    pub(crate) again: bool,
}

/// What was found of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// It was never compared before.
    New,
    /// Redis has nothing of it.
    Wiped,
    /// Redis is older than what PostgreSQL remembers.
    RolledBack,
    /// PostgreSQL is older than what Redis remembers, or has failed over.
    PostgresBehind,
    /// Redis was restarted or failed over, and may have lost less than a beat.
    Restarted,
    /// Nothing: a second look that was due.
    Again,
}

impl Finding {
    /// What is counted.
    pub(crate) const COUNTED: [Self; 4] = [Self::Wiped, Self::RolledBack, Self::PostgresBehind, Self::Restarted];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Wiped => "wiped",
            Self::RolledBack => "rolled_back",
            Self::PostgresBehind => "postgres_behind",
            Self::Restarted => "restarted",
            Self::Again => "again",
        }
    }

    pub(crate) fn read(text: &str) -> Option<Self> {
        [Self::New, Self::Again].into_iter().chain(Self::COUNTED).find(|finding| finding.as_str() == text)
    }

    /// Whether Redis may hold jobs of which PostgreSQL knows nothing, or nothing any more.
    pub(crate) const fn leaves_ghosts(self) -> bool {
        matches!(self, Self::RolledBack | Self::PostgresBehind | Self::Again)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "this queue is compared with the journal for the first time",
            Self::Wiped => "Redis has lost everything of this queue",
            Self::RolledBack => "Redis came back with older data than it had",
            Self::PostgresBehind => {
                "PostgreSQL came back older than it was, or failed over; or another database uses this Redis"
            }
            Self::Restarted => "Redis was restarted or failed over, and may have lost its last moments",
            Self::Again => "this queue is looked at once more after PostgreSQL came back",
        })
    }
}

/// Compares what PostgreSQL remembers with what Redis said when its beat was to be raised. Nothing is found when all is well:
/// Redis is one beat ahead then.
pub(crate) fn judge(known: &Known, pulse: &Pulse, timeline: Option<&str>) -> Option<Finding> {
    let Some(seen) = pulse.epoch else {
        return Some(if known.epoch.is_none() { Finding::New } else { Finding::Wiped });
    };
    let Some(epoch) = known.epoch else { return Some(Finding::PostgresBehind) };
    let ahead = pulse.beat - known.beat;
    let moved = pulse.timeline.as_deref().zip(timeline).is_some_and(|(then, now)| then != now);
    if seen != epoch {
        return Some(if ahead > 0 { Finding::PostgresBehind } else { Finding::RolledBack });
    }
    if ahead <= 0 {
        return Some(Finding::RolledBack);
    }
    if ahead > 1 || moved {
        return Some(Finding::PostgresBehind);
    }
    if known.run_id.as_deref() != Some(&*pulse.run_id) {
        return Some(Finding::Restarted);
    }
    known.again.then_some(Finding::Again)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn known() -> Known {
        let run_id = Some("run".to_owned());
        Known { queue: "q".to_owned(), epoch: Some(EPOCH), beat: 10, run_id, again: false }
    }

    fn pulse(epoch: Option<Uuid>, beat: i64) -> Pulse {
        Pulse { epoch, beat, timeline: Some("1".to_owned()), run_id: "run".to_owned() }
    }

    #[test]
    fn each_disagreement_has_its_name() {
        for (epoch, beat, found) in [
            (Some(EPOCH), 11, None),
            (None, 0, Some(Finding::Wiped)),
            (Some(EPOCH), 10, Some(Finding::RolledBack)),
            (Some(EPOCH), 3, Some(Finding::RolledBack)),
            (Some(EPOCH), 12, Some(Finding::PostgresBehind)),
            (Some(OTHER), 11, Some(Finding::PostgresBehind)),
            (Some(OTHER), 99, Some(Finding::PostgresBehind)),
            (Some(OTHER), 10, Some(Finding::RolledBack)),
            (Some(OTHER), 3, Some(Finding::RolledBack)),
        ] {
            assert_eq!(judge(&known(), &pulse(epoch, beat), Some("1")), found, "{epoch:?} {beat}");
        }
    }

    #[test]
    fn what_was_never_compared_is_new_and_a_database_that_knows_nothing_is_behind() {
        let nothing = Known { queue: "q".to_owned(), ..Known::default() };
        assert_eq!(judge(&nothing, &pulse(None, 0), None), Some(Finding::New));
        assert_eq!(judge(&nothing, &pulse(Some(EPOCH), 1), None), Some(Finding::PostgresBehind));
    }

    #[test]
    fn a_failover_of_either_store_is_found_although_the_beats_agree() {
        let well = pulse(Some(EPOCH), 11);
        assert_eq!(judge(&known(), &well, Some("2")), Some(Finding::PostgresBehind));
        assert_eq!(judge(&known(), &well, None), None, "a server that names no timeline");
        assert_eq!(judge(&known(), &Pulse { timeline: None, ..well.clone() }, Some("2")), None);
        let elsewhere = Pulse { run_id: "another".to_owned(), ..well.clone() };
        assert_eq!(judge(&known(), &elsewhere, Some("1")), Some(Finding::Restarted));
        let again = Known { again: true, ..known() };
        assert_eq!(judge(&again, &well, Some("1")), Some(Finding::Again));
        assert_eq!(judge(&again, &elsewhere, Some("1")), Some(Finding::Restarted));
    }

    #[test]
    fn findings_are_read_as_they_are_written() {
        for finding in Finding::COUNTED.into_iter().chain([Finding::New, Finding::Again]) {
            assert_eq!(Finding::read(finding.as_str()), Some(finding));
        }
        assert_eq!(Finding::read("other"), None);
    }
}
