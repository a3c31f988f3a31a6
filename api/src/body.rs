//! A request's body as JSON: bounded in bytes and depth, and with the name of the field that is at fault.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

use crate::problem::Problem;

/// The largest body of one job.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The largest body of many jobs.
pub(crate) const MAX_BULK_BYTES: usize = 8 * 1024 * 1024;
/// The deepest nesting of objects and arrays. Postgres and every reader of the args must come down again.
const MAX_DEPTH: usize = 64;

/// Reads the body as `T`.
pub(crate) async fn json<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Problem> {
    parse(&bytes(request, MAX_BODY_BYTES).await?)
}

/// The body as it is, if it says that it is JSON and is no longer than `most`.
pub(crate) async fn bytes(request: Request<Body>, most: usize) -> Result<Bytes, Problem> {
    check_content_type(request.headers())?;
    let bytes = Bytes::from_request(request, &()).await.map_err(|rejection| unreadable(rejection, most))?;
    if bytes.len() > most {
        return Err(too_long(most));
    }
    Ok(bytes)
}

fn too_long(most: usize) -> Problem {
    too_large(format!("The body has more than {most} bytes."))
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        "The body is not JSON",
        "Send the body as JSON, with `Content-Type: application/json`.",
    ))
}

fn unreadable(rejection: BytesRejection, most: usize) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return too_long(most);
    }
    Problem::new(StatusCode::BAD_REQUEST, "unreadable-body", "The body could not be read", rejection.body_text())
}

pub(crate) fn too_large(detail: String) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large", detail)
}

pub(crate) fn invalid_json(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-json", "The body is not valid JSON", detail)
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if depth(bytes) > MAX_DEPTH {
        return Err(invalid_json(format!("Objects and arrays are nested deeper than {MAX_DEPTH} levels.")));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        let error = error.into_inner();
        match error.classify() {
            Category::Data => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-request",
                "A field is not valid",
                error.to_string(),
            )
            .at(pointer),
            Category::Syntax | Category::Eof | Category::Io => invalid_json(error.to_string()),
        }
    })?;
    deserializer.end().map_err(|error| invalid_json(error.to_string()))?;
    Ok(value)
}

/// The path as an RFC 6901 pointer.
fn pointer(path: &Path) -> String {
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Map { key } => pointer + "/" + &key.replace('~', "~0").replace('/', "~1"),
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Enum { .. } | Segment::Unknown => pointer,
    })
}

/// How deep objects and arrays are nested, found without recursion: before any parser sees the text. Args stay unparsed text
/// on their way, so that no parser's own limit would stop them.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (false, _) => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "read by its Debug form only")]
        count: u8,
        args: Option<Box<RawValue>>,
        #[serde(default)]
        #[expect(dead_code, reason = "read by its Debug form only")]
        list: Vec<u8>,
    }

    #[test]
    fn depth_counts_nesting_and_is_not_fooled_by_strings() {
        for (json, expected) in [
            ("", 0),
            ("1", 0),
            ("{}", 1),
            ("[[],{\"a\":[1]}]", 3),
            (r#"{"a":"[[[[\"[[[["}"#, 1),
            (r#"["\\",[1]]"#, 2),
            ("]]]]", 0),
        ] {
            assert_eq!(depth(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn each_fault_of_a_body_has_its_status_and_pointer() {
        let deep = format!("{{\"count\":1,\"args\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for (body, status, pointer) in [
            ("", 400, None),
            ("{", 400, None),
            ("{\"count\":1} x", 400, None),
            (&deep, 400, None),
            ("{\"count\":300}", 422, Some("/count")),
            ("{\"count\":1,\"colour\":2}", 422, Some("/colour")),
            ("{\"count\":1,\"list\":[1,\"a\"]}", 422, Some("/list/1")),
            ("{}", 422, Some("")),
        ] {
            let problem = parse::<Sample>(body.as_bytes()).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.pointer()), (status, pointer), "{body:.80}");
        }
    }

    #[test]
    fn args_stay_the_text_that_they_were() {
        let sample: Sample = parse(br#"{"count":1,"args":{"b": 1, "a":1.10}}"#).unwrap();
        assert_eq!(sample.args.unwrap().get(), r#"{"b": 1, "a":1.10}"#);
    }
}
