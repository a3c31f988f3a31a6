//! Where the sample file is, and what the import leaves beside it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;

use super::phones;

/// The sample file's name.
pub(super) const PHONES: &str = "phones.csv";

/// A folder, removed at the end unless its data are kept.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl Folder {
    /// Makes it below `base`, or else as a temporary one, and writes the sample file into it.
    pub(super) fn prepare(base: Option<&Path>) -> anyhow::Result<Self> {
        let folder = match base {
            Some(base) => {
                let path = base.join("files");
                std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
                Self { path, _temporary: None }
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("windrow-dev-").tempdir();
                let temporary = temporary.context("cannot create a temporary folder")?;
                Self { path: temporary.path().to_owned(), _temporary: Some(temporary) }
            }
        };
        let file = folder.path.join(PHONES);
        phones::write(&file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
