//! One dead job, with all that is known of it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use windrow_queue::{
    JobId,
    id::Member,
    journal::{self, Closed},
    store::{JobState, Store},
};

use super::not_dead;
use crate::{
    context::Context,
    kinds,
    output::{cell, time},
};

/// A dead job with all that is known of it.
#[derive(Debug, Serialize)]
struct Dead {
    id: JobId,
    kind: String,
    queue: String,
    tenant: Option<String>,
    journaled: bool,
    attempt: u64,
    died_at: Option<DateTime<Utc>>,
    reason: String,
    args: Value,
    errors: Value,
}

impl Dead {
    fn journaled(mut closed: Closed) -> Self {
        Self {
            id: JobId(closed.id),
            kind: closed.kind,
            queue: closed.queue,
            tenant: closed.tenant,
            journaled: true,
            attempt: closed.job["attempt"].as_u64().unwrap_or(0),
            died_at: Some(closed.closed_at),
            reason: closed.reason,
            args: shown(closed.job["args"].take()),
            errors: closed.job["errors"].take(),
        }
    }
}

/// Sealed args are shown as such, with the key's id only.
fn shown(mut args: Value) -> Value {
    windrow_queue::vault::shown_value(&mut args);
    args
}

pub(super) async fn show(context: &Context, store: &Store, database: &PgPool, id: JobId) -> anyhow::Result<()> {
    let dead = match journal::show_closed(database, id).await? {
        Some(closed) if closed.state == "dead" && !closed.running => Dead::journaled(closed),
        _ => fast_by_id(store, id).await?.ok_or_else(|| not_dead(id))?,
    };
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    context.output.record(
        &dead,
        &[
            ("job", dead.id.to_string()),
            ("kind", dead.kind.clone()),
            ("queue", dead.queue.clone()),
            ("tenant", cell(dead.tenant.as_ref())),
            ("journaled", dead.journaled.to_string()),
            ("attempts", dead.attempt.to_string()),
            ("died", time(dead.died_at)),
            ("reason", dead.reason.clone()),
            ("args", pretty(&dead.args)),
            ("errors", pretty(&dead.errors)),
        ],
    )
}

async fn fast_by_id(store: &Store, id: JobId) -> anyhow::Result<Option<Dead>> {
    for queue in kinds::catalog().queues() {
        let Some(status) = store.status(&queue, Member::fast(id)).await? else { continue };
        let (JobState::Dead, Some(kind)) = (status.state, status.kind) else { return Ok(None) };
        let reason = status.errors.last().map(|error| format!("{}: {}", error.class, error.message));
        return Ok(Some(Dead {
            id,
            kind: kind.into(),
            queue: queue.to_string(),
            tenant: status.tenant.map(String::from),
            journaled: false,
            attempt: status.attempt.into(),
            died_at: status.died_at,
            reason: reason.unwrap_or_default(),
            args: status.args.and_then(|args| serde_json::from_str(args.get()).ok()).unwrap_or(Value::Null),
            errors: serde_json::to_value(status.errors).unwrap_or(Value::Null),
        }));
    }
    Ok(None)
}
