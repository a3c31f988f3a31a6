//! The kinds that this program executes: the one place that names them.

use prometheus::Registry as Metrics;
use sqlx::PgPool;
use windrow_jobs::{
    fetch::{FetchAll, FetchAllHandler, FetchMetrics, FetchSource, FetchSourceHandler},
    import::{ImportFile, ImportFileHandler, ImportMetrics},
    outward::Client,
    payments::{PaymentMetrics, PostDue, PostDueHandler},
    scoring::{RequeueUnscored, RequeueUnscoredHandler, ScoreVacancy, ScoreVacancyHandler, ScoringMetrics},
};
use windrow_queue::Catalog;
use windrow_worker::Registry;

use crate::settings::Settings;

/// Their descriptions: for who takes jobs in.
pub(crate) fn catalog() -> Catalog {
    Catalog::default()
        .with::<FetchAll>()
        .with::<FetchSource>()
        .with::<ScoreVacancy>()
        .with::<RequeueUnscored>()
        .with::<ImportFile>()
        .with::<PostDue>()
}

/// Their handlers: for the worker. `metrics` is where the families count; once a process.
///
/// # Errors
/// When the client for outward calls cannot be set up.
pub(crate) fn handlers(settings: &Settings, database: &PgPool, metrics: &Metrics) -> anyhow::Result<Registry> {
    let client = Client::new(&settings.outward)?;
    let scoring = ScoringMetrics::new(metrics);
    let database = || database.clone();
    Ok(Registry::new()
        .with(FetchAllHandler::new(database()))
        .with(FetchSourceHandler::new(database(), client.clone(), settings.fetch.clone(), FetchMetrics::new(metrics)))
        .with(ScoreVacancyHandler::new(database(), client, settings.scoring.clone(), scoring.clone()))
        .with(RequeueUnscoredHandler::new(database(), settings.scoring.clone(), scoring))
        .with(ImportFileHandler::new(settings.import.clone(), database(), ImportMetrics::new(metrics)))
        .with(PostDueHandler::new(&settings.payments, database(), PaymentMetrics::new(metrics))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use windrow_queue::{Kind, database};

    fn kinds(catalog: &Catalog) -> Vec<Kind> {
        catalog.iter().map(|info| info.kind.clone()).collect()
    }

    #[test]
    fn what_a_kind_says_that_its_args_must_have_is_what_they_must_have() {
        let empty = serde_json::value::RawValue::from_string("{}".to_owned()).unwrap();
        for info in catalog().iter() {
            let refused = info.check_args(&empty).err().map(|error| error.to_string());
            let named = |error: &String| info.required.iter().any(|name| error.contains(name));
            assert!(refused.as_ref().map_or(info.required.is_empty(), named), "{}: {refused:?}", info.kind);
        }
    }

    #[tokio::test]
    async fn what_is_taken_in_is_what_is_executed() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = "postgres://nobody@localhost/none".to_owned();
        let pool = database::pool(&database::Config { url, ..Default::default() }).unwrap();
        let handlers = handlers(&Settings::default(), &pool, &Metrics::new()).unwrap();
        assert_eq!(kinds(&handlers.catalog()), kinds(&catalog()));
    }
}
