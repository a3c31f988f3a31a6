//! `windrow check`: what is not as it should be, and what to do about it.

mod finding;
mod postgres;
mod redis;

use windrow_jobs::outward::Client;
use windrow_queue::{Vault, vault::KeyId};

use crate::{
    context::Context,
    kinds,
    output::Output,
    role,
    settings::{Loaded, SettingError, encrypted_kinds},
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
    // What is wrong with the keys is said among the settings.
    findings.extend(loaded.vault().ok().map(|vault| encryption(&vault, &encrypted_kinds(&kinds::catalog()))));
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

/// The ids of the keys; never more of them.
fn encryption(vault: &Vault, kinds: &[&str]) -> Finding {
    const PART: &str = "encryption";
    let ids: Vec<&str> = vault.key_ids().map(KeyId::as_str).collect();
    let Some((seals, others)) = ids.split_first() else {
        return match kinds {
            [] => Finding::ok(PART, "no keys, and no kind needs one"),
            kinds => Finding::error(
                PART,
                format!("no keys, and encrypted kinds: {}", kinds.join(", ")),
                "set encryption.keys, the same for all processes; `windrow keys new` makes one",
            ),
        };
    };
    let opens = if others.is_empty() { String::new() } else { format!("; older jobs open with {}", others.join(", ")) };
    let needed = if kinds.is_empty() { "no kind is encrypted".to_owned() } else { format!("for {}", kinds.join(", ")) };
    Finding::ok(PART, format!("key {seals} seals{opens} ({needed})"))
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
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use windrow_queue::vault;

    #[test]
    fn of_keys_only_ids_are_said() {
        let keys = [
            "2026b:ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=",
            "2026a:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
        ];
        let vault = |keys: &[&str]| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            Vault::new(&vault::Config { keys, ..Default::default() }).unwrap()
        };
        let both = encryption(&vault(&keys), &["a.b", "c.d"]);
        assert_eq!(both.found, "key 2026b seals; older jobs open with 2026a (for a.b, c.d)");
        assert_eq!(encryption(&vault(&keys[1..]), &[]).found, "key 2026a seals (no kind is encrypted)");
        assert_eq!(encryption(&Vault::default(), &[]).found, "no keys, and no kind needs one");
        assert_eq!(encryption(&Vault::default(), &["a.b"]).level, Level::Error);
    }

    #[test]
    fn clocks_that_disagree_are_a_warning_that_says_by_how_much() {
        assert_eq!(clocks(-900_000).level, Level::Ok);
        let ahead = clocks(2_500_000);
        assert_eq!(ahead.level, Level::Warning);
        assert!(ahead.found.contains("2500 ms ahead of"), "{}", ahead.found);
        assert!(clocks(-2_500_000).found.contains("2500 ms behind"));
    }
}
