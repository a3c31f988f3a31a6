//! The Dockerfile builds the dependencies from the manifests alone, and therefore has to name each of them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

#[test]
fn the_dockerfile_copies_the_manifest_of_every_crate_and_makes_each_an_empty_one() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let dockerfile = fs::read_to_string(repository.join("Dockerfile")).unwrap();
    let mut crates = 0;
    for entry in fs::read_dir(repository).unwrap().map(|entry| entry.unwrap()) {
        if !entry.path().join("Cargo.toml").is_file() {
            continue;
        }
        crates += 1;
        let name = entry.file_name().into_string().unwrap();
        let copy = format!("COPY {name}/Cargo.toml {name}/");
        assert!(dockerfile.lines().any(|line| line == copy), "the Dockerfile lacks `{copy}`");
        let empty = dockerfile.lines().any(|line| {
            line.contains(&format!("touch {name}/"))
                || line
                    .split_once("for crate in ")
                    .and_then(|(_, rest)| rest.split_once(';'))
                    .is_some_and(|(names, _)| names.split(' ').any(|listed| listed == name))
        });
        assert!(empty, "the Dockerfile makes no empty crate for `{name}`");
    }
    assert!(crates >= 10, "only {crates} crates were found");
}
