//! R21: what Redis remembers for the comparison with the journal.

use uuid::Uuid;
use windrow_queue::{
    Due,
    store::{Begun, Pulse},
};

use crate::support::*;

#[tokio::test]
async fn a_beat_is_raised_only_by_who_knows_what_stands() {
    let rig = Rig::new().await;
    let (token, epoch) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let nothing = rig.store.beat(&rig.queue, None, 0).await.unwrap();
    let run_id = nothing.run_id.clone();
    assert!(run_id.len() == 40, "{run_id}");
    assert_eq!(nothing, Pulse { epoch: None, beat: 0, timeline: None, run_id: run_id.clone() });

    assert_eq!(rig.store.end_heal(&rig.queue, token, epoch, 5, "0A").await.unwrap(), None, "no pass was begun");
    rig.store.begin_heal(&rig.queue, token).await.unwrap();
    let other = Uuid::from_u128(3);
    assert_eq!(rig.store.end_heal(&rig.queue, other, epoch, 5, "0A").await.unwrap(), None, "not this one");
    let ended = rig.store.end_heal(&rig.queue, token, epoch, 5, "0A").await.unwrap();
    assert_eq!(ended, Some(Begun { beat: 6, run_id: run_id.clone() }));
    assert_eq!(rig.store.end_heal(&rig.queue, token, other, 5, "0A").await.unwrap(), None, "it ends once");

    let stands = |beat| Pulse { epoch: Some(epoch), beat, timeline: Some("0A".to_owned()), run_id: run_id.clone() };
    assert_eq!(rig.store.beat(&rig.queue, Some(other), 6).await.unwrap(), stands(6));
    assert_eq!(rig.store.beat(&rig.queue, None, 6).await.unwrap(), stands(6));
    assert_eq!(rig.store.beat(&rig.queue, Some(epoch), 5).await.unwrap(), stands(6));
    assert_eq!(rig.store.beat(&rig.queue, Some(epoch), 6).await.unwrap(), stands(7));
    assert_eq!(rig.store.beat(&rig.queue, Some(epoch), 6).await.unwrap(), stands(7), "the answer was lost");
    assert_eq!(rig.store.beat(&rig.queue, Some(epoch), 7).await.unwrap(), stands(8));

    // Redis was ahead: beats go on above both.
    rig.store.begin_heal(&rig.queue, token).await.unwrap();
    let ended = rig.store.end_heal(&rig.queue, token, other, 2, "").await.unwrap();
    assert_eq!(ended.map(|begun| begun.beat), Some(9));
    assert_eq!(rig.store.beat(&rig.queue, Some(other), 0).await.unwrap().timeline, None);
    rig.audit().await;
}

#[tokio::test]
async fn scheduled_journaled_jobs_are_named_page_by_page() {
    let rig = Rig::new().await;
    let mut expected = Vec::new();
    for chunk in 0..3 {
        let mut jobs: Vec<_> = (0..400).map(|_| rig.relay_job()).collect();
        for job in &mut jobs {
            job.due = Due::In(std::time::Duration::from_secs(60 + chunk));
        }
        rig.store.relay(&rig.queue, &jobs).await.unwrap();
        expected.extend(jobs.into_iter().map(|job| job.member));
    }
    rig.relay_many(3).await;
    rig.store.enqueue(&[rig.job(1).due(Due::In(std::time::Duration::from_secs(60)))]).await.unwrap();
    let (mut found, mut at, mut pages) = (Vec::new(), 0, 0);
    loop {
        let (members, next) = rig.store.scheduled_journaled(&rig.queue, at).await.unwrap();
        found.extend(members);
        pages += 1;
        at = next;
        if at == 0 {
            break;
        }
    }
    assert!(pages > 1);
    found.sort_by_key(|member| member.id);
    found.dedup();
    expected.sort_by_key(|member| member.id);
    assert_eq!(found, expected);
}
