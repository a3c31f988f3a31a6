//! The scripts, and how they are called: by hash, loaded again when a server does not know them.

use std::sync::LazyLock;

use redis::{Cmd, Script, ToRedisArgs};

use super::{keys::Keys, topology::slot_of};
use crate::name::QueueName;

macro_rules! script {
    ($name:ident, $flags:literal, alone $part:literal) => {
        pub(crate) static $name: LazyLock<NamedScript> = LazyLock::new(|| NamedScript {
            name: stringify!($name),
            script: Script::new(concat!($flags, "\n", include_str!($part))),
        });
    };
    ($name:ident, $flags:literal, $($part:literal),+) => {
        pub(crate) static $name: LazyLock<NamedScript> = LazyLock::new(|| NamedScript {
            name: stringify!($name),
            script: Script::new(concat!($flags, "\n", include_str!("lua/prelude.lua"), $(include_str!($part)),+)),
        });
    };
}

// Only what takes new jobs in may be refused for want of memory: all others drain a full Redis.
script!(ENQUEUE, "#!lua", "lua/enqueue.lua");
script!(ENQUEUE_PLAIN, "#!lua", alone "lua/enqueue_plain.lua");
script!(REDRIVE, "#!lua", "lua/redrive.lua");
script!(BATCH_OPEN, "#!lua", "lua/batch_open.lua");
script!(HELLO, "#!lua flags=allow-oom", "lua/hello.lua");
script!(FINISH_CLAIM, "#!lua flags=allow-oom", "lua/session.lua", "lua/finish_claim.lua");
script!(SYNC, "#!lua flags=allow-oom", "lua/session.lua", "lua/sync.lua");
script!(HEARTBEAT, "#!lua flags=allow-oom", "lua/heartbeat.lua");
script!(BYE, "#!lua flags=allow-oom", "lua/bye.lua");
script!(TICK, "#!lua flags=allow-oom", "lua/tick.lua");
script!(FORGET, "#!lua flags=allow-oom", "lua/forget.lua");
script!(DISCARD, "#!lua flags=allow-oom", "lua/discard.lua");
script!(STATUS, "#!lua flags=allow-oom", "lua/listing.lua", "lua/status.lua");
script!(COUNTS, "#!lua flags=allow-oom", "lua/counts.lua");
script!(EXISTS, "#!lua flags=allow-oom", "lua/exists.lua");
script!(LIST_DUE, "#!lua flags=allow-oom", "lua/listing.lua", "lua/list_due.lua");
script!(LIST_LANES, "#!lua flags=allow-oom", "lua/listing.lua", "lua/list_lanes.lua");
script!(LIST_LANE, "#!lua flags=allow-oom", "lua/listing.lua", "lua/list_lane.lua");
script!(LIST_RUNNING, "#!lua flags=allow-oom", "lua/listing.lua", "lua/list_running.lua");
script!(LIST_USAGE, "#!lua flags=allow-oom", "lua/list_usage.lua");
script!(SESSIONS, "#!lua flags=allow-oom", "lua/sessions.lua");
script!(RECENT_JOBS, "#!lua flags=allow-oom", "lua/recent.lua");
script!(CHECKPOINT, "#!lua flags=allow-oom", "lua/note_extras.lua", "lua/fenced.lua", "lua/checkpoint.lua");
script!(PROGRESS, "#!lua flags=allow-oom", "lua/fenced.lua", "lua/progress.lua");
script!(EXTRAS, "#!lua flags=allow-oom", "lua/extras.lua");
script!(EXPECT_CALLBACK, "#!lua flags=allow-oom", "lua/fenced.lua", "lua/expect_callback.lua");
script!(CALL_BACK, "#!lua flags=allow-oom", "lua/note_extras.lua", "lua/call_back.lua");
script!(CANCEL, "#!lua flags=allow-oom", "lua/cancel.lua");
script!(LIMIT, "#!lua flags=allow-oom", "lua/limit.lua");
script!(RELOOK, "#!lua flags=allow-oom", "lua/relook.lua");
script!(LIMITS, "#!lua flags=allow-oom", "lua/limits.lua");
script!(BEAT, "#!lua flags=allow-oom", "lua/beat.lua");
script!(EPOCH, "#!lua flags=allow-oom", "lua/epoch.lua");
script!(BATCH_SEAL, "#!lua flags=allow-oom", "lua/batch_seal.lua");

/// A script and the name under which its duration is measured.
pub(crate) struct NamedScript {
    pub(crate) name: &'static str,
    pub(crate) script: Script,
}

impl NamedScript {
    /// Begins a call: `session` adds the two keys of a session; arguments follow.
    pub(crate) fn call(&self, keys: &Keys, session: Option<&str>, clock: &str) -> Call {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(self.script.get_hash()).arg(keys.fixed.len() + 2 * usize::from(session.is_some()));
        for key in &keys.fixed {
            cmd.arg(key);
        }
        if let Some(sid) = session {
            cmd.arg(keys.session(sid)).arg(keys.running(sid));
        }
        cmd.arg(&keys.prefix).arg(clock);
        Call { cmd, slot: slot_of(keys.prefix.as_bytes()) }
    }

    /// The same for a script that takes these keys of a queue only.
    pub(crate) fn call_with(&self, queue: &QueueName, names: &[&str], clock: &str) -> Call {
        let prefix = Keys::prefix_of(queue);
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(self.script.get_hash()).arg(names.len());
        for name in names {
            cmd.arg(format!("{prefix}{name}"));
        }
        cmd.arg(&prefix).arg(clock);
        Call { cmd, slot: slot_of(prefix.as_bytes()) }
    }
}

/// A call being put together.
pub(crate) struct Call {
    pub(crate) cmd: Cmd,
    /// The slot of the queue.
    pub(crate) slot: u16,
}

impl Call {
    pub(crate) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        self.cmd.arg(arg);
        self
    }
}
