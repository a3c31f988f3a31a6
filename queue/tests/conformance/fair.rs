//! finish_claim: shares of tenants, and cancelled jobs in the way.

use std::collections::BTreeMap;

use windrow_queue::{
    Kind, Member, NewJob,
    store::{Cancelled, Claim},
};

use crate::support::*;

fn tenant_of(claim: &Claim) -> String {
    claim.envelope.as_ref().unwrap().lane.tenant.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn of_tenant(rig: &Rig, name: &str, count: usize) -> Vec<NewJob> {
    rig.jobs(count).into_iter().map(|job| job.tenant(tenant(name))).collect()
}

async fn put_all(rig: &Rig, jobs: &[NewJob]) {
    for chunk in jobs.chunks(500) {
        rig.put(chunk).await;
    }
}

#[tokio::test]
async fn a_tenant_with_very_many_jobs_delays_another_ones_single_job_by_one_round() {
    let rig = Rig::new().await;
    put_all(&rig, &of_tenant(&rig, "rich", 20_000)).await;
    let mut worker = rig.worker().await;
    for want in [1, 10, 50] {
        worker.claim(want).await;
        let single = rig.put(&of_tenant(&rig, "poor", 1)).await[0];
        let mut before = 0;
        loop {
            let claims = worker.claim(want).await;
            assert_eq!(claims.len(), want);
            if let Some(at) = claims.iter().position(|claim| claim.member == single) {
                before += at;
                break;
            }
            before += want;
            assert!(before < 10_000, "it never has its turn");
        }
        assert!(before <= 32 + want, "{before} jobs of the other went before, claiming {want} at a time");
        rig.audit().await;
    }
}

#[tokio::test]
async fn a_tenant_has_no_larger_share_for_having_many_kinds() {
    let rig = Rig::new().await;
    let mut jobs = Vec::new();
    for n in 0..16 {
        for mut job in of_tenant(&rig, "many", 400) {
            job.kind = Kind::new(format!("test.kind{n}")).unwrap();
            jobs.push(job);
        }
    }
    jobs.extend(of_tenant(&rig, "one", 4000));
    put_all(&rig, &jobs).await;
    for want in [40, 1] {
        let mut worker = rig.worker().await;
        let mut shares: BTreeMap<String, i32> = BTreeMap::new();
        for _ in 0..2000 / want {
            for claim in worker.claim(want).await {
                *shares.entry(tenant_of(&claim)).or_default() += 1;
            }
        }
        let difference = (shares["one"] - shares["many"]).abs();
        assert!(difference <= 80, "{shares:?} of 2000, claiming {want} at a time");
        rig.audit().await;
    }
}

#[tokio::test]
async fn tenants_with_equal_needs_have_equal_shares() {
    let rig = Rig::new().await;
    let mut jobs = Vec::new();
    for n in 0..10 {
        jobs.extend(of_tenant(&rig, &format!("t{n}"), 500));
    }
    put_all(&rig, &jobs).await;
    let mut workers = [rig.worker().await, rig.worker().await];
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..100 {
        for claim in workers[round % 2].claim(32).await {
            *shares.entry(tenant_of(&claim)).or_default() += 1;
        }
    }
    assert!(shares.values().all(|share| (288..=352).contains(share)), "{shares:?} of 3200");
    rig.audit().await;
}

#[tokio::test]
async fn a_hundred_thousand_cancelled_jobs_are_passed_over_in_bounded_steps() {
    let rig = Rig::new().await;
    let mut members: Vec<Member> = Vec::new();
    for name in ["a", "b"] {
        for chunk in of_tenant(&rig, name, 50_000).chunks(500) {
            members.extend(rig.put(chunk).await);
        }
    }
    let answers = rig.store.cancel(&rig.queue, &members).await.unwrap();
    assert!(answers.iter().all(|&answer| answer == Cancelled::Done));
    let counts = rig.store.counts(&rig.queue).await.unwrap();
    assert_eq!((counts.ready, counts.scheduled, counts.running), (0, 0, 0));
    let single = rig.put(&of_tenant(&rig, "c", 1)).await[0];
    let mut worker = rig.worker().await;
    let (mut requests, mut found) = (0, None);
    let mut left = 100_000u64;
    while left > 0 {
        requests += 1;
        let reply = worker.serve(10, &[]).await;
        if reply.claims.iter().any(|claim| claim.member == single) {
            found = Some(requests);
        }
        let now: u64 = rig.raw(redis::cmd("HLEN").arg(rig.key("tomb"))).await;
        assert!(left - now <= 2000, "one request passed over {}", left - now);
        assert!(now < left, "it makes headway");
        assert!(reply.more || now == 0, "it asks for more while there is some");
        left = now;
    }
    assert!(found.unwrap() <= 3, "others need not wait for it: {found:?}");
    rig.audit().await;
}
