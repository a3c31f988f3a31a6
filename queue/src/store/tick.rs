//! Moving time along: promotion, rescue, and the memory gate.

use std::time::Duration;

use chrono::DateTime;
use redis::Value;

use super::{
    AttemptError, Store, StoreError,
    keys::Keys,
    link::Link,
    millis,
    script::{FORGET, TICK},
    session::bytes,
};
use crate::{id::Member, name::QueueName};

/// Enqueues are refused above this share of `maxmemory`, so that what is accepted can always finish.
const MEMORY_GATE: f64 = 0.9;

/// The class of the error that buries a job which kept killing its process.
pub const POISON: &str = "poison";

/// What one tick did.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    /// Scheduled jobs that became ready.
    pub promoted: u64,
    /// Jobs of lost sessions that went back.
    pub rescued: u64,
    /// Jobs found to kill their process.
    pub poisoned: u64,
    /// Whether another tick has more to do at once.
    pub more: bool,
    /// Time until the next scheduled job is due.
    pub next_due: Option<Duration>,
    /// Nobody had ticked for a while: all sessions were given a new lease, and nothing was rescued.
    pub grace: bool,
    /// Journaled poison that must be moved to `job_closed`, then [`forgotten`](Store::buried).
    pub to_bury: Vec<Member>,
}

/// The class of the error that buries a job which may run at most once, and whose worker was lost.
pub const LOST: &str = "lost";

/// What is recorded of an attempt that nobody saw end. Only Redis knows when and which: the reader puts that in.
fn line(class: &str, message: &str) -> String {
    let (class, message) = (class.to_owned(), message.to_owned());
    AttemptError { attempt: 0, class, message, at: DateTime::UNIX_EPOCH, ran: Duration::ZERO }.line()
}

pub(super) fn lost_line() -> String {
    line(LOST, "its worker was lost while it ran, and it may run at most once")
}

impl Store {
    /// Promotes what is due (500 at most), lets in what waited for a limit, and rescues the jobs of sessions that lapsed (at
    /// most once in 0.8 s, whoever calls).
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn tick(&self, queue: &QueueName) -> Result<Tick, StoreError> {
        let keys = Keys::new(queue);
        let mut call = TICK.call(&keys, None, self.clock());
        call.arg(millis(self.lease())).arg(self.config().rescue_limit);
        call.arg(self.config().max_dead).arg(millis(self.config().max_dead_age));
        call.arg(line(POISON, "its worker died each time while it ran this job")).arg(lost_line());
        let answer: Vec<Value> = self.link().run(&TICK, &call).await?;
        let [numbers @ .., Value::Array(members)] = &answer[..] else {
            return Err(StoreError::Unreadable("an answer to tick"));
        };
        let number = |at: usize| match numbers.get(at) {
            Some(Value::Int(number)) => *number,
            _ => 0,
        };
        let count = |at| u64::try_from(number(at)).unwrap_or(0);
        Ok(Tick {
            promoted: count(1),
            rescued: count(2),
            poisoned: count(3),
            more: number(4) == 1,
            next_due: u64::try_from(number(5)).ok().map(Duration::from_millis),
            grace: number(6) == 1,
            to_bury: members.iter().filter_map(|member| Member::from_bytes(bytes(member)?)).collect(),
        })
    }

    /// Forgets journaled poison that was moved to `job_closed`.
    ///
    /// # Errors
    /// When Redis is away: asking again is safe.
    pub async fn buried(&self, queue: &QueueName, members: &[Member]) -> Result<(), StoreError> {
        let keys = Keys::new(queue);
        for chunk in members.chunks(500) {
            let mut call = FORGET.call(&keys, None, self.clock());
            call.arg(chunk.len());
            for member in chunk {
                call.arg(member.to_bytes());
            }
            self.link().run::<i64>(&FORGET, &call).await?;
        }
        Ok(())
    }

    /// Opens or closes the memory gate of queues, by the memory of the server that each is on. Without anybody who calls
    /// this, Redis itself refuses enqueues when it is full, without the headroom.
    ///
    /// # Errors
    /// When Redis is away; of a cluster, when one node is, or a slot moves. The other queues have their gates then.
    pub async fn refresh_gates(&self, queues: &[QueueName]) -> Result<(), StoreError> {
        let mut answer = Ok(());
        for (link, queues) in self.link().by_server(queues).await? {
            match is_nearly_full(&link).await {
                Ok(closed) => {
                    for queue in queues {
                        answer = answer.and(refresh_gate(&link, queue, closed).await);
                    }
                }
                Err(error) => answer = answer.and(Err(error)),
            }
        }
        answer
    }
}

async fn is_nearly_full(link: &Link) -> Result<bool, StoreError> {
    let memory: String = link.send(redis::cmd("INFO").arg("memory")).await?;
    let field = |name: &str| {
        memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<f64>().ok())
    };
    let (used, most) = (field("used_memory").unwrap_or(0.0), field("maxmemory").unwrap_or(0.0));
    Ok(most > 0.0 && used > most * MEMORY_GATE)
}

async fn refresh_gate(link: &Link, queue: &QueueName, closed: bool) -> Result<(), StoreError> {
    let keys = Keys::new(queue);
    // Written only when it changes something: a full Redis refuses the write that would say so, and needs it least.
    let stood: Option<String> = link.send(redis::cmd("HGET").arg(keys.meta()).arg("gate")).await?;
    match (closed, stood.as_deref() == Some("1")) {
        (true, false) => match link.send::<i64>(redis::cmd("HSET").arg(keys.meta()).arg("gate").arg(1)).await {
            Err(error) if !error.is_unavailable() => Err(error),
            _ => Ok(()),
        },
        (false, true) => link.send::<i64>(redis::cmd("HDEL").arg(keys.meta()).arg("gate")).await.map(drop),
        _ => Ok(()),
    }
}
