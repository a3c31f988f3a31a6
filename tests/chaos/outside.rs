//! Those outside: somebody who calls back, and an operator who redrives what is dead.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sqlx::Row;
use tokio::time::{sleep, timeout};
use uuid::Uuid;
use windrow_queue::{JobId, journal, store::TokenDigest};

use crate::stage::Stage;

/// Between two attempts of an operator whose command failed.
const AGAIN: Duration = Duration::from_millis(300);

/// A command that takes longer is given up, and given again.
const PATIENCE: Duration = Duration::from_secs(15);

/// The outside world: calls back where it was asked to, each time it is asked, and looks again after an error.
pub(crate) async fn call_back(stage: &Stage, stop: &AtomicBool) {
    let payload = serde_json::value::to_raw_value(&serde_json::json!({"ok": true})).expect("it is JSON");
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(200)).await;
        // Some come at once and some after a while; the deadline is 3 s.
        let waiting = sqlx::query(
            "SELECT digest FROM chaos_token WHERE answer AND answers = 0
               AND at < clock_timestamp() - make_interval(secs => (get_byte(digest, 0) % 5) * 0.5)",
        );
        let Ok(rows) = waiting.fetch_all(&stage.looking).await else { continue };
        for row in rows {
            let digest: Vec<u8> = row.get(0);
            let Ok(digest) = <[u8; 16]>::try_from(digest) else { continue };
            // Twice: the second is a duplicate, or the first when that one's answer was lost.
            for _ in 0..2 {
                if journal::call_back(&stage.database, TokenDigest(digest), &payload).await.is_ok() {
                    // Not noted: called again, which is harmless.
                    let noted = sqlx::query("UPDATE chaos_token SET answers = answers + 1 WHERE digest = $1");
                    let _ = noted.bind(digest.as_slice()).execute(&stage.looking).await;
                }
            }
        }
    }
}

/// Every other job that died on purpose is redriven, and lives: what must become of it is changed first.
pub(crate) async fn redrive(stage: &Stage, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_secs(1)).await;
        let picked = sqlx::query_scalar(
            "UPDATE chaos_sent SET expect = 'effect' WHERE job_id IN (
                 SELECT job_id FROM chaos_sent JOIN job_closed ON id = job_id
                 WHERE chaos_sent.kind = 'chaos.doom' AND expect = 'dead' AND state = 'dead'
                   AND chaos_sent.batch_id IS NULL AND get_byte(uuid_send(job_id), 15) % 2 = 0 LIMIT 5)
             RETURNING job_id",
        );
        let picked: Result<Vec<Uuid>, _> = picked.fetch_all(&stage.looking).await;
        for id in picked.unwrap_or_default() {
            // Until there is an answer: false says that a command which was not answered did it.
            while !matches!(timeout(PATIENCE, journal::redrive(&stage.database, JobId(id))).await, Ok(Ok(_))) {
                sleep(AGAIN).await;
            }
        }
    }
}
