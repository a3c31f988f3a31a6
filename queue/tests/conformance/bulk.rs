//! Walks of operators: filter, dry run, rate, stopping at a batch boundary.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windrow_queue::{
    Member, NewJob,
    error::fingerprint,
    store::{DeadAct, Filter, Finish, Refused, Standing, Walk, Walked},
};

use crate::{dead::kill, support::*};

async fn each_dead(rig: &Rig, act: DeadAct, filter: Filter, print: Option<[u8; 16]>, walk: &Walk) -> Walked {
    let mut walked = Walked::default();
    rig.store.each_dead(&rig.queue, act, (&filter, print), walk, &mut walked, |_| ()).await.unwrap();
    walked
}

async fn each_standing(rig: &Rig, standing: Standing, filter: &Filter, walk: &Walk) -> Walked {
    let mut walked = Walked::default();
    rig.store.each_standing(&rig.queue, standing, filter, walk, &mut walked, |_| ()).await.unwrap();
    walked
}

fn for_tenants(n: usize, job: NewJob) -> NewJob {
    job.tenant(tenant(if n.is_multiple_of(4) { "acme" } else { "globex" }))
}

fn of(name: &str) -> Filter {
    Filter { tenant: Some(tenant(name)), ..Filter::default() }
}

fn dry() -> Walk {
    Walk { dry_run: true, ..Walk::default() }
}

#[tokio::test]
async fn a_dry_run_counts_what_the_act_then_does() {
    let rig = Rig::new().await;
    kill(&rig, 260, for_tenants).await;
    let counted = each_dead(&rig, DeadAct::Redrive, of("globex"), None, &dry()).await;
    assert_eq!(counted, Walked { matched: 195, ..Walked::default() });
    assert_eq!(rig.audit().await.dead.len(), 260, "nothing was done");
    let done = each_dead(&rig, DeadAct::Redrive, of("globex"), None, &Walk::default()).await;
    assert_eq!(done, Walked { matched: 195, done: 195, ..Walked::default() });
    let discarded = each_dead(&rig, DeadAct::Discard, of("acme"), None, &Walk::default()).await;
    assert_eq!(discarded, Walked { matched: 65, done: 65, ..Walked::default() });
    let snapshot = rig.audit().await;
    assert_eq!((snapshot.jobs.len(), snapshot.dead.len()), (195, 0));
}

#[tokio::test]
async fn errors_of_one_sort_are_redriven_and_others_stay_dead() {
    let rig = Rig::new().await;
    rig.put_many(20).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(20).await;
    for (n, claim) in claims.iter().enumerate() {
        let message = if n < 12 { format!("order {n} is not paid") } else { "no route".to_owned() };
        worker.finish(&[outcome(claim, Finish::Bury { error: error(1, &message) })]).await;
    }
    let print = fingerprint(&rig.job(0).kind, "test", "order 99 is not paid");
    let done = each_dead(&rig, DeadAct::Redrive, Filter::default(), Some(print), &Walk::default()).await;
    assert_eq!((done.matched, done.done), (12, 12));
    let left = rig.store.dead(&rig.queue, &Filter::default(), None, 100).await.unwrap().items;
    assert!(left.len() == 8 && left.iter().all(|dead| dead.error.as_ref().unwrap().message == "no route"));
}

#[tokio::test]
async fn a_walk_does_not_meet_again_what_dies_behind_it() {
    let rig = Rig::new().await;
    kill(&rig, 150, |_, job| job).await;
    let mut walked = Walked::default();
    let mut told = 0;
    let walk = Walk::default();
    rig.store
        .each_dead(&rig.queue, DeadAct::Redrive, (&Filter::default(), None), &walk, &mut walked, |_| told += 1)
        .await
        .unwrap();
    assert_eq!((walked.done, told), (150, 2), "batches of 100");
    // All of them die again, and are met once more by the next walk only.
    let mut worker = rig.worker().await;
    let claims = worker.claim(150).await;
    rig.advance(1).await;
    for chunk in claims.chunks(100) {
        let ends: Vec<_> =
            chunk.iter().map(|claim| outcome(claim, Finish::Bury { error: error(1, "again") })).collect();
        worker.finish(&ends).await;
    }
    let again = each_dead(&rig, DeadAct::Redrive, Filter::default(), None, &dry()).await;
    assert_eq!(again.matched, 150);
}

#[tokio::test]
async fn a_stopped_walk_ends_at_a_batch_and_says_how_far_it_came() {
    let rig = Rig::new().await;
    kill(&rig, 350, |_, job| job).await;
    let stop = CancellationToken::new();
    let walk = Walk { stop: stop.clone(), ..Walk::default() };
    let mut walked = Walked::default();
    let tell = |walked: &Walked| {
        if walked.done >= 200 {
            stop.cancel();
        }
    };
    rig.store
        .each_dead(&rig.queue, DeadAct::Discard, (&Filter::default(), None), &walk, &mut walked, tell)
        .await
        .unwrap();
    assert_eq!((walked.done, walked.stopped), (200, true));
    assert_eq!(rig.audit().await.dead.len(), 150);
}

#[tokio::test]
async fn a_rate_is_kept_and_can_be_stopped() {
    let rig = Rig::new().await;
    kill(&rig, 30, |_, job| job).await;
    // One batch of a quarter second at once, the next after it. A stop does not wait for it.
    let stop = CancellationToken::new();
    let walk = Walk { rate: Some(0.001), stop: stop.clone(), ..Walk::default() };
    let mut walked = Walked::default();
    let tell = |walked: &Walked| {
        assert_eq!(walked.done, 1, "at this rate one goes at once, and the next after a quarter of an hour");
        stop.cancel();
    };
    let any = Filter::default();
    let walking = rig.store.each_dead(&rig.queue, DeadAct::Redrive, (&any, None), &walk, &mut walked, tell);
    tokio::time::timeout(Duration::from_secs(20), walking).await.expect("a stop is heard while waiting").unwrap();
    assert_eq!((walked.done, walked.stopped), (1, true));
    let started = tokio::time::Instant::now();
    let walk = Walk { rate: Some(100.0), ..Walk::default() };
    let done = each_dead(&rig, DeadAct::Redrive, Filter::default(), None, &walk).await;
    assert_eq!(done.done, 29);
    // 25 at once, the other four a quarter of a second later.
    assert!(started.elapsed() >= Duration::from_millis(240), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_redrive_ends_where_the_queue_is_full_and_leaves_out_tenants_that_are() {
    let rig = Rig::with(|config| config.max_jobs = 120).await;
    for _ in 0..2 {
        kill(&rig, 120, |_, job| job).await;
    }
    let done = each_dead(&rig, DeadAct::Redrive, Filter::default(), None, &Walk::default()).await;
    assert_eq!((done.done, done.refused), (120, Some(Refused::QueueFull)));
    assert_eq!(rig.audit().await.dead.len(), 120);

    let rig = Rig::with(|config| config.max_tenant_jobs = 10).await;
    for _ in 0..3 {
        kill(&rig, 20, |n, job| job.tenant(tenant(if n.is_multiple_of(2) { "acme" } else { "globex" }))).await;
    }
    let done = each_dead(&rig, DeadAct::Redrive, Filter::default(), None, &Walk::default()).await;
    assert_eq!((done.matched, done.done, done.tenant_full, done.refused), (60, 20, 40, None));
}

#[tokio::test]
async fn jobs_in_every_state_are_cancelled_by_filter() {
    let rig = Rig::new().await;
    let tuned = |count: usize| (0..count).map(|n| for_tenants(n, rig.job(n))).collect::<Vec<_>>();
    // 40 of each: running, ready, scheduled, parked.
    rig.put(&tuned(80)).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(80).await;
    let parks: Vec<_> =
        claims[..40].iter().map(|claim| outcome(claim, Finish::Park { delay: Duration::from_secs(60) })).collect();
    worker.finish(&parks).await;
    rig.put(&tuned(40)).await;
    let mut later = tuned(40);
    for job in &mut later {
        job.due = due_in(1000);
    }
    rig.put(&later).await;
    let journaled = rig.relay_many(3).await;
    let count = async |standing: Standing, name: &str| {
        rig.store.list(&rig.queue, standing, &of(name), None, 1000).await.unwrap().items.len() as u64
    };
    for standing in [Standing::Ready, Standing::Scheduled, Standing::Parked, Standing::Running] {
        let (acme, globex) = (count(standing, "acme").await, count(standing, "globex").await);
        assert_eq!(acme + globex, 40, "{standing:?}");
        let counted = each_standing(&rig, standing, &of("globex"), &dry()).await;
        assert_eq!(counted, Walked { matched: globex, ..Walked::default() }, "{standing:?}");
        let done = each_standing(&rig, standing, &of("globex"), &Walk::default()).await;
        assert_eq!(done, Walked { matched: globex, done: globex, ..Walked::default() }, "{standing:?}");
        assert_eq!(count(standing, "acme").await, acme, "{standing:?}");
        if standing != Standing::Running {
            assert_eq!(count(standing, "globex").await, 0, "{standing:?}");
        }
    }
    let left = each_standing(&rig, Standing::Ready, &Filter::default(), &Walk::default()).await;
    assert_eq!(left.journaled, 3, "Postgres decides about those");
    let stands = rig.store.exists(&rig.queue, &journaled).await.unwrap();
    assert_eq!(stands, [true; 3]);
    let held = rig.store.list(&rig.queue, Standing::Running, &of("globex"), None, 1000).await.unwrap().items;
    assert!(held.iter().all(|job| job.stopping), "those that run were told to stop");
    let members: Vec<Member> = held.iter().map(|job| job.member).collect();
    assert!(!members.is_empty());
    rig.audit().await;
}
