//! What makes a fetch fail, and what that means for the job.

use windrow_queue::{Decision, JobError};

use crate::outward::OutwardError;

/// A document that cannot be read as what the source says it is. Its text has nothing of the content but names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Nothing came.
    #[error("the document is empty")]
    Empty,
    /// A web page came: a maintenance notice, a login, a wrong address.
    #[error("a web page came instead of {expected}: does the URL lead to the feed itself?")]
    Html {
        /// `JSON` or `a feed`.
        expected: &'static str,
    },
    /// Broken JSON.
    #[error("broken JSON: {reason}")]
    Json {
        /// What and where.
        reason: String,
    },
    /// Broken XML, or a feed that breaks the rules of its format.
    #[error("broken feed: {reason}")]
    Feed {
        /// What and where.
        reason: String,
    },
    /// Well-formed, and no feed.
    #[error("the document is no RSS, Atom or JSON Feed")]
    NotAFeed,
    /// The mapping's pointer leads to no list.
    #[error(
        "there is no list of items at {pointer:?}: correct the mapping of the source, or see what the source answers"
    )]
    NoItemList {
        /// The pointer.
        pointer: String,
    },
    /// More elements than a feed of the size allowed can sensibly have.
    #[error("the feed has more than {limit} {what}")]
    TooMany {
        /// `elements` or `items`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Parsing took too long: the document is made to.
    #[error("the document was not parsed within {limit:?}")]
    Slow {
        /// The limit.
        limit: std::time::Duration,
    },
    /// The parser panicked: its fault, which must not be the worker's.
    #[error("the parser could not cope with the document")]
    Parser,
}

impl DocumentError {
    /// The class for metrics and dead letters.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Empty => "empty_document",
            Self::Html { .. } => "html_document",
            Self::Json { .. } => "broken_json",
            Self::Feed { .. } => "broken_feed",
            Self::NotAFeed => "not_a_feed",
            Self::NoItemList { .. } => "no_item_list",
            Self::TooMany { .. } => "too_many",
            Self::Slow { .. } => "slow_document",
            Self::Parser => "parser",
        }
    }

    /// All classes, so that their counters stand at zero before the first error.
    pub const CLASSES: &[&str] = &[
        "empty_document",
        "html_document",
        "broken_json",
        "broken_feed",
        "not_a_feed",
        "no_item_list",
        "too_many",
        "slow_document",
        "parser",
    ];

    /// What is to happen: the one place where it is decided. A document that is broken, empty or a web page may have been
    /// caught while it was written or its server in maintenance: again. One that is too much stays so until somebody looks.
    #[must_use]
    pub const fn decision(&self) -> Decision {
        match self {
            Self::Empty
            | Self::Html { .. }
            | Self::Json { .. }
            | Self::Feed { .. }
            | Self::NotAFeed
            | Self::NoItemList { .. } => Decision::Retry,
            Self::TooMany { .. } | Self::Slow { .. } | Self::Parser => Decision::Bury,
        }
    }
}

/// Why a source could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The call failed.
    #[error(transparent)]
    Outward(#[from] OutwardError),
    /// The document is not what it should be.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl FetchError {
    /// As the job's error, which says which source it was.
    pub(super) fn into_job_error(self, source_name: &str) -> JobError {
        let (decision, class) = match &self {
            Self::Outward(error) => (error.decision(), error.class()),
            Self::Document(error) => (error.decision(), error.class()),
        };
        JobError::new(decision, class, anyhow::Error::new(self).context(format!("source {source_name:?}")))
    }
}
