//! An API with stores of its own, and who calls it.

use std::{net::SocketAddr, time::Duration};

use prometheus::Registry;
use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use windrow_api::{
    Config, Deps, Listener,
    key::{ApiKey, NewKey},
};
use windrow_queue::{
    Catalog, JobArgs, Kind, Policy, QueueName, Tenant, Vault, database,
    health::Health,
    metrics::QueueMetrics,
    shutdown::Shutdown,
    store::{self, Store},
    vault,
};

#[derive(Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) text: String,
}

impl JobArgs for Note {
    const KIND: Kind = Kind::from_static("sample.write_note");
    const QUEUE: QueueName = QueueName::from_static("notes");
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Charge {
    cents: u32,
    #[serde(default)]
    memo: Value,
}

impl JobArgs for Charge {
    const KIND: Kind = Kind::from_static("sample.charge_card");
    const QUEUE: QueueName = QueueName::from_static("charges");
    const POLICY: Policy = Policy::DEFAULT.journaled();
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Sweep {}

impl JobArgs for Sweep {
    const KIND: Kind = Kind::from_static("sample.sweep_all");
    const QUEUE: QueueName = QueueName::from_static("notes");
    const OPERATORS_ONLY: bool = true;
}

/// What nobody but its handler may read.
#[derive(Serialize, Deserialize)]
pub(crate) struct Secret {
    text: String,
}

impl JobArgs for Secret {
    const KIND: Kind = Kind::from_static("secret.keep");
    const QUEUE: QueueName = QueueName::from_static("secrets");
    const POLICY: Policy = Policy::DEFAULT.encrypted();
}

const ENCRYPTION_KEY: &str = "2026a:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// A port on which nobody listens.
pub(crate) const NOWHERE: u16 = 1;

pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) client: reqwest::Client,
    pub(crate) key: String,
    pub(crate) tenant_key: String,
    pub(crate) database: PgPool,
    pub(crate) store: Store,
    pub(crate) shutdown: Shutdown,
    pub(crate) served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

#[derive(Default)]
pub(crate) struct Options {
    pub(crate) redis_url: Option<String>,
    pub(crate) database_url: Option<String>,
    pub(crate) max_jobs: Option<u64>,
}

pub(crate) fn new_key(name: &str, tenant: Option<&str>) -> (String, ApiKey) {
    let NewKey { secret, sha256 } = NewKey::generate(&mut rand::rng());
    let tenant = tenant.map(|name| Tenant::new(name).unwrap());
    (secret, ApiKey { name: name.into(), sha256, tenant })
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (redis_url, database_url) = tokio::task::spawn_blocking(|| {
            let redis = windrow_devserver::shared_redis().unwrap().url();
            (redis, windrow_devserver::fresh_database().unwrap())
        })
        .await
        .unwrap();
        let is_up = options.database_url.is_none();
        let database = database::pool(&database::Config {
            url: options.database_url.unwrap_or(database_url),
            acquire_timeout: Duration::from_secs(2),
            ..database::Config::default()
        })
        .unwrap();
        if is_up {
            database::migrate(&database).await.unwrap();
        }
        let store = Store::new(&store::Config {
            url: options.redis_url.unwrap_or(redis_url),
            max_jobs: options.max_jobs.unwrap_or(1_000_000),
            ..store::Config::default()
        })
        .unwrap();
        let vault =
            Vault::new(&vault::Config { keys: vec![ENCRYPTION_KEY.into()], ..vault::Config::default() }).unwrap();
        let store = store.with_vault(vault.clone());
        let catalog = Catalog::default().with::<Note>().with::<Charge>().with::<Sweep>().with::<Secret>();
        let (key, configured) = new_key("everything", None);
        let (tenant_key, bound) = new_key("acme only", Some("acme"));
        let config = Config { keys: vec![configured, bound], ..Config::default() };
        let registry = Registry::new();
        let deps = Deps {
            store: store.clone(),
            database: database.clone(),
            catalog: catalog.with_vault(vault),
            metrics: QueueMetrics::new(&registry),
            registry,
            health: Health::default(),
        };
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "api.listen").await.unwrap();
        let (address, shutdown) = (listener.address(), Shutdown::new());
        let served = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { windrow_api::serve(listener, &config, deps, shutdown).await }
        });
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        Self { address, client, key, tenant_key, database, store, shutdown, served }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address)).bearer_auth(&self.key)
    }

    pub(crate) async fn post(&self, body: Value) -> Answer {
        answer(self.request(Method::POST, "/api/v1/jobs").json(&body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn id(&self) -> String {
        self.body["id"].as_str().unwrap().to_owned()
    }

    /// Status, type and pointer of a problem, whose form is checked.
    pub(crate) fn problem(&self) -> (u16, &str, Option<&str>) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.body);
        assert_eq!(self.body["status"], self.status.as_u16());
        assert!(self.body["title"].is_string() && self.body["detail"].is_string(), "{}", self.body);
        let kind = self.body["type"].as_str().unwrap().strip_prefix("urn:windrow:problem:").unwrap();
        (self.status.as_u16(), kind, self.body["pointer"].as_str())
    }

    pub(crate) fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap()
    }
}

impl Api {
    /// The same with a key that is bound to the tenant acme.
    pub(crate) fn as_acme(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address)).bearer_auth(&self.tenant_key)
    }
}

pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}
