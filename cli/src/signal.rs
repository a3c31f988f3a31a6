//! SIGTERM and SIGINT: the first asks for a soft end, the second ends the process at once.

use std::{io, process};

use tokio::signal::unix::{SignalKind, signal};
use windrow_queue::shutdown::Shutdown;

/// The exit status after a second signal: 128 and SIGINT's number, as shells have it.
const ENDED_BY_SIGNAL: i32 = 130;

/// Watches for signals from now on, for as long as the process lives.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn watch(shutdown: Shutdown) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for is_second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_second {
                tracing::warn!(
                    "a second signal: ending at once; jobs in work go back when the lease of this process lapses"
                );
                shutdown.kill();
                process::exit(ENDED_BY_SIGNAL);
            }
            tracing::info!("asked to end: finishing what runs; a second signal ends at once");
            shutdown.stop();
        }
    });
    Ok(())
}
