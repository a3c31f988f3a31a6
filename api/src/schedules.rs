//! `/api/v1/schedules`: recurring work, made and changed by hand, and a record of every time it was due.
//!
//! A caller that is bound to a tenant has to do with that tenant's schedules only: others do not exist for it.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, Request, State, rejection::PathRejection, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgPool;
use windrow_queue::{JobId, Tenant, store::Store};
use windrow_schedule::{
    self as schedule, AdminError, Declared, FireState, History, InvalidSchedule, ListQuery, MAX_NEXT, NextFire,
    SchedulePage, ScheduleState, ScheduleView, Triggered,
};

use crate::{
    Deps, body,
    find::{FindError, standing_state},
    jobs::{IDEMPOTENCY_KEY, MAX_PAGE, PAGE, bad_query, bind_tenant, header, operators_only},
    key::Caller,
    problem::Problem,
};

/// Coming fire times, if nothing is said.
const NEXT: u16 = 10;
/// Live jobs of a page that Redis is asked for at the same time.
const ASKED_AT_ONCE: usize = 16;
/// The longest idempotency key.
const MAX_KEY_BYTES: usize = 255;

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        let detail = error.to_string();
        let conflict = |slug, title| Self::new(StatusCode::CONFLICT, slug, title, detail.clone());
        match error {
            AdminError::Unknown { name, tenant } => {
                let whose = tenant.map_or_else(String::new, |tenant| format!(" of tenant {tenant}"));
                Self::not_found(format!(
                    "There is no schedule {name:?}{whose}; GET /api/v1/schedules lists those that exist."
                ))
            }
            AdminError::Declared(_) => conflict("schedule-declared", "The schedule belongs to schedules.toml"),
            AdminError::Exists(_) => conflict("schedule-exists", "Another schedule has the name"),
            AdminError::Invalid(error) => invalid(error),
            AdminError::Cursor(error) => bad_query(format!("cursor: {error}")),
            AdminError::Database(error) => error.into(),
        }
    }
}

/// The same types as a job's, where it is the job that is at fault.
fn invalid(error: InvalidSchedule) -> Problem {
    let (slug, title) = match &*error.key {
        "kind" => ("unknown-kind", "There is no such kind"),
        "args" => ("invalid-args", "The args are not those of the kind"),
        _ => ("invalid-request", "A field is not valid"),
    };
    let pointer = format!("/{}", error.key.replace('~', "~0").replace('/', "~1"));
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, slug, title, format!("{} {}", error.key, error.reason)).at(pointer)
}

fn name_of(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(name) = path.map_err(|_| Problem::not_found("The path is no UTF-8 text, so it is no schedule's name."))?;
    Ok(name)
}

/// Whose schedule is meant.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Whose {
    tenant: Option<Tenant>,
}

type Asked<T> = Result<Query<T>, QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Problem> {
    query.map(|Query(asked)| asked).map_err(|rejection| bad_query(rejection.body_text()))
}

/// A new schedule's job is one that the caller may enqueue; and it is the caller's tenant's, if it has one.
fn bind(deps: &Deps, caller: &Caller, declared: &mut Declared) -> Result<(), Problem> {
    let Some(own) = &caller.tenant else { return Ok(()) };
    let forbidden = |detail| Problem::new(StatusCode::FORBIDDEN, "forbidden", "Not for this tenant", detail);
    let detail = || format!("This API key acts for tenant {own} only.");
    if declared.tenant.as_ref().is_some_and(|tenant| tenant != own.as_str()) {
        return Err(forbidden(detail()).at("/tenant"));
    }
    if declared.each_tenant {
        return Err(forbidden(detail()).at("/each_tenant"));
    }
    operators_only(deps, caller, &declared.kind)?;
    declared.tenant = Some(own.to_string());
    Ok(())
}

/// `POST /api/v1/schedules`: 201 with the new schedule; 200 with the one that stands, if it is the very same.
pub(crate) async fn add(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let mut declared: Declared = body::json(request).await?;
    bind(&deps, &caller, &mut declared)?;
    let (view, created) = schedule::add(&deps.database, &deps.catalog, declared).await?;
    if created {
        tracing::info!(schedule = view.name, tenant = view.tenant, caller = caller.name, "a schedule was added");
    }
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let query = view.tenant.as_ref().map_or_else(String::new, |tenant| format!("?tenant={tenant}"));
    let location = HeaderValue::try_from(format!("/api/v1/schedules/{}{query}", view.name));
    let mut response = (status, Json(view)).into_response();
    response
        .headers_mut()
        .insert(header::LOCATION, location.expect("names of schedules and tenants are visible ASCII"));
    Ok(response)
}

/// What a list is asked by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    tenant: Option<Tenant>,
    state: Option<ScheduleState>,
    cursor: Option<String>,
    limit: Option<u16>,
}

fn page_size(limit: Option<u16>) -> Result<u16, Problem> {
    let limit = limit.map_or(PAGE, usize::from);
    u16::try_from(limit)
        .ok()
        .filter(|_| (1..=MAX_PAGE).contains(&limit))
        .ok_or_else(|| bad_query(format!("limit: {limit} is not 1 to {MAX_PAGE}")))
}

/// `GET /api/v1/schedules`.
pub(crate) async fn page(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    query: Asked<ListParams>,
) -> Result<Json<SchedulePage>, Problem> {
    let ListParams { tenant, state, cursor, limit } = asked(query)?;
    let query = ListQuery { tenant: bind_tenant(&caller, tenant)?, state, cursor, limit: page_size(limit)? };
    Ok(Json(schedule::list(&deps.database, &deps.catalog, &query).await?))
}

/// `GET /api/v1/schedules/{name}`.
pub(crate) async fn show(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    query: Asked<Whose>,
) -> Result<Json<ScheduleView>, Problem> {
    let (name, tenant) = (name_of(path)?, bind_tenant(&caller, asked(query)?.tenant)?);
    Ok(Json(schedule::show(&deps.database, &deps.catalog, &name, tenant.as_ref()).await?))
}

/// `PATCH /api/v1/schedules/{name}`: some keys of its definition; null is as if left out.
pub(crate) async fn change(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    query: Asked<Whose>,
    request: Request<Body>,
) -> Result<Json<ScheduleView>, Problem> {
    let (name, tenant) = (name_of(path)?, bind_tenant(&caller, asked(query)?.tenant)?);
    let keys: Map<String, Value> = body::json(request).await?;
    if let Some(kind) = keys.get("kind").and_then(Value::as_str) {
        operators_only(&deps, &caller, kind)?;
    }
    let changed = schedule::change(&deps.database, &deps.catalog, &name, tenant.as_ref(), keys).await?;
    tracing::info!(schedule = name, tenant = changed.tenant, caller = caller.name, "a schedule was changed");
    Ok(Json(changed))
}

/// `DELETE /api/v1/schedules/{name}`.
pub(crate) async fn remove(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    query: Asked<Whose>,
) -> Result<StatusCode, Problem> {
    let (name, tenant) = (name_of(path)?, bind_tenant(&caller, asked(query)?.tenant)?);
    schedule::remove(&deps.database, &name, tenant.as_ref()).await?;
    tracing::info!(
        schedule = name,
        tenant = tenant.as_ref().map(Tenant::as_str),
        caller = caller.name,
        "a schedule was removed"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/schedules/{name}/pause`.
pub(crate) async fn pause(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    query: Asked<Whose>,
) -> Result<Json<ScheduleView>, Problem> {
    set_paused(&deps, &caller, path, query, true).await
}

/// `POST /api/v1/schedules/{name}/resume`.
pub(crate) async fn resume(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    query: Asked<Whose>,
) -> Result<Json<ScheduleView>, Problem> {
    set_paused(&deps, &caller, path, query, false).await
}

async fn set_paused(
    deps: &Deps,
    caller: &Caller,
    path: Result<Path<String>, PathRejection>,
    query: Asked<Whose>,
    paused: bool,
) -> Result<Json<ScheduleView>, Problem> {
    let (name, tenant) = (name_of(path)?, bind_tenant(caller, asked(query)?.tenant)?);
    let (database, catalog) = (&deps.database, &deps.catalog);
    if schedule::set_paused(database, catalog, &name, tenant.as_ref(), paused).await? {
        let what = if paused { "paused" } else { "resumed" };
        tracing::info!(
            schedule = name,
            tenant = tenant.as_ref().map(Tenant::as_str),
            caller = caller.name,
            "a schedule was {what}"
        );
    }
    Ok(Json(schedule::show(&deps.database, &deps.catalog, &name, tenant.as_ref()).await?))
}

/// `POST /api/v1/schedules/{name}/trigger`: 201; 200 for the same Idempotency-Key again.
pub(crate) async fn trigger(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    query: Asked<Whose>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<Triggered>), Problem> {
    let (name, tenant) = (name_of(path)?, bind_tenant(&caller, asked(query)?.tenant)?);
    let key = header(request.headers(), IDEMPOTENCY_KEY)?;
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
        let detail = format!("The Idempotency-Key has not 1 to {MAX_KEY_BYTES} bytes.");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid-header", "A header is not valid", detail));
    }
    let (database, catalog) = (&deps.database, &deps.catalog);
    let done = schedule::trigger(database, catalog, &name, tenant.as_ref(), &caller.name, key.as_deref()).await?;
    if done.created {
        tracing::info!(schedule = name, caller = caller.name, trigger = %done.id, "a schedule was triggered");
    }
    Ok((if done.created { StatusCode::CREATED } else { StatusCode::OK }, Json(done)))
}

/// What coming fire times are asked by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NextParams {
    tenant: Option<Tenant>,
    times: Option<u16>,
}

/// Coming fire times, soonest first.
#[derive(Debug, Serialize)]
pub(crate) struct Next {
    fires: Vec<NextFire>,
}

/// `GET /api/v1/schedules/{name}/next`.
pub(crate) async fn next(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    query: Asked<NextParams>,
) -> Result<Json<Next>, Problem> {
    let NextParams { tenant, times } = asked(query)?;
    let (name, tenant, times) = (name_of(path)?, bind_tenant(&caller, tenant)?, times.unwrap_or(NEXT));
    if !(1..=MAX_NEXT).contains(&times) {
        return Err(bad_query(format!("times: {times} is not 1 to {MAX_NEXT}")));
    }
    let fires = schedule::next(&deps.database, &deps.catalog, &name, tenant.as_ref(), times).await?;
    Ok(Json(Next { fires }))
}

/// What a history is asked by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryParams {
    tenant: Option<Tenant>,
    cursor: Option<String>,
    limit: Option<u16>,
}

/// `GET /api/v1/schedules/{name}/history`.
pub(crate) async fn history_page(
    State(deps): State<Deps>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    query: Asked<HistoryParams>,
) -> Result<Json<History>, Problem> {
    let HistoryParams { tenant, cursor, limit } = asked(query)?;
    let (name, tenant) = (name_of(path)?, bind_tenant(&caller, tenant)?);
    let page = (cursor.as_deref(), page_size(limit)?);
    Ok(Json(history(&deps.store, &deps.database, &name, tenant.as_ref(), page).await?))
}

/// The last fires and triggers of a schedule from a cursor on, so many at most, newest first. Of a job that still has to happen
/// Redis says where it is; while it does not answer, such a job is `live`.
///
/// # Errors
/// When there is no such schedule, the cursor is none of its, or Postgres is away.
pub async fn history(
    store: &Store,
    database: &PgPool,
    name: &str,
    tenant: Option<&Tenant>,
    (cursor, limit): (Option<&str>, u16),
) -> Result<History, AdminError> {
    let mut page = schedule::history(database, name, tenant, cursor, limit).await?;
    let live: Vec<(usize, JobId)> = page
        .fires
        .iter()
        .enumerate()
        .filter(|(_, fire)| fire.job_state == Some(FireState::Live))
        .filter_map(|(place, fire)| Some((place, JobId(fire.job_id?))))
        .collect();
    let found = stream::iter(live)
        .map(|(place, id)| async move { Ok((place, standing_state(store, database, id).await?)) })
        .buffered(ASKED_AT_ONCE)
        .try_collect::<Vec<_>>()
        .await;
    match found {
        Ok(found) => {
            for (place, state) in found {
                // One that has ended since is as it was found a moment ago.
                page.fires[place].job_state = state.map(FireState::Exactly).or(Some(FireState::Live));
            }
        }
        Err(FindError::Database(error)) => return Err(error.into()),
        Err(FindError::Store(error)) => tracing::warn!(%error, "Redis does not say where the jobs of a schedule are"),
    }
    Ok(page)
}
