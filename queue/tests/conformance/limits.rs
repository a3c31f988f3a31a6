//! limit, relook, limits: pauses, concurrency and rates, and how finish_claim and tick keep them.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use windrow_queue::{
    Band, Kind, NewJob,
    store::{Claim, Finish, Limit, Rate, Scope, StoreError},
};

use crate::support::*;

fn scope(text: &str) -> Scope {
    text.parse().unwrap()
}

fn at_once(concurrency: u32) -> Limit {
    Limit { concurrency: Some(concurrency), rate: None }
}

fn per_second(count: u32, burst: u32) -> Limit {
    Limit { concurrency: None, rate: Some(Rate { count, per: Duration::from_secs(1), burst: Some(burst) }) }
}

async fn set(rig: &Rig, text: &str, limit: Limit) {
    assert!(rig.store.set_limit(&rig.queue, &scope(text), &limit).await.unwrap());
}

/// Jobs of a kind and a tenant ('' is none).
fn of(rig: &Rig, kind: &'static str, of_tenant: &str, count: usize) -> Vec<NewJob> {
    let mut jobs = rig.jobs(count);
    for job in &mut jobs {
        job.kind = Kind::from_static(kind);
        job.tenant = (!of_tenant.is_empty()).then(|| tenant(of_tenant));
    }
    jobs
}

fn lane_of(claim: &Claim) -> (String, String) {
    let lane = &claim.envelope.as_ref().unwrap().lane;
    (lane.kind.to_string(), lane.tenant.as_ref().map(ToString::to_string).unwrap_or_default())
}

#[tokio::test]
async fn of_a_limited_kind_only_so_many_run_and_others_pass_it() {
    let rig = Rig::new().await;
    set(&rig, "kind=a", at_once(3)).await;
    rig.put(&of(&rig, "a", "", 10)).await;
    rig.put(&of(&rig, "b", "", 10)).await;
    let (mut one, mut two) = (rig.worker().await, rig.worker().await);
    let mut claims = one.claim(6).await;
    claims.extend(two.claim(6).await);
    let of_a = claims.iter().filter(|claim| lane_of(claim).0 == "a").count();
    assert_eq!((of_a, claims.len()), (3, 12), "every slot that the limited ones do not take is used");
    assert_eq!(rig.audit().await.waiting.len(), 1, "the lane stands aside");
    let rest = one.serve(10, &[]).await;
    assert_eq!((rest.claims.len(), rest.more), (1, false), "what waits for a limit is no reason to ask again");
    assert!(two.claim(10).await.is_empty());
    rig.audit().await;
}

#[tokio::test]
async fn a_slot_that_is_free_again_lets_the_next_in_at_once() {
    let rig = Rig::new().await;
    set(&rig, "queue", at_once(2)).await;
    rig.put(&of(&rig, "a", "t", 6)).await;
    let (mut one, mut two) = (rig.worker().await, rig.worker().await);
    let mut claims = one.claim(10).await;
    assert_eq!(claims.len(), 2);
    assert!(two.claim(10).await.is_empty());
    for (n, finish) in
        [complete(), retry(1, 60_000), Finish::Release, Finish::Bury { error: error(1, "no") }].into_iter().enumerate()
    {
        let held = claims.remove(0);
        one.finish(&[outcome(&held, finish)]).await;
        assert_eq!(rig.audit().await.tokens, 1, "somebody is woken ({n})");
        let next = two.claim(10).await;
        assert_eq!(next.len(), 1, "{n}");
        two.complete(&next).await;
        claims.extend(one.claim(1).await);
        assert_eq!(claims.len(), 2, "{n}");
        rig.audit().await;
        if n == 1 {
            rig.put(&of(&rig, "a", "t", 6)).await;
        }
    }
    rig.lapse(&[&two]).await;
    assert_eq!(two.claim(10).await.len(), 2, "the slots of a lost worker are free again");
    rig.audit().await;
}

#[tokio::test]
async fn a_lease_that_nobody_executes_frees_its_slot_when_it_goes_back() {
    let rig = Rig::new().await;
    set(&rig, "tenant=*", at_once(2)).await;
    rig.put(&of(&rig, "a", "t", 3)).await;
    rig.put(&of(&rig, "b", "t", 3)).await;
    let (mut one, mut two) = (rig.worker().await, rig.worker().await);
    assert_eq!(one.claim(10).await.len(), 2);
    assert!(two.claim(10).await.is_empty());
    assert_eq!(rig.audit().await.waiting.len(), 2, "both lanes wait for their tenant");
    let n = one.next_n();
    assert_eq!(ok(one.session.sync(n, &[], &[]).await.unwrap()).given_back, 2);
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.tokens, snapshot.counted.len()), (1, 0), "somebody is woken for them");
    assert_eq!(two.claim(10).await.len(), 2);
    rig.audit().await;
}

#[tokio::test]
async fn a_suspect_counts_to_limits_like_any_other() {
    let rig = Rig::with(|config| config.rescue_limit = 9).await;
    let suspects = rig.put(&of(&rig, "a", "t", 2)).await;
    for _ in 0..2 {
        assert_eq!(rig.worker().await.claim(2).await.len(), 2);
        rig.lapse(&[]).await;
    }
    for suspect in &suspects {
        assert_eq!(rig.place(*suspect).await, Some(Place::Suspect));
    }
    let (mut one, mut two) = (rig.worker().await, rig.worker().await);
    rig.store.pause(&rig.queue, &scope("kind=a")).await.unwrap();
    let reply = one.serve(10, &[]).await;
    assert!(reply.claims.is_empty() && !reply.more, "paused ones wait");
    rig.store.resume(&rig.queue, &scope("kind=a")).await.unwrap();
    set(&rig, "kind=a", at_once(1)).await;
    rig.put(&of(&rig, "a", "t", 2)).await;
    let claims = one.claim(10).await;
    assert_eq!(claims.len(), 1);
    assert!(suspects.contains(&claims[0].member));
    assert!(two.claim(10).await.is_empty());
    rig.audit().await;
    one.complete(&claims).await;
    let claims = two.claim(10).await;
    assert!(claims.len() == 1 && suspects.contains(&claims[0].member), "{claims:?}");
    two.complete(&claims).await;
    assert_eq!(one.claim(10).await.len(), 1, "then the one in the lane");
    rig.audit().await;
}

#[tokio::test]
async fn a_slot_that_its_lane_cannot_use_goes_on_to_the_next_one() {
    let rig = Rig::new().await;
    set(&rig, "kind=a", at_once(1)).await;
    set(&rig, "tenant=x", at_once(1)).await;
    rig.put(&of(&rig, "a", "x", 2)).await;
    let mut worker = rig.worker().await;
    let first = worker.claim(10).await;
    assert_eq!(first.len(), 1);
    let patient = rig.put(&of(&rig, "a", "y", 1)).await[0];
    let mut urgent = of(&rig, "b", "x", 1);
    urgent[0].band = windrow_queue::Band::Critical;
    let urgent = rig.put(&urgent).await[0];
    assert!(worker.claim(10).await.is_empty());
    worker.complete(&first).await;
    // The lane that came in for the slot of its kind finds its tenant's taken.
    let reply = worker.serve(10, &[]).await;
    assert_eq!(reply.claims.iter().map(|claim| claim.member).collect::<Vec<_>>(), [urgent]);
    assert!(reply.more, "the slot is somebody else's now");
    rig.audit().await;
    assert_eq!(worker.claim_members(10).await, [patient]);
    rig.audit().await;
}

#[tokio::test]
async fn limits_of_a_band_of_lanes_that_all_wait_leave_the_other_bands_alone() {
    let rig = Rig::new().await;
    set(&rig, "kind=a", at_once(1)).await;
    let mut urgent = of(&rig, "a", "", 5);
    for job in &mut urgent {
        job.band = windrow_queue::Band::Critical;
    }
    rig.put(&urgent).await;
    rig.put(&of(&rig, "b", "", 20)).await;
    let mut worker = rig.worker().await;
    let (mut claims, mut requests) = (Vec::new(), 0);
    loop {
        let reply = worker.serve(6, &[]).await;
        claims.extend(reply.claims);
        requests += 1;
        if !reply.more {
            break;
        }
    }
    assert_eq!((claims.len(), requests), (21, 5), "the next request takes what a band left of its share");
    rig.audit().await;
}

#[tokio::test]
async fn each_scope_limits_what_it_names_and_the_narrowest_decides() {
    // Of 3 jobs of kind a and tenant x, 3 of a and y, 2 of b and x, 2 of b and nobody: how many run of those that the scope
    // names, and of the others.
    for (text, expected) in [
        ("queue", (2, 0)),
        ("kind=a", (2, 4)),
        ("tenant=x", (2, 5)),
        ("tenant=*", (4, 2)),
        ("kind=a,tenant=x", (2, 7)),
        ("kind=a,tenant=*", (4, 4)),
    ] {
        let rig = Rig::new().await;
        set(&rig, text, at_once(2)).await;
        for (kind, name, count) in [("a", "x", 3), ("a", "y", 3), ("b", "x", 2), ("b", "", 2)] {
            rig.put(&of(&rig, kind, name, count)).await;
        }
        let mut worker = rig.worker().await;
        let mut claims = worker.claim(100).await;
        claims.extend(worker.claim(100).await);
        let is_about = |claim: &&Claim| {
            let (kind, name) = lane_of(claim);
            match text {
                "queue" => true,
                "kind=a" => kind == "a",
                "tenant=x" => name == "x",
                "tenant=*" => !name.is_empty(),
                "kind=a,tenant=x" => (kind.as_str(), name.as_str()) == ("a", "x"),
                _ => kind == "a" && !name.is_empty(),
            }
        };
        let named = claims.iter().filter(is_about).count();
        assert_eq!((named, claims.len() - named), expected, "{text}");
        rig.audit().await;
        worker.complete(&claims).await;
        let mut done = claims.len();
        for _ in 0..20 {
            let claims = worker.claim(100).await;
            done += claims.len();
            worker.complete(&claims).await;
            rig.audit().await;
        }
        assert_eq!(done, 10, "{text}: all of them get their turn");
    }
}

#[tokio::test]
async fn a_tenants_own_limit_goes_before_that_of_each_tenant() {
    let rig = Rig::new().await;
    set(&rig, "tenant=*", at_once(1)).await;
    set(&rig, "tenant=big", at_once(3)).await;
    rig.put(&of(&rig, "a", "big", 5)).await;
    rig.put(&of(&rig, "a", "small", 5)).await;
    let mut worker = rig.worker().await;
    let mut counts = BTreeMap::new();
    for claim in worker.claim(10).await {
        *counts.entry(lane_of(&claim).1).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("big".to_owned(), 3), ("small".to_owned(), 1)]));
    assert!(rig.store.clear_limit(&rig.queue, &scope("tenant=big")).await.unwrap());
    let snapshot = rig.audit().await;
    assert_eq!(snapshot.counted[&b"t\x1fbig".to_vec()].len(), 3, "it falls under that of each now, with what runs");
    assert!(worker.claim(10).await.is_empty());
}

#[tokio::test]
async fn a_limit_counts_what_runs_already_and_is_forgotten_without_a_trace() {
    let rig = Rig::new().await;
    let mut workers = Vec::new();
    for name in ["x", "y", "z"] {
        rig.put(&of(&rig, "a", name, 10)).await;
        let mut worker = rig.worker().await;
        let claims = worker.claim(4).await;
        workers.push((worker, claims));
    }
    set(&rig, "queue", at_once(13)).await;
    set(&rig, "kind=a,tenant=*", at_once(5)).await;
    assert!(!rig.audit().await.meta.contains_key("recount"), "the count is done when the call is");
    let mut worker = rig.worker().await;
    assert_eq!(worker.claim(100).await.len(), 1, "12 run, and 13 may");
    set(&rig, "queue", at_once(3)).await;
    assert!(worker.claim(100).await.is_empty(), "those above a lower limit go on, and no new ones start");
    let (first, claims) = &mut workers[0];
    first.complete(claims).await;
    assert!(worker.claim(100).await.is_empty());
    rig.audit().await;
    for text in ["queue", "kind=a,tenant=*"] {
        assert!(rig.store.clear_limit(&rig.queue, &scope(text)).await.unwrap());
        assert!(!rig.store.clear_limit(&rig.queue, &scope(text)).await.unwrap());
    }
    let snapshot = rig.audit().await;
    assert!(snapshot.counted.is_empty() && snapshot.waiting.is_empty(), "{snapshot:?}");
    assert!(!snapshot.meta.contains_key("limited"), "claims do not look at limits any more");
    assert_eq!(snapshot.tokens, 1);
    assert_eq!(worker.claim(100).await.len(), 30 - 13);
}

#[tokio::test]
async fn a_rate_lets_through_its_count_and_its_burst_over_all_sessions() {
    let rig = Rig::new().await;
    set(&rig, "kind=a", per_second(10, 4)).await;
    rig.put(&of(&rig, "a", "", 200)).await;
    let mut workers = [rig.worker().await, rig.worker().await];
    let mut started = Vec::new();
    let mut n = 0;
    for _ in 0..3000 {
        n += 1;
        for _ in 0..workers[n % 2].claim(7).await.len() {
            started.push(rig.now());
        }
        rig.pass(1, &[&workers[0], &workers[1]]).await;
    }
    assert_eq!(started.iter().filter(|&&at| at == START).count(), 4, "the burst");
    assert_eq!(started.len(), 4 + 29, "then ten a second, evenly");
    assert_eq!(
        started[4..].iter().map(|at| at - START).collect::<Vec<_>>(),
        (1..=29).map(|i| i * 100).collect::<Vec<_>>()
    );
    rig.pass(60_000, &[&workers[0]]).await;
    assert_eq!(workers[0].claim(100).await.len(), 4, "a long quiet time saves no more than the burst");
    rig.audit().await;
}

#[tokio::test]
async fn a_lane_that_waits_for_its_rate_comes_back_at_the_right_millisecond() {
    let rig = Rig::new().await;
    set(&rig, "tenant=x", per_second(4, 1)).await;
    rig.put(&of(&rig, "a", "x", 5)).await;
    let mut worker = rig.worker().await;
    assert_eq!(worker.claim(10).await.len(), 1);
    assert_eq!(rig.audit().await.waiting.len(), 1);
    let tick = rig.store.tick(&rig.queue).await.unwrap();
    assert_eq!(tick.next_due, Some(Duration::from_millis(250)), "whoever ticks knows when to tick again");
    rig.advance(249).await;
    rig.tick().await;
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.waiting.len(), snapshot.tokens), (1, 0), "nobody is woken before");
    rig.advance(1).await;
    rig.tick().await;
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.waiting.len(), snapshot.tokens), (0, 1));
    assert_eq!(worker.claim(10).await.len(), 1);
    rig.audit().await;
}

#[tokio::test]
async fn a_clock_that_steps_back_locks_no_rate_for_long() {
    let rig = Rig::new().await;
    set(&rig, "queue", per_second(10, 5)).await;
    rig.put(&of(&rig, "a", "", 100)).await;
    let mut worker = rig.worker().await;
    assert_eq!(worker.claim(50).await.len(), 5);
    rig.set_clock(START - 3_600_000).await;
    rig.tick().await;
    assert!(worker.claim(50).await.is_empty());
    // A lane looks again half a minute later at most.
    let mut started = 0;
    for _ in 0..450 {
        rig.pass(100, &[&worker]).await;
        started += worker.claim(50).await.len();
    }
    assert!(started >= 95, "{started} of 95 in three quarters of a minute");
    rig.audit().await;
}

#[tokio::test]
async fn what_is_paused_waits_wakes_nobody_and_resumes() {
    for text in ["queue", "kind=a", "tenant=x", "tenant=*", "kind=a,tenant=x", "kind=a,tenant=*"] {
        let rig = Rig::new().await;
        rig.put(&of(&rig, "a", "x", 3)).await;
        let mut worker = rig.worker().await;
        let running = worker.claim(1).await;
        assert!(rig.store.pause(&rig.queue, &scope(text)).await.unwrap());
        assert!(!rig.store.pause(&rig.queue, &scope(text)).await.unwrap(), "twice is once");
        worker.complete(&running).await;
        let reply = worker.serve(10, &[]).await;
        assert!(reply.claims.is_empty() && !reply.more, "{text}");
        rig.audit().await;
        rig.raw::<()>(redis::cmd("DEL").arg(rig.key("wake"))).await;
        rig.put(&of(&rig, "a", "x", 2)).await;
        assert_eq!(rig.audit().await.tokens, 0, "{text}: new jobs wake nobody");
        rig.pass(40_000, &[&worker]).await;
        assert_eq!(rig.audit().await.tokens, 0, "{text}: nor do ticks");
        assert!(worker.claim(10).await.is_empty(), "{text}");
        let states = rig.store.limits(&rig.queue).await.unwrap();
        assert_eq!((states.len(), &states[0].scope, states[0].paused), (1, &scope(text), true), "{text}");
        assert_eq!(states[0].limit, Limit::default());

        assert!(rig.store.resume(&rig.queue, &scope(text)).await.unwrap());
        assert!(!rig.store.resume(&rig.queue, &scope(text)).await.unwrap());
        assert_eq!(rig.audit().await.tokens, 1, "{text}: somebody is woken");
        assert_eq!(worker.claim(10).await.len(), 4, "{text}");
        assert!(rig.store.limits(&rig.queue).await.unwrap().is_empty());
        assert!(!rig.audit().await.meta.contains_key("limited"), "{text}");
    }
}

#[tokio::test]
async fn a_pause_beside_a_limit_leaves_the_limit() {
    let rig = Rig::new().await;
    let limit = Limit { concurrency: Some(2), ..per_second(5, 3) };
    set(&rig, "kind=a", limit).await;
    assert!(!rig.store.set_limit(&rig.queue, &scope("kind=a"), &limit).await.unwrap(), "the same again");
    rig.put(&of(&rig, "a", "", 5)).await;
    rig.store.pause(&rig.queue, &scope("kind=a")).await.unwrap();
    let mut worker = rig.worker().await;
    assert!(worker.claim(10).await.is_empty());
    rig.store.resume(&rig.queue, &scope("kind=a")).await.unwrap();
    let claims = worker.claim(10).await;
    assert_eq!(claims.len(), 2);
    let states = rig.store.limits(&rig.queue).await.unwrap();
    assert_eq!(states.len(), 1);
    assert_eq!((states[0].limit, states[0].paused, states[0].running, states[0].waiting_lanes), (limit, false, 2, 1));
    rig.store.pause(&rig.queue, &scope("kind=a")).await.unwrap();
    rig.store.clear_limit(&rig.queue, &scope("kind=a")).await.unwrap();
    let states = rig.store.limits(&rig.queue).await.unwrap();
    assert_eq!((states[0].limit, states[0].paused), (Limit::default(), true), "clearing a limit resumes nothing");
    worker.complete(&claims).await;
    assert!(worker.claim(10).await.is_empty());
    rig.audit().await;
}

#[tokio::test]
async fn a_limit_for_each_tenant_that_is_cleared_lets_all_tenants_in() {
    let rig = Rig::new().await;
    rig.store.pause(&rig.queue, &scope("tenant=*")).await.unwrap();
    let mut jobs = Vec::new();
    for n in 0..700 {
        jobs.extend(of(&rig, "a", &format!("t{n}"), 1));
    }
    rig.put(&jobs).await;
    let mut worker = rig.worker().await;
    while worker.serve(100, &[]).await.more {}
    for _ in 0..20 {
        assert!(worker.claim(100).await.is_empty());
    }
    assert_eq!(rig.audit().await.waiting.len(), 700);
    rig.store.resume(&rig.queue, &scope("tenant=*")).await.unwrap();
    rig.tick().await;
    assert!(rig.audit().await.waiting.is_empty());
    assert_eq!(worker.drain().await.len(), 700);
}

#[tokio::test]
async fn limits_are_listed_whole_and_their_number_is_bounded() {
    let rig = Rig::new().await;
    let names: Vec<String> = (0..600).map(|n| format!("tenant=t{n:03}")).collect();
    for name in &names {
        let limit = at_once(2).concurrency.map(|concurrency| concurrency.to_be_bytes()).unwrap();
        let spec = [&[0][..], &limit, &[0; 10]].concat();
        let field = name.replace("tenant=", "t\x1f");
        rig.raw::<()>(redis::cmd("HSET").arg(rig.key("lim")).arg(field).arg(spec)).await;
    }
    rig.store.pause(&rig.queue, &scope("queue")).await.unwrap();
    let states = rig.store.limits(&rig.queue).await.unwrap();
    let mut listed: Vec<String> = states.iter().map(|state| state.scope.to_string()).collect();
    listed.sort();
    assert_eq!(listed, [vec!["queue".to_owned()], names].concat());
    let mut pipe = redis::pipe();
    for n in 600..windrow_queue::store::MAX_LIMITS {
        pipe.cmd("HSET").arg(rig.key("lim")).arg(format!("t\x1fu{n}")).arg([0; 15].as_slice()).ignore();
    }
    rig.pipe::<()>(&pipe).await;
    let error = rig.store.set_limit(&rig.queue, &scope("kind=a"), &at_once(1)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Invalid(reason) if reason.contains("10000")), "{error}");
    assert!(
        rig.store.set_limit(&rig.queue, &scope("tenant=t001"), &at_once(9)).await.unwrap(),
        "one that stands changes"
    );
}

#[tokio::test]
async fn a_limit_out_of_range_changes_nothing() {
    let rig = Rig::new().await;
    for bad in [Limit::default(), at_once(0), per_second(0, 1)] {
        let error = rig.store.set_limit(&rig.queue, &scope("queue"), &bad).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    }
    assert!(rig.store.limits(&rig.queue).await.unwrap().is_empty());
}

/// Random work of three workers under limits of all sorts. After each step nothing runs beyond its limit, and in the end
/// everything was executed.
#[tokio::test]
async fn no_concurrency_is_ever_exceeded_and_nothing_is_left_behind() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let rig = Rig::new().await;
        let limits = [
            ("queue", 9),
            ("kind=a", 4),
            ("tenant=x", 5),
            ("tenant=*", 3),
            ("kind=a,tenant=x", 2),
            ("kind=b,tenant=*", 2),
        ];
        for (text, most) in limits {
            if random.random_bool(0.7) {
                set(&rig, text, at_once(most)).await;
            }
        }
        let states = rig.store.limits(&rig.queue).await.unwrap();
        let limit_of = |text: &str| {
            let state = states.iter().find(|state| state.scope.to_string() == text);
            state.map_or(u32::MAX, |state| state.limit.concurrency.unwrap())
        };
        let (mut enqueued, mut completed) = (0, 0);
        let mut workers = [rig.worker().await, rig.worker().await, rig.worker().await];
        let mut held: [Vec<Claim>; 3] = Default::default();
        for step in 0..400 {
            let busy = step < 250;
            if busy && random.random_bool(0.5) {
                let (kind, name) =
                    (["a", "b", "c"][random.random_range(0..3)], ["x", "y", "z", ""][random.random_range(0..4)]);
                let count = random.random_range(1..6);
                enqueued += rig.put(&of(&rig, kind, name, count)).await.len();
            }
            let w = random.random_range(0..3);
            let mut outcomes = Vec::new();
            for _ in 0..random.random_range(0..=held[w].len().min(4)) {
                let claim = held[w].swap_remove(0);
                let end = match random.random_range(0..10) {
                    0 if busy => retry(1, random.random_range(0..300)),
                    1 if busy => Finish::Release,
                    2 if busy => Finish::Snooze { delay: Duration::from_millis(random.random_range(0..300)) },
                    _ => complete(),
                };
                completed += usize::from(matches!(end, Finish::Complete { .. }));
                outcomes.push(outcome(&claim, end));
            }
            held[w].extend(workers[w].serve(random.random_range(0..5), &outcomes).await.claims);
            if random.random_bool(0.3) {
                let [one, two, three] = &workers;
                rig.pass(random.random_range(1..200), &[one, two, three]).await;
            }
            let mut running: BTreeMap<String, u32> = BTreeMap::new();
            for claim in held.iter().flatten() {
                let (kind, name) = lane_of(claim);
                for id in [
                    "queue".to_owned(),
                    format!("kind={kind}"),
                    format!("tenant={name}"),
                    format!("kind={kind},tenant={name}"),
                ] {
                    *running.entry(id).or_default() += 1;
                }
            }
            for (id, count) in running {
                let each = match id.rsplit_once("tenant=") {
                    Some((_, "")) => u32::MAX,
                    Some((head, _)) if limit_of(&id) == u32::MAX => limit_of(&format!("{head}tenant=*")),
                    _ => u32::MAX,
                };
                let most = limit_of(&id).min(each);
                assert!(
                    id.ends_with("tenant=") || count <= most,
                    "seed {seed}, step {step}: {count} of {id}, {most} may"
                );
            }
            if step % 20 == 0 {
                rig.audit().await;
            }
        }
        for _ in 0..2000 {
            let [one, two, three] = &workers;
            rig.pass(50, &[one, two, three]).await;
            for w in 0..3 {
                let outcomes: Vec<_> = held[w].drain(..).map(|claim| outcome(&claim, complete())).collect();
                completed += outcomes.len();
                held[w].extend(workers[w].serve(5, &outcomes).await.claims);
            }
            if completed == enqueued {
                break;
            }
        }
        assert_eq!(completed, enqueued, "seed {seed}: all of them get their turn");
        assert!(rig.audit().await.jobs.is_empty());
    }
}

#[tokio::test]
async fn a_limit_on_the_queue_leaves_bands_and_tenants_their_shares() {
    let rig = Rig::new().await;
    let jobs: Vec<_> = (0..60)
        .map(|n| {
            let mut job = rig.job(n);
            job.band = if n % 2 == 0 { Band::Critical } else { Band::Low };
            job
        })
        .collect();
    rig.put(&jobs).await;
    set(&rig, "queue", at_once(1)).await;
    let mut worker = rig.worker().await;
    let mut low = 0;
    for started in 0..18 {
        let claims = worker.claim(5).await;
        assert_eq!(claims.len(), 1, "one at a time, after {started}");
        low += usize::from(claims[0].envelope.as_ref().unwrap().lane.band == Band::Low);
        assert!(worker.claim(5).await.is_empty(), "no more than one");
        worker.complete(&claims).await;
    }
    assert_eq!(low, 2, "one of nine, as without a limit");
    rig.audit().await;
}
