//! What a job waits for: a callback from outside, or a batch that it follows.

use std::time::Duration;

use super::{JobContext, still_held};
use crate::{
    error::JobError,
    journal,
    policy::Delivery,
    store::{BatchStatus, CallbackToken, CalledBack},
};

/// How long a token is good until the job parks, which has a deadline of its own.
const UNTIL_PARKED: Duration = Duration::from_secs(24 * 3600);

impl JobContext {
    /// Makes known that this job is to be called back, and hands out the token with which it can be. Make the outward call
    /// with it afterwards, then return [`Outcome::Park`](crate::Outcome::Park): a callback that comes in between is kept. The
    /// token is a secret; whoever has it can continue the job. Each attempt asks for one of its own; those of earlier attempts
    /// count no longer for a fast job, and still do for a journaled one.
    ///
    /// # Errors
    /// `Gone` when the job is no longer held here: return it as it is. A snooze when the store is away: make no call then.
    /// `Bury` for a job that runs at most once, which has no next attempt.
    pub async fn callback(&self) -> Result<CallbackToken, JobError> {
        if self.parts().policy.delivery == Delivery::AtMostOnce {
            let reason = "a job that runs at most once has no next attempt, and so cannot be called back";
            return Err(JobError::bury("at_most_once", anyhow::anyhow!(reason)));
        }
        let token = CallbackToken::new(self.queue(), rand::random());
        let expected = if self.is_journaled() {
            let (id, generation) = self.journal_key()?;
            journal::expect_callback(&self.parts().database, id, generation, token.digest(), UNTIL_PARKED).await?
        } else {
            let (store, hold) = self.hold()?;
            store.expect_callback(&hold, token.digest()).await?
        };
        still_held(expected)?;
        Ok(token)
    }

    /// What the wait for a callback came to, on the attempt after [`Outcome::Park`](crate::Outcome::Park).
    #[must_use]
    pub fn called_back(&self) -> Option<&CalledBack> {
        self.parts().called_back.as_ref()
    }

    /// How the batch that this job follows came out. `None`: it follows none.
    ///
    /// # Errors
    /// A snooze when the store is away. `Bury` when the batch is forgotten, seven days after it was complete.
    pub async fn batch(&self) -> Result<Option<BatchStatus>, JobError> {
        let Some(id) = self.parts().follows else { return Ok(None) };
        let status = if self.is_journaled() {
            journal::batch(&self.parts().database, id).await?
        } else {
            let (store, _) = self.hold()?;
            store.batch(self.queue(), id).await?
        };
        status.map(Some).ok_or_else(|| {
            JobError::bury("batch_forgotten", anyhow::anyhow!("batch {} completed more than seven days ago", id.0))
        })
    }
}
