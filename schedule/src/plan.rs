//! What is to be done about a schedule now: which fire times get a job, which were missed. A pure function.
//!
//! A fire time is *missed* when nobody noticed it within a grace: the smaller of 60 s and half of the time to the next one.
//! Each fire time gets exactly one outcome, in the pass that moves `handled_until` past it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::timing::Timing;

/// Fire times of one schedule that one pass deals with; what is beyond is dealt with by the next.
const PASS: usize = 1000;

/// The longest catch-up.
pub const MAX_CATCH_UP: u16 = 500;

const MAX_GRACE: TimeDelta = TimeDelta::seconds(60);

/// What becomes of missed fire times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Missed {
    /// They are recorded, and that is all.
    Skip,
    /// One job for all of them: the next one on time, or if there is none at once, for the last of them.
    #[default]
    RunOnce,
    /// The last so many have a job each, told its own due time.
    CatchUp(u16),
}

/// A fire time that gets a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// When it was due, jitter not counted.
    pub fire_at: DateTime<Utc>,
    /// Fire times before it that got no job.
    pub missed: i32,
}

/// Consecutive fire times that get no job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MissedRun {
    /// The first of them.
    pub first: DateTime<Utc>,
    /// The last of them.
    pub last: DateTime<Utc>,
    /// How many.
    pub times: i32,
}

/// What one pass does about one schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Recorded as missed; all of them before the first that gets a job.
    pub missed: Option<MissedRun>,
    /// Jobs, oldest first.
    pub fires: Vec<Due>,
    /// Every fire time up to here has its outcome now.
    pub handled_until: DateTime<Utc>,
    /// Missed fire times that no job has been told of yet.
    pub carried: i32,
    /// The first fire time after `handled_until`.
    pub next: Option<DateTime<Utc>>,
}

/// Plans one pass at `now`, given how far the schedule was dealt with (`handled_until`) and how many missed fire times the
/// next job is still to be told of (`carried`). `offset` is the schedule's share of its jitter.
#[must_use]
pub fn plan(
    timing: &Timing,
    policy: Missed,
    offset: Duration,
    handled_until: DateTime<Utc>,
    carried: i32,
    now: DateTime<Utc>,
) -> Plan {
    let offset = TimeDelta::from_std(offset).unwrap_or(TimeDelta::zero());
    let mut times = Vec::new();
    let mut late = 0;
    let mut next = timing.next_after(handled_until);
    while let Some(fire_at) = next.filter(|fire_at| *fire_at + offset <= now && times.len() < PASS) {
        next = timing.next_after(fire_at);
        let grace = next.map_or(MAX_GRACE, |next| ((next - fire_at) / 2).min(MAX_GRACE));
        times.push(fire_at);
        if now - (fire_at + offset) > grace {
            // An earlier one is missed too, even if a long step after it gave it a longer grace.
            late = times.len();
        }
    }
    let more = next.is_some_and(|fire_at| fire_at + offset <= now);
    let on_time = times.len() - late;
    // Among the late ones, how many of the last get a job, and how many of the last wait for the next pass, which knows
    // whether they are the last.
    let (caught_up, postponed) = match policy {
        Missed::Skip => (0, 0),
        Missed::RunOnce if on_time > 0 || more => (0, 0),
        Missed::RunOnce => (late.min(1), 0),
        Missed::CatchUp(most) if more => (0, late.min(usize::from(most.min(MAX_CATCH_UP)))),
        Missed::CatchUp(most) => (late.min(usize::from(most.min(MAX_CATCH_UP))), 0),
    };
    if postponed > 0 {
        times.truncate(late - postponed);
        late = times.len();
        next = timing.next_after(times.last().copied().unwrap_or(handled_until));
    }
    let (missed, fires) = times.split_at(late - caught_up);
    let mut untold = carried.saturating_add(i32::try_from(missed.len()).unwrap_or(i32::MAX));
    let fires: Vec<Due> = fires.iter().map(|&fire_at| Due { fire_at, missed: std::mem::take(&mut untold) }).collect();
    Plan {
        missed: missed.first().zip(missed.last()).map(|(&first, &last)| MissedRun {
            first,
            last,
            times: i32::try_from(missed.len()).unwrap_or(i32::MAX),
        }),
        handled_until: times.last().copied().unwrap_or(handled_until),
        carried: untold,
        fires,
        next,
    }
}
