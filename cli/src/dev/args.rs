//! What `windrow dev` is told on the command line.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use windrow_jobs::fetch::Mapping;

use super::seed::ExtraSource;
use crate::exit::Failure;

/// Runs the whole platform with sample data, on private servers.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DevArgs {
    /// End when everything is done; the last line of standard output is then one JSON object with the figures, and the exit
    /// status 0 only if all came through.
    #[arg(long)]
    pub(super) once: bool,
    /// Keep the servers' data in this folder, and go on with what is there. Without it a temporary folder is used and removed.
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Fetch this feed too (RSS, Atom or JSON Feed), or with --mapping this JSON document. Local addresses are allowed.
    #[arg(long, value_name = "URL")]
    pub(super) source: Vec<String>,
    /// A JSON file that says where the documents of --source have what is wanted, by JSON pointers:
    /// {"items": "/jobs", "title": "/title", "url": "/link", "description": "/text", "published": "/date"}.
    #[arg(long, value_name = "FILE", requires = "source")]
    pub(super) mapping: Option<PathBuf>,
    /// Where the API listens. Port 0 is a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub(super) listen: std::net::SocketAddr,
    /// How many seconds everything may take, servers included.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    deadline: u64,
    /// Show the platform's log too, as `log.level` has it. Without it: warnings and errors.
    #[arg(long, short)]
    pub(super) verbose: bool,
}

impl DevArgs {
    pub(super) const fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }

    /// The sources of --source, checked.
    pub(super) fn sources(&self) -> anyhow::Result<Vec<ExtraSource>> {
        let mapping = self.mapping.as_deref().map(read_mapping).transpose()?;
        let check = |url: &String| {
            let source = ExtraSource { url: url.clone(), mapping: mapping.clone() };
            source.spec().check().map_err(|error| Failure::usage(format!("--source {url}: {error}")))?;
            Ok(source)
        };
        self.source.iter().map(check).collect()
    }
}

fn read_mapping(path: &Path) -> anyhow::Result<Mapping> {
    let refuse = |reason: String| Failure::usage(format!("--mapping {}: {reason}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        dev: DevArgs,
    }

    fn parse(line: &str) -> Result<DevArgs, clap::Error> {
        <Line as clap::Parser>::try_parse_from(line.split_whitespace()).map(|line| line.dev)
    }

    #[test]
    fn a_source_is_a_feed_unless_a_mapping_says_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let mapping = folder.path().join("mapping.json");
        fs::write(&mapping, r#"{"title": "/position", "url": "/url"}"#).unwrap();
        let feed = parse("dev --source http://127.0.0.1:1/feed --once").unwrap();
        assert!(feed.once && feed.sources().unwrap()[0].mapping.is_none());
        let line = format!("dev --source https://board.example/api --mapping {}", mapping.display());
        assert!(parse(&line).unwrap().sources().unwrap()[0].mapping.is_some());
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_starts() {
        assert!(parse("dev --mapping x").is_err(), "a mapping without a source");
        assert!(parse("dev --deadline 0").is_err());
        let error = parse("dev --source ftp://x/").unwrap().sources().unwrap_err().to_string();
        assert!(error.contains("--source ftp://x/") && error.contains("http"), "{error}");
        let error = parse("dev --source http://x/ --mapping /none/such").unwrap().sources().unwrap_err().to_string();
        assert!(error.starts_with("--mapping /none/such"), "{error}");
    }
}
