//! The programs that the commands run once everything they need is there.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

/// The cargo that runs this, so that a toolchain chosen with `cargo +…` is kept.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(repository());
    command
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask's folder lies in the repository")
}

/// Builds and becomes `windrow dev`.
///
/// This process turns into `cargo run`, and that into `windrow`: one process, one process id, so a signal reaches the
/// platform itself and nothing is left behind. It stays in the caller's folder, to which paths in the arguments refer.
pub(crate) fn demo(args: &[OsString]) -> Result<ExitCode, String> {
    eprintln!("xtask: building, then starting `windrow dev`");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.args(["run", "--package", "windrow", "--manifest-path"]).arg(repository().join("Cargo.toml"));
    command.args(["--", "dev"]).args(args);
    Err(format!("cannot run cargo: {}", command.exec()))
}

/// Runs every test of the workspace, and all of them even if some fail.
pub(crate) fn tests(all: bool, args: &[OsString]) -> Result<ExitCode, String> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--"]).args(args);
    if all {
        command.env("WINDROW_TEST_ALL", "1");
    }
    status(command).map(exit_code)
}

/// Builds and runs the chaos tests' program.
pub(crate) fn chaos(args: &[OsString]) -> Result<ExitCode, String> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "windrow-tests", "--bin", "windrow-chaos", "--"]).args(args);
    status(command).map(exit_code)
}

/// What `.ci/run` does before the tests, in its own words: one place says which checks there are.
pub(crate) fn ci_check() -> Result<ExitCode, String> {
    let mut command = Command::new("bash");
    command.current_dir(repository()).args([".ci/run", "check"]);
    status(command).map(exit_code)
}

fn status(mut command: Command) -> Result<ExitStatus, String> {
    command.status().map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    // Without a code it was ended by a signal.
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
