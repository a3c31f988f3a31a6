//! The import, asked for as any other system would: over HTTP, with a key.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;
use windrow_jobs::import::ImportFile;
use windrow_queue::JobArgs;

use super::seed::IMPORTER;

#[derive(Deserialize)]
struct Accepted {
    id: Uuid,
}

/// Where jobs are posted to.
pub(super) fn jobs_url(api: SocketAddr) -> String {
    format!("http://{api}/api/v1/jobs")
}

/// Enqueues the import of a file, and gives the job's id.
pub(super) async fn import(api: SocketAddr, key: &str, project: Uuid, file: &str) -> anyhow::Result<Uuid> {
    let args = ImportFile { supplier: Some("windrow dev".into()), ..ImportFile::new(project, file) };
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
    let answer = client
        .post(jobs_url(api))
        .bearer_auth(key)
        .json(&json!({ "kind": ImportFile::KIND, "tenant": IMPORTER, "args": args }))
        .send()
        .await
        .context("the API does not answer")?;
    let status = answer.status();
    let body = answer.bytes().await.context("the API's answer broke off")?;
    if !status.is_success() {
        bail!("the API refused the import with {status}: {}", String::from_utf8_lossy(&body));
    }
    let accepted: Accepted = serde_json::from_slice(&body).context("the API's answer")?;
    Ok(accepted.id)
}
