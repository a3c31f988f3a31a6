//! Which handler executes which kind.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use futures::{FutureExt, future::BoxFuture};
use prometheus::{Histogram, IntCounter};
use serde_json::value::RawValue;
use windrow_queue::{
    Catalog, Handler, JobArgs, JobContext, JobError, JobResult, Kind, KindInfo, metrics::QueueMetrics,
    vault::decode_error,
};

/// A handler without its type.
trait AnyHandler: Send + Sync {
    fn info(&self) -> &KindInfo;
    fn run(self: Arc<Self>, ctx: JobContext, args: &RawValue) -> BoxFuture<'static, JobResult>;
}

struct Typed<H> {
    handler: H,
    info: KindInfo,
}

impl<H: Handler> AnyHandler for Typed<H> {
    fn info(&self) -> &KindInfo {
        &self.info
    }

    fn run(self: Arc<Self>, ctx: JobContext, args: &RawValue) -> BoxFuture<'static, JobResult> {
        match serde_json::from_str::<H::Args>(args.get()) {
            Ok(args) => async move { self.handler.run(ctx, args).await }.boxed(),
            Err(error) => {
                let error = decode_error(self.info.policy.encrypted, error);
                futures::future::ready(Err(JobError::bury("invalid_args", error))).boxed()
            }
        }
    }
}

/// The handler of one kind. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KindHandler {
    handler: Arc<dyn AnyHandler>,
    metrics: Arc<OnceLock<KindMetrics>>,
}

/// The metrics that every job of a kind touches, looked up once.
pub(crate) struct KindMetrics {
    pub(crate) wait: Histogram,
    pub(crate) duration: Histogram,
    pub(crate) complete: IntCounter,
}

impl KindHandler {
    pub(crate) fn info(&self) -> &KindInfo {
        self.handler.info()
    }

    /// The kind's own metrics, of the registry with which it is first asked for.
    pub(crate) fn metrics(&self, metrics: &QueueMetrics) -> &KindMetrics {
        self.metrics.get_or_init(|| {
            let info = self.info();
            let labels = [info.queue.as_str(), info.kind.as_str()];
            KindMetrics {
                wait: metrics.wait.with_label_values(&labels),
                duration: metrics.duration.with_label_values(&labels),
                complete: metrics.finished.with_label_values(&[labels[0], labels[1], "complete"]),
            }
        })
    }

    pub(crate) fn run(&self, ctx: JobContext, args: &RawValue) -> BoxFuture<'static, JobResult> {
        Arc::clone(&self.handler).run(ctx, args)
    }
}

/// All handlers of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    handlers: HashMap<Kind, KindHandler>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}

impl Registry {
    /// No handlers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler.
    ///
    /// # Panics
    /// When the kind has one already: a programming error.
    #[must_use]
    pub fn with<H: Handler>(mut self, handler: H) -> Self {
        let handler = Arc::new(Typed { handler, info: KindInfo::of::<H::Args>() });
        let handler = KindHandler { handler, metrics: Arc::default() };
        let kind = <H::Args as JobArgs>::KIND;
        assert!(self.handlers.insert(kind.clone(), handler).is_none(), "kind {kind} has two handlers");
        self
    }

    /// The kinds that have a handler, for whoever takes jobs in.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for handler in self.handlers.values() {
            catalog.add(handler.info().clone());
        }
        catalog
    }

    pub(crate) fn get(&self, kind: &Kind) -> Option<KindHandler> {
        self.handlers.get(kind).cloned()
    }
}
