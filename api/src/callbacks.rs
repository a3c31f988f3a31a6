//! `POST /api/v1/callbacks/{token}`: what a parked job waits for. The token is the authority; there is no key.

use axum::{
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::StatusCode,
};
use serde_json::value::RawValue;
use windrow_queue::{
    error::is_transient,
    journal::{self, CallbackError},
    store::{Callback, CallbackToken, MAX_CALLBACK_BYTES},
};

use crate::{Deps, body, intake::no_key, problem::Problem};

fn unknown() -> Problem {
    // The token is a secret, even a mistyped one: it is not repeated.
    Problem::not_found(
        "No job waits for this callback: the token is not one of ours, was replaced by another, or its job is over.",
    )
}

/// 204 delivered, 409 another came before, 410 the job went on without it or was cancelled, 404 nobody waits for it.
pub(crate) async fn deliver(
    State(deps): State<Deps>,
    path: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Result<StatusCode, Problem> {
    let token: CallbackToken = path.ok().and_then(|Path(token)| token.parse().ok()).ok_or_else(unknown)?;
    let payload: Box<RawValue> = body::parse(&body::bytes(request, MAX_CALLBACK_BYTES).await?)?;
    let payload = deps.catalog.stored_callback(&token.queue(), &payload).map_err(|error| no_key(&error))?;
    // A token is a journaled job's or a fast job's: whichever store knows it, decides.
    let journaled = match journal::call_back(&deps.database, token.digest(), &payload).await {
        Ok(answer) => Ok(answer),
        Err(CallbackError::Database(error)) if is_transient(&error) => Err(error),
        Err(CallbackError::Database(error)) => return Err(error.into()),
        Err(error @ CallbackError::TooLarge(_)) => return Err(body::too_large(error.to_string())),
        Err(error @ CallbackError::Nul) => return Err(body::invalid_json(error.to_string())),
    };
    let answer = match journaled {
        Ok(Callback::Unknown) | Err(_) => deps.store.call_back(&token.queue(), token.digest(), &payload).await?,
        Ok(answer) => answer,
    };
    match (answer, journaled) {
        (Callback::Delivered, _) => {
            tracing::info!(queue = %token.queue(), "a callback was delivered");
            Ok(StatusCode::NO_CONTENT)
        }
        (Callback::Duplicate, _) => Err(Problem::new(
            StatusCode::CONFLICT,
            "callback-duplicate",
            "Another callback came before",
            "The first callback counts; this one was not looked at.",
        )),
        (Callback::Late, _) => Err(Problem::new(
            StatusCode::GONE,
            "callback-late",
            "The callback came too late",
            "Nobody waits for it any more: the deadline was over and the job went on without it, or the job was cancelled.",
        )),
        // Postgres, which may know it, was not there to ask.
        (Callback::Unknown, Err(error)) => Err(error.into()),
        (Callback::Unknown, Ok(_)) => Err(unknown()),
    }
}
