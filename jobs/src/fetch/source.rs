//! Sources: where a tenant's vacancies come from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgExecutor, PgPool, types::Json};
use url::Url;
use uuid::Uuid;
use windrow_queue::Tenant;

use super::{mapping::Mapping, paging::Paging};

/// What a source's documents are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Format {
    /// JSON, read by a mapping.
    Json,
    /// RSS 0.9x, 1.0 or 2.0.
    Rss,
    /// Atom.
    Atom,
    /// Any feed: RSS, Atom or JSON Feed.
    Feed,
}

impl std::str::FromStr for Format {
    type Err = InvalidSource;
    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        match text {
            "json" => Ok(Self::Json),
            "rss" => Ok(Self::Rss),
            "atom" => Ok(Self::Atom),
            "feed" | "auto" => Ok(Self::Feed),
            _ => Err(InvalidSource::Format),
        }
    }
}

/// A source as a person describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Its name, unique for the tenant.
    pub name: String,
    /// What its documents are. Feeds are told apart by themselves: `rss`, `atom` and `feed` read any of them.
    pub format: Format,
    /// Its URL, of the first page.
    pub url: String,
    /// Where a JSON document has what is wanted. JSON sources need one, feeds have none.
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// How to come to the next page. Without it there is one page.
    #[serde(default)]
    pub paging: Option<Paging>,
    /// Sent with every request to the source's own origin. No secrets: they are stored as they are.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// Why a source cannot be as described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSource {
    /// No such format.
    #[error("the format is not known: use json, rss, atom or feed")]
    Format,
    /// No name, or a long one.
    #[error("a source's name has 1 to 200 characters")]
    Name,
    /// No URL that can be fetched.
    #[error("the URL cannot be fetched: {0}")]
    Url(String),
    /// A JSON source without a mapping.
    #[error("a json source needs a mapping, at least with title and url")]
    NoMapping,
    /// A feed with a mapping.
    #[error("a feed has no mapping: its fields are known")]
    Mapping,
    /// Paging that does not fit.
    #[error("the paging does not fit: {0}")]
    Paging(&'static str),
    /// A header that cannot be sent or should not be stored.
    #[error("the header {name:?} cannot be set: {reason}")]
    Header {
        /// Its name, cut to a readable length.
        name: String,
        /// Why.
        reason: &'static str,
    },
}

/// Why a source was not stored.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not well described.
    #[error(transparent)]
    Invalid(#[from] InvalidSource),
    /// There is one of this name.
    #[error("tenant {tenant} has a source named {name:?} already")]
    Exists {
        /// The tenant.
        tenant: Tenant,
        /// The name.
        name: String,
    },
    /// There is no such tenant.
    #[error("there is no tenant {0}")]
    NoTenant(Tenant),
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Headers that the client sets by itself, or that carry secrets.
const NOT_SETTABLE: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "if-modified-since",
    "if-none-match",
    "te",
    "transfer-encoding",
    "upgrade",
];
const SECRET: &[&str] = &["authorization", "cookie", "proxy-authorization", "x-api-key"];

impl SourceSpec {
    /// Checks all that can be checked without a call, and gives the URL.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<Url, InvalidSource> {
        let name = self.name.trim();
        if name.is_empty() || name.len() > 200 || name.contains('\0') {
            return Err(InvalidSource::Name);
        }
        let url = check_url(&self.url)?;
        match (self.format, &self.mapping) {
            (Format::Json, None) => return Err(InvalidSource::NoMapping),
            (Format::Rss | Format::Atom | Format::Feed, Some(_)) => return Err(InvalidSource::Mapping),
            _ => {}
        }
        match &self.paging {
            Some(Paging::NextLink { pointer: Some(_), .. }) if self.format != Format::Json => {
                return Err(InvalidSource::Paging("only a json source has a pointer to the next page"));
            }
            Some(Paging::PageNumber { parameter, .. }) if parameter.is_empty() || parameter.len() > 100 => {
                return Err(InvalidSource::Paging("the parameter has 1 to 100 characters"));
            }
            Some(paging) if paging.max_pages() == Some(0) => {
                return Err(InvalidSource::Paging("max_pages is at least 1"));
            }
            _ => {}
        }
        header_map(&self.headers)?;
        Ok(url)
    }
}

fn check_url(text: &str) -> Result<Url, InvalidSource> {
    let refuse = |reason: &str| Err(InvalidSource::Url(reason.to_owned()));
    if text.len() > 2048 {
        return refuse("it has more than 2048 characters");
    }
    let url = Url::parse(text.trim()).map_err(|error| InvalidSource::Url(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("use http or https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("it has a user name or password, which would be stored as it is");
    }
    if url.as_str().len() > 2048 {
        return refuse("it has more than 2048 characters");
    }
    Ok(url)
}

/// The headers as they are sent.
pub(super) fn header_map(headers: &BTreeMap<String, String>) -> Result<HeaderMap, InvalidSource> {
    let refuse = |name: &str, reason| InvalidSource::Header { name: name.chars().take(80).collect(), reason };
    if headers.len() > 20 {
        return Err(refuse("", "a source has at most 20 headers"));
    }
    let mut map = HeaderMap::new();
    for (text, value) in headers {
        let name: HeaderName = text.parse().map_err(|_| refuse(text, "the name is no header name"))?;
        if NOT_SETTABLE.contains(&name.as_str()) {
            return Err(refuse(text, "it is set by itself"));
        }
        if SECRET.contains(&name.as_str()) {
            return Err(refuse(text, "it would carry a secret, and headers of sources are stored as they are"));
        }
        let value: HeaderValue =
            value.parse().map_err(|_| refuse(text, "the value has characters that no header may have"))?;
        if value.len() > 1000 {
            return Err(refuse(text, "the value has more than 1000 characters"));
        }
        map.insert(name, value);
    }
    Ok(map)
}

/// A source as it is stored, with how its fetches went.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Source {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// What its documents are.
    pub format: Format,
    /// Its URL.
    pub url: String,
    /// Where a JSON document has what is wanted.
    pub mapping: Option<Json<Mapping>>,
    /// How to come to the next page.
    pub paging: Option<Json<Paging>>,
    /// Headers sent along.
    pub headers: Json<BTreeMap<String, String>>,
    /// Whether it is fetched.
    pub active: bool,
    /// Raised by every change of what is fetched.
    pub version: i32,
    /// The first page's `ETag`.
    pub etag: Option<String>,
    /// The first page's `Last-Modified`.
    pub last_modified: Option<String>,
    /// The last fetch that came through, a 304 included.
    pub last_fetch_at: Option<DateTime<Utc>>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When.
    pub last_error_at: Option<DateTime<Utc>>,
    /// Failed attempts since the last fetch that came through.
    pub failures: i32,
    /// What its fetches brought.
    #[sqlx(flatten)]
    pub totals: Totals,
}

/// What fetches brought, from the first on. Counted in the transactions that hold the vacancies, so they agree with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromRow)]
pub struct Totals {
    /// Fetches that came through.
    pub fetches: i64,
    /// Of these, answered by a 304.
    pub not_modified: i64,
    /// Items in the documents.
    pub items_fetched: i64,
    /// New vacancies.
    pub items_inserted: i64,
    /// Known vacancies whose content had changed.
    pub items_updated: i64,
    /// Known vacancies as they were, and repetitions within a fetch.
    pub items_duplicate: i64,
    /// Items without title or URL, or too large.
    pub items_skipped: i64,
}

const COLUMNS: &str = "id, tenant, name, format, url, mapping, paging, headers, active, version, etag, last_modified,
    last_fetch_at, last_error, last_error_at, failures, fetches, not_modified, items_fetched, items_inserted,
    items_updated, items_duplicate, items_skipped";

/// Adds a source.
///
/// # Errors
/// When it is not well described, its name is taken, or there is no such tenant.
pub async fn add_source(pool: &PgPool, tenant: &Tenant, spec: &SourceSpec) -> Result<Uuid, SourceError> {
    let added = write(pool, tenant, spec, "ON CONFLICT (tenant, name) DO NOTHING").await?;
    added.ok_or_else(|| SourceError::Exists { tenant: tenant.clone(), name: spec.name.clone() })
}

/// Adds a source, or changes the one of this name. What it last answered is forgotten when anything differs.
///
/// # Errors
/// When it is not well described, or there is no such tenant.
pub async fn put_source(pool: &PgPool, tenant: &Tenant, spec: &SourceSpec) -> Result<Uuid, SourceError> {
    let changed = write(
        pool,
        tenant,
        spec,
        "ON CONFLICT (tenant, name) DO UPDATE SET format = excluded.format, url = excluded.url, mapping = excluded.mapping,
             paging = excluded.paging, headers = excluded.headers, version = source.version + 1, etag = NULL,
             last_modified = NULL, failures = 0
         WHERE (source.format, source.url, source.mapping, source.paging, source.headers)
               IS DISTINCT FROM (excluded.format, excluded.url, excluded.mapping, excluded.paging, excluded.headers)",
    )
    .await?;
    match changed {
        Some(id) => Ok(id),
        None => Ok(sqlx::query_scalar("SELECT id FROM source WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(spec.name.trim())
            .fetch_one(pool)
            .await?),
    }
}

async fn write(
    pool: &PgPool,
    tenant: &Tenant,
    spec: &SourceSpec,
    on_conflict: &'static str,
) -> Result<Option<Uuid>, SourceError> {
    let url = spec.check()?;
    let sql = format!(
        "INSERT INTO source (tenant, name, format, url, mapping, paging, headers) VALUES ($1, $2, $3, $4, $5, $6, $7)
         {on_conflict} RETURNING id"
    );
    // Put together of constants alone.
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(tenant.as_str())
        .bind(spec.name.trim())
        .bind(spec.format)
        .bind(url.as_str())
        .bind(spec.mapping.as_ref().map(Json))
        .bind(spec.paging.as_ref().map(Json))
        .bind(Json(&spec.headers))
        .fetch_optional(pool)
        .await
        .map_err(|error| match error {
            sqlx::Error::Database(error) if error.is_foreign_key_violation() => SourceError::NoTenant(tenant.clone()),
            error => SourceError::Database(error),
        })
}

/// The sources of a tenant, or of all, by tenant and name.
///
/// # Errors
/// When Postgres is away.
pub async fn list_sources(pool: &PgPool, tenant: Option<&Tenant>) -> Result<Vec<Source>, sqlx::Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM source WHERE $1::text IS NULL OR tenant = $1 ORDER BY tenant, name LIMIT 10000");
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(tenant.map(Tenant::as_str)).fetch_all(pool).await
}

/// A tenant's source by its name.
///
/// # Errors
/// When Postgres is away.
pub async fn find_source(pool: &PgPool, tenant: &Tenant, name: &str) -> Result<Option<Source>, sqlx::Error> {
    let sql = format!("SELECT {COLUMNS} FROM source WHERE tenant = $1 AND name = $2");
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(name).fetch_optional(pool).await
}

/// What all fetches of a tenant, or of all tenants, brought.
///
/// # Errors
/// When Postgres is away.
pub async fn totals(pool: &PgPool, tenant: Option<&Tenant>) -> Result<Totals, sqlx::Error> {
    sqlx::query_as(
        "SELECT coalesce(sum(fetches), 0)::bigint AS fetches, coalesce(sum(not_modified), 0)::bigint AS not_modified,
                coalesce(sum(items_fetched), 0)::bigint AS items_fetched,
                coalesce(sum(items_inserted), 0)::bigint AS items_inserted,
                coalesce(sum(items_updated), 0)::bigint AS items_updated,
                coalesce(sum(items_duplicate), 0)::bigint AS items_duplicate,
                coalesce(sum(items_skipped), 0)::bigint AS items_skipped
         FROM source WHERE $1::text IS NULL OR tenant = $1",
    )
    .bind(tenant.map(Tenant::as_str))
    .fetch_one(pool)
    .await
}

/// The source of a job, if it and its tenant are active. With a tenant given (the job's) it must be that tenant's.
pub(super) async fn load_active(
    database: impl PgExecutor<'_>,
    id: Uuid,
    tenant: Option<&Tenant>,
) -> Result<Option<Source>, sqlx::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM source WHERE id = $1 AND active AND ($2::text IS NULL OR tenant = $2)
             AND EXISTS (SELECT FROM tenant t WHERE t.id = source.tenant AND t.active)"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id).bind(tenant.map(Tenant::as_str)).fetch_optional(database).await
}
