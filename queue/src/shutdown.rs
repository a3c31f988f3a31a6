//! How a role ends: softly at the first signal, at once at the second.

use tokio_util::sync::CancellationToken;

/// Passed to every `run(config, deps, shutdown)`.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what runs within the grace period, give the rest back, end.
    pub soft: CancellationToken,
    /// End now.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a soft end.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Asks for an end at once.
    pub fn kill(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }
}
