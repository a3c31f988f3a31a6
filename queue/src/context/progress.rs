//! How far a job is, as its handler says: written to Redis twice a second at most, however often it is said.

use std::time::Duration;

use tokio::{runtime::Handle, sync::watch, time::sleep};

use crate::store::{Hold, Store};

/// Time between two writes.
const PERIOD: Duration = Duration::from_millis(500);

type Figures = (u64, u64);

/// Where a handler's figures go. The writer ends when this is dropped, with the last figures written.
#[derive(Debug)]
pub(super) struct Progress {
    latest: watch::Sender<Figures>,
}

impl Progress {
    /// Starts the writer, with the first figures.
    pub(super) fn start(runtime: &Handle, store: Store, hold: Hold, first: Figures) -> Self {
        let (latest, mut seen) = watch::channel(first);
        seen.mark_changed();
        runtime.spawn(async move {
            // An error is what `changed` says when nobody will say any more, and the last figures are written.
            while seen.changed().await.is_ok() {
                let (done, total) = *seen.borrow_and_update();
                match store.progress(&hold, done, total).await {
                    Ok(true) => {}
                    Ok(false) => {
                        return tracing::debug!(job_id = %hold.member.id, "no longer held: its progress is not kept");
                    }
                    Err(error) => tracing::debug!(job_id = %hold.member.id, %error, "its progress is not written"),
                }
                sleep(PERIOD).await;
            }
        });
        Self { latest }
    }

    pub(super) fn say(&self, figures: Figures) {
        self.latest.send_if_modified(|latest| std::mem::replace(latest, figures) != figures);
    }
}
