//! `/api/v1/jobs`: enqueuing one or many, looking at one or a list, cancelling.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, Request, State, rejection::PathRejection, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use windrow_queue::{JobId, Kind, QueueName, Tenant};

use crate::{
    Deps, batches, body,
    cancel::{self, CancelError, CancelOutcome},
    find::{self, FindError, JobView},
    intake::{self, Accepted, JobRequest, Plan},
    key::Caller,
    list::{JobPage, ListError, ListQuery, ListState, list},
    problem::Problem,
    trace,
};

pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Most jobs in one request.
const MAX_JOBS: usize = 5000;

/// `POST /api/v1/jobs`. With an object: 201 with the new job, 200 with the one that stood. With an array: 200 with an answer for
/// each, in their order.
pub(crate) async fn enqueue(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let header_key = header(request.headers(), IDEMPOTENCY_KEY)?;
    // A header that is not text is as good as none: the specification says to start a new trace.
    let given = request.headers().get(trace::TRACEPARENT).and_then(|value| value.to_str().ok());
    let traceparent = trace::continue_or_start(given, &mut rand::rng());
    let bytes = body::bytes(request, body::MAX_BULK_BYTES).await?;
    let mut response = if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        many(&deps, &caller, header_key, &traceparent, &bytes).await?
    } else {
        one(&deps, &caller, header_key, &traceparent, &bytes).await?
    };
    if let Ok(traceparent) = HeaderValue::try_from(traceparent) {
        response.headers_mut().insert(trace::TRACEPARENT, traceparent);
    }
    Ok(response)
}

async fn one(
    deps: &Deps,
    caller: &Caller,
    header_key: Option<String>,
    traceparent: &str,
    bytes: &[u8],
) -> Result<Response, Problem> {
    if bytes.len() > body::MAX_BODY_BYTES {
        return Err(body::too_large(format!("The body has more than {} bytes.", body::MAX_BODY_BYTES)));
    }
    let mut wanted: JobRequest = body::parse(bytes)?;
    wanted.idempotency_key = same_key(header_key, wanted.idempotency_key)?;
    let plan = plan(deps, caller, wanted, traceparent)?;
    batches::may_join(deps, caller, std::slice::from_ref(&plan)).await?;
    let accepted = intake::submit(&deps.store, &deps.database, &plan).await?;
    if accepted.created {
        tracing::info!(
            job_id = %accepted.id, kind = %accepted.kind, caller = caller.name, traceparent, "a job was enqueued"
        );
    }
    let status = if accepted.created { StatusCode::CREATED } else { StatusCode::OK };
    let location = HeaderValue::try_from(format!("/api/v1/jobs/{}", accepted.id));
    let mut response = (status, Json(accepted)).into_response();
    response.headers_mut().insert(header::LOCATION, location.expect("a path with a UUID is a header value"));
    Ok(response)
}

/// What became of one of many.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Accepted(Accepted),
    Refused { problem: Problem },
}

/// All are checked before any is taken: a fault in one of them leaves nothing behind.
async fn many(
    deps: &Deps,
    caller: &Caller,
    header_key: Option<String>,
    traceparent: &str,
    bytes: &[u8],
) -> Result<Response, Problem> {
    if header_key.is_some() {
        let detail = "Idempotency-Key is for one job: give each of many its own idempotency_key.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid-header", "A header is not valid", detail));
    }
    let wanted: Vec<JobRequest> = body::parse(bytes)?;
    if wanted.len() > MAX_JOBS {
        return Err(body::too_large(format!("{} jobs are more than {MAX_JOBS}: send them in parts.", wanted.len())));
    }
    let plans = wanted
        .into_iter()
        .enumerate()
        .map(|(i, wanted)| plan(deps, caller, wanted, traceparent).map_err(|problem| problem.within(&format!("/{i}"))))
        .collect::<Result<Vec<_>, _>>()?;
    batches::may_join(deps, caller, &plans).await?;
    let answers: Vec<Answer> = intake::submit_all(&deps.store, &deps.database, &plans)
        .await?
        .into_iter()
        .map(|answer| match answer {
            Ok(accepted) => Answer::Accepted(accepted),
            Err(error) => Answer::Refused { problem: error.into() },
        })
        .collect();
    let created = answers.iter().filter(|answer| matches!(answer, Answer::Accepted(one) if one.created)).count();
    tracing::info!(asked = plans.len(), created, caller = caller.name, traceparent, "jobs were enqueued");
    Ok(Json(answers).into_response())
}

fn plan(deps: &Deps, caller: &Caller, mut wanted: JobRequest, traceparent: &str) -> Result<Plan, Problem> {
    bind(deps, caller, &mut wanted)?;
    let mut plan = wanted.plan(&deps.catalog)?;
    plan.job.traceparent = Some(traceparent.to_owned());
    Ok(plan)
}

/// A caller that is bound to a tenant makes its jobs only, and of no kind that concerns every tenant.
pub(crate) fn bind(deps: &Deps, caller: &Caller, wanted: &mut JobRequest) -> Result<(), Problem> {
    let Some(own) = &caller.tenant else { return Ok(()) };
    bind_tenant(caller, wanted.tenant.take()).map_err(|problem| problem.at("/tenant"))?;
    operators_only(deps, caller, &wanted.kind)?;
    wanted.tenant = Some(own.clone());
    Ok(())
}

/// Whose things a caller means: its own tenant's, if it is bound to one.
pub(crate) fn bind_tenant(caller: &Caller, asked: Option<Tenant>) -> Result<Option<Tenant>, Problem> {
    match (&caller.tenant, asked) {
        (Some(own), Some(other)) if *own != other => {
            let detail = format!("This API key acts for tenant {own} only.");
            Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Not for this tenant", detail))
        }
        (Some(own), _) => Ok(Some(own.clone())),
        (None, asked) => Ok(asked),
    }
}

/// A caller that is bound to a tenant has to do with no kind that concerns every tenant.
pub(crate) fn operators_only(deps: &Deps, caller: &Caller, kind: &str) -> Result<(), Problem> {
    if caller.tenant.is_none() || !deps.catalog.get(kind).is_ok_and(|info| info.operators_only) {
        return Ok(());
    }
    let detail = format!("{kind} concerns every tenant: it takes a key that is bound to none.");
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Not for one tenant's key", detail).at("/kind"))
}

/// `GET /api/v1/jobs/{id}`. Another tenant's job does not exist for a caller bound to one.
pub(crate) async fn status(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<JobView>, Problem> {
    visible(&deps, &caller, path).await.map(Json)
}

async fn visible(deps: &Deps, caller: &Caller, path: Result<Path<String>, PathRejection>) -> Result<JobView, Problem> {
    let Path(id) = path.map_err(|_| Problem::not_found("The path is no UTF-8 text, so no job has it for its id."))?;
    let not_here = || {
        let detail = format!("There is no job {id:.64}, or it is over and its result was not kept (keep_result).");
        Problem::not_found(detail)
    };
    let job: JobId = id.parse().map_err(|_| not_here())?;
    let found = find::find(&deps.store, &deps.database, &deps.catalog, job).await?;
    found.filter(|view| find::is_visible(view, caller.tenant.as_ref())).ok_or_else(not_here)
}

impl From<FindError> for Problem {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Store(error) => error.into(),
            FindError::Database(error) => error.into(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct CancelAnswer {
    id: JobId,
    /// `cancelled`; or `stopping`: it runs, and its handler was told to stop.
    outcome: CancelOutcome,
}

/// `POST /api/v1/jobs/{id}/cancel`.
pub(crate) async fn cancel(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<CancelAnswer>, Problem> {
    let view = visible(&deps, &caller, path).await?;
    let reason = format!("cancelled over the API by key {}", caller.name);
    let outcome = cancel::cancel(&deps.store, &deps.database, &view, &reason).await?;
    tracing::info!(job_id = %view.id, caller = caller.name, ?outcome, "a job was cancelled");
    Ok(Json(CancelAnswer { id: view.id, outcome }))
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Self {
        let detail = error.to_string();
        match error {
            CancelError::Final(_) => Self::new(StatusCode::CONFLICT, "already-final", "The job is over", detail),
            CancelError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "The job is being decided", detail)
                .retry_after(std::time::Duration::from_secs(1)),
            CancelError::Find(error) => error.into(),
        }
    }
}

/// What a list is asked by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    state: ListState,
    queue: Option<QueueName>,
    kind: Option<Kind>,
    tenant: Option<Tenant>,
    fingerprint: Option<String>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    cursor: Option<String>,
    limit: Option<usize>,
}

/// Jobs in a page, if nothing is said.
pub(crate) const PAGE: usize = 50;
/// Jobs in a page, at most.
pub(crate) const MAX_PAGE: usize = 500;

pub(crate) fn bad_query(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-query", "The query is not valid", detail)
}

/// `GET /api/v1/jobs?state=…`. A caller bound to a tenant sees its own jobs only.
pub(crate) async fn page(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListParams>, QueryRejection>,
) -> Result<Json<JobPage>, Problem> {
    let Query(asked) = query.map_err(|rejection| bad_query(rejection.body_text()))?;
    let tenant = bind_tenant(&caller, asked.tenant)?;
    let fingerprint = asked.fingerprint.map(|text| {
        find::unhex16(&text)
            .ok_or_else(|| bad_query("fingerprint: 32 hexadecimal digits are expected, as lists show them"))
    });
    let limit = asked.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(bad_query(format!("limit: {limit} is not 1 to {MAX_PAGE}")));
    }
    let query = ListQuery {
        state: asked.state,
        queue: asked.queue,
        kind: asked.kind,
        tenant,
        fingerprint: fingerprint.transpose()?,
        since: asked.since,
        until: asked.until,
        cursor: asked.cursor,
        limit,
    };
    match list(&deps.store, &deps.database, &deps.catalog, &query).await {
        Ok(page) => Ok(Json(page)),
        Err(ListError::Cursor(error)) => Err(bad_query(format!("cursor: {error}"))),
        Err(error @ ListError::NoTime { .. }) => Err(bad_query(error.to_string())),
        Err(ListError::Find(error)) => Err(error.into()),
    }
}

pub(crate) fn header(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        let detail = format!("The header {name} has characters other than visible ASCII.");
        Problem::new(StatusCode::BAD_REQUEST, "invalid-header", "A header is not valid", detail)
    })?;
    Ok(Some(text.to_owned()))
}

/// Header and field mean the same; two different keys would leave it open which of them counts.
fn same_key(header: Option<String>, field: Option<String>) -> Result<Option<String>, Problem> {
    match (header, field) {
        (Some(header), Some(field)) if header != field => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-request",
            "A field is not valid",
            "idempotency_key and the header Idempotency-Key differ: send one of them",
        )
        .at("/idempotency_key")),
        (header, field) => Ok(header.or(field)),
    }
}
