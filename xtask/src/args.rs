//! What was asked for on the command line.

use std::ffi::OsString;

pub(crate) const HELP: &str = "\
cargo xtask demo [--once] [args…]    set up, build, and run `windrow dev`: the whole platform with sample data on private
                                     servers, until Ctrl-C; with --once it ends by itself, its last line is JSON
cargo xtask test [--all] [filter…]   set up and run all tests; --all adds the long ones; a filter is (a part of) a test's
                                     name, and arguments after -- go to the test programs
cargo xtask chaos [--seconds N] [--seed S] [--json]
                                     set up, then kill, freeze, cut off, wipe and restart processes and servers under load,
                                     and check that every job and every fire had its effect once
cargo xtask setup                    find Redis 7.0, PostgreSQL 15 and (for the tests) pgbouncer 1.12 or newer; install them
                                     where they are missing (apt), or name the command that does
cargo xtask ci-check                 formatting and lints, with warnings as errors (what .ci/run does before the tests)

No server that runs already is touched: the demonstration and the tests start their own, on free ports.
WINDROW_REDIS_SERVER, WINDROW_PGBOUNCER (programs) and WINDROW_POSTGRES_BIN (a folder) name the programs to use.";

/// One of the repository's commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Help,
    Setup,
    Demo { args: Vec<OsString> },
    Test { all: bool, args: Vec<OsString> },
    Chaos { args: Vec<OsString> },
    CiCheck,
}

impl Task {
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let Some(name) = args.next() else { return Ok(Self::Help) };
        let rest: Vec<OsString> = args.collect();
        let wants_help = |rest: &[OsString]| rest.first().is_some_and(|arg| arg == "--help" || arg == "-h");
        match name.to_str() {
            Some("help" | "--help" | "-h") => Ok(Self::Help),
            // What they run has a help text of its own.
            Some("demo") => Ok(Self::Demo { args: rest }),
            Some("chaos") => Ok(Self::Chaos { args: rest }),
            _ if wants_help(&rest) => Ok(Self::Help),
            Some("test") => Self::parse_test(rest),
            Some("setup") => without_arguments(Self::Setup, "setup", &rest),
            Some("ci-check") => without_arguments(Self::CiCheck, "ci-check", &rest),
            _ => Err(format!("there is no command `{}`", name.display())),
        }
    }

    fn parse_test(rest: Vec<OsString>) -> Result<Self, String> {
        let mut all = false;
        let mut args = Vec::new();
        let mut rest = rest.into_iter();
        for arg in rest.by_ref() {
            match arg.to_str() {
                Some("--all") => all = true,
                Some("--") => break,
                Some(flag) if flag.starts_with('-') => {
                    return Err(format!("`test` does not know {flag}; arguments for the test programs go after --"));
                }
                _ => args.push(arg),
            }
        }
        args.extend(rest);
        Ok(Self::Test { all, args })
    }
}

fn without_arguments(task: Task, name: &str, rest: &[OsString]) -> Result<Task, String> {
    match rest.first() {
        None => Ok(task),
        Some(arg) => Err(format!("`{name}` takes no arguments, but was given {}", arg.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Task, String> {
        Task::parse(line.split_whitespace().map(OsString::from))
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn alone_it_shows_its_help() {
        for line in ["", "help", "--help", "test --help", "setup -h"] {
            assert_eq!(parse(line), Ok(Task::Help), "{line}");
        }
    }

    #[test]
    fn everything_after_demo_is_passed_on() {
        assert_eq!(parse("demo --once --help -- x"), Ok(Task::Demo { args: words("--once --help -- x") }));
        assert_eq!(parse("demo"), Ok(Task::Demo { args: vec![] }));
    }

    #[test]
    fn everything_after_chaos_is_passed_on() {
        assert_eq!(parse("chaos --seconds 5 --help"), Ok(Task::Chaos { args: words("--seconds 5 --help") }));
    }

    #[test]
    fn test_takes_all_filters_and_arguments_for_the_test_programs() {
        assert_eq!(parse("test"), Ok(Task::Test { all: false, args: vec![] }));
        assert_eq!(parse("test lease --all fence"), Ok(Task::Test { all: true, args: words("lease fence") }));
        assert_eq!(
            parse("test lease -- --nocapture --all"),
            Ok(Task::Test { all: false, args: words("lease --nocapture --all") })
        );
        assert!(parse("test --nocapture").is_err_and(|error| error.contains("after --")));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parse("dmeo").is_err_and(|error| error.contains("`dmeo`")));
        assert!(parse("setup now").is_err_and(|error| error.contains("now")));
    }
}
