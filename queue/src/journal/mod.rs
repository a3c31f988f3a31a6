//! The journal: which jobs still have to happen, in Postgres.
//!
//! ```text
//! enqueue_in   -> live (gen 1) + outbox row      in the caller's transaction
//! relay        -> outbox row deleted, member (id, gen) in Redis
//! start check  -> live: run; no row: the job is over, acknowledge it unrun
//! begin/commit -> row deleted with the effects and the follow-ups (completed)
//! park         -> parked; a callback or its deadline: live (gen + 1) + outbox row
//! close        -> row moved to job_closed (dead, cancelled)
//! redrive      -> job_closed row back: live (gen + 1) + outbox row
//! ```
//!
//! Every decision says `id AND gen AND state = 'live'`: zero rows means that somebody else decided first.

mod at_most_once;
mod batch;
mod batch_tx;
mod cancel;
mod close;
mod closed;
mod complete;
mod enqueue;
mod idempotency;
mod kinds;
mod lost;
mod mirror;
mod outbox;
mod park;
mod redrive;
mod sql;
mod standing;
mod start;
mod tx;
mod unique;

pub use at_most_once::{STARTED, STARTED_CLASS, restart_unstarted, start_at_most_once};
pub use batch::{BatchError, Fired, batch, fire_batches, is_batch_closed, open_batch_in, seal_batch_in};
pub use batch_tx::{BatchCommitted, BatchTx};
pub use cancel::{CancelStep, Cancelled, cancel, cancel_where};
pub use close::{CloseState, Closing, close};
pub use closed::{
    Closed, ClosedCursor, ClosedFilter, ClosedPage, DeadGroup, dead_groups, find_closed, list_closed, show_closed,
};
pub use complete::{complete, complete_in, complete_one};
pub use enqueue::enqueue_in;
pub use idempotency::{EnqueueError, IdempotencyConflict, enqueue_idempotent, request_digest};
pub use kinds::{keep_registering, register_kinds};
pub use lost::{LivePage, live_page, lost_of_age, put_back_lost, relays_more_than, without_row};
pub use mirror::{MIRROR_FROM, mirror};
pub use outbox::{OUTBOX_CHANNEL, OutboxLane, OutboxRow, RelayJob, lanes, put_back, set_idle, take};
pub use park::{CallbackError, Parked, call_back, expect_callback, park, unpark_due};
pub use redrive::{ClosedAction, ClosedStep, act_on_closed, discard, discard_all, redrive, redrive_all};
pub use standing::{Standing, StandingCursor, StandingFilter, StandingPage, find_standing};
pub use start::{StartRow, start_check};
pub use tx::{Committed, JobTx, StepTx};
