use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use windrow_queue::{JobArgs, Kind, Policy, QueueName};

/// The args of `phone.import_file`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportFile {
    /// The project that gets the numbers.
    pub project_id: Uuid,
    /// The file: relative to `import.directory`, or absolute and inside of it.
    pub path: String,
    /// The column with the numbers: its name in the header, or its place, where 1 is the first. Without it the header is
    /// searched for a usual name (`phone`, `number`, `msisdn` and so on); failing that it is the first column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<Column>,
    /// Whether the first row is a header. Without it, it is one if it has a usual name in it, or no digit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_header: Option<bool>,
    /// The country of numbers that are written without one: two letters of ISO 3166, such as `DE`. Without it such numbers
    /// are rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// What stands between two fields: `,`, `;` or a tab. Without it the first rows decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Where the numbers come from, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supplier: Option<String>,
}

/// Which column has the numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Column {
    /// Its place; 1 is the first.
    Place(u32),
    /// Its name in the header; case and surrounding blanks do not matter.
    Name(String),
}

impl ImportFile {
    /// A file with everything found out from the file itself.
    #[must_use]
    pub fn new(project_id: Uuid, path: impl Into<String>) -> Self {
        Self {
            project_id,
            path: path.into(),
            column: None,
            has_header: None,
            default_region: None,
            delimiter: None,
            supplier: None,
        }
    }
}

impl JobArgs for ImportFile {
    const KIND: Kind = Kind::from_static("phone.import_file");
    const QUEUE: QueueName = QueueName::from_static("import");
    const REQUIRED: &'static [&'static str] = &["project_id", "path"];
    /// An attempt may take hours and goes on where the last one stopped, so its limit only ends what hangs.
    const POLICY: Policy = Policy::DEFAULT
        .journaled()
        .with_timeout(Duration::from_secs(6 * 3600))
        .with_backoff(Duration::from_secs(5), Duration::from_secs(1800));
}
