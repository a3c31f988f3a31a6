//! What was asked for: written in the transaction that enqueues, so that it is there if and only if the job is.

use sqlx::PgConnection;
use uuid::Uuid;
use windrow_queue::{BatchId, NewJob};

/// What must become of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expect {
    /// Its effects, each once; it may not die.
    Effect,
    /// It dies, without an effect.
    Dead,
    /// It started at most once; its effect, or its death.
    Once,
    /// Its effect, or it was cancelled without one.
    EffectOrCancelled,
}

impl Expect {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Effect => "effect",
            Self::Dead => "dead",
            Self::Once => "once",
            Self::EffectOrCancelled => "effect or cancelled",
        }
    }

    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        [Self::Effect, Self::Dead, Self::Once, Self::EffectOrCancelled]
            .into_iter()
            .find(|expect| expect.as_str() == text)
            .ok_or_else(|| anyhow::anyhow!("nobody expects {text:?}"))
    }
}

/// A job that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) id: Uuid,
    pub(crate) kind: String,
    pub(crate) expect: Expect,
    pub(crate) steps: i32,
    pub(crate) note: String,
    pub(crate) unique_key: Option<String>,
    pub(crate) batch: Option<Uuid>,
    pub(crate) delay_ms: i64,
}

impl Sent {
    /// A job with one effect.
    pub(crate) fn effect(job: &NewJob) -> Self {
        Self {
            id: job.id.0,
            kind: job.kind.to_string(),
            expect: Expect::Effect,
            steps: 1,
            note: "done".to_owned(),
            unique_key: None,
            batch: job.batch.map(|BatchId(id)| id),
            delay_ms: 0,
        }
    }

    /// One that comes to something else.
    pub(crate) fn expecting(job: &NewJob, expect: Expect) -> Self {
        Self { expect, ..Self::effect(job) }
    }
}

/// Records jobs in the transaction that enqueues them.
pub(crate) async fn record(tx: &mut PgConnection, sent: &[Sent]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO chaos_sent (job_id, kind, expect, steps, note, unique_key, batch_id, delay_ms)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::uuid[], $8::bigint[])",
    )
    .bind(sent.iter().map(|it| it.id).collect::<Vec<_>>())
    .bind(sent.iter().map(|it| it.kind.as_str()).collect::<Vec<_>>())
    .bind(sent.iter().map(|it| it.expect.as_str()).collect::<Vec<_>>())
    .bind(sent.iter().map(|it| it.steps).collect::<Vec<_>>())
    .bind(sent.iter().map(|it| it.note.as_str()).collect::<Vec<_>>())
    .bind(sent.iter().map(|it| it.unique_key.as_deref()).collect::<Vec<_>>())
    .bind(sent.iter().map(|it| it.batch).collect::<Vec<_>>())
    .bind(sent.iter().map(|it| it.delay_ms).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
