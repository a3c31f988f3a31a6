//! One finding.

use serde::Serialize;

use crate::output::printable;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Ok,
    /// It runs, and promises less than it could.
    Warning,
    /// It does not run, or breaks what is promised.
    Error,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "ERROR",
        }
    }
}

/// What was looked at, what was found, and what to do.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) part: &'static str,
    pub(crate) level: Level,
    pub(crate) found: String,
    pub(crate) advice: Option<String>,
}

impl Finding {
    /// A line with what was found, and one with what to do.
    pub(crate) fn words(&self) -> String {
        let found = format!("{:<8} {:<10} {}", self.level.word(), self.part, printable(&self.found));
        self.advice.as_ref().map_or(found.clone(), |advice| format!("{found}\n{:<19} -> {advice}", ""))
    }

    pub(crate) fn ok(part: &'static str, found: impl Into<String>) -> Self {
        Self { part, level: Level::Ok, found: found.into(), advice: None }
    }

    pub(crate) fn warning(part: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { part, level: Level::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    pub(crate) fn error(part: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { part, level: Level::Error, found: found.into(), advice: Some(advice.into()) }
    }
}

/// What a store was found to be.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub(crate) findings: Vec<Finding>,
    /// Its clock, in microseconds since 1970.
    pub(crate) clock: Option<i64>,
}

impl From<Finding> for Looked {
    fn from(finding: Finding) -> Self {
        Self { findings: vec![finding], clock: None }
    }
}
