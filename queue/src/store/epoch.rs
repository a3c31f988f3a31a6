//! What a queue's Redis and PostgreSQL remember of each other. `docs/decisions/0023-epoch-and-beat.md` says why.

use redis::Value;
use uuid::Uuid;

use super::{
    Store, StoreError,
    keys::Keys,
    script::{BEAT, EPOCH},
    session::{bytes, int},
};
use crate::{id::Member, name::QueueName};

/// What Redis says of a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// The mark that it was given when it was last compared with the journal; `None` if this Redis never was, or was wiped.
    pub epoch: Option<Uuid>,
    /// How often it was raised. One above that of PostgreSQL, if all is well.
    pub beat: i64,
    /// The timeline of the PostgreSQL with which it was compared, if that said so.
    pub timeline: Option<String>,
    /// The run of this server.
    pub run_id: String,
}

/// What became of an epoch that was to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begun {
    /// The beat that stands.
    pub beat: i64,
    /// The run of the server that has it.
    pub run_id: String,
}

impl Store {
    /// Raises the beat of a queue, if `epoch` and `beat` are what stands in Redis. The answer says what stands now.
    ///
    /// # Errors
    /// When Redis is away: it may have been raised.
    pub async fn beat(&self, queue: &QueueName, epoch: Option<Uuid>, beat: i64) -> Result<Pulse, StoreError> {
        let mut call = BEAT.call(&Keys::new(queue), None, self.clock());
        call.arg(epoch.map(|epoch| epoch.to_string()).unwrap_or_default()).arg(beat);
        let answer: Vec<Value> = self.link().run(&BEAT, &call).await?;
        pulse(&answer).ok_or(StoreError::Unreadable("an answer to beat"))
    }

    /// Marks that a pass begins, which puts back what this queue lost. Whatever takes the mark away takes away what the pass
    /// put back as well.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn begin_heal(&self, queue: &QueueName, token: Uuid) -> Result<Begun, StoreError> {
        self.epoch(queue, token, "", 0, "").await?.ok_or(StoreError::Unreadable("an answer to epoch"))
    }

    /// Writes a new epoch, with a beat above both that of Redis and `beat`. `None`: the mark of [`begin_heal`](Self::begin_heal)
    /// is no longer there.
    ///
    /// # Errors
    /// When Redis is away: it may be written.
    pub async fn end_heal(
        &self,
        queue: &QueueName,
        token: Uuid,
        epoch: Uuid,
        beat: i64,
        timeline: &str,
    ) -> Result<Option<Begun>, StoreError> {
        self.epoch(queue, token, &epoch.to_string(), beat, timeline).await
    }

    async fn epoch(
        &self,
        queue: &QueueName,
        token: Uuid,
        epoch: &str,
        beat: i64,
        timeline: &str,
    ) -> Result<Option<Begun>, StoreError> {
        let mut call = EPOCH.call(&Keys::new(queue), None, self.clock());
        call.arg(token.to_string()).arg(epoch).arg(beat).arg(timeline);
        let answer: Vec<Value> = self.link().run(&EPOCH, &call).await?;
        match &answer[..] {
            [Value::Int(0), ..] => Ok(None),
            [Value::Int(1), beat, run_id] => {
                let begun = int(beat).zip(text(run_id)).map(|(beat, run_id)| Begun { beat, run_id });
                begun.map(Some).ok_or(StoreError::Unreadable("an answer to epoch"))
            }
            _ => Err(StoreError::Unreadable("an answer to epoch")),
        }
    }

    /// Some of the scheduled jobs that are journaled, and where to go on; 0 is the beginning, and the end. A few hundred at a
    /// time, in no order. Those that stand scheduled throughout are named at least once.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn scheduled_journaled(&self, queue: &QueueName, at: u64) -> Result<(Vec<Member>, u64), StoreError> {
        let keys = Keys::new(queue);
        let mut scan = redis::cmd("ZSCAN");
        scan.arg(keys.sched()).arg(at).arg("COUNT").arg(500);
        let (next, entries): (u64, Vec<Vec<u8>>) = self.link().send(&scan).await?;
        let members = entries.chunks_exact(2).filter_map(|entry| Member::from_bytes(&entry[0]));
        Ok((members.filter(|member| member.generation.is_some()).collect(), next))
    }
}

fn text(value: &Value) -> Option<String> {
    String::from_utf8(bytes(value)?.to_vec()).ok()
}

/// An epoch that is none of ours is as good as none.
fn pulse(answer: &[Value]) -> Option<Pulse> {
    let [epoch, beat, timeline, run_id] = answer else { return None };
    Some(Pulse {
        epoch: Uuid::parse_str(&text(epoch)?).ok(),
        beat: int(beat)?,
        timeline: text(timeline).filter(|timeline| !timeline.is_empty()),
        run_id: text(run_id)?,
    })
}
