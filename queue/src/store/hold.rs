//! Who holds a job: the fencing token with which a running job writes what belongs to it.

use super::{
    SessionId, Store, StoreError,
    keys::Keys,
    script::{Call, NamedScript},
};
use crate::{id::Member, name::QueueName};

/// A session's hold on one job. It is over when the job is finished, goes back, or its session is doomed; whatever is written
/// with it afterwards counts for nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Where the job waited.
    pub queue: QueueName,
    /// Who claimed it.
    pub session: SessionId,
    /// The job.
    pub member: Member,
    /// The number of the claim, as [`Claim`](super::Claim) has it.
    pub claim_no: u64,
}

impl Hold {
    /// Begins a call that is fenced by this hold (`lua/fenced.lua`).
    pub(super) fn call(&self, script: &NamedScript, store: &Store) -> Call {
        let mut call = script.call(&Keys::new(&self.queue), Some(self.session.as_str()), store.clock());
        call.arg(self.member.to_bytes()).arg(self.claim_no.to_be_bytes().as_slice());
        call
    }
}

impl Store {
    /// Sends a fenced call; `false` if the job is no longer held.
    pub(super) async fn run_fenced(&self, script: &NamedScript, call: &Call) -> Result<bool, StoreError> {
        Ok(self.link().run::<i64>(script, call).await? == 1)
    }
}
