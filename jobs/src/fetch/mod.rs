//! Vacancies: fetched from each source of each active tenant, stored once per URL, handed on to scoring.
//!
//! ```text
//! vacancy.fetch_all     one vacancy.fetch_source per active source of an active tenant, unless one stands already
//! vacancy.fetch_source  download all pages -> parse -> one transaction: vacancies, their scoring jobs, the source's validators
//! ```
//!
//! - Downloading and parsing happen outside of any transaction. An attempt that fails leaves vacancies as they were.
//! - A vacancy is known by tenant and URL. Found again it is a duplicate; with other content, by the source that brought it,
//!   it is updated. Its publication date stays what it was first.
//! - A 304 costs no parsing. The validators belong to the first page.
//! - Each source is a job of its own: one that hangs, breaks or grows holds up no other.
//! - What came from outside is bounded before it is parsed (bytes, items, elements, time), and each field after it.
//!
//! A failed attempt is tried again when waiting may help, and is dead with its class when not, or after
//! [`FetchSource`]'s five attempts; the next `vacancy.fetch_all` tries anew in any case. The source remembers the last error.

mod config;
mod decode;
mod document;
mod download;
mod error;
mod feed;
mod fetch_all;
mod fetch_source;
mod item;
mod json;
mod json_feed;
mod mapping;
mod metrics;
mod paging;
mod pointer;
mod source;
mod store;
pub(crate) mod text;
mod vacancy;
mod value;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use error::{DocumentError, FetchError};
pub use fetch_all::{FetchAll, FetchAllHandler};
pub use fetch_source::{FetchSource, FetchSourceHandler, request_fetch};
pub use mapping::Mapping;
pub use metrics::FetchMetrics;
pub use paging::Paging;
pub use pointer::{InvalidPointer, Pointer};
pub use source::{
    Format, InvalidSource, Source, SourceError, SourceSpec, Totals, add_source, find_source, list_sources, put_source,
    totals,
};
pub use vacancy::{Vacancy, VacancyCursor, VacancyFilter, VacancyStatus, list_vacancies};
