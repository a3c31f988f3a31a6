//! Where the tenants look for vacancies.

use std::collections::BTreeMap;

use anyhow::Context;
use sqlx::PgPool;
use windrow_jobs::fetch::{Format, Mapping, Paging, Pointer, SourceSpec, put_source};

use super::{HARBOUR, LANTERN};
use crate::dev::sample::{SampleServer, board_mapping, flat_mapping};

/// How the names of sources begin that were given on the command line.
const EXTRA: &str = "given: ";

/// A source given on the command line: JSON if it has a mapping, else a feed.
#[derive(Clone, Debug)]
pub(in crate::dev) struct ExtraSource {
    pub(in crate::dev) url: String,
    pub(in crate::dev) mapping: Option<Mapping>,
}

impl ExtraSource {
    /// As it is stored.
    pub(in crate::dev) fn spec(&self) -> SourceSpec {
        let name: String = format!("{EXTRA}{}", self.url).chars().take(200).collect();
        let format = if self.mapping.is_some() { Format::Json } else { Format::Feed };
        spec(&name, format, self.url.clone(), self.mapping.clone())
    }
}

/// Adds the sample sources and those given; those that an earlier run was given rest.
pub(super) async fn put(database: &PgPool, samples: &SampleServer, extra: &[ExtraSource]) -> anyhow::Result<()> {
    let board = || -> anyhow::Result<SourceSpec> {
        Ok(spec("Copperline board", Format::Json, samples.url("/board.json"), Some(mapping(board_mapping())?)))
    };
    let mut paged = mapping(flat_mapping())?;
    paged.items = Pointer::new("/results")?;
    let paging = Paging::PageNumber { parameter: "page".into(), first: 1, max_pages: None };
    let archive = spec("Paged archive", Format::Json, samples.url("/paged.json"), Some(paged));
    let own = [
        (HARBOUR, board()?),
        (HARBOUR, spec("Harbour Lane feed", Format::Rss, samples.url("/jobs.rss"), None)),
        (HARBOUR, SourceSpec { paging: Some(paging), ..archive }),
        (LANTERN, board()?),
        (LANTERN, spec("Lantern Hill feed", Format::Atom, samples.url("/jobs.atom"), None)),
        (LANTERN, spec("Shaky board", Format::Json, samples.url("/flaky.json"), Some(mapping(flat_mapping())?))),
    ];
    let given: Vec<SourceSpec> = extra.iter().map(ExtraSource::spec).collect();
    rest(database, &given).await?;
    for (tenant, spec) in own.into_iter().chain(given.into_iter().map(|spec| (HARBOUR, spec))) {
        put_source(database, &tenant, &spec).await.with_context(|| format!("the source {}", spec.name))?;
    }
    Ok(())
}

async fn rest(database: &PgPool, given: &[SourceSpec]) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = given.iter().map(|spec| &*spec.name).collect();
    sqlx::query("UPDATE source SET active = name = ANY($2) WHERE tenant = $1 AND starts_with(name, $3)")
        .bind(HARBOUR.as_str())
        .bind(names)
        .bind(EXTRA)
        .execute(database)
        .await?;
    Ok(())
}

fn mapping(json: serde_json::Value) -> anyhow::Result<Mapping> {
    serde_json::from_value(json).context("a mapping of the samples")
}

fn spec(name: &str, format: Format, url: String, mapping: Option<Mapping>) -> SourceSpec {
    SourceSpec { name: name.into(), format, url, mapping, paging: None, headers: BTreeMap::new() }
}
