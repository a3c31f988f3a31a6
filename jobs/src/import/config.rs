use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The `[import]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder from which files are imported (default `import`, relative to the working directory). Nothing outside of it
    /// is read, symbolic links included.
    pub directory: PathBuf,
    /// The folder for the files of rejected rows (default empty: beside the imported file). It must exist.
    pub error_directory: PathBuf,
    /// The largest file in bytes (default 10737418240, which is 10 GiB).
    pub max_file_bytes: u64,
    /// The longest row in bytes (default 262144). A longer one is rejected as a row.
    pub max_row_bytes: usize,
    /// Rows in one transaction (default 50000, 100 to 500000). More is not faster; a retry repeats at most one batch.
    pub batch_rows: usize,
    /// Threads that validate numbers, each job (default 0: as many as the machine has cores, at most 8).
    pub validators: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("import"),
            error_directory: PathBuf::new(),
            max_file_bytes: 10 * 1024 * 1024 * 1024,
            max_row_bytes: 256 * 1024,
            batch_rows: 50_000,
            validators: 0,
        }
    }
}

impl Config {
    pub(super) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
        if self.validators == 0 { cores() } else { self.validators.min(64) }
    }

    pub(super) fn rows_per_batch(&self) -> usize {
        self.batch_rows.clamp(100, 500_000)
    }

    pub(super) fn longest_row(&self) -> usize {
        self.max_row_bytes.clamp(1024, 16 * 1024 * 1024)
    }
}
