//! `windrow check`: what is not as it should be, and what to do about it.

mod finding;
mod postgres;
mod redis;

use windrow_jobs::outward::Client;

use crate::{
    context::Context,
    output::Output,
    role,
    settings::{Loaded, SettingError},
};

pub(crate) use finding::{Finding, Level};

/// Looks at everything, and fails if anything found is an error.
///
/// # Errors
/// When a finding is an error.
pub(crate) async fn run(context: &Context) -> anyhow::Result<()> {
    let mut findings = settings(&context.loaded);
    let redis = redis::check(context).await;
    let postgres = postgres::check(context).await;
    findings.extend(redis.findings);
    findings.extend(postgres.findings);
    findings.extend(redis.clock.zip(postgres.clock).map(|(redis, postgres)| clocks(redis - postgres)));
    report(context.output, &findings)
}

/// The report where not even the settings can be read.
///
/// # Errors
/// Always.
pub(crate) fn unreadable(output: Output, error: &SettingError) -> anyhow::Result<()> {
    report(output, &[Finding::error("settings", error.to_string(), "correct it; nothing else was looked at")])
}

fn report(output: Output, findings: &[Finding]) -> anyhow::Result<()> {
    output.show(&findings, || findings.iter().map(Finding::words).collect::<Vec<_>>().join("\n"))?;
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    anyhow::ensure!(errors == 0, "{errors} of {} findings are errors", findings.len());
    Ok(())
}

fn settings(loaded: &Loaded) -> Vec<Finding> {
    let fault = |error: &SettingError| Finding::error("settings", error.to_string(), "correct the setting");
    let mut findings: Vec<Finding> = loaded.faults().iter().map(fault).collect();
    if findings.is_empty() {
        let file = loaded.file.as_ref().map_or_else(
            || "the settings are good (no file; defaults and environment)".to_owned(),
            |path| format!("the settings are good ({}, then the environment)", path.display()),
        );
        findings.push(Finding::ok("settings", file));
    }
    if let Err(error) = role::check_api(loaded) {
        findings.push(Finding::warning(
            "api",
            error.to_string(),
            "`windrow api` does not start without; the other roles do",
        ));
    }
    findings.push(match role::schedules(loaded) {
        Ok(Some(schedules)) => Finding::ok("schedules", format!("{} schedules are good", schedules.list.len())),
        Ok(None) => Finding::ok("schedules", "no file is named: the schedules in the database stay as they are"),
        Err(error) => {
            Finding::error("schedules", format!("{error:#}"), "until then `windrow scheduler` does not start")
        }
    });
    if let Err(error) = Client::new(&loaded.settings.outward) {
        findings.push(Finding::error("outward", error.to_string(), "correct the settings in [outward]"));
    }
    let folder = &loaded.settings.import.directory;
    if !folder.is_dir() {
        findings.push(Finding::warning(
            "import",
            format!("import.directory, {}, is not a folder on this machine", folder.display()),
            "create it where workers import files; without it their imports fail",
        ));
    }
    findings
}

/// A delay that Postgres computes ends by Redis' clock.
fn clocks(difference_us: i64) -> Finding {
    const TOLERATED_US: i64 = 1_000_000;
    let millis = difference_us.abs() / 1000;
    if difference_us.abs() <= TOLERATED_US {
        return Finding::ok("clocks", format!("Redis' and Postgres' clocks agree to {millis} ms"));
    }
    let which = if difference_us > 0 { "ahead of" } else { "behind" };
    Finding::warning(
        "clocks",
        format!("Redis' clock is {millis} ms {which} Postgres'"),
        "have both machines synchronise their clocks (NTP): delayed jobs and schedules are off by so much",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_disagree_are_a_warning_that_says_by_how_much() {
        assert_eq!(clocks(-900_000).level, Level::Ok);
        let ahead = clocks(2_500_000);
        assert_eq!(ahead.level, Level::Warning);
        assert!(ahead.found.contains("2500 ms ahead of"), "{}", ahead.found);
        assert!(clocks(-2_500_000).found.contains("2500 ms behind"));
    }
}
