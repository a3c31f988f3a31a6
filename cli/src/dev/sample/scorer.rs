//! The webhook that scores for one of the tenants, where in earnest a workflow or a model would answer.

use axum::{Json, Router, routing::post};
use serde::{Deserialize, Serialize};

/// `POST /score`.
pub(super) fn router() -> Router {
    Router::new().route("/score", post(async |Json(question): Json<Question>| Json(answer(&question.vacancy))))
}

/// What is sent has more; this is what counts here.
#[derive(Deserialize)]
struct Question {
    vacancy: Asked,
}

#[derive(Deserialize)]
struct Asked {
    title: String,
    description: String,
    tags: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Answer {
    score: u8,
    reason: String,
}

/// Likes people who write, design and teach, and work that is not full time.
fn answer(vacancy: &Asked) -> Answer {
    let tags = ["writing", "design", "documentation", "research", "accessibility", "management"];
    let liked: Vec<&str> = tags.into_iter().filter(|tag| vacancy.tags.iter().any(|other| other == tag)).collect();
    let short_week = vacancy.description.contains("Four days a week");
    let senior = vacancy.title.starts_with("Senior");
    let score = 3 + 3 * u8::try_from(liked.len().min(2)).unwrap_or(2) + u8::from(short_week) - u8::from(senior);
    let what = if liked.is_empty() { "nothing that is looked for".to_owned() } else { liked.join(", ") };
    let week = if short_week { ", four days a week" } else { "" };
    Answer { score, reason: format!("the webhook found {what}{week}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_a_score_from_1_to_10_with_a_reason() {
        for tags in [&[][..], &["writing"], &["writing", "design", "research"]] {
            for description in ["", "Four days a week are as welcome as five."] {
                for title in ["Senior Writer", "Writer"] {
                    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
                    let asked = Asked { title: title.into(), description: description.into(), tags };
                    let answer = answer(&asked);
                    assert!((1..=10).contains(&answer.score) && !answer.reason.is_empty(), "{answer:?}");
                }
            }
        }
    }
}
