//! Which handler executes which kind.

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use serde_json::value::RawValue;
use windrow_queue::{Catalog, Handler, JobArgs, JobContext, JobError, JobResult, Kind, KindInfo};

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
            Err(error) => futures::future::ready(Err(JobError::bury("invalid_args", error))).boxed(),
        }
    }
}

/// The handler of one kind. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KindHandler(Arc<dyn AnyHandler>);

impl KindHandler {
    pub(crate) fn info(&self) -> &KindInfo {
        self.0.info()
    }

    pub(crate) fn run(&self, ctx: JobContext, args: &RawValue) -> BoxFuture<'static, JobResult> {
        Arc::clone(&self.0).run(ctx, args)
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
        let handler = KindHandler(Arc::new(Typed { handler, info: KindInfo::of::<H::Args>() }));
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
