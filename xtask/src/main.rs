//! `cargo xtask`: from a machine with nothing but Rust to a running demonstration, or to all tests.
//!
//! What it says itself goes to standard error: standard output belongs to what it runs, and the demonstration's last line
//! there is read by programs.

mod args;
mod run;
mod setup;

use std::env;
use std::process::ExitCode;

use args::Task;

fn main() -> ExitCode {
    let task = match Task::parse(env::args_os().skip(1)) {
        Ok(task) => task,
        Err(error) => {
            eprintln!("xtask: {error}\n\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Help => {
            println!("{}", args::HELP);
            Ok(ExitCode::SUCCESS)
        }
        Task::Setup => setup::ensure(&setup::TESTED).map(|()| ExitCode::SUCCESS),
        // A server whose address is given need not be on this machine.
        Task::Demo { args } => setup::ensure(&setup::needed(|name| env::var_os(name))).and_then(|()| run::demo(&args)),
        Task::Test { all, args } => setup::ensure(&setup::TESTED).and_then(|()| run::tests(all, &args)),
        Task::Chaos { args } => setup::ensure(&setup::needed(|_| None)).and_then(|()| run::chaos(&args)),
        Task::CiCheck => run::ci_check(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error}");
        ExitCode::FAILURE
    })
}
