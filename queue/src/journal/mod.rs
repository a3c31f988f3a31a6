//! The journal: which jobs still have to happen, in Postgres.
//!
//! ```text
//! enqueue_in   -> live (gen 1) + outbox row      in the caller's transaction
//! relay        -> outbox row deleted, member (id, gen) in Redis
//! start check  -> live: run; no row: the job is over, acknowledge it unrun
//! begin/commit -> row deleted with the effects and the follow-ups (completed)
//! close        -> row moved to job_closed (dead, cancelled)
//! redrive      -> job_closed row back: live (gen + 1) + outbox row
//! ```
//!
//! Every decision says `id AND gen AND state = 'live'`: zero rows means that somebody else decided first.

mod close;
mod complete;
mod enqueue;
mod mirror;
mod outbox;
mod start;
mod tx;

pub use close::{CloseState, Closed, ClosedCursor, Closing, close, discard, list_closed, redrive, show_closed};
pub use complete::{complete, complete_one};
pub use enqueue::{enqueue_idempotent, enqueue_in};
pub use mirror::{MIRROR_FROM, mirror};
pub use outbox::{OUTBOX_CHANNEL, OutboxLane, OutboxRow, RelayJob, lanes, put_back, set_idle, take};
pub use start::{StartRow, start_check};
pub use tx::{Committed, JobTx, StepTx};
