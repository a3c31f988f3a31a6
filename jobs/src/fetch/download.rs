//! A source's pages, downloaded and parsed. No transaction is open meanwhile.

use std::collections::HashSet;

use reqwest::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LINK};
use tokio::sync::Semaphore;
use url::Url;

use super::{
    config::Config,
    document::{Limits, Page, Reading, parse_aside},
    error::{DocumentError, FetchError},
    item::Item,
    metrics::FetchMetrics,
    paging::{Paging, next_in_link_header, with_parameter},
    source::{Format, Source, header_map},
};
use crate::outward::{Client, OutwardError, Request, Response};

/// The longest validator that is kept.
const MAX_VALIDATOR: usize = 512;

/// What a source answered.
#[derive(Debug)]
pub(super) enum Download {
    /// Nothing new since the validators that were sent.
    NotModified,
    /// All pages.
    Fetched(Fetched),
}

/// All pages of a source.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Items, each URL once.
    pub items: Vec<Item>,
    /// Items whose URL had come before.
    pub repeated: u64,
    /// Items without title or URL, or too large.
    pub skipped: u64,
    /// Whether a limit left something out.
    pub is_cut: bool,
    /// The first page's validators.
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

/// What downloading needs besides the source.
#[derive(Debug)]
pub(super) struct Downloader {
    pub client: Client,
    pub config: Config,
    pub metrics: FetchMetrics,
    /// Parsing takes memory and a core: only so many at a time.
    pub parse_slots: Semaphore,
}

impl Downloader {
    pub(super) async fn download(&self, source: &Source) -> Result<Download, FetchError> {
        let start = Url::parse(&source.url)
            .map_err(|error| OutwardError::InvalidUrl { reason: format!("the stored URL is broken: {error}") })?;
        let limit = self.config.timeout;
        tokio::time::timeout(limit, self.pages(source, &start)).await.unwrap_or_else(|_| {
            Err(OutwardError::Timeout { origin: start.origin().ascii_serialization(), limit }.into())
        })
    }

    async fn pages(&self, source: &Source, start: &Url) -> Result<Download, FetchError> {
        let paging = source.paging.as_ref().map(|paging| &paging.0);
        let reading = reading(source)?;
        let wanted = paging.map_or(Some(1), Paging::max_pages).unwrap_or(u32::MAX);
        let max_pages = wanted.min(self.config.max_pages).max(1);

        let mut fetched = Fetched::default();
        let mut urls = HashSet::new();
        let mut pages = HashSet::new();
        let mut text_bytes = 0;
        let mut next = Some(first_page(start, paging));
        let mut number = 0;
        while let Some(url) = next.take() {
            if !pages.insert(url.clone()) {
                break;
            }
            if number == max_pages {
                fetched.is_cut = paging.is_some();
                break;
            }
            let response = self.client.send(request(source, &url, start, number == 0)).await?;
            self.metrics.pages.inc();
            if response.is_not_modified() {
                return Ok(Download::NotModified);
            }
            if number == 0 {
                fetched.etag = validator(&response, &ETAG);
                fetched.last_modified = validator(&response, &LAST_MODIFIED);
            }
            number += 1;
            let limits = Limits {
                max_items: self.config.max_items.saturating_sub(fetched.items.len()),
                max_text_bytes: self.config.max_text_bytes.saturating_sub(text_bytes),
                timeout: self.config.parse_timeout,
            };
            let (answered, header_next) = (response.url.clone(), link_header(&response.headers));
            let page = self.parse(response, reading.clone(), limits).await?;
            let found = page.items.len();
            fetched.skipped += page.skipped;
            let mut new = 0;
            for item in page.items {
                if urls.insert(item.url.clone()) {
                    text_bytes += item.bytes();
                    fetched.items.push(item);
                    new += 1;
                } else {
                    fetched.repeated += 1;
                }
            }
            if page.is_cut {
                fetched.is_cut = true;
                break;
            }
            next = match paging {
                None => None,
                Some(Paging::NextLink { .. }) => {
                    page.next.or(header_next).and_then(|link| answered.join(link.trim()).ok())
                }
                Some(Paging::PageNumber { .. }) if found == 0 || new == 0 => None,
                Some(Paging::PageNumber { parameter, first, .. }) => {
                    Some(with_parameter(start, parameter, first.saturating_add(number)))
                }
            };
        }
        Ok(Download::Fetched(fetched))
    }

    async fn parse(&self, response: Response, reading: Reading, limits: Limits) -> Result<Page, DocumentError> {
        self.metrics.bytes.inc_by(response.body.len() as u64);
        let _slot = self.parse_slots.acquire().await.expect("the semaphore is never closed");
        self.metrics.parsed.inc();
        let content_type = response.header(&CONTENT_TYPE).map(str::to_owned);
        parse_aside(response.body, content_type, response.url, reading, limits).await
    }
}

fn reading(source: &Source) -> Result<Reading, DocumentError> {
    if source.format != Format::Json {
        return Ok(Reading::Feed);
    }
    let mapping =
        source.mapping.as_ref().ok_or_else(|| DocumentError::NoItemList { pointer: "no mapping".to_owned() })?;
    let next = match source.paging.as_ref().map(|paging| &paging.0) {
        Some(Paging::NextLink { pointer, .. }) => pointer.clone(),
        _ => None,
    };
    Ok(Reading::Json { mapping: Box::new(mapping.0.clone()), next })
}

fn first_page(start: &Url, paging: Option<&Paging>) -> Url {
    match paging {
        Some(Paging::PageNumber { parameter, first, .. }) => with_parameter(start, parameter, *first),
        _ => start.clone(),
    }
}

fn request(source: &Source, url: &Url, start: &Url, is_first: bool) -> Request {
    let accept = match source.format {
        Format::Json => "application/json, */*;q=0.1",
        Format::Rss | Format::Atom | Format::Feed => {
            "application/rss+xml, application/atom+xml, application/feed+json, application/xml;q=0.9, */*;q=0.1"
        }
    };
    let mut request = Request::get(url.clone()).text_header(ACCEPT, accept);
    // Headers meant for the source do not go where a document points.
    if url.origin() == start.origin() {
        // They were checked when they were stored.
        for (name, value) in header_map(&source.headers).unwrap_or_default() {
            if let Some(name) = name {
                request = request.header(name, value);
            }
        }
    }
    if is_first {
        if let Some(etag) = &source.etag {
            request = request.text_header(IF_NONE_MATCH, etag);
        }
        if let Some(date) = &source.last_modified {
            request = request.text_header(IF_MODIFIED_SINCE, date);
        }
    }
    request
}

fn validator(response: &Response, name: &reqwest::header::HeaderName) -> Option<String> {
    response.header(name).filter(|value| !value.is_empty() && value.len() <= MAX_VALIDATOR).map(str::to_owned)
}

fn link_header(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().find_map(|value| next_in_link_header(value.to_str().ok()?).map(str::to_owned))
}
