//! What the tenants look for: one by the built-in rules, the other by a webhook of its own.

use rust_decimal::Decimal;
use sqlx::PgPool;
use windrow_jobs::scoring::{Keyword, Profile, Rules, Scorer, find_profile, put_profile};

use super::{HARBOUR, LANTERN};
use crate::dev::sample::SampleServer;

/// Only what differs is written: each change is a new version of the profile.
pub(super) async fn put(database: &PgPool, samples: &SampleServer) -> anyhow::Result<()> {
    let webhook = Profile { scorer: Scorer::Webhook, webhook_url: Some(samples.url("/score")), ..Profile::default() };
    for (tenant, profile) in [(HARBOUR, rules()), (LANTERN, webhook)] {
        if find_profile(database, &tenant).await?.as_ref() != Some(&profile) {
            put_profile(database, &tenant, &profile).await?;
        }
    }
    Ok(())
}

/// Engineers who know Rust and databases.
fn rules() -> Profile {
    let keyword = |(term, weight): (&str, i32)| Keyword { term: term.to_owned(), weight };
    let keywords = [
        ("rust", 4),
        ("postgres", 2),
        ("engineer", 1),
        ("senior", 1),
        ("remote", 1),
        ("linux", 1),
        ("manager", -3),
        ("sales", -5),
        ("support", -3),
    ];
    Profile {
        scorer: Scorer::Rules,
        rules: Rules {
            keywords: keywords.into_iter().map(keyword).collect(),
            exclusions: vec!["unpaid".to_owned()],
            salary_expected: Some(Decimal::from(85_000)),
            fresh_days: 7,
        },
        webhook_url: None,
    }
}
