//! When the first round is over: everything fetched, scored, imported and posted. Until then, what is missing.

use super::figures::{Books, Figures};

/// What is not done yet, in words.
pub(super) fn missing(figures: &Figures) -> Vec<String> {
    let mut missing = Vec::new();
    let mut want = |holds: bool, what: String| {
        if !holds {
            missing.push(what);
        }
    };
    let sources = &figures.sources;
    want(sources.sources > 0, "no source has been set up".into());
    want(sources.reached >= sources.sources, format!("{} of {} sources fetched", sources.reached, sources.sources));
    let (stored, scored) = (figures.vacancies.stored, figures.vacancies.scored());
    want(stored > 0, "no vacancy has been stored".into());
    want(scored >= stored, format!("{scored} of {stored} vacancies scored"));
    match &figures.import {
        None => want(false, "the import has not begun".into()),
        Some(import) => {
            want(import.finished, format!("the import is at {} of {} bytes", import.bytes_done, import.bytes_total))
        }
    }
    let payments = &figures.payments;
    want(payments.due == 0, format!("payments with due dates that are not posted: {}", payments.due));
    want(payments.failed == 0, format!("failed payments: {}", payments.failed));
    want(figures.jobs.dead == 0, format!("dead jobs: {}", figures.jobs.dead));
    missing
}

/// Whether waiting brings nothing more: all is done, or a job is dead and no other is left.
pub(super) fn is_over(figures: &Figures) -> bool {
    missing(figures).is_empty() || (figures.jobs.dead > 0 && figures.jobs.standing == 0)
}

/// The particulars of what is missing: which source and why, which job is dead of what.
pub(super) async fn particulars(books: &Books) -> anyhow::Result<Vec<String>> {
    let sources: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "SELECT tenant, name, last_error FROM source
         WHERE tenant = ANY($1) AND active AND (last_fetch_at IS NULL OR last_fetch_at < $2) ORDER BY tenant, name LIMIT 20",
    )
    .bind(&super::seed::TENANTS[..])
    .bind(books.since)
    .fetch_all(&books.database)
    .await?;
    let payments: Vec<(String, String)> = sqlx::query_as(
        "SELECT description, coalesce(error, '') FROM recurring_payment WHERE tenant = ANY($1) AND state = 'failed' LIMIT 20",
    )
    .bind(&super::seed::TENANTS[..])
    .fetch_all(&books.database)
    .await?;
    let standing: Vec<(String, i64)> = sqlx::query_as(
        "SELECT kind, count(*) FROM job_journal WHERE tenant IS NULL OR tenant = ANY($1) GROUP BY kind ORDER BY kind",
    )
    .bind(&super::seed::TENANTS[..])
    .fetch_all(&books.database)
    .await?;
    let dead: Vec<(uuid::Uuid, String, String)> = sqlx::query_as(
        "SELECT id, kind, reason FROM job_closed
         WHERE state = 'dead' AND closed_at >= $2 AND (tenant IS NULL OR tenant = ANY($1)) ORDER BY closed_at, id LIMIT 20",
    )
    .bind(&super::seed::TENANTS[..])
    .bind(books.since)
    .fetch_all(&books.database)
    .await?;
    let mut lines = Vec::new();
    lines.extend(sources.into_iter().map(|(tenant, name, error)| {
        format!("source {name:?} of {tenant}: {}", error.as_deref().unwrap_or("not fetched yet"))
    }));
    lines.extend(payments.into_iter().map(|(name, error)| format!("payment {name:?}: {error}")));
    lines.extend(standing.into_iter().map(|(kind, count)| format!("{count} {kind} still stand in the journal")));
    lines.extend(dead.into_iter().map(|(id, kind, reason)| format!("dead: {kind} {id}: {reason}")));
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::figures::{Import, Sources, Vacancies};

    type Spoil = fn(&mut Figures);

    fn done() -> Figures {
        Figures {
            sources: Sources { sources: 6, reached: 6, ..Sources::default() },
            vacancies: Vacancies { stored: 3, scores: [0, 0, 1, 0, 0, 0, 0, 2, 0, 0] },
            import: Some(Import { finished: true, ..Import::default() }),
            ..Figures::default()
        }
    }

    #[test]
    fn it_is_over_when_nothing_is_missing() {
        assert_eq!(missing(&done()), Vec::<String>::new());
        assert!(is_over(&done()));
    }

    #[test]
    fn each_thing_that_is_not_done_is_named_and_keeps_it_going() {
        let breaks: [(Spoil, &str); 7] = [
            (|figures| figures.sources.reached = 5, "5 of 6 sources"),
            (|figures| figures.vacancies.stored = 4, "3 of 4 vacancies"),
            (|figures| figures.import = None, "import has not begun"),
            (|figures| figures.import = Some(Import { bytes_total: 9, ..Import::default() }), "0 of 9 bytes"),
            (|figures| figures.payments.due = 2, "not posted: 2"),
            (|figures| figures.payments.failed = 1, "failed payments: 1"),
            (|figures| *figures = Figures::default(), "no vacancy"),
        ];
        for (spoil, words) in breaks {
            let mut figures = done();
            spoil(&mut figures);
            assert!(missing(&figures).iter().any(|line| line.contains(words)), "{words}: {:?}", missing(&figures));
            assert!(!is_over(&figures), "{words}");
        }
    }

    #[test]
    fn a_dead_job_ends_the_wait_only_when_no_other_is_left() {
        let mut figures = done();
        figures.jobs.dead = 1;
        figures.jobs.standing = 2;
        assert!(!is_over(&figures) && missing(&figures) == ["dead jobs: 1"]);
        figures.jobs.standing = 0;
        assert!(is_over(&figures));
    }
}
