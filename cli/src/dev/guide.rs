//! Where to look, once it runs.

use std::{fmt, net::SocketAddr, path::Path};

use super::request::jobs_url;

/// Addresses, and commands to copy.
#[derive(Debug)]
pub(super) struct Guide<'a> {
    pub(super) api: SocketAddr,
    pub(super) key: String,
    pub(super) variables: Vec<(&'static str, String)>,
    pub(super) folder: &'a Path,
}

impl fmt::Display for Guide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, key, variables, folder } = self;
        writeln!(f, "\nIt stays up until Ctrl-C. Schedules fire, sources are fetched, payments fall due.\n")?;
        writeln!(f, "  API        {}", jobs_url(*api))?;
        writeln!(f, "  metrics    http://{api}/metrics")?;
        writeln!(f, "  readiness  http://{api}/readyz")?;
        writeln!(f, "  files      {} (imports are read from here)\n", folder.display())?;
        writeln!(f, "Enqueue a job:\n")?;
        writeln!(f, "  curl -s {} \\", jobs_url(*api))?;
        writeln!(f, "    -H 'Authorization: Bearer {key}' \\")?;
        writeln!(f, "    -H 'Content-Type: application/json' -d '{{\"kind\": \"vacancy.fetch_all\"}}'\n")?;
        writeln!(f, "Look around from another terminal:\n")?;
        for (name, value) in variables {
            writeln!(f, "  export {name}={value}")?;
        }
        let program = program();
        writeln!(f, "  {program} vacancies list --help")?;
        writeln!(f, "  {program} sources list")?;
        write!(f, "  {program} dead list")
    }
}

/// How this program is called from the same folder.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "windrow".to_owned() };
    let here = std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    here.unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_is_needed_to_call_the_api() {
        let api = SocketAddr::from(([127, 0, 0, 1], 4711));
        let variables = vec![("WINDROW_REDIS_URL", "redis://x".to_owned())];
        let guide = Guide { api, key: "windrow_key".into(), variables, folder: Path::new("/data") };
        let text = guide.to_string();
        for wanted in ["http://127.0.0.1:4711/api/v1/jobs", "http://127.0.0.1:4711/metrics", "Bearer windrow_key"] {
            assert!(text.contains(wanted), "{text}");
        }
        assert!(text.contains("export WINDROW_REDIS_URL=redis://x") && text.contains("dead list"), "{text}");
    }
}
