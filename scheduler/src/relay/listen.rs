//! Hears that something was put into the outbox. Only a hint: the relay polls as well, and works without this.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use windrow_queue::journal::OUTBOX_CHANNEL;

/// Listens on the direct connection until it is cancelled, and connects again when that breaks.
pub(crate) async fn listen(direct: PgPool, wake: Arc<Notify>, stop: CancellationToken) {
    let fresh = || {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut delays = fresh();
    loop {
        let heard = async {
            let mut listener = PgListener::connect_with(&direct).await?;
            listener.eager_reconnect(false);
            listener.listen(OUTBOX_CHANNEL).await?;
            // What came before the connection stood was not heard.
            wake.notify_one();
            let mut heard_any = false;
            while listener.try_recv().await?.is_some() {
                heard_any = true;
                wake.notify_one();
            }
            Ok::<bool, sqlx::Error>(heard_any)
        };
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = heard => result,
        };
        match result {
            Ok(heard_any) => {
                tracing::info!("the connection for LISTEN was lost; the relay polls until it stands again");
                if heard_any {
                    delays = fresh();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot LISTEN; the relay polls each second. Behind pgbouncer set database.direct_url");
            }
        }
        let pause = delays.next().unwrap_or(Duration::from_secs(5));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
