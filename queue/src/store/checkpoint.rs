//! What a running job leaves for its next attempt, and what it tells of its progress.

use redis::Value;

use super::{
    CalledBack, Hold, Store, StoreError,
    keys::Keys,
    script::{CHECKPOINT, EXTRAS, PROGRESS},
    session::bytes,
};
use crate::{id::Member, name::QueueName};

/// The largest checkpoint, in bytes. What is larger belongs into a table or a file, with its key in the checkpoint.
pub const MAX_CHECKPOINT_BYTES: usize = 64 * 1024;

/// What waits in Redis for the next attempt of a job.
#[derive(Debug, Default)]
pub struct Extras {
    /// What the last [`Store::checkpoint`] left.
    pub checkpoint: Option<Vec<u8>>,
    /// What the wait for a callback came to.
    pub callback: Option<CalledBack>,
}

impl Store {
    /// Keeps a state from which the next attempt goes on; the one before is replaced. `false` if the job is no longer held:
    /// then nothing was written. Coming twice changes nothing.
    ///
    /// # Errors
    /// When it is larger than [`MAX_CHECKPOINT_BYTES`], or Redis is away: then it may have been written.
    pub async fn checkpoint(&self, hold: &Hold, state: &[u8]) -> Result<bool, StoreError> {
        if state.len() > MAX_CHECKPOINT_BYTES {
            return Err(StoreError::Invalid(format!(
                "the checkpoint has {} bytes, more than {MAX_CHECKPOINT_BYTES}: put the state into a table or a file and its key into the checkpoint",
                state.len()
            )));
        }
        let mut call = hold.call(&CHECKPOINT, self);
        call.arg(state);
        self.run_fenced(&CHECKPOINT, &call).await
    }

    /// Says how far a job is; kept until it is final, whatever becomes of the attempt. Numbers beyond 2^48 are cut to that.
    /// `false` if the job is no longer held.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn progress(&self, hold: &Hold, done: u64, total: u64) -> Result<bool, StoreError> {
        let mut call = hold.call(&PROGRESS, self);
        call.arg([six(done), six(total)].concat());
        self.run_fenced(&PROGRESS, &call).await
    }

    /// What waits in Redis for the attempt that begins now. Asked for jobs whose claim says that there is something.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn extras(&self, queue: &QueueName, member: Member) -> Result<Extras, StoreError> {
        let mut call = EXTRAS.call(&Keys::new(queue), None, self.clock());
        call.arg(member.to_bytes());
        let answer: Vec<Value> = self.link().run(&EXTRAS, &call).await?;
        let [checkpoint, wait] = &answer[..] else { return Err(StoreError::Unreadable("an answer to extras")) };
        let callback = match bytes(wait) {
            Some(wait) => CalledBack::decode(wait)?,
            None => None,
        };
        Ok(Extras { checkpoint: bytes(checkpoint).map(<[u8]>::to_vec), callback })
    }
}

/// The lowest six bytes, as the scripts write times.
fn six(number: u64) -> [u8; 6] {
    let [_, _, six @ ..] = number.min((1 << 48) - 1).to_be_bytes();
    six
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_cut_and_do_not_wrap() {
        assert_eq!(six(258), [0, 0, 0, 0, 1, 2]);
        assert_eq!(six(u64::MAX), [255; 6]);
    }
}
