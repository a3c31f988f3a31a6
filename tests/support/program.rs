//! The program under test, built once a test process.

use std::{env, path::PathBuf, process::Command, sync::OnceLock};

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Where the program is. The first call builds it, so that no test runs against yesterday's; `WINDROW_TEST_PROGRAM` names
/// another one, such as a release that is to be tried.
pub fn program() -> &'static PathBuf {
    PROGRAM.get_or_init(|| env::var_os("WINDROW_TEST_PROGRAM").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    // target/<profile>/deps/<this test>
    let this = env::current_exe().unwrap();
    let folder = this.ancestors().nth(2).expect("tests lie in a target folder");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "windrow", "--bin", "windrow", "--profile", profile, "--target-dir"])
        .arg(folder.parent().expect("a profile lies in a target folder"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the program does not build");
    folder.join("windrow")
}
