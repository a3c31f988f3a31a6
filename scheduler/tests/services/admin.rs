//! What operators do with schedules.

use windrow_queue::JobArgs;
use windrow_scheduler::schedule::admin;

use crate::support::{Ping, catalog, count, database, declare, fire, neglect};

const FILE: &str =
    "[[schedule]]\nname = \"a\"\nkind = \"test.ping\"\ncron = \"0 3 * * *\"\ntime_zone = \"Europe/Berlin\"\n";

#[tokio::test]
async fn a_schedule_is_listed_paused_resumed_triggered_and_its_fires_are_shown() {
    let pool = database().await;
    declare(&pool, FILE).await;
    let state = async || admin::list(&pool, 100).await.unwrap()[0].state;
    assert_eq!(state().await, "active");
    assert_eq!(admin::next(&pool, &catalog(), "a", None, 5).await.unwrap().len(), 5);

    admin::set_paused(&pool, &catalog(), "a", None, true).await.unwrap();
    assert_eq!(state().await, "paused");
    neglect(&pool, 5 * 24 * 3600).await;
    assert!(fire(&pool).await.is_empty());
    admin::set_paused(&pool, &catalog(), "a", None, false).await.unwrap();
    assert!(fire(&pool).await.is_empty(), "what fell into the pause is not made up for");
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule WHERE next_fire_at > now()").await, 1);

    let jobs = admin::trigger(&pool, &catalog(), "a", None).await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM schedule_fire").await, 0, "a trigger is no fire time");

    neglect(&pool, 24 * 3600).await;
    fire(&pool).await;
    let fires = admin::history(&pool, "a", None, 10).await.unwrap();
    assert!(!fires.is_empty() && fires[0].times >= 1, "{fires:?}");
    let unknown = admin::history(&pool, "b", None, 10).await.unwrap_err().to_string();
    assert!(unknown.contains("\"b\"") && unknown.contains("windrow schedules list"), "{unknown}");
    assert_eq!(admin::list(&pool, 100).await.unwrap()[0].kind, Ping::KIND.as_str());
}
