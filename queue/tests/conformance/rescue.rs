//! tick: promotion, lapsed sessions, outages and poison (R2, R3, R4).

use std::collections::{HashMap, HashSet};

use windrow_queue::{
    Member,
    store::{Filter, Finish, JobState, POISON, Reply, Verdict},
};

use crate::support::*;

#[tokio::test]
async fn the_jobs_of_a_silent_session_go_back_and_it_never_revives() {
    let rig = Rig::new().await;
    let members = rig.put_many(3).await;
    let (mut zombie, mut living) = (rig.worker().await, rig.worker().await);
    let claims = zombie.claim(3).await;
    rig.tick().await;
    assert_eq!(rig.lapse(&[&living]).await.rescued, 3);
    rig.audit().await;
    assert!(matches!(zombie.session.heartbeat().await.unwrap(), Reply::Gone));
    assert!(matches!(zombie.request(5, &[outcome(&claims[0], complete())]).await, Reply::Gone));
    assert!(matches!(zombie.session.sync(9, &[], &[outcome(&claims[0], complete())]).await.unwrap(), Reply::Gone));
    let again = living.claim(5).await;
    assert_eq!(again.iter().map(|claim| claim.member).collect::<HashSet<_>>(), members.into_iter().collect());
    assert!(again.iter().all(|claim| claim.rescues == 1 && claim.attempt == 0));
    assert!(matches!(zombie.request(0, &[outcome(&claims[0], complete())]).await, Reply::Gone));
    rig.audit().await;
    living.complete(&again).await;
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_session_that_says_it_lives_keeps_its_jobs() {
    let rig = Rig::new().await;
    rig.put_many(3).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(3).await;
    for _ in 0..30 {
        assert_eq!(rig.lapse(&[&worker]).await.rescued, 0);
    }
    worker.complete(&claims).await;
}

#[tokio::test]
async fn a_rescued_job_is_back_within_twelve_seconds_of_the_crash() {
    let rig = Rig::new().await;
    let living = rig.worker().await;
    rig.tick().await;
    for _ in 0..6 {
        rig.put_many(500).await;
    }
    let mut crashed = rig.worker().await;
    for _ in 0..3 {
        assert_eq!(crashed.claim(1000).await.len(), 1000);
    }
    assert_eq!(rig.lapse(&[&living]).await.rescued, 3000, "all of them, in as many calls as it takes");
    assert_eq!(rig.audit().await.deadlines.len(), 1);
}

#[tokio::test]
async fn nothing_is_rescued_after_an_outage() {
    for outage in [LEASE - 4000, 30_000, 3_600_000] {
        let rig = Rig::new().await;
        rig.put_many(3).await;
        let mut worker = rig.worker().await;
        let claims = worker.claim(3).await;
        rig.tick().await;
        rig.advance(outage).await;
        let tick = rig.tick().await;
        assert!(tick.grace && tick.rescued == 0, "{outage}: {tick:?}");
        // It has a whole lease to say that it lives, and then it may lapse like any other.
        for _ in 0..LEASE / 1000 - 1 {
            rig.advance(1000).await;
            assert_eq!(rig.tick().await.rescued, 0, "{outage}");
        }
        assert!(matches!(worker.session.heartbeat().await.unwrap(), Reply::Ok(_)));
        rig.advance(1000).await;
        assert_eq!(rig.tick().await.rescued, 0);
        worker.complete(&claims).await;
        rig.audit().await;
    }
}

#[tokio::test]
async fn nothing_is_rescued_when_the_clock_steps_back() {
    let rig = Rig::new().await;
    rig.put_many(3).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(3).await;
    rig.tick().await;
    rig.set_clock(START - 3_600_000).await;
    assert!(rig.tick().await.grace);
    assert_eq!(rig.lapse(&[&worker]).await.rescued, 0);
    worker.complete(&claims).await;
    // A deadline of the time before the step does not protect a dead session for an hour.
    rig.put_many(1).await;
    worker.claim(1).await;
    assert_eq!(rig.lapse(&[]).await.rescued, 1);
}

#[tokio::test]
async fn a_doomed_session_is_not_revived_by_an_outage() {
    let rig = Rig::new().await;
    for _ in 0..4 {
        rig.put_many(500).await;
    }
    let mut zombie = rig.worker().await;
    zombie.claim(1000).await;
    zombie.claim(1000).await;
    rig.tick().await;
    for _ in 0..LEASE / 1000 - 1 {
        rig.advance(1000).await;
        rig.tick().await;
    }
    rig.advance(1000).await;
    let tick = rig.store.tick(&rig.queue).await.unwrap();
    assert!(tick.more && tick.rescued < 2000, "{tick:?}");
    rig.advance(60_000).await;
    rig.tick().await;
    assert!(matches!(zombie.session.heartbeat().await.unwrap(), Reply::Gone));
    rig.advance(1000).await;
    rig.tick().await;
    let snapshot = rig.audit().await;
    assert!(snapshot.deadlines.is_empty() && snapshot.places.values().all(|place| *place == Place::Lane));
}

#[tokio::test]
async fn ticks_of_many_look_at_sessions_once_in_a_while() {
    let rig = Rig::new().await;
    rig.put_many(1).await;
    let mut worker = rig.worker().await;
    worker.claim(1).await;
    rig.tick().await;
    // The last look is half a second before the lease is over.
    for ms in [4000, 4000, LEASE - 8500] {
        rig.advance(ms).await;
        assert_eq!(rig.tick().await.rescued, 0);
    }
    let mut due = rig.job(1);
    due.due = due_in(500);
    rig.put(&[due]).await;
    rig.advance(500).await;
    let tick = rig.tick().await;
    assert_eq!((tick.promoted, tick.rescued), (1, 0), "promotion does not wait, rescue does");
    rig.advance(299).await;
    assert_eq!(rig.tick().await.rescued, 0);
    rig.advance(1).await;
    assert_eq!(rig.tick().await.rescued, 1);
    assert!(rig.audit().await.deadlines.is_empty());
}

/// Lets processes crash whenever they run the killer; answers what was executed how often, and how often a process died.
async fn run_with_killer(rig: &Rig, killer: Member) -> (HashMap<Member, usize>, usize, Vec<Member>) {
    let (mut done, mut crashes, mut to_bury) = (HashMap::new(), 0, Vec::new());
    let mut worker = rig.worker().await;
    let mut outcomes = Vec::new();
    let mut idle = 0;
    while idle < 3 {
        let reply = worker.serve(100, &outcomes).await;
        assert!(reply.verdicts.iter().all(|&verdict| verdict == Verdict::Applied));
        outcomes.clear();
        if reply.claims.iter().any(|claim| claim.member == killer) {
            // Half of what it claimed came to its end before.
            let finished = &reply.claims[..reply.claims.len() / 2];
            let finished: Vec<_> = finished.iter().filter(|claim| claim.member != killer).collect();
            let last: Vec<_> = finished.iter().map(|claim| outcome(claim, complete())).collect();
            assert!(worker.finish(&last).await.iter().all(|&verdict| verdict == Verdict::Applied));
            for claim in finished {
                *done.entry(claim.member).or_default() += 1;
            }
            crashes += 1;
            assert!(crashes < 20, "a killer that never dies");
            to_bury.extend(rig.lapse(&[]).await.to_bury);
            worker = rig.worker().await;
        } else {
            for claim in &reply.claims {
                *done.entry(claim.member).or_default() += 1;
                outcomes.push(outcome(claim, complete()));
            }
        }
        rig.audit().await;
        idle = if reply.claims.is_empty() { idle + 1 } else { 0 };
        rig.advance(200).await;
        assert!(matches!(worker.session.heartbeat().await.unwrap(), Reply::Ok(_)));
        to_bury.extend(rig.tick().await.to_bury);
    }
    (done, crashes, to_bury)
}

#[tokio::test]
async fn of_a_thousand_fast_jobs_only_the_killer_dies() {
    let rig = Rig::new().await;
    let members = [rig.put_many(500).await, rig.put_many(500).await].concat();
    let killer = members[300];
    let (done, crashes, _) = run_with_killer(&rig, killer).await;
    assert_eq!(crashes, 4, "twice among others, twice alone");
    for member in &members {
        assert_eq!(done.get(member), if *member == killer { None } else { Some(&1) });
    }
    let dead = rig.store.dead(&rig.queue, &Filter::default(), None, 10).await.unwrap().items;
    assert_eq!(dead.iter().map(|dead| dead.id).collect::<Vec<_>>(), [killer.id]);
    let last = dead[0].error.as_ref().unwrap();
    assert_eq!((&*last.class, Some(last.at)), (POISON, dead[0].died_at));
    let status = rig.store.status(&rig.queue, killer).await.unwrap().unwrap();
    assert_eq!(status.state, JobState::Dead);
}

#[tokio::test]
async fn of_a_thousand_journaled_jobs_only_the_killer_is_marked_for_burial() {
    let rig = Rig::new().await;
    let members = rig.relay_many(1000).await;
    let killer = members[300];
    let (done, _, to_bury) = run_with_killer(&rig, killer).await;
    assert_eq!(done.len(), 999);
    assert_eq!(to_bury.into_iter().collect::<HashSet<_>>(), HashSet::from([killer]));
    let status = rig.store.status(&rig.queue, killer).await.unwrap().unwrap();
    assert_eq!(status.state, JobState::Dead, "until Postgres has it");
    assert!(rig.store.dead(&rig.queue, &Filter::default(), None, 10).await.unwrap().items.is_empty());
    for _ in 0..2 {
        rig.store.buried(&rig.queue, &[killer]).await.unwrap();
        assert!(rig.audit().await.jobs.is_empty());
    }
}

#[tokio::test]
async fn what_is_not_waiting_for_burial_is_not_forgotten() {
    let rig = Rig::new().await;
    let members = rig.relay_many(2).await;
    rig.store.buried(&rig.queue, &members).await.unwrap();
    assert_eq!(rig.audit().await.places.len(), 2);
}

/// A queue whose one job was rescued twice, so that it is a suspect.
async fn one_suspect(rig: &Rig) -> Member {
    let member = rig.put_many(1).await[0];
    rig.tick().await;
    for _ in 0..2 {
        assert_eq!(rig.worker().await.claim(1).await.len(), 1);
        assert_eq!(rig.lapse(&[]).await.rescued, 1);
    }
    assert_eq!(rig.place(member).await, Some(Place::Suspect));
    member
}

#[tokio::test]
async fn a_session_runs_one_suspect_at_a_time() {
    let rig = Rig::new().await;
    rig.put_many(10).await;
    rig.tick().await;
    for _ in 0..2 {
        assert_eq!(rig.worker().await.claim(10).await.len(), 10);
        rig.lapse(&[]).await;
    }
    let (mut one, mut two) = (rig.worker().await, rig.worker().await);
    rig.raw::<()>(redis::cmd("DEL").arg(rig.key("wake"))).await;
    let reply = one.serve(10, &[]).await;
    assert_eq!((reply.claims.len(), reply.more), (1, false), "the others are none that it could have");
    assert_eq!(rig.audit().await.tokens, 1, "another session is woken for them");
    assert_eq!(two.claim(10).await.len(), 1);
    assert!(one.claim(10).await.is_empty());
    let next = one.serve(10, &[outcome(&reply.claims[0], complete())]).await;
    assert_eq!(next.claims.len(), 1, "the end of one makes room for the next at once");
    assert_eq!(one.finish(&[outcome(&next.claims[0], complete())]).await, [Verdict::Applied]);
    assert_eq!(one.drain().await.len(), 7);
    rig.audit().await;
}

#[tokio::test]
async fn a_suspect_given_back_for_another_is_no_reason_to_ask_again() {
    let rig = Rig::new().await;
    rig.put_many(2).await;
    rig.tick().await;
    for _ in 0..2 {
        assert_eq!(rig.worker().await.claim(2).await.len(), 2);
        rig.lapse(&[]).await;
    }
    let mut worker = rig.worker().await;
    let first = worker.claim(2).await.pop().unwrap();
    let reply = worker.serve(2, &[outcome(&first, Finish::Release)]).await;
    assert_eq!((reply.claims.len(), reply.more), (1, false));
    assert_eq!(rig.place(first.member).await, Some(Place::Suspect));
    let reply = worker.serve(0, &[outcome(&reply.claims[0], Finish::Release)]).await;
    assert!(reply.more, "now it could have one");
}

#[tokio::test]
async fn a_suspect_that_comes_to_an_outcome_is_suspect_no_more() {
    let rig = Rig::new().await;
    let member = one_suspect(&rig).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&claim, retry(1, 0))]).await;
    assert_eq!(rig.place(member).await, Some(Place::Lane));
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!((claim.rescues, claim.attempt), (0, 1));
    rig.audit().await;
}

#[tokio::test]
async fn a_suspect_that_is_released_or_orphaned_stays_suspect() {
    let rig = Rig::new().await;
    let member = one_suspect(&rig).await;
    let mut worker = rig.worker().await;
    for _ in 0..5 {
        let claim = worker.claim(1).await.pop().unwrap();
        worker.finish(&[outcome(&claim, Finish::Release)]).await;
        assert_eq!(rig.place(member).await, Some(Place::Suspect));
        assert_eq!(worker.claim(1).await.len(), 1);
        let n = worker.next_n();
        assert_eq!(ok(worker.session.sync(n, &[], &[]).await.unwrap()).given_back, 1);
        worker.prev_n = n;
        assert_eq!(rig.place(member).await, Some(Place::Suspect));
    }
    worker.drain().await;
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_job_has_a_rescue_limit_of_its_own() {
    let rig = Rig::with(|config| config.rescue_limit = 1).await;
    let mut job = rig.job(1);
    job.policy.rescue_limit = Some(3);
    let member = rig.put(&[job]).await[0];
    // Two rescues lead among the suspects, and there it counts.
    for crash in 1..=5 {
        assert!(rig.place(member).await.is_some(), "gone before crash {crash}");
        assert_eq!(rig.worker().await.claim(1).await.len(), 1);
        rig.lapse(&[]).await;
    }
    assert_eq!(rig.place(member).await, None, "the limit of the queue would have buried it two crashes before");
    assert_eq!(rig.store.dead(&rig.queue, &Filter::default(), None, 10).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn the_rescue_limit_counts_crashes_among_the_suspects() {
    for limit in [0, 1, 2, 5, 254, 255] {
        let rig = Rig::with(|config| config.rescue_limit = limit).await;
        let member = one_suspect(&rig).await;
        let mut crashes = 0;
        while rig.place(member).await == Some(Place::Suspect) {
            assert_eq!(rig.worker().await.claim(1).await.len(), 1);
            crashes += 1;
            // Straight to the end of the lease: one gap of a lease is under no grace when ticks go on.
            rig.lapse(&[]).await;
        }
        // 254 is as far as the byte counts.
        assert_eq!(crashes, u64::from(limit.clamp(1, 254)));
        assert_eq!(rig.store.dead(&rig.queue, &Filter::default(), None, 10).await.unwrap().items.len(), 1);
    }
}
