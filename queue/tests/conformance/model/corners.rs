//! What histories of a few jobs rarely come to: many lanes at once, and rules that meet.

use std::time::Duration;

use uuid::Uuid;
use windrow_queue::{
    BatchId, JobId, Member, NewJob, OnConflict, UniqueScope,
    store::{Applied, Cancelled, Claim, Finish, Limit, NewBatch, Rate, Reply, Scope, Session, SessionId},
};

use crate::support::*;

fn at_once(concurrency: u32) -> Limit {
    Limit { concurrency: Some(concurrency), rate: None }
}

/// One job for each of so many tenants, each a lane of its own.
fn of_tenants(rig: &Rig, count: usize) -> Vec<NewJob> {
    let mut jobs = rig.jobs(count);
    for (n, job) in jobs.iter_mut().enumerate() {
        job.tenant = Some(tenant(&format!("t{n}")));
    }
    jobs
}

async fn limit(rig: &Rig, scope: &str, limit: Limit) {
    rig.store.set_limit(&rig.queue, &scope.parse().unwrap(), &limit).await.unwrap();
}

/// Claims until it is told that there is no more.
async fn hungry(worker: &mut Worker, want: usize) -> Vec<Claim> {
    let mut claims = Vec::new();
    for _ in 0..100 {
        let reply = worker.serve(want, &[]).await;
        let is_over = reply.claims.is_empty() && !reply.more;
        claims.extend(reply.claims);
        if is_over {
            return claims;
        }
    }
    panic!("a claim is told to ask again for ever");
}

#[tokio::test]
async fn a_rate_is_used_up_to_the_last_by_lanes_of_one_job_each() {
    for scope in ["queue", "kind=test.run"] {
        used_up_to_the_last(scope).await;
    }
}

async fn used_up_to_the_last(scope: &str) {
    let rig = Rig::new().await;
    let rate = Rate { count: 2, per: Duration::from_secs(1), burst: Some(2) };
    limit(&rig, scope, Limit { concurrency: None, rate: Some(rate) }).await;
    rig.put(&of_tenants(&rig, 20)).await;
    let mut worker = rig.worker().await;
    let mut started = Vec::new();
    for _ in 0..12 {
        rig.tick().await;
        let claims = hungry(&mut worker, 10).await;
        worker.complete(&claims).await;
        started.push(claims.len());
        rig.advance(1000).await;
        assert!(matches!(worker.session.heartbeat().await.unwrap(), Reply::Ok(_)));
    }
    assert_eq!(started, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0]);
    rig.audit().await;
}

#[tokio::test]
async fn a_slot_is_passed_on_over_lanes_whose_jobs_were_cancelled() {
    let rig = Rig::new().await;
    limit(&rig, "kind=test.run", at_once(1)).await;
    let members = rig.put(&of_tenants(&rig, 40)).await;
    let mut worker = rig.worker().await;
    let first = worker.claim(40).await.pop().unwrap();
    assert!(hungry(&mut worker, 40).await.is_empty());
    assert_eq!(rig.audit().await.waiting.len(), 39);
    let others: Vec<Member> = members.iter().copied().filter(|member| *member != first.member).collect();
    let (last, cancelled) = others.split_last().unwrap();
    let answers = rig.store.cancel(&rig.queue, cancelled).await.unwrap();
    assert_eq!(answers, [Cancelled::Done; 38]);
    worker.complete(&[first]).await;
    let next = hungry(&mut worker, 1).await;
    assert_eq!(next.iter().map(|claim| claim.member).collect::<Vec<_>>(), [*last], "nobody waits for a later look");
    worker.complete(&next).await;
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn suspects_that_a_pause_holds_back_do_not_hide_the_others() {
    let rig = Rig::new().await;
    let jobs = of_tenants(&rig, 40);
    let members = rig.put(&jobs).await;
    // Two sessions that run them are lost.
    for _ in 0..2 {
        assert_eq!(rig.worker().await.claim(40).await.len(), 40);
        rig.lapse(&[]).await;
    }
    let order: Vec<Vec<u8>> = rig.raw(redis::cmd("LRANGE").arg(rig.key("suspect")).arg(0).arg(-1)).await;
    assert_eq!(order.len(), 40);
    for (job, member) in jobs.iter().zip(&members) {
        if order[39] != member.to_bytes() {
            let scope = Scope::Tenant(job.tenant.clone().unwrap());
            rig.store.pause(&rig.queue, &scope).await.unwrap();
        }
    }
    let mut worker = rig.worker().await;
    let mut found = Vec::new();
    // Each tick wakes somebody, who looks at sixteen.
    for _ in 0..3 {
        rig.tick().await;
        found.extend(worker.claim_members(1).await);
        rig.audit().await;
    }
    assert_eq!(found.iter().map(|member| member.to_bytes()).collect::<Vec<_>>(), order[39..]);
}

#[tokio::test]
async fn a_thousand_lanes_under_every_sort_of_limit_are_claimed_finished_and_lost_in_one_go() {
    let rig = Rig::new().await;
    for scope in ["queue", "kind=test.run", "tenant=*", "kind=test.run,tenant=*"] {
        let rate = Rate { count: 1_000_000, per: Duration::from_secs(1), burst: Some(1_000_000) };
        limit(&rig, scope, Limit { concurrency: Some(1000), rate: Some(rate) }).await;
    }
    let mut jobs = of_tenants(&rig, 1000);
    for (n, job) in jobs.iter_mut().enumerate() {
        *job = job.clone().unique_for(&n.to_string(), UniqueScope::UntilFinal, OnConflict::Replace);
        let batch = BatchId(Uuid::from_u128(n as u128));
        let mut follow_up = rig.job(n);
        follow_up.id = JobId::new();
        rig.store.open_batch(&NewBatch { id: batch, follow_up }).await.unwrap().unwrap();
        job.batch = Some(batch);
    }
    rig.put(&jobs).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(1000).await;
    assert_eq!(claims.len(), 1000);
    rig.audit().await;
    let ends: Vec<Applied> = claims
        .iter()
        .enumerate()
        .map(|(n, claim)| {
            let park = Finish::Park { delay: Duration::from_secs(1) };
            let end = [complete(), retry(1, 0), Finish::Release, park, Finish::Bury { error: error(1, "no") }];
            outcome(claim, end.into_iter().nth(n % 5).unwrap())
        })
        .collect();
    for part in ends.chunks(500) {
        worker.finish(part).await;
        rig.audit().await;
    }
    for n in 0..1000_u128 {
        assert!(rig.store.seal_batch(&rig.queue, BatchId(Uuid::from_u128(n))).await.unwrap());
    }
    let fired = rig.audit().await;
    assert_eq!(fired.jobs.len(), 600 + 400, "the rest, and what follows on those that are over");
    let lost = worker.claim(1000).await.len();
    assert_eq!(lost, 800, "all but those that are parked");
    let moved = rig.lapse(&[]).await;
    assert_eq!(moved.rescued, 800);
    rig.audit().await;
    let mut last = rig.worker().await;
    rig.tick().await;
    let done = last.drain().await.len();
    assert_eq!(done, 1000 + 600, "each once, and the last follow-ups");
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_thousand_lanes_that_wait_come_in_when_their_limit_goes() {
    let rig = Rig::new().await;
    limit(&rig, "kind=test.run", at_once(1)).await;
    for part in of_tenants(&rig, 1000).chunks(500) {
        rig.put(part).await;
    }
    let mut worker = rig.worker().await;
    let first = hungry(&mut worker, 1000).await;
    assert_eq!(first.len(), 1);
    assert_eq!(rig.audit().await.waiting.len(), 999);
    assert!(rig.store.clear_limit(&rig.queue, &"kind=test.run".parse().unwrap()).await.unwrap());
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.waiting.len(), snapshot.counted.len(), snapshot.tokens), (0, 0, 1));
    assert_eq!(hungry(&mut worker, 1000).await.len(), 999);
    rig.audit().await;
}

#[tokio::test]
async fn a_job_that_was_cancelled_while_it_ran_is_cancelled_even_if_its_last_attempt_failed() {
    let rig = Rig::new().await;
    let members = rig.put_many(1).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!(rig.store.cancel(&rig.queue, &members).await.unwrap(), [Cancelled::Stopping]);
    worker.finish(&[outcome(&claim, Finish::Bury { error: error(20, "stopped") })]).await;
    let snapshot = rig.audit().await;
    assert!(snapshot.jobs.is_empty() && snapshot.dead.is_empty(), "nobody may bring it back");
}

#[tokio::test]
async fn what_a_replaced_job_weighs_more_counts_within_the_same_call() {
    let rig = Rig::with(|config| (config.max_bytes, config.max_tenant_bytes) = (700, 600)).await;
    let padded = |bytes: usize| {
        let mut job = rig.job(0).tenant(tenant("t")).unique_for("k", UniqueScope::UntilFinal, OnConflict::Replace);
        job.args = raw_args(format!("\"{}\"", "x".repeat(bytes)));
        job
    };
    rig.put(&[padded(10)]).await;
    let answers = rig.store.enqueue(&[padded(540), rig.job(1).tenant(tenant("t")), rig.job(2)]).await.unwrap();
    let taken: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, false, true], "{answers:?}");
    rig.audit().await;
}

#[tokio::test]
async fn a_retried_job_that_is_rescheduled_waits_from_its_new_time_on() {
    let rig = Rig::new().await;
    let job = || rig.job(0).unique_for("k", UniqueScope::UntilFinal, OnConflict::Reschedule);
    rig.put(&[job()]).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&claim, retry(1, 3_600_000))]).await;
    rig.store.enqueue(&[job().due(due_in(1000))]).await.unwrap()[0].unwrap();
    rig.advance(1000).await;
    assert!(matches!(worker.session.heartbeat().await.unwrap(), Reply::Ok(_)));
    rig.tick().await;
    let again = worker.claim(1).await.pop().unwrap();
    assert_eq!((again.attempt, u64::try_from(again.ready_at.timestamp_millis()).unwrap()), (1, rig.now()));
}

#[tokio::test]
async fn jobs_of_nobody_are_not_bounded_as_one_tenant() {
    let rig = Rig::with(|config| (config.max_tenant_jobs, config.max_tenant_bytes) = (2, 300)).await;
    rig.put_many(10).await;
    rig.audit().await;
}

#[tokio::test]
async fn more_than_one_page_of_a_lost_session_frees_its_slots_and_keys() {
    let rig = Rig::new().await;
    limit(&rig, "queue", at_once(900)).await;
    let mut jobs = rig.jobs(1000);
    for (n, job) in jobs.iter_mut().enumerate() {
        *job = job.clone().unique(&n.to_string());
    }
    for part in jobs.chunks(500) {
        rig.put(part).await;
    }
    let lost = Session::open(&rig.store, &rig.queue, SessionId::from_random(1), 1000, "lost").await.unwrap();
    let claimed = ok(lost.finish_claim(1, 0, 1000, PLENTY, true, &[]).await.unwrap()).claims.len();
    assert_eq!(claimed, 900);
    assert_eq!(rig.lapse(&[]).await.rescued, 900);
    let snapshot = rig.audit().await;
    assert!(snapshot.counted.is_empty());
    let mut worker = rig.worker().await;
    rig.tick().await;
    assert_eq!(worker.drain().await.len(), 1000);
}
