//! The short way in: whatever it takes stands as if it had come the long way, and whatever needs a closer look it leaves alone.

use windrow_queue::{
    Band, Enqueued, Member, NewJob,
    metrics::QueueMetrics,
    store::{Config, Limit, Refused},
};

use crate::support::*;

/// A rig whose store has seen Redis' clock, and what it counts.
async fn rig(tune: impl FnOnce(&mut Config)) -> (Rig, QueueMetrics) {
    let rig = Rig::with(tune).await;
    let metrics = QueueMetrics::new(&prometheus::Registry::new());
    rig.store.observe(&metrics);
    rig.put_many(1).await;
    assert_eq!(ways(&metrics), (1, 1), "a clock that was never seen");
    (rig, metrics)
}

/// Calls of the short way and of the long one.
fn ways(metrics: &QueueMetrics) -> (u64, u64) {
    (calls_of(metrics, "ENQUEUE_PLAIN"), calls_of(metrics, "ENQUEUE"))
}

/// The short way changes nothing and the long one gives these answers.
async fn left_alone(
    (rig, metrics): &(Rig, QueueMetrics),
    jobs: &[NewJob],
    answers: &[Result<Enqueued, Refused>],
    why: &str,
) {
    let before = ways(metrics);
    assert_eq!(rig.store.enqueue(jobs).await.unwrap(), answers, "{why}");
    assert_eq!(ways(metrics), (before.0 + 1, before.1 + 1), "{why}");
    rig.audit().await;
}

fn all_created(jobs: &[NewJob]) -> Vec<Result<Enqueued, Refused>> {
    jobs.iter().map(|job| Ok(Enqueued::Created(job.id))).collect()
}

#[tokio::test]
async fn jobs_of_many_lanes_go_in_by_one_call_each_lane_in_its_order() {
    let (rig, metrics) = rig(|_| {}).await;
    let lanes = [(Band::High, Some("a")), (Band::Low, Some("a")), (Band::Normal, Some("b")), (Band::Normal, None)];
    let mut jobs = Vec::new();
    for (i, mut job) in rig.jobs(40).into_iter().enumerate() {
        let (band, of) = lanes[i % lanes.len()];
        job.band = band;
        jobs.push(if let Some(of) = of { job.tenant(tenant(of)) } else { job });
    }
    // The second time every lane is active already.
    for half in jobs.chunks(20) {
        assert_eq!(rig.store.enqueue(half).await.unwrap(), all_created(half));
        rig.audit().await;
    }
    assert_eq!(ways(&metrics), (3, 1));
    let mut worker = rig.worker().await;
    let claims = worker.claim(100).await;
    assert_eq!(claims.len(), 41);
    for (i, _) in lanes.iter().enumerate() {
        let of_lane: Vec<Member> = jobs.iter().skip(i).step_by(lanes.len()).map(|job| Member::fast(job.id)).collect();
        let claimed = claims.iter().map(|claim| claim.member).filter(|member| of_lane.contains(member));
        assert!(claimed.eq(of_lane.iter().copied()), "lane {i}");
    }
    worker.complete(&claims).await;
    rig.audit().await;
}

#[tokio::test]
async fn a_job_that_is_there_or_comes_twice_takes_the_long_way() {
    let rig = rig(|_| {}).await;
    let jobs = rig.0.jobs(3);
    rig.0.put(&jobs[..1]).await;
    let answers = [Ok(Enqueued::Created(jobs[1].id)), Ok(Enqueued::Exists(jobs[0].id))];
    left_alone(&rig, &[jobs[1].clone(), jobs[0].clone()], &answers, "one stands").await;
    rig.0.store.cancel(&rig.0.queue, &[Member::fast(jobs[0].id)]).await.unwrap();
    assert_eq!(rig.0.audit().await.tombstones.len(), 1);
    let answers = [Ok(Enqueued::Exists(jobs[0].id))];
    left_alone(&rig, &jobs[..1], &answers, "it was cancelled and stands in its lane").await;
    let others = rig.0.jobs(2);
    let before = ways(&rig.1);
    rig.0.put(&others).await;
    assert_eq!(ways(&rig.1), (before.0 + 1, before.1), "a tombstone holds up nobody else");
    let answers = [Ok(Enqueued::Exists(others[0].id))];
    left_alone(&rig, &others[..1], &answers, "one stands, beside the tombstone of another").await;
    let before = ways(&rig.1);
    // That a call has a job twice the producer sees for itself.
    let twice = [jobs[2].clone(), jobs[2].clone()];
    let answers = [Ok(Enqueued::Created(jobs[2].id)), Ok(Enqueued::Exists(jobs[2].id))];
    assert_eq!(rig.0.store.enqueue(&twice).await.unwrap(), answers);
    assert_eq!(ways(&rig.1), (before.0, before.1 + 1));
    rig.0.audit().await;
}

#[tokio::test]
async fn caps_and_a_closed_gate_are_looked_at_job_by_job() {
    let full = |jobs: &[NewJob], refused: Refused| {
        let mut answers = all_created(jobs);
        *answers.last_mut().unwrap() = Err(refused);
        answers
    };
    let one = rig(|_| {}).await;
    // What a job without a tenant weighs.
    let bytes = one.0.audit().await.jobs.values().map(Vec::len).sum::<usize>() as u64;
    type Tune = fn(&mut Config, u64);
    let caps: [(&str, Tune, Refused); 4] = [
        ("jobs", |config, _| config.max_jobs = 3, Refused::QueueFull),
        ("bytes", |config, bytes| config.max_bytes = 4 * bytes - 1, Refused::QueueBytes),
        ("a tenant's jobs", |config, _| config.max_tenant_jobs = 2, Refused::TenantFull),
        ("a tenant's bytes", |config, bytes| config.max_tenant_bytes = 3 * (bytes + 1) - 1, Refused::TenantFull),
    ];
    for (what, tune, refused) in caps {
        let rig = rig(|config| tune(config, bytes)).await;
        let jobs: Vec<NewJob> = rig.0.jobs(3).into_iter().map(|job| job.tenant(tenant("t"))).collect();
        let before = ways(&rig.1);
        rig.0.put(&jobs[..1]).await;
        assert_eq!(ways(&rig.1), (before.0 + 1, before.1), "{what}: up to the cap");
        left_alone(&rig, &jobs[1..], &full(&jobs[1..], refused), what).await;
    }
    one.0.raw::<()>(redis::cmd("HSET").arg(one.0.key("meta")).arg("gate").arg(1)).await;
    left_alone(&one, &one.0.jobs(1), &[Err(Refused::MemoryGate)], "a closed gate").await;
}

#[tokio::test]
async fn what_is_left_of_cancelled_jobs_takes_room() {
    let rig = rig(|config| config.max_jobs = 20).await;
    let members = rig.0.put_many(8).await;
    rig.0.store.cancel(&rig.0.queue, &members).await.unwrap();
    let jobs = rig.0.jobs(19);
    let before = ways(&rig.1);
    rig.0.put(&jobs[..18]).await;
    assert_eq!(ways(&rig.1), (before.0 + 1, before.1), "one that stands, one for eight tombstones, and these");
    left_alone(&rig, &jobs[18..], &[Err(Refused::QueueFull)], "the queue is full").await;
}

#[tokio::test]
async fn jobs_of_nobody_know_no_cap_of_a_tenant() {
    let (rig, metrics) = rig(|config| (config.max_tenant_jobs, config.max_tenant_bytes) = (1, 1)).await;
    let before = ways(&metrics);
    rig.put_many(5).await;
    assert_eq!(ways(&metrics), (before.0 + 1, before.1));
    rig.audit().await;
}

#[tokio::test]
async fn a_clock_that_jumped_is_read_again() {
    let rig = rig(|_| {}).await;
    let ready = async |job: &NewJob| {
        let status = rig.0.store.status(&rig.0.queue, Member::fast(job.id)).await.unwrap().unwrap();
        (status.enqueued_at.unwrap().timestamp_millis(), status.ready_at.unwrap().timestamp_millis())
    };
    let jobs = rig.0.jobs(5);
    rig.0.advance(1000).await;
    let before = ways(&rig.1);
    rig.0.put(&jobs[..1]).await;
    assert_eq!(ways(&rig.1), (before.0 + 1, before.1), "a second behind is near enough");
    let start = i64::try_from(START).unwrap();
    assert_eq!(ready(&jobs[0]).await, (start, start));
    for (job, step) in jobs[1..].chunks(2).zip([1001_i64, -1]) {
        rig.0.set_clock(rig.0.now().checked_add_signed(step).unwrap()).await;
        let now = i64::try_from(rig.0.now()).unwrap();
        left_alone(&rig, &job[..1], &all_created(&job[..1]), "it jumped").await;
        assert_eq!(ready(&job[0]).await, (now, now));
        let before = ways(&rig.1);
        rig.0.put(&job[1..]).await;
        assert_eq!(ways(&rig.1), (before.0 + 1, before.1), "and was read");
        assert_eq!(ready(&job[1]).await, (now, now));
    }
}

#[tokio::test]
async fn who_waits_for_a_limit_or_is_paused_wakes_nobody() {
    let (rig, metrics) = rig(|_| {}).await;
    let mut worker = rig.worker().await;
    let limit = Limit { concurrency: Some(1), rate: None };
    rig.store.set_limit(&rig.queue, &"tenant=t".parse().unwrap(), &limit).await.unwrap();
    let jobs: Vec<NewJob> = rig.jobs(3).into_iter().map(|job| job.tenant(tenant("t"))).collect();
    rig.put(&jobs[..2]).await;
    assert_eq!(worker.claim(5).await.len(), 2, "of one tenant one, and the job of nobody");
    rig.raw::<()>(redis::cmd("DEL").arg(rig.key("wake"))).await;
    let before = ways(&metrics);
    rig.put(&jobs[2..]).await;
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.tokens, snapshot.waiting.len()), (0, 1), "its lane waits already");
    rig.store.pause(&rig.queue, &"queue".parse().unwrap()).await.unwrap();
    rig.put_many(1).await;
    assert_eq!(rig.audit().await.tokens, 0, "the queue is paused");
    assert_eq!(ways(&metrics), (before.0 + 2, before.1));
}
