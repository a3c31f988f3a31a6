//! `/api/v1/jobs`.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use windrow_queue::JobId;

use crate::{
    Deps, body,
    find::{self, FindError, JobView},
    intake::{self, JobRequest},
    key::Caller,
    problem::Problem,
    trace,
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// `POST /api/v1/jobs`: 201 with the new job, 200 with the one that stood.
pub(crate) async fn enqueue(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let header_key = header(request.headers(), IDEMPOTENCY_KEY)?;
    // A header that is not text is as good as none: the specification says to start a new trace.
    let given = request.headers().get(trace::TRACEPARENT).and_then(|value| value.to_str().ok());
    let traceparent = trace::continue_or_start(given, &mut rand::rng());
    let mut wanted: JobRequest = body::json(request).await?;
    wanted.idempotency_key = same_key(header_key, wanted.idempotency_key)?;
    if let Some(own) = &caller.tenant {
        if wanted.tenant.as_ref().is_some_and(|tenant| tenant != own) {
            let detail = format!("This API key acts for tenant {own} only.");
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Not for this tenant", detail).at("/tenant"));
        }
        wanted.tenant = Some(own.clone());
    }
    let mut plan = wanted.plan(&deps.catalog)?;
    plan.job.traceparent = Some(traceparent.clone());
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
    if let Ok(traceparent) = HeaderValue::try_from(traceparent) {
        response.headers_mut().insert(trace::TRACEPARENT, traceparent);
    }
    Ok(response)
}

/// `GET /api/v1/jobs/{id}`. Another tenant's job does not exist for a caller bound to one.
pub(crate) async fn status(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<JobView>, Problem> {
    let Path(id) = path.map_err(|_| Problem::not_found("The path is no UTF-8 text, so no job has it for its id."))?;
    let not_here = || {
        let detail = format!("There is no job {id:.64}, or it is over and its result was not kept (keep_result).");
        Problem::not_found(detail)
    };
    let job: JobId = id.parse().map_err(|_| not_here())?;
    let found = find::find(&deps.store, &deps.database, &deps.catalog, job).await.map_err(|error| match error {
        FindError::Store(error) => Problem::from(error),
        FindError::Database(error) => Problem::from(error),
    })?;
    found.filter(|view| find::is_visible(view, caller.tenant.as_ref())).map(Json).ok_or_else(not_here)
}

fn header(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Problem> {
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
