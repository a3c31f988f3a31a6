//! The end of a hub, step by step: running jobs may finish, are told to stop, are given back.

use std::time::Duration;

use tokio::time::Instant;

use super::Hub;
use crate::execute::WIND_DOWN;

/// How far a stop has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    No,
    /// Running jobs may finish until then.
    Until(Instant),
    /// They were told; what is left then is released.
    Told(Instant),
    Released,
}

impl Hub {
    pub(super) fn drain_deadline(&self) -> Instant {
        match self.drain {
            Drain::Until(deadline) | Drain::Told(deadline) => deadline,
            Drain::No | Drain::Released => Instant::now() + Duration::from_secs(3600),
        }
    }

    pub(super) fn drain_on(&mut self) {
        match self.drain {
            Drain::Until(_) => {
                tracing::warn!(queue = %self.parts.queue, running = self.table.held(), "the grace is over");
                self.table.stop_all();
                self.drain = Drain::Told(Instant::now() + WIND_DOWN + Duration::from_millis(250));
            }
            Drain::Told(_) => {
                self.table.release_all();
                self.drain = Drain::Released;
            }
            Drain::No | Drain::Released => {}
        }
    }
}
