//! How far it is: a block on a terminal, a line now and then elsewhere.

use std::time::Duration;

use super::{figures::Figures, screen::Screen};

/// Lines are at least this far apart where nothing can be redrawn.
const PLAIN_PERIOD: Duration = Duration::from_secs(1);
const BAR: usize = 20;

/// Shows figures as they change.
#[derive(Debug)]
pub(super) struct Progress {
    screen: Screen,
    last: Option<(Duration, String)>,
}

impl Progress {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen, last: None }
    }

    /// Shows figures, `elapsed` after the start.
    pub(super) fn show(&mut self, elapsed: Duration, figures: &Figures) {
        if self.screen.is_terminal() {
            self.screen.show(&block(elapsed, figures));
            return;
        }
        let text = line(figures);
        let due = self.last.as_ref().is_none_or(|(at, shown)| *shown != text && elapsed >= *at + PLAIN_PERIOD);
        if due {
            self.screen.line(&format!("{:6.1} s  {text}", elapsed.as_secs_f64()));
            self.last = Some((elapsed, text));
        }
    }
}

fn line(figures: &Figures) -> String {
    let (sources, jobs) = (&figures.sources, &figures.jobs);
    let import = figures.import.unwrap_or_default();
    format!(
        "fetched {} (new {}) · scored {}/{} · imported {} · posted {} · retried {} · dead {}",
        sources.fetched,
        sources.inserted,
        figures.vacancies.scored(),
        figures.vacancies.stored,
        import.imported,
        figures.payments.posted,
        jobs.retried,
        jobs.dead,
    )
}

fn block(elapsed: Duration, figures: &Figures) -> Vec<String> {
    let (sources, vacancies, jobs) = (&figures.sources, &figures.vacancies, &figures.jobs);
    let import = figures.import.unwrap_or_default();
    let row = |name: &str, part: i64, whole: i64, text: String| format!("  {name:<9} {} {text}", bar(part, whole));
    vec![
        format!("windrow dev · {:.1} s · Ctrl-C ends it", elapsed.as_secs_f64()),
        row(
            "fetch",
            sources.reached,
            sources.sources,
            format!(
                "{}/{} sources, {} items: {} new, {} duplicates, {} skipped",
                sources.reached,
                sources.sources,
                sources.fetched,
                sources.inserted,
                sources.duplicates,
                sources.skipped
            ),
        ),
        row(
            "scoring",
            vacancies.scored(),
            vacancies.stored,
            format!("{}/{} vacancies", vacancies.scored(), vacancies.stored),
        ),
        row(
            "import",
            import.bytes_done,
            import.bytes_total,
            format!("{} numbers, {} duplicates, {} rejected", import.imported, import.duplicates, import.rejected),
        ),
        row(
            "payments",
            figures.payments.posted,
            figures.payments.posted + figures.payments.due,
            format!("{} posted, {} payments due", figures.payments.posted, figures.payments.due),
        ),
        format!("  jobs      {} in the journal, {} retried, {} dead", jobs.standing, jobs.retried, jobs.dead),
    ]
}

fn bar(part: i64, whole: i64) -> String {
    let full = if whole > 0 { i128::from(part) * BAR as i128 / i128::from(whole) } else { 0 };
    let full = usize::try_from(full).unwrap_or(0).min(BAR);
    format!("{}{}", "█".repeat(full), "░".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_always_as_long_and_full_only_when_all_is_done() {
        assert_eq!(bar(0, 0), "░".repeat(BAR));
        assert_eq!(bar(99, 100).matches('█').count(), BAR - 1);
        assert_eq!(bar(100, 100), "█".repeat(BAR));
        for (part, whole) in [(-1, 5), (7, 5), (i64::MAX, i64::MAX), (i64::MAX, 1)] {
            assert_eq!(bar(part, whole).chars().count(), BAR);
        }
    }
}
