//! Dependencies between the workspace's crates point one way. `deny.toml` says the same to cargo-deny, which not everybody
//! has installed.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every crate of the workspace, by its folder.
fn crates() -> BTreeSet<String> {
    let folders = fs::read_dir(repository()).unwrap().map(|entry| entry.unwrap());
    let crates: BTreeSet<String> = folders
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(crates.contains("queue") && crates.contains("cli"), "{crates:?}");
    crates
}

/// The names under any `[…dependencies]` of a crate's manifest whose table name passes.
fn dependencies(folder: &str, table: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let manifest = fs::read_to_string(repository().join(folder).join("Cargo.toml")).unwrap();
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let (parent, name) =
                header.rsplit_once("dependencies.").map_or((header, None), |(_, name)| ("", Some(name)));
            inside = parent.ends_with("dependencies") && table(parent);
            names.extend(name.map(str::to_owned));
        } else if inside && !line.starts_with('#') && line.contains('=') {
            let name = line.split(['.', '=', ' ']).next().unwrap();
            names.insert(name.trim_matches('"').to_owned());
        }
    }
    names
}

fn users_of(dependency: &str) -> BTreeSet<String> {
    crates().into_iter().filter(|folder| dependencies(folder, |_| true).contains(dependency)).collect()
}

#[test]
fn only_the_queue_talks_to_redis() {
    // The benchmarks measure the raw limit beside it, with the plainest scripts there can be.
    assert_eq!(users_of("redis"), BTreeSet::from(["bench".to_owned(), "queue".to_owned()]));
}

#[test]
fn only_the_worker_knows_apalis() {
    for name in ["apalis", "apalis-core"] {
        let users = users_of(name);
        assert!(users.is_subset(&BTreeSet::from(["worker".to_owned()])), "{name} is used by {users:?}");
    }
}

#[test]
fn no_crate_depends_on_one_above_or_beside_it() {
    let allowed: [(&str, &[&str]); 7] = [
        ("queue", &[]),
        ("devserver", &[]),
        ("jobs", &["windrow-queue"]),
        ("schedule", &["windrow-queue"]),
        ("scheduler", &["windrow-queue", "windrow-schedule"]),
        ("worker", &["windrow-queue"]),
        ("api", &["windrow-queue", "windrow-schedule"]),
    ];
    for (folder, allowed) in allowed {
        let own = dependencies(folder, |table| table == "dependencies" || table == "build-dependencies");
        let wrong: Vec<&String> =
            own.iter().filter(|name| name.starts_with("windrow") && !allowed.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{folder} depends on {wrong:?}");
    }
}
