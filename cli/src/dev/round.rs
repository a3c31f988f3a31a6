//! Reads the figures again and again, and shows them, until all is done, time is up, or somebody asks for the end.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;
use windrow_queue::shutdown::Shutdown;

use super::{
    figures::{Books, Figures},
    goal,
    progress::Progress,
    screen::Screen,
};

/// Why the first round ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Done, or no longer worth waiting for.
    Over(Box<Figures>),
    /// Somebody asked for the end.
    Interrupted,
}

/// What is followed.
#[derive(Debug)]
pub(super) struct Round<'a> {
    pub(super) books: &'a Books,
    /// The figures before it began.
    pub(super) before: Figures,
    /// The import's job.
    pub(super) import: Uuid,
    pub(super) screen: &'a Screen,
    pub(super) started: Instant,
    pub(super) shutdown: &'a Shutdown,
}

impl Round<'_> {
    /// Until everything is done or the deadline, counted from the start, is over.
    pub(super) async fn until_over(&mut self, period: Duration, deadline: Duration) -> anyhow::Result<Ended> {
        let mut progress = Progress::new(self.screen.clone());
        let mut ticks = ticks(period);
        while self.shutdown.soft.run_until_cancelled(ticks.tick()).await.is_some() {
            let is_late = self.started.elapsed() >= deadline;
            match self.read().await {
                Ok(figures) => {
                    progress.show(self.started.elapsed(), &figures);
                    if is_late || goal::is_over(&figures) {
                        return Ok(Ended::Over(Box::new(figures)));
                    }
                }
                // A store that is away comes back, or the deadline ends the wait.
                Err(error) if is_late => return Err(error.context("the figures cannot be read")),
                Err(error) => tracing::warn!("the figures cannot be read at present: {error:#}"),
            }
        }
        Ok(Ended::Interrupted)
    }

    /// Shows what goes on until somebody asks for the end.
    pub(super) async fn until_stopped(&mut self, period: Duration) {
        let mut progress = Progress::new(self.screen.clone());
        let mut ticks = ticks(period);
        while self.shutdown.soft.run_until_cancelled(ticks.tick()).await.is_some() {
            match self.read().await {
                Ok(figures) => progress.show(self.started.elapsed(), &figures),
                Err(error) => tracing::warn!("the figures cannot be read at present: {error:#}"),
            }
        }
    }

    async fn read(&self) -> anyhow::Result<Figures> {
        Ok(Figures::read(self.books, Some(self.import)).await?.since(&self.before))
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
