//! Cancelling jobs that wait or run.

use super::{Store, StoreError, keys::Keys, script::CANCEL};
use crate::{id::Member, name::QueueName};

/// Jobs in one call of the script.
const CHUNK: usize = 100;

/// What became of one job that was to be cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancelled {
    /// It waited, and is gone.
    Done,
    /// It runs. Its worker is told with the next heartbeat, and its handler stops at a safe point; an attempt that completes
    /// before counts, any other end of it is "cancelled".
    Stopping,
    /// Redis does not know it: it is final, or was never here.
    Unknown,
}

impl Store {
    /// Cancels jobs of one queue: those that wait (ready, scheduled, parked) are gone at once, those that run are told to stop.
    /// Journaled jobs are cancelled in Postgres first, and here so that they do not run for nothing. Answers are in the order
    /// of the members.
    ///
    /// # Errors
    /// When Redis is away: some may be cancelled. Asking again is safe, and answers `Unknown` for those that were.
    pub async fn cancel(&self, queue: &QueueName, members: &[Member]) -> Result<Vec<Cancelled>, StoreError> {
        self.cancel_with(queue, members, "").await
    }

    /// Takes out what waits for nothing: members of journaled jobs that have gone on in a later generation. The start check would
    /// acknowledge them unrun, but until they are due they are listed, counted, and take room. One that runs is left alone.
    /// Returns how many were taken out.
    ///
    /// # Errors
    /// When Redis is away: some may be out. Asking again is safe.
    pub async fn take_out(&self, queue: &QueueName, members: &[Member]) -> Result<usize, StoreError> {
        let answers = self.cancel_with(queue, members, "w").await?;
        Ok(answers.iter().filter(|answer| **answer == Cancelled::Done).count())
    }

    async fn cancel_with(
        &self,
        queue: &QueueName,
        members: &[Member],
        mode: &str,
    ) -> Result<Vec<Cancelled>, StoreError> {
        let keys = Keys::new(queue);
        let mut answers = Vec::with_capacity(members.len());
        for chunk in members.chunks(CHUNK) {
            let mut call = CANCEL.call(&keys, None, self.clock());
            call.arg(chunk.len()).arg(mode);
            for member in chunk {
                call.arg(member.to_bytes());
            }
            let codes: Vec<u8> = self.link().run(&CANCEL, &call).await?;
            if codes.len() != chunk.len() {
                return Err(StoreError::Unreadable("an answer to cancel"));
            }
            for code in codes {
                answers.push(match code {
                    b'd' => Cancelled::Done,
                    b's' => Cancelled::Stopping,
                    b'u' => Cancelled::Unknown,
                    _ => return Err(StoreError::Unreadable("an answer to cancel")),
                });
            }
        }
        Ok(answers)
    }
}
