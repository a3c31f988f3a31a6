//! Checkpoints: what an attempt leaves for the next one. A journaled job's is in PostgreSQL and moves with its effects, a fast
//! job's is in Redis.

use std::sync::{MutexGuard, PoisonError};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::to_raw_value};

use super::{JobContext, still_held};
use crate::{
    error::JobError,
    journal::StepTx,
    store::MAX_CHECKPOINT_BYTES,
    vault::{Purpose, decode_error},
};

/// A checkpoint of an encrypted kind, plain and as it is stored. Sealing it twice gives two texts, and a step asks whether the
/// stored one is still the one that it knows.
pub(super) struct Sealed {
    plain: Value,
    stored: Value,
}

impl std::fmt::Debug for Sealed {
    /// Leaves the plain one out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").finish_non_exhaustive()
    }
}

/// Checkpoints of an encrypted kind that a context remembers: a step needs the last one, and the one before if it is rolled
/// back.
const REMEMBERED: usize = 4;

impl JobContext {
    /// Opens the transaction for one step of a long job: its first statement replaces the checkpoint, and finds the job
    /// gone if anybody else advanced it. The step's effects and the new checkpoint are committed together.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn step<T: Serialize + Sync>(&self, previous: Option<&T>, next: &T) -> Result<StepTx, JobError> {
        let (id, generation) = self.journal_key()?;
        let encode = |state: &T| {
            let plain = serde_json::to_value(state).map_err(invalid_checkpoint)?;
            self.stored_checkpoint(plain)
        };
        // The previous one may be what an earlier attempt left.
        self.plain_checkpoint()?;
        let previous = previous.map(encode).transpose()?;
        let step = StepTx::begin(&self.parts().database, id, generation, previous, encode(next)?).await?;
        Ok(step.with_vault(self.vault.clone()))
    }

    /// What an earlier attempt left as its checkpoint.
    ///
    /// # Errors
    /// `Bury` when it is not what this handler reads; a snooze when it was sealed with a key that this process does not have.
    pub fn checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, JobError> {
        let decoded = self.plain_checkpoint()?.map(T::deserialize).transpose();
        decoded.map_err(|error| invalid_checkpoint(decode_error(self.parts().policy.encrypted, error)))
    }

    /// Keeps a state from which the next attempt of a fast job goes on, until the job is final. Each replaces the one before.
    ///
    /// # Errors
    /// `Gone` when the job is no longer held here: return it as it is. `Bury` when the state is larger than 64 KiB as JSON, or
    /// the job is journaled: its checkpoint is advanced together with its effects, by [`step`](Self::step). A snooze when Redis
    /// is away.
    pub async fn save_checkpoint<T: Serialize + Sync>(&self, state: &T) -> Result<(), JobError> {
        if self.is_journaled() {
            let advice = "advance the checkpoint of a journaled job together with its effects, with step";
            return Err(invalid_checkpoint(anyhow::anyhow!("{} is journaled: {advice}", self.kind())));
        }
        let plain = serde_json::to_value(state).map_err(invalid_checkpoint)?;
        let stored = serde_json::to_vec(&self.stored_checkpoint(plain)?).map_err(invalid_checkpoint)?;
        if stored.len() > MAX_CHECKPOINT_BYTES {
            return Err(invalid_checkpoint(anyhow::anyhow!(
                "the checkpoint has {} bytes, more than {MAX_CHECKPOINT_BYTES}: put the state into a table or a file and its key into the checkpoint",
                stored.len()
            )));
        }
        let (store, hold) = self.hold()?;
        still_held(store.checkpoint(&hold, &stored).await?)
    }

    /// What an earlier attempt left, opened if it is sealed.
    fn plain_checkpoint(&self) -> Result<Option<Value>, JobError> {
        let Some(stored) = &self.parts().checkpoint else { return Ok(None) };
        if !self.parts().policy.encrypted {
            return Ok(Some(stored.clone()));
        }
        if let Some(known) = self.remembered().iter().find(|known| known.stored == *stored) {
            return Ok(Some(known.plain.clone()));
        }
        let raw = to_raw_value(stored).map_err(invalid_checkpoint)?;
        let opened = self.vault.open_value(Purpose::Checkpoint, self.kind(), self.tenant(), &raw)?;
        // One that is not sealed was left before the kind was encrypted.
        let plain: Value = serde_json::from_str(opened.unwrap_or(raw).get()).map_err(invalid_checkpoint)?;
        self.remember(plain.clone(), stored.clone());
        Ok(Some(plain))
    }

    /// A checkpoint as it is stored: sealed, if the kind is encrypted.
    fn stored_checkpoint(&self, plain: Value) -> Result<Value, JobError> {
        if !self.parts().policy.encrypted {
            return Ok(plain);
        }
        if let Some(known) = self.remembered().iter().rev().find(|known| known.plain == plain) {
            return Ok(known.stored.clone());
        }
        let raw = to_raw_value(&plain).map_err(invalid_checkpoint)?;
        let sealed = self.vault.seal_value(Purpose::Checkpoint, self.kind(), self.tenant(), &raw)?;
        let stored: Value = serde_json::from_str(sealed.get()).map_err(invalid_checkpoint)?;
        self.remember(plain, stored.clone());
        Ok(stored)
    }

    fn remembered(&self) -> MutexGuard<'_, Vec<Sealed>> {
        self.inner.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, plain: Value, stored: Value) {
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED {
            remembered.remove(0);
        }
        remembered.push(Sealed { plain, stored });
    }
}

fn invalid_checkpoint(error: impl Into<anyhow::Error>) -> JobError {
    JobError::bury("invalid_checkpoint", error)
}
