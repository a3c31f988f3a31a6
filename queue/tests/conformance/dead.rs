//! Dead letters: listing, redriving, discarding.

use std::time::Duration;

use windrow_queue::{
    BatchId, Enqueued, JobId, Member, NewJob,
    job::{OnConflict, UniqueScope},
    store::{Cursor, Filter, Finish, JobState, NewBatch, Redriven, Refused},
};

use crate::support::*;

/// Jobs that die one after the other, a millisecond apart. Answers their ids, the first dead first.
pub(crate) async fn kill(rig: &Rig, count: usize, tune: impl Fn(usize, NewJob) -> NewJob) -> Vec<JobId> {
    let jobs: Vec<_> = (0..count).map(|n| tune(n, rig.job(n))).collect();
    rig.put(&jobs).await;
    bury_all(rig, count).await;
    jobs.iter().map(|job| job.id).collect()
}

async fn bury_all(rig: &Rig, count: usize) {
    let mut worker = rig.worker().await;
    let mut left = count;
    while left > 0 {
        let claims = worker.claim(left).await;
        assert!(!claims.is_empty(), "{left} jobs cannot be claimed");
        left -= claims.len();
        for claim in claims {
            rig.advance(1).await;
            worker.finish(&[outcome(&claim, Finish::Bury { error: error(1, "it cannot be done") })]).await;
        }
    }
}

async fn all_dead(rig: &Rig) -> Vec<JobId> {
    let page = rig.store.dead(&rig.queue, &Filter::default(), None, 1000).await.unwrap();
    assert!(page.unreadable.is_empty() && page.next.is_none(), "{page:?}");
    page.items.iter().map(|dead| dead.id).collect()
}

async fn redrive(rig: &Rig, id: JobId) -> Redriven {
    rig.store.redrive(&rig.queue, &[id]).await.unwrap()[0]
}

async fn redriven(rig: &Rig, id: JobId) -> JobId {
    match redrive(rig, id).await {
        Redriven::As(new) => new,
        other => panic!("not redriven: {other:?}"),
    }
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
    let dead = rig.store.dead(&rig.queue, &Filter::default(), None, 10).await.unwrap().items.pop().unwrap();
    assert_eq!((dead.id, dead.kind.as_str(), dead.attempt), (job.id, "test.run", 2));
    assert_eq!(dead.tenant, job.tenant);
    assert_eq!(dead.died_at.unwrap().timestamp_millis().unsigned_abs(), START + 500);
    assert_eq!(dead.enqueued_at.unwrap().timestamp_millis().unsigned_abs(), START);
    let fatal = dead.error.as_ref().unwrap();
    assert_eq!((fatal.attempt, &*fatal.message), (2, "enough\nof it"));
    let status = rig.store.status(&rig.queue, Member::fast(job.id)).await.unwrap().unwrap();
    assert_eq!((status.state, status.attempt, status.died_at), (JobState::Dead, 2, dead.died_at));
    assert_eq!(status.args.as_ref().unwrap().get(), r#"{"n":7}"#);
    let messages: Vec<_> = status.errors.iter().map(|error| (error.attempt, &*error.message)).collect();
    assert_eq!(messages, [(1, "it failed"), (2, "enough\nof it")]);
    assert_eq!(dead.fingerprint(), windrow_queue::error::fingerprint(&dead.kind, "test", "enough of it"));
    let snapshot = rig.audit().await;
    assert!(snapshot.mutable.is_empty());
}

#[tokio::test]
async fn the_dead_are_listed_newest_first_page_by_page() {
    let rig = Rig::new().await;
    assert!(all_dead(&rig).await.is_empty());
    let ids = kill(&rig, 7, |_, job| job).await;
    let (mut listed, mut next, mut sizes): (Vec<JobId>, Option<Cursor>, Vec<usize>) = (Vec::new(), None, Vec::new());
    loop {
        let page = rig.store.dead(&rig.queue, &Filter::default(), next.as_ref(), 3).await.unwrap();
        listed.extend(page.items.iter().map(|dead| dead.id));
        sizes.push(page.items.len());
        let Some(cursor) = page.next else { break };
        next = Some(cursor.to_string().parse().unwrap());
    }
    assert_eq!((listed, sizes), (ids.into_iter().rev().collect::<Vec<_>>(), vec![3, 3, 1]));
}

#[tokio::test]
async fn a_page_of_the_dead_goes_on_behind_one_that_is_gone_and_does_not_see_new_deaths() {
    let rig = Rig::new().await;
    let ids = kill(&rig, 6, |_, job| job).await;
    let first = rig.store.dead(&rig.queue, &Filter::default(), None, 2).await.unwrap();
    assert_eq!(first.items.iter().map(|dead| dead.id).collect::<Vec<_>>(), [ids[5], ids[4]]);
    // The one on which the page ended, one that was seen, and one that was not.
    assert_eq!(rig.store.discard(&rig.queue, &[ids[4], ids[5], ids[2]]).await.unwrap(), [true; 3]);
    kill(&rig, 3, |_, job| job).await;
    let rest = rig.store.dead(&rig.queue, &Filter::default(), first.next.as_ref(), 10).await.unwrap();
    assert_eq!(rest.items.iter().map(|dead| dead.id).collect::<Vec<_>>(), [ids[3], ids[1], ids[0]]);
    assert_eq!(rest.next, None);
}

#[tokio::test]
async fn deaths_of_one_millisecond_are_told_apart_even_when_the_last_seen_is_gone() {
    let rig = Rig::new().await;
    let jobs = rig.jobs(40);
    rig.put(&jobs).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(40).await;
    let ends: Vec<_> = claims.iter().map(|claim| outcome(claim, Finish::Bury { error: error(1, "at once") })).collect();
    worker.finish(&ends).await;
    let expected = all_dead(&rig).await;
    let (mut listed, mut next): (Vec<JobId>, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = rig.store.dead(&rig.queue, &Filter::default(), next.as_ref(), 3).await.unwrap();
        listed.extend(page.items.iter().map(|dead| dead.id));
        let Some(cursor) = page.next else { break };
        rig.store.discard(&rig.queue, &[*listed.last().unwrap()]).await.unwrap();
        next = Some(cursor);
    }
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn the_dead_are_found_by_kind_tenant_and_time() {
    let rig = Rig::new().await;
    let whose = |n: usize| if n.is_multiple_of(3) { "acme" } else { "globex" };
    let ids = kill(&rig, 9, |n, job| job.tenant(tenant(whose(n)))).await;
    let list = async |filter: Filter| {
        let page = rig.store.dead(&rig.queue, &filter, None, 100).await.unwrap();
        let mut found: Vec<usize> =
            page.items.iter().map(|dead| ids.iter().position(|id| *id == dead.id).unwrap()).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(list(Filter { tenant: Some(tenant("acme")), ..Filter::default() }).await, [0, 3, 6]);
    assert_eq!(list(Filter { tenant: Some(tenant("nobody")), ..Filter::default() }).await, [0_usize; 0]);
    assert_eq!(
        list(Filter { kind: Some(windrow_queue::Kind::new("other.kind").unwrap()), ..Filter::default() }).await,
        [0_usize; 0]
    );
    let page = rig.store.dead(&rig.queue, &Filter::default(), None, 100).await.unwrap();
    let at = |n: usize| page.items.iter().find(|dead| dead.id == ids[n]).unwrap().died_at;
    let (since, until) = (at(2).min(at(5)), at(2).max(at(5)));
    let within = list(Filter { since, until, ..Filter::default() }).await;
    assert!(within.contains(&2) && within.contains(&5), "{within:?}");
    for n in 0..9 {
        assert_eq!(within.contains(&n), at(n) >= since && at(n) <= until, "{n}");
    }
}

#[tokio::test]
async fn a_dead_record_that_cannot_be_read_is_shown_as_such_and_stays() {
    let rig = Rig::new().await;
    let ids = kill(&rig, 3, |_, job| job).await;
    let member = Member::fast(ids[1]).to_bytes();
    for damage in [&b"nonsense"[..], b"\0\0\0\x01x\0\0\0\0\0\0\0\0\0\0\0\0", b"\xff\xff\xff\xff"] {
        rig.raw::<()>(redis::cmd("HSET").arg(rig.key("deadrec")).arg(&member).arg(damage)).await;
        let page = rig.store.dead(&rig.queue, &Filter::default(), None, 10).await.unwrap();
        assert_eq!(page.items.iter().map(|dead| dead.id).collect::<Vec<_>>(), [ids[2], ids[0]]);
        assert_eq!(page.unreadable.len(), 1);
        assert_eq!(page.unreadable[0].id, Some(ids[1]));
        assert!(page.unreadable[0].at.is_some());
        assert_eq!(redrive(&rig, ids[1]).await, Redriven::Unreadable);
    }
    assert_eq!(rig.audit().await.dead.len(), 3);
    assert_eq!(rig.store.discard(&rig.queue, &[ids[1]]).await.unwrap(), [true]);
}

#[tokio::test]
async fn a_redriven_job_is_ready_once_under_a_new_id() {
    let rig = Rig::new().await;
    let ids = kill(&rig, 2, |n, job| job.unique(&n.to_string())).await;
    let new = redriven(&rig, ids[0]).await;
    assert_ne!(new, ids[0]);
    assert_eq!(redrive(&rig, ids[0]).await, Redriven::NotDead);
    assert_eq!(rig.audit().await.tokens, 1);
    let claim = rig.worker().await.claim(5).await.pop().unwrap();
    assert_eq!((claim.member, claim.attempt), (Member::fast(new), 0));
    assert_eq!(claim.ready_at.timestamp_millis().unsigned_abs(), rig.now());
    assert_eq!(all_dead(&rig).await, [ids[1]]);
}

#[tokio::test]
async fn many_are_redriven_in_few_calls_and_each_once() {
    let rig = Rig::new().await;
    let ids = kill(&rig, 250, |n, job| job.tenant(tenant(&format!("t{}", n % 7)))).await;
    let asked: Vec<JobId> = ids.iter().chain(&ids[..5]).copied().chain([JobId::new()]).collect();
    let answers = rig.store.redrive(&rig.queue, &asked).await.unwrap();
    assert_eq!(answers.len(), 256);
    assert!(answers[..250].iter().all(|answer| matches!(answer, Redriven::As(_))), "{answers:?}");
    assert_eq!(answers[250..], [Redriven::NotDead; 6]);
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.jobs.len(), snapshot.dead.len()), (250, 0));
    assert_eq!(rig.worker().await.drain().await.len(), 250);
    assert!(rig.store.redrive(&rig.queue, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_redrive_reads_a_bounded_part_of_large_records_at_a_time() {
    let rig = Rig::new().await;
    let text = "x".repeat(200_000);
    let ids = kill(&rig, 60, |_, mut job| {
        job.args = raw_args(format!("\"{text}\""));
        job
    })
    .await;
    let answers = rig.store.redrive(&rig.queue, &ids).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Redriven::As(_))));
    let page =
        rig.store.list(&rig.queue, windrow_queue::store::Standing::Ready, &Filter::default(), None, 100).await.unwrap();
    assert_eq!(page.items.len(), 60, "a page reads on over several calls");
    rig.audit().await;
}

#[tokio::test]
async fn a_redrive_respects_the_unique_key() {
    let rig = Rig::new().await;
    let old = kill(&rig, 1, |_, job| job.unique("k")).await[0];
    let standing = rig.job(5).unique("k");
    rig.put(std::slice::from_ref(&standing)).await;
    assert_eq!(redrive(&rig, old).await, Redriven::Stands(standing.id));
    assert_eq!(rig.audit().await.dead.len(), 1, "it stays dead");
    // While it runs, too.
    let mut worker = rig.worker().await;
    let claims = worker.claim(1).await;
    assert_eq!(redrive(&rig, old).await, Redriven::Stands(standing.id));
    worker.complete(&claims).await;
    let new = redriven(&rig, old).await;
    let later = rig.job(6).unique("k");
    assert_eq!(rig.store.enqueue(&[later]).await.unwrap(), [Ok(Enqueued::Exists(new))], "it holds its key again");
    rig.audit().await;
}

#[tokio::test]
async fn of_two_dead_jobs_with_one_unique_key_one_is_redriven() {
    let rig = Rig::new().await;
    let first = kill(&rig, 1, |_, job| job.unique("k")).await[0];
    let second = kill(&rig, 1, |_, job| job.unique("k")).await[0];
    let answers = rig.store.redrive(&rig.queue, &[first, second]).await.unwrap();
    let [Redriven::As(new), Redriven::Stands(stands)] = answers[..] else { panic!("{answers:?}") };
    assert_eq!(new, stands);
    assert_eq!(all_dead(&rig).await, [second]);
    rig.audit().await;
}

#[tokio::test]
async fn a_key_that_holds_for_a_period_goes_on_to_the_redriven_job() {
    let rig = Rig::new().await;
    let scope = UniqueScope::Period(std::time::Duration::from_secs(3600));
    let old = kill(&rig, 1, |_, job| job.unique_for("k", scope, OnConflict::Ignore)).await[0];
    let asked = || rig.job(9).unique_for("k", scope, OnConflict::Ignore);
    assert_eq!(rig.store.enqueue(&[asked()]).await.unwrap(), [Ok(Enqueued::Exists(old))], "whatever becomes of it");
    let new = redriven(&rig, old).await;
    assert_eq!(rig.store.enqueue(&[asked()]).await.unwrap(), [Ok(Enqueued::Exists(new))]);
    rig.audit().await;
}

#[tokio::test]
async fn a_redriven_job_is_in_no_batch_any_more() {
    let rig = Rig::new().await;
    let (batch, follow_up) = (BatchId(JobId::new().0), rig.job(99));
    rig.store.open_batch(&NewBatch { id: batch, follow_up: follow_up.clone() }).await.unwrap().unwrap();
    let ids = kill(&rig, 1, |_, job| job.unique("k").batch(batch)).await;
    let new = redriven(&rig, ids[0]).await;
    let status = rig.store.status(&rig.queue, Member::fast(new)).await.unwrap().unwrap();
    assert_eq!((status.batch, status.args.unwrap().get()), (None, r#"{"n":0}"#));
    assert!(rig.store.seal_batch(&rig.queue, batch).await.unwrap());
    let counted = async || {
        let status = rig.store.batch(&rig.queue, batch).await.unwrap().unwrap();
        (status.members, status.completed, status.dead)
    };
    assert_eq!(counted().await, (1, 0, 1));
    let done = rig.worker().await.drain().await;
    assert_eq!(done.len(), 2, "the job, and what followed the batch");
    assert_eq!(counted().await, (1, 0, 1), "it was counted when it died");
    rig.audit().await;
}

#[tokio::test]
async fn a_redrive_is_refused_where_a_new_job_would_be() {
    let rig = Rig::with(|config| {
        (config.max_jobs, config.max_tenant_jobs) = (3, 2);
    })
    .await;
    let mut ids = kill(&rig, 2, |_, job| job.tenant(tenant("acme"))).await;
    ids.extend(kill(&rig, 1, |_, job| job.tenant(tenant("acme"))).await);
    ids.extend(kill(&rig, 2, |_, job| job).await);
    let answers = rig.store.redrive(&rig.queue, &ids).await.unwrap();
    assert!(matches!(answers[..2], [Redriven::As(_), Redriven::As(_)]), "{answers:?}");
    assert_eq!(answers[2], Redriven::Refused(Refused::TenantFull));
    assert!(matches!(answers[3], Redriven::As(_)), "{answers:?}");
    assert_eq!(answers[4], Redriven::Refused(Refused::QueueFull));
    rig.raw::<()>(redis::cmd("HSET").arg(rig.key("meta")).arg("gate").arg(1)).await;
    assert_eq!(redrive(&rig, ids[4]).await, Redriven::Refused(Refused::MemoryGate));
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.jobs.len(), snapshot.dead.len()), (3, 2));

    let rig = Rig::with(|config| config.max_bytes = 60).await;
    let id = kill(&rig, 1, |_, job| job).await[0];
    rig.put_many(1).await;
    assert_eq!(redrive(&rig, id).await, Redriven::Refused(Refused::QueueBytes));
    rig.audit().await;
}

#[tokio::test]
async fn a_discarded_job_is_gone_for_good() {
    let rig = Rig::new().await;
    let id = kill(&rig, 1, |_, job| job).await[0];
    let other = JobId::new();
    assert_eq!(rig.store.discard(&rig.queue, &[id, other, id]).await.unwrap(), [true, false, false]);
    assert_eq!(rig.store.discard(&rig.queue, &[id]).await.unwrap(), [false]);
    assert!(rig.store.discard(&rig.queue, &[]).await.unwrap().is_empty());
    assert_eq!(redrive(&rig, id).await, Redriven::NotDead);
    assert!(rig.store.status(&rig.queue, Member::fast(id)).await.unwrap().is_none());
    assert!(rig.audit().await.dead.is_empty());
}

#[tokio::test]
async fn the_dead_beyond_the_cap_are_dropped_oldest_first_and_counted() {
    let rig = Rig::with(|config| config.max_dead = 3).await;
    let ids = kill(&rig, 8, |_, job| job).await;
    assert_eq!(all_dead(&rig).await, [ids[7], ids[6], ids[5]]);
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().dead_dropped, 5);
    rig.audit().await;
}

#[tokio::test]
async fn a_dead_job_goes_when_it_is_old_and_is_counted() {
    let rig = Rig::with(|config| config.max_dead_age = Duration::from_secs(60)).await;
    let mut worker = rig.worker().await;
    for dies_at in [0, 30_000] {
        rig.pass(dies_at, &[&worker]).await;
        rig.put_many(1).await;
        let claim = worker.claim(1).await.pop().unwrap();
        worker.finish(&[outcome(&claim, Finish::Bury { error: error(1, "no") })]).await;
    }
    let dead = async || rig.store.dead(&rig.queue, &Filter::default(), None, 10).await.unwrap().items.len();
    rig.tick().await;
    assert_eq!(dead().await, 2, "neither is old");
    rig.pass(30_000, &[&worker]).await;
    rig.tick().await;
    assert_eq!(dead().await, 1, "the first is a minute old");
    assert_eq!(rig.audit().await.meta["dead_trimmed"], "1");
}
