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
        let keys = Keys::new(queue);
        let mut answers = Vec::with_capacity(members.len());
        for chunk in members.chunks(CHUNK) {
            let mut call = CANCEL.call(&keys, None, self.clock());
            call.arg(chunk.len());
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
