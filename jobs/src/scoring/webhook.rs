//! The webhook scorer: the tenant's own service is asked.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;
use windrow_queue::{JobContext, JobError};

use super::{MAX_REASON, Subject, Verdict, config::Config, profile::Rules};
use crate::{
    fetch::text,
    outward::{Client, OutwardError, Request},
};

/// What is sent. The same over all attempts of a job.
#[derive(Serialize)]
struct Question<'a> {
    job_id: String,
    tenant: &'a str,
    vacancy: &'a Subject,
    rules: &'a Rules,
}

/// An answer that is no verdict: nothing of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedAnswer {
    /// No JSON object.
    #[error("the webhook's answer is no JSON object; it should be {{\"score\": 1 to 10, \"reason\": \"…\"}}")]
    NotAnObject,
    /// No score, or no whole number, or out of range.
    #[error("the webhook's answer has no \"score\" that is a whole number from 1 to 10")]
    Score,
    /// No reason, or an empty one.
    #[error("the webhook's answer has no \"reason\" that is a text and not empty")]
    Reason,
}

impl RefusedAnswer {
    /// The class for metrics and dead letters.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::NotAnObject => "answer_not_an_object",
            Self::Score => "answer_score",
            Self::Reason => "answer_reason",
        }
    }

    /// All classes, so that their counters stand at zero before the first refusal.
    pub const CLASSES: &[&str] = &["answer_not_an_object", "answer_score", "answer_reason"];
}

impl From<RefusedAnswer> for JobError {
    /// Worth another attempt: behind a webhook there may be a model, which answers differently next time.
    fn from(refused: RefusedAnswer) -> Self {
        Self::retry(refused.class(), refused)
    }
}

/// Asks, and takes the answer only if it is a verdict.
pub(super) async fn score(
    client: &Client,
    config: &Config,
    ctx: &JobContext,
    webhook_url: &str,
    tenant: &str,
    subject: &Subject,
    rules: &Rules,
) -> Result<Verdict, JobError> {
    let url = Url::parse(webhook_url)
        .map_err(|error| OutwardError::InvalidUrl { reason: format!("the stored webhook_url is broken: {error}") })?;
    let question = Question { job_id: ctx.id().to_string(), tenant, vacancy: subject, rules };
    let request = Request::post_json(url, &question)
        .map_err(|error| JobError::bury("invalid_question", error))?
        .idempotency_key(&ctx.idempotency_key())
        .traceparent(ctx.traceparent())
        .timeout(config.webhook_timeout)
        .max_body_bytes(config.webhook_max_bytes);
    let response = client.send(request).await?;
    Ok(read(&response.body)?)
}

/// Fields besides these two are the webhook's own business.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    score: Value,
    #[serde(default)]
    reason: Value,
}

fn read(body: &[u8]) -> Result<Verdict, RefusedAnswer> {
    // serde would take a list for a struct, field by field.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(RefusedAnswer::NotAnObject);
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| RefusedAnswer::NotAnObject)?;
    let score =
        answer.score.as_i64().and_then(|score| i16::try_from(score).ok()).filter(|score| (1..=10).contains(score));
    let score = score.ok_or(RefusedAnswer::Score)?;
    let reason =
        answer.reason.as_str().and_then(|reason| text::line(reason, MAX_REASON)).ok_or(RefusedAnswer::Reason)?;
    Ok(Verdict { score, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_taken_and_its_reason_cleaned_and_cut() {
        let verdict = |score, reason: &str| Ok(Verdict { score, reason: reason.to_owned() });
        assert_eq!(read(br#" {"score": 7, "reason": " good\n\u0000match ", "model": "x"} "#), verdict(7, "good match"));
        let long = format!(r#"{{"score": 1, "reason": "{}"}}"#, "x".repeat(5000));
        assert_eq!(read(long.as_bytes()), verdict(1, &"x".repeat(MAX_REASON)));
    }

    #[test]
    fn anything_else_is_refused() {
        use RefusedAnswer::{NotAnObject, Reason, Score};
        for (body, refused) in [
            ("", NotAnObject),
            ("null", NotAnObject),
            ("7", NotAnObject),
            (r#"[7, "good"]"#, NotAnObject),
            (r#"[{"score": 7, "reason": "good"}]"#, NotAnObject),
            ("<html>", NotAnObject),
            (r#"{"score": 7, "reason": "good""#, NotAnObject),
            (r#"{"score": 7, "score": 8, "reason": "good"}"#, NotAnObject),
            (r#"{"reason": "good"}"#, Score),
            (r#"{"score": 0, "reason": "good"}"#, Score),
            (r#"{"score": 11, "reason": "good"}"#, Score),
            (r#"{"score": -1, "reason": "good"}"#, Score),
            (r#"{"score": 7.0, "reason": "good"}"#, Score),
            (r#"{"score": 7.5, "reason": "good"}"#, Score),
            (r#"{"score": "7", "reason": "good"}"#, Score),
            (r#"{"score": true, "reason": "good"}"#, Score),
            (r#"{"score": 99999999999999999999, "reason": "good"}"#, Score),
            (r#"{"score": 7}"#, Reason),
            (r#"{"score": 7, "reason": ""}"#, Reason),
            (r#"{"score": 7, "reason": " \n "}"#, Reason),
            (r#"{"score": 7, "reason": 5}"#, Reason),
            (r#"{"score": 7, "reason": null}"#, Reason),
        ] {
            assert_eq!(read(body.as_bytes()), Err(refused), "{body}");
        }
    }
}
