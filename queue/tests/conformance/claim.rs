//! finish_claim: claiming.

use windrow_queue::{
    Band, Kind,
    store::{Reply, Verdict},
};

use crate::support::*;

#[tokio::test]
async fn what_is_enqueued_is_claimed_in_order_and_completed_once() {
    let rig = Rig::new().await;
    let members = rig.put_many(5).await;
    rig.audit().await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(3).await;
    assert_eq!(claims.iter().map(|claim| claim.member).collect::<Vec<_>>(), members[..3]);
    assert_eq!(claims[0].envelope.as_ref().unwrap().args.as_ref().unwrap().get(), r#"{"n":0}"#);
    assert_eq!((claims[0].attempt, claims[0].rescues, claims[0].claim_no), (0, 0, 1));
    assert_eq!(claims[0].ready_at.timestamp_millis(), 1_700_000_000_000);
    assert_eq!(rig.audit().await.places.len(), 5);
    let outcomes: Vec<_> = claims.iter().map(|claim| outcome(claim, complete())).collect();
    let reply = worker.serve(10, &outcomes).await;
    assert_eq!(reply.verdicts, [Verdict::Applied; 3]);
    assert_eq!(reply.claims.iter().map(|claim| claim.member).collect::<Vec<_>>(), members[3..]);
    assert!(!reply.more);
    assert_eq!(worker.finish(&outcomes).await, [Verdict::Already; 3]);
    worker.complete(&reply.claims).await;
    assert_eq!(rig.audit().await.jobs.len(), 0);
}

#[tokio::test]
async fn an_empty_queue_gives_nothing_and_asks_for_nothing() {
    let rig = Rig::new().await;
    let mut worker = rig.worker().await;
    let reply = worker.serve(10, &[]).await;
    assert!(reply.claims.is_empty() && reply.verdicts.is_empty() && !reply.more);
    rig.audit().await;
}

#[tokio::test]
async fn journaled_and_fast_members_live_side_by_side() {
    let rig = Rig::new().await;
    let fast = rig.put_many(2).await;
    let journaled = rig.relay_many(2).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(10).await;
    assert_eq!(claims.iter().map(|claim| claim.member).collect::<Vec<_>>(), [fast, journaled].concat());
    assert!(claims[2].envelope.as_ref().unwrap().journaled && claims[2].envelope.as_ref().unwrap().args.is_none());
    worker.complete(&claims).await;
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn without_postgres_fast_jobs_are_found_behind_journaled_lanes() {
    let rig = Rig::new().await;
    rig.relay_many(3).await;
    let mut fast = rig.job(1);
    fast.kind = Kind::from_static("test.fast");
    let fast = rig.put(&[fast]).await;
    let mut worker = rig.worker().await;
    let claim = async |worker: &mut Worker| {
        let n = worker.next_n();
        let reply = ok(worker.session.finish_claim(n, worker.prev_n, 10, PLENTY, false, &[]).await.unwrap());
        worker.prev_n = n;
        reply
    };
    let reply = claim(&mut worker).await;
    assert_eq!(reply.claims.iter().map(|claim| claim.member).collect::<Vec<_>>(), fast);
    assert!(!reply.more, "what it may not have is no reason to ask again");
    let reply = claim(&mut worker).await;
    assert!(reply.claims.is_empty() && !reply.more);
    rig.audit().await;
    assert_eq!(worker.claim(10).await.len(), 3, "with Postgres back they are claimed");
}

#[tokio::test]
async fn without_postgres_a_journaled_suspect_does_not_hold_up_a_fast_one() {
    let rig = Rig::with(|config| config.rescue_limit = 5).await;
    let journaled = rig.relay_many(1).await;
    let fast = rig.put_many(1).await;
    for _ in 0..2 {
        let mut victim = rig.worker().await;
        assert_eq!(victim.claim(2).await.len(), 2);
        rig.lapse(&[]).await;
    }
    assert_eq!(rig.place(journaled[0]).await, Some(Place::Suspect));
    assert_eq!(rig.place(fast[0]).await, Some(Place::Suspect));
    let mut worker = rig.worker().await;
    let n = worker.next_n();
    let reply = ok(worker.session.finish_claim(n, 0, 10, PLENTY, false, &[]).await.unwrap());
    assert_eq!(reply.claims.iter().map(|claim| claim.member).collect::<Vec<_>>(), fast);
    rig.audit().await;
}

#[tokio::test]
async fn a_claim_is_bounded_in_number_and_in_bytes() {
    let rig = Rig::new().await;
    for _ in 0..3 {
        rig.put_many(500).await;
    }
    let mut worker = rig.worker().await;
    let reply = worker.serve(5000, &[]).await;
    assert_eq!(reply.claims.len(), 1000);
    assert!(reply.more);
    assert_eq!(worker.claim(5000).await.len(), 500);

    let mut large = rig.jobs(10);
    for job in &mut large {
        job.args = raw_args(format!("\"{}\"", "x".repeat(200 << 10)));
    }
    rig.put(&large).await;
    let n = worker.next_n();
    let reply = ok(worker.session.finish_claim(n, n - 1, 10, 500 << 10, true, &[]).await.unwrap());
    assert_eq!((reply.claims.len(), reply.more), (2, true));
    let n = worker.next_n();
    let reply = ok(worker.session.finish_claim(n, n - 1, 10, 1, true, &[]).await.unwrap());
    assert_eq!((reply.claims.len(), reply.more), (1, true), "one job always fits");
    rig.audit().await;
}

#[tokio::test]
async fn lanes_take_turns() {
    let rig = Rig::new().await;
    for (name, count) in [("rich", 400), ("poor", 40)] {
        let jobs: Vec<_> = (0..count).map(|n| rig.job(n).tenant(tenant(name))).collect();
        rig.put(&jobs).await;
    }
    let mut worker = rig.worker().await;
    let mut poor = 0;
    for _ in 0..8 {
        for claim in worker.claim(10).await {
            poor += usize::from(claim.envelope.unwrap().lane.tenant.unwrap().as_str() == "poor");
        }
        rig.audit().await;
    }
    assert_eq!(poor, 32, "of 80 jobs, those were of the tenant who has few and came last");
    assert_eq!(worker.claim(1000).await.len(), 440 - 80, "one request goes round until it has enough");
    rig.audit().await;
}

#[tokio::test]
async fn bands_are_served_8_4_2_1_and_none_starves() {
    let rig = Rig::new().await;
    let mut jobs = Vec::new();
    for band in Band::ALL {
        for n in 0..100 {
            let mut job = rig.job(n);
            job.band = band;
            jobs.push(job);
        }
    }
    rig.put(&jobs).await;
    for (name, requests, want) in [("large claims", 2, 15), ("single claims", 30, 1)] {
        let mut worker = rig.worker().await;
        let mut served = [0; 4];
        for _ in 0..requests {
            for claim in worker.claim(want).await {
                served[usize::from(claim.envelope.unwrap().lane.band.number())] += 1;
            }
        }
        assert_eq!(served, [16, 8, 4, 2], "{name}");
        rig.audit().await;
    }
}

#[tokio::test]
async fn a_request_that_was_served_already_or_is_older_is_stale() {
    let rig = Rig::new().await;
    rig.put_many(4).await;
    let worker = rig.worker().await;
    let claims = ok(worker.session.finish_claim(5, 0, 1, PLENTY, true, &[]).await.unwrap()).claims;
    let finish = [outcome(&claims[0], complete())];
    for n in [5, 4] {
        let reply = worker.session.finish_claim(n, 0, 1, PLENTY, true, &finish).await.unwrap();
        assert!(matches!(reply, Reply::Stale), "{n}: {reply:?}");
    }
    let snapshot = rig.audit().await;
    assert_eq!(snapshot.jobs.len(), 4, "neither its claims nor its outcomes counted");
    assert!(matches!(snapshot.places[&claims[0].member.to_bytes()], Place::Running { claim_no: 5, .. }));
}

#[tokio::test]
async fn a_redis_that_forgot_an_answered_request_says_rollback_and_does_nothing() {
    let rig = Rig::new().await;
    rig.put_many(2).await;
    let worker = rig.worker().await;
    let claims = ok(worker.session.finish_claim(1, 0, 1, PLENTY, true, &[]).await.unwrap()).claims;
    let finish = [outcome(&claims[0], complete())];
    let reply = worker.session.finish_claim(3, 2, 1, PLENTY, true, &finish).await.unwrap();
    assert!(matches!(reply, Reply::Rollback), "{reply:?}");
    assert_eq!(rig.audit().await.jobs.len(), 2);
    let reply = ok(worker.session.sync(4, &[(claims[0].member, 1)], &[]).await.unwrap());
    assert!(reply.lost.is_empty() && reply.given_back == 0);
    let reply = ok(worker.session.finish_claim(5, 4, 1, PLENTY, true, &finish).await.unwrap());
    assert_eq!((reply.verdicts, reply.claims.len()), (vec![Verdict::Applied], 1));
    rig.audit().await;
}

#[tokio::test]
async fn a_session_that_was_never_opened_is_gone() {
    let rig = Rig::new().await;
    rig.put_many(1).await;
    let mut worker = rig.worker().await;
    assert!(worker.session.bye().await.unwrap());
    assert!(matches!(worker.request(1, &[]).await, Reply::Gone));
    assert!(matches!(worker.session.heartbeat().await.unwrap(), Reply::Gone));
    assert!(matches!(worker.session.sync(9, &[], &[]).await.unwrap(), Reply::Gone));
    let snapshot = rig.audit().await;
    assert!(snapshot.sessions.is_empty() && snapshot.deadlines.is_empty());
}

#[tokio::test]
async fn a_session_that_holds_jobs_is_not_closed() {
    let rig = Rig::new().await;
    rig.put_many(1).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(1).await;
    assert!(!worker.session.bye().await.unwrap());
    worker.complete(&claims).await;
    assert!(worker.session.bye().await.unwrap());
    rig.audit().await;
}
