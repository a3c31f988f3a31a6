//! Dead letters, statuses and counts.

use windrow_queue::{
    Enqueued, JobId, Member,
    store::{DeadCursor, Finish, JobState},
};

use crate::support::*;

async fn kill(
    rig: &Rig,
    count: usize,
    tune: impl Fn(usize, windrow_queue::NewJob) -> windrow_queue::NewJob,
) -> Vec<JobId> {
    let jobs: Vec<_> = (0..count).map(|n| tune(n, rig.job(n))).collect();
    rig.put(&jobs).await;
    let mut worker = rig.worker().await;
    for claim in worker.claim(count).await {
        rig.advance(1).await;
        worker.finish(&[outcome(&claim, Finish::Bury { error: error(1, "it cannot be done") })]).await;
    }
    jobs.iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn a_dead_job_keeps_all_that_is_needed_to_understand_it() {
    let rig = Rig::new().await;
    let job = rig.job(7).tenant(tenant("acme"));
    rig.put(std::slice::from_ref(&job)).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&claim, retry(1, 0))]).await;
    let claim = worker.claim(1).await.pop().unwrap();
    rig.advance(500).await;
    worker.finish(&[outcome(&claim, Finish::Bury { error: error(2, "enough\nof it") })]).await;
    let dead = rig.store.dead(&rig.queue, None, 10).await.unwrap().pop().unwrap();
    assert_eq!((dead.id, dead.kind.as_str(), dead.attempt), (job.id, "test.run", 2));
    assert_eq!(dead.tenant, job.tenant);
    assert_eq!(dead.args.as_ref().unwrap().get(), r#"{"n":7}"#);
    assert_eq!(dead.died_at.unwrap().timestamp_millis().unsigned_abs(), START + 500);
    assert_eq!(dead.enqueued_at.unwrap().timestamp_millis().unsigned_abs(), START);
    let messages: Vec<_> = dead.errors.iter().map(|error| (error.attempt, &*error.message)).collect();
    assert_eq!(messages, [(1, "it failed"), (2, "enough\nof it")]);
    let status = rig.store.status(&rig.queue, Member::fast(job.id)).await.unwrap().unwrap();
    assert_eq!((status.state, status.attempt, status.errors), (JobState::Dead, 2, dead.errors));
    let snapshot = rig.audit().await;
    assert!(snapshot.mutable.is_empty());
}

#[tokio::test]
async fn the_dead_are_listed_newest_first_page_by_page() {
    let rig = Rig::new().await;
    let ids = kill(&rig, 7, |_, job| job).await;
    let mut listed = Vec::new();
    for skip in [0, 3, 6, 9] {
        let page = rig.store.dead(&rig.queue, Some(DeadCursor { skip }), 3).await.unwrap();
        listed.extend(page.iter().map(|dead| dead.id));
    }
    assert_eq!(listed, ids.into_iter().rev().collect::<Vec<_>>());
    assert!(rig.store.dead(&rig.queue, None, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_redriven_job_is_ready_once_under_a_new_id() {
    let rig = Rig::new().await;
    let ids = kill(&rig, 2, |n, job| job.unique(&n.to_string())).await;
    let new = rig.store.redrive(&rig.queue, ids[0]).await.unwrap().unwrap().id();
    assert_ne!(new, ids[0]);
    assert_eq!(rig.store.redrive(&rig.queue, ids[0]).await.unwrap(), None);
    assert_eq!(rig.audit().await.tokens, 1);
    let claim = rig.worker().await.claim(5).await.pop().unwrap();
    assert_eq!((claim.member, claim.attempt), (Member::fast(new), 0));
    assert_eq!(claim.ready_at.timestamp_millis().unsigned_abs(), rig.now());
    assert_eq!(rig.store.dead(&rig.queue, None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_redrive_respects_the_unique_key() {
    let rig = Rig::new().await;
    let old = kill(&rig, 1, |_, job| job.unique("k")).await[0];
    let standing = rig.job(5).unique("k");
    rig.put(std::slice::from_ref(&standing)).await;
    assert_eq!(rig.store.redrive(&rig.queue, old).await.unwrap(), Some(Enqueued::Exists(standing.id)));
    assert_eq!(rig.audit().await.dead.len(), 1, "it stays dead");
    rig.worker().await.drain().await;
    let new = rig.store.redrive(&rig.queue, old).await.unwrap().unwrap().id();
    let later = rig.job(6).unique("k");
    assert_eq!(rig.store.enqueue(&[later]).await.unwrap(), [Ok(Enqueued::Exists(new))], "it holds its key again");
    rig.audit().await;
}

#[tokio::test]
async fn a_discarded_job_is_gone_for_good() {
    let rig = Rig::new().await;
    let id = kill(&rig, 1, |_, job| job).await[0];
    assert!(rig.store.discard(&rig.queue, id).await.unwrap());
    assert!(!rig.store.discard(&rig.queue, id).await.unwrap());
    assert_eq!(rig.store.redrive(&rig.queue, id).await.unwrap(), None);
    assert!(rig.store.status(&rig.queue, Member::fast(id)).await.unwrap().is_none());
    assert!(rig.audit().await.dead.is_empty());
}

#[tokio::test]
async fn the_dead_beyond_the_cap_are_dropped_oldest_first_and_counted() {
    let rig = Rig::with(|config| config.max_dead = 3).await;
    let ids = kill(&rig, 8, |_, job| job).await;
    let listed: Vec<_> = rig.store.dead(&rig.queue, None, 10).await.unwrap().iter().map(|dead| dead.id).collect();
    assert_eq!(listed, [ids[7], ids[6], ids[5]]);
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().dead_dropped, 5);
    rig.audit().await;
}

#[tokio::test]
async fn a_status_follows_the_job() {
    let rig = Rig::new().await;
    let mut job = rig.job(1);
    job.due = due_in(10);
    let member = Member::fast(job.id);
    let state = async || rig.store.status(&rig.queue, member).await.unwrap().map(|status| status.state);
    assert_eq!(state().await, None);
    rig.put(&[job]).await;
    assert_eq!(state().await, Some(JobState::Scheduled));
    rig.advance(10).await;
    rig.tick().await;
    assert_eq!(state().await, Some(JobState::Ready));
    let mut worker = rig.worker().await;
    let claims = worker.claim(1).await;
    assert_eq!(state().await, Some(JobState::Running));
    worker.complete(&claims).await;
    assert_eq!(state().await, None);
    let journaled = rig.relay_many(1).await[0];
    let status = rig.store.status(&rig.queue, journaled).await.unwrap().unwrap();
    assert_eq!((status.state, status.args.is_none()), (JobState::Ready, true));
    let exist = rig.store.exists(&rig.queue, &[member, journaled]).await.unwrap();
    assert_eq!(exist, [false, true]);
}

#[tokio::test]
async fn the_age_of_the_oldest_ready_job_is_known() {
    let rig = Rig::new().await;
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().oldest_ready, None);
    rig.put_many(1).await;
    rig.advance(2500).await;
    rig.put(&[rig.job(1).tenant(tenant("other"))]).await;
    rig.advance(500).await;
    let oldest = rig.store.counts(&rig.queue).await.unwrap().oldest_ready;
    assert_eq!(oldest, Some(std::time::Duration::from_secs(3)));
}
