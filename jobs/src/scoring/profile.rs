//! What a tenant looks for, and who judges it.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool, types::Json};
use url::Url;
use windrow_queue::Tenant;

/// Who scores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Scorer {
    /// The built-in rules.
    #[default]
    Rules,
    /// The tenant's webhook.
    Webhook,
}

impl Scorer {
    /// Its name in tables and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Webhook => "webhook",
        }
    }
}

/// A word or phrase that speaks for a vacancy, or against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyword {
    /// What to look for: whole words, in any case. `C` is not found in `C++` or `C#`.
    pub term: String,
    /// Points when it stands in the title, half as many when elsewhere: -10 to 10.
    pub weight: i32,
}

/// Weights of the built-in rules. Every vacancy starts with 5 points; without keywords and salary only freshness counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// At most 100. Default none.
    pub keywords: Vec<Keyword>,
    /// Any of these words or phrases in the title, company, tags or description makes the score 1. At most 100. Default none.
    pub exclusions: Vec<String>,
    /// The salary hoped for, in the sources' currency and period: 1 point when the vacancy reaches it, minus 2 below four
    /// fifths of it, nothing when it does not say. Default none.
    pub salary_expected: Option<Decimal>,
    /// Days: published at most so long before it was first seen gives 1 point, more than four times as long takes 1.
    /// Default 7.
    pub fresh_days: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { keywords: Vec::new(), exclusions: Vec::new(), salary_expected: None, fresh_days: 7 }
    }
}

/// A tenant's profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// Who scores.
    pub scorer: Scorer,
    /// What the built-in rules go by; a webhook is told of it.
    pub rules: Rules,
    /// Where the webhook is.
    pub webhook_url: Option<String>,
}

/// Why a profile cannot be as described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProfile {
    /// Too much of something.
    #[error("a profile has at most 100 {0}")]
    TooMany(&'static str),
    /// A word that cannot be looked for.
    #[error("{0:?} cannot be looked for: a term has 1 to 100 characters, at least one of them a letter or digit")]
    Term(String),
    /// A weight out of range.
    #[error("the weight of {term:?} is {weight}: use -10 to 10")]
    Weight {
        /// Of which keyword.
        term: String,
        /// What was given.
        weight: i32,
    },
    /// A salary that is none.
    #[error("salary_expected is a positive amount below 1000000000000")]
    Salary,
    /// Freshness out of range.
    #[error("fresh_days is 1 to 3650")]
    FreshDays,
    /// No usable webhook.
    #[error("the webhook_url cannot be called: {0}")]
    Webhook(&'static str),
}

/// Why a profile was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not well described.
    #[error(transparent)]
    Invalid(#[from] InvalidProfile),
    /// There is no such tenant.
    #[error("there is no tenant {0}")]
    NoTenant(Tenant),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Profile {
    /// Checks it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), InvalidProfile> {
        let Rules { keywords, exclusions, salary_expected, fresh_days } = &self.rules;
        if keywords.len() > 100 {
            return Err(InvalidProfile::TooMany("keywords"));
        }
        if exclusions.len() > 100 {
            return Err(InvalidProfile::TooMany("exclusions"));
        }
        for term in keywords.iter().map(|keyword| &keyword.term).chain(exclusions) {
            let is_long = term.chars().count() > 100;
            if is_long || !term.contains(char::is_alphanumeric) || term.contains('\0') {
                return Err(InvalidProfile::Term(term.chars().take(100).collect()));
            }
        }
        if let Some(Keyword { term, weight }) = keywords.iter().find(|keyword| !(-10..=10).contains(&keyword.weight)) {
            return Err(InvalidProfile::Weight { term: term.clone(), weight: *weight });
        }
        let limit = Decimal::from(1_000_000_000_000_i64);
        if salary_expected.is_some_and(|salary| salary <= Decimal::ZERO || salary >= limit) {
            return Err(InvalidProfile::Salary);
        }
        if !(1..=3650).contains(fresh_days) {
            return Err(InvalidProfile::FreshDays);
        }
        match &self.webhook_url {
            Some(url) => check_webhook(url),
            None if self.scorer == Scorer::Webhook => Err(InvalidProfile::Webhook("the webhook scorer needs one")),
            None => Ok(()),
        }
    }
}

fn check_webhook(text: &str) -> Result<(), InvalidProfile> {
    if text.len() > 2048 {
        return Err(InvalidProfile::Webhook("it has more than 2048 characters"));
    }
    let url = Url::parse(text).map_err(|_| InvalidProfile::Webhook("it is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(InvalidProfile::Webhook("use http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidProfile::Webhook("it has a user name or password, which would be stored as it is"));
    }
    Ok(())
}

#[derive(FromRow)]
struct Row {
    scorer: Scorer,
    rules: Json<Rules>,
    webhook_url: Option<String>,
}

/// Stores a tenant's profile, raising its version. Scores given before stay.
///
/// # Errors
/// When it is not well described, or there is no such tenant.
pub async fn put_profile(pool: &PgPool, tenant: &Tenant, profile: &Profile) -> Result<i32, ProfileError> {
    profile.check()?;
    sqlx::query_scalar(
        "INSERT INTO scoring_profile AS p (tenant, scorer, rules, webhook_url) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant) DO UPDATE SET scorer = excluded.scorer, rules = excluded.rules,
             webhook_url = excluded.webhook_url, version = p.version + 1, updated_at = now()
         RETURNING version",
    )
    .bind(tenant.as_str())
    .bind(profile.scorer)
    .bind(Json(&profile.rules))
    .bind(&profile.webhook_url)
    .fetch_one(pool)
    .await
    .map_err(|error| match error {
        sqlx::Error::Database(error) if error.is_foreign_key_violation() => ProfileError::NoTenant(tenant.clone()),
        error => ProfileError::Database(error),
    })
}

/// A tenant's profile, if it has one of its own.
///
/// # Errors
/// When Postgres is away.
pub async fn find_profile(pool: &PgPool, tenant: &Tenant) -> Result<Option<Profile>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as("SELECT scorer, rules, webhook_url FROM scoring_profile WHERE tenant = $1")
        .bind(tenant.as_str())
        .fetch_optional(pool)
        .await?;
    Ok(row.map(|row| Profile { scorer: row.scorer, rules: row.rules.0, webhook_url: row.webhook_url }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(change: impl FnOnce(&mut Profile)) -> Result<(), InvalidProfile> {
        let mut profile = Profile::default();
        change(&mut profile);
        profile.check()
    }

    fn keyword(term: &str, weight: i32) -> Keyword {
        Keyword { term: term.to_owned(), weight }
    }

    #[test]
    fn a_profile_within_its_bounds_is_taken() {
        assert_eq!(profile(|_| {}), Ok(()));
        assert_eq!(profile(|p| p.rules.keywords = vec![keyword("C++", -10), keyword("müller", 10)]), Ok(()));
        let webhook = |p: &mut Profile| {
            p.scorer = Scorer::Webhook;
            p.webhook_url = Some("https://n8n.example.org/webhook/abc".to_owned());
        };
        assert_eq!(profile(webhook), Ok(()));
    }

    #[test]
    fn a_profile_out_of_bounds_is_refused() {
        let url = |url: &str| {
            let url = url.to_owned();
            profile(move |p| p.webhook_url = Some(url))
        };
        assert!(profile(|p| p.rules.keywords = vec![keyword("rust", 11)]).is_err());
        assert!(profile(|p| p.rules.keywords = vec![keyword("rust", 1); 101]).is_err());
        for term in ["", "  ", "+++", "a\0b", &"x".repeat(101)] {
            assert!(profile(|p| p.rules.exclusions = vec![term.to_owned()]).is_err(), "{term:?}");
        }
        assert!(profile(|p| p.rules.salary_expected = Some(Decimal::ZERO)).is_err());
        assert!(profile(|p| p.rules.fresh_days = 0).is_err());
        assert!(profile(|p| p.scorer = Scorer::Webhook).is_err());
        assert!(url("ftp://x").is_err() && url("https://u:p@x").is_err() && url("x").is_err());
        assert!(serde_json::from_str::<Rules>(r#"{"keyword": []}"#).is_err());
    }
}
