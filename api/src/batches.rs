//! `/api/v1/batches`: a set of jobs with a follow-up that runs once, when all of them are final.
//!
//! A batch is journaled if its follow-up is, and takes only members of its own sort; one of fast jobs is in one queue.

use std::collections::HashSet;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;
use windrow_queue::{
    BatchId, Catalog, JobId, QueueName, Tenant,
    journal::{self, BatchError},
    store::{BatchStatus, NewBatch, Store},
};

use crate::{
    Deps, body,
    find::FindError,
    intake::{JobRequest, Plan, SubmitError},
    jobs::bind,
    key::Caller,
    problem::Problem,
};

/// A batch as a client asks for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct BatchRequest {
    /// Its id, made by the client so that asking twice opens one batch. Left out: a new one.
    #[serde(default)]
    id: Option<BatchId>,
    /// What runs when all members are final.
    follow_up: JobRequest,
}

/// A batch as clients see it.
#[derive(Debug, Serialize)]
pub struct BatchView {
    /// The batch.
    pub id: BatchId,
    /// Whether its jobs are in the journal.
    pub journaled: bool,
    /// The queue of a batch of fast jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// Whose it is.
    pub tenant: Option<Tenant>,
    /// Jobs that belong to it.
    pub members: u64,
    /// Those that are not final yet.
    pub pending: u64,
    /// Those that completed.
    pub completed: u64,
    /// Those that died.
    pub dead: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// Whether it takes no more members.
    pub sealed: bool,
    /// The follow-up.
    pub follow_up: JobId,
    /// When the follow-up became ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fired_at: Option<DateTime<Utc>>,
}

impl BatchView {
    fn new(id: BatchId, queue: Option<QueueName>, status: BatchStatus) -> Self {
        let BatchStatus { members, completed, dead, cancelled, sealed, fired_at, follow_up, tenant } = status;
        Self {
            id,
            journaled: queue.is_none(),
            queue,
            tenant,
            members,
            pending: members.saturating_sub(completed + dead + cancelled),
            completed,
            dead,
            cancelled,
            sealed,
            follow_up,
            fired_at,
        }
    }
}

/// Looks for a batch in the journal and in all queues of the catalog.
///
/// # Errors
/// When a store that may know it is away.
pub async fn find_batch(
    store: &Store,
    database: &PgPool,
    catalog: &Catalog,
    id: BatchId,
) -> Result<Option<BatchView>, FindError> {
    let queues = catalog.queues();
    let found = try_join_all(queues.iter().map(|queue| store.batch(queue, id))).await?;
    let fast = queues.into_iter().zip(found).find_map(|(queue, status)| Some((queue, status?)));
    if let Some((queue, status)) = fast {
        return Ok(Some(BatchView::new(id, Some(queue), status)));
    }
    Ok(journal::batch(database, id).await?.map(|status| BatchView::new(id, None, status)))
}

/// `POST /api/v1/batches`: 201 with the open batch, 200 if it stood already.
pub(crate) async fn open(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let BatchRequest { id, mut follow_up } = body::json(request).await?;
    bind(&deps, &caller, &mut follow_up).map_err(|problem| problem.within("/follow_up"))?;
    let Plan { job, journaled } = follow_up.plan(&deps.catalog).map_err(|problem| problem.within("/follow_up"))?;
    let id = id.unwrap_or_else(|| BatchId(JobId::new().0));
    if let Some(stands) = find_batch(&deps.store, &deps.database, &deps.catalog, id).await? {
        if caller.tenant.is_some() && caller.tenant != stands.tenant {
            let detail = format!("The id {id} is taken: leave it out, or make another.");
            return Err(Problem::new(StatusCode::CONFLICT, "batch-exists", "There is such a batch", detail).at("/id"));
        }
        return Ok((StatusCode::OK, Json(stands)).into_response());
    }
    let batch = NewBatch { id, follow_up: job };
    if journaled {
        let follow_up =
            deps.store.vault().seal_all(std::slice::from_ref(&batch.follow_up)).map_err(SubmitError::from)?;
        let mut tx = deps.database.begin().await?;
        let batch = NewBatch { id, follow_up: follow_up[0].clone() };
        journal::open_batch_in(&mut tx, &batch).await.map_err(|error| match error {
            BatchError::FollowUp(_) => invalid_follow_up(error.to_string()),
            BatchError::Database(error) => error.into(),
        })?;
        tx.commit().await?;
    } else {
        match deps.store.open_batch(&batch).await {
            Ok(Ok(_)) => {}
            Ok(Err(refused)) => return Err(SubmitError::from(refused).into()),
            Err(windrow_queue::store::StoreError::Invalid(reason)) => return Err(invalid_follow_up(reason)),
            Err(error) => return Err(error.into()),
        }
    }
    tracing::info!(batch = %id, caller = caller.name, journaled, "a batch was opened");
    let view =
        find_batch(&deps.store, &deps.database, &deps.catalog, id).await?.ok_or_else(|| not_here(&id.to_string()))?;
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    let location = HeaderValue::try_from(format!("/api/v1/batches/{id}"));
    response.headers_mut().insert(header::LOCATION, location.expect("a path with a UUID is a header value"));
    Ok(response)
}

fn invalid_follow_up(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", "A field is not valid", detail).at("/follow_up")
}

fn not_here(id: &str) -> Problem {
    Problem::not_found(format!("There is no batch {id:.64}: it was never opened, or fired more than seven days ago."))
}

async fn visible(
    deps: &Deps,
    caller: &Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<BatchView, Problem> {
    let Path(text) =
        path.map_err(|_| Problem::not_found("The path is no UTF-8 text, so no batch has it for its id."))?;
    let id = BatchId(text.parse::<Uuid>().map_err(|_| not_here(&text))?);
    let found = find_batch(&deps.store, &deps.database, &deps.catalog, id).await?;
    found.filter(|view| caller.tenant.is_none() || caller.tenant == view.tenant).ok_or_else(|| not_here(&text))
}

/// `GET /api/v1/batches/{id}`.
pub(crate) async fn status(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<BatchView>, Problem> {
    visible(&deps, &caller, path).await.map(Json)
}

/// `POST /api/v1/batches/{id}/seal`: it has all its members. Again changes nothing.
pub(crate) async fn seal(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<BatchView>, Problem> {
    let view = visible(&deps, &caller, path).await?;
    match &view.queue {
        Some(queue) => drop(deps.store.seal_batch(queue, view.id).await?),
        None => {
            let mut tx = deps.database.begin().await?;
            journal::seal_batch_in(&mut tx, view.id).await?;
            tx.commit().await?;
        }
    }
    tracing::info!(batch = %view.id, caller = caller.name, "a batch was sealed");
    let sealed = find_batch(&deps.store, &deps.database, &deps.catalog, view.id).await?;
    sealed.map(Json).ok_or_else(|| not_here(&view.id.to_string()))
}

/// A caller that is bound to a tenant adds members to that tenant's batches only. Whether a batch takes members at all, its
/// store says.
pub(crate) async fn may_join(deps: &Deps, caller: &Caller, plans: &[Plan]) -> Result<(), Problem> {
    if caller.tenant.is_none() {
        return Ok(());
    }
    let batches: HashSet<BatchId> = plans.iter().filter_map(|plan| plan.job.batch).collect();
    for id in batches {
        let found = find_batch(&deps.store, &deps.database, &deps.catalog, id).await?;
        if found.is_none_or(|view| view.tenant != caller.tenant) {
            return Err(not_here(&id.to_string()).at("/batch"));
        }
    }
    Ok(())
}
