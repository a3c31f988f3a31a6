//! A chaos run of some seconds, as part of the tests. `cargo xtask chaos` has longer ones.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

/// Long enough for nearly every kind of fault.
const SECONDS: &str = "25";

/// The same faults every time, whatever the machine makes of them.
const SEED: &str = "11";

#[test]
fn every_job_and_every_fire_has_its_effect_once_whatever_is_killed_cut_or_wiped() {
    let run = Command::new(env!("CARGO_BIN_EXE_windrow-chaos")).args(["--seconds", SECONDS, "--seed", SEED]).output();
    let run = run.unwrap();
    let (said, result) = (String::from_utf8_lossy(&run.stderr), String::from_utf8_lossy(&run.stdout));
    println!("{said}\n{result}");
    assert!(run.status.success(), "seed {SEED}: {}", run.status);
    assert!(result.contains("0 lost, 0 duplicated, 0 late, 0 otherwise wrong"), "{result}");
}
