//! enqueue: unique keys in every scope, with every policy, against a job in every state; and caps of tenants and bytes.

use std::{slice::from_ref, time::Duration};

use windrow_queue::{
    Due, Enqueued, JobId, Member, NewJob, OnConflict, UniqueScope,
    store::{Claim, Finish, Refused},
};

use crate::support::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ready,
    Scheduled,
    Running,
    Retrying,
    Parked,
    Completed,
    Dead,
    Cancelled,
}

const STATES: [State; 8] = [
    State::Ready,
    State::Scheduled,
    State::Running,
    State::Retrying,
    State::Parked,
    State::Completed,
    State::Dead,
    State::Cancelled,
];
const PERIOD: UniqueScope = UniqueScope::Period(Duration::from_secs(3600));

/// A job with a unique key, in a state; its claim while it runs.
async fn standing(rig: &Rig, worker: &mut Worker, scope: UniqueScope, state: State) -> (JobId, Option<Claim>) {
    let mut job = rig.job(1).unique_for("k", scope, OnConflict::Ignore);
    if state == State::Scheduled {
        job.due = due_in(60_000);
    }
    rig.put(from_ref(&job)).await;
    if matches!(state, State::Ready | State::Scheduled) {
        return (job.id, None);
    }
    if state == State::Cancelled {
        rig.store.cancel(&rig.queue, &[Member::fast(job.id)]).await.unwrap();
        return (job.id, None);
    }
    let claim = worker.claim(1).await.pop().unwrap();
    let finish = match state {
        State::Retrying => retry(1, 60_000),
        State::Parked => Finish::Park { delay: Duration::from_secs(60) },
        State::Completed => complete(),
        State::Dead => Finish::Bury { error: error(1, "no") },
        _ => return (job.id, Some(claim)),
    };
    worker.finish(&[outcome(&claim, finish)]).await;
    (job.id, None)
}

fn second(rig: &Rig, scope: UniqueScope, on_conflict: OnConflict) -> NewJob {
    let mut job = rig.job(2).unique_for("k", scope, on_conflict);
    job.due = due_in(5000);
    job
}

async fn args_of(rig: &Rig, id: JobId) -> String {
    let status = rig.store.status(&rig.queue, Member::fast(id)).await.unwrap().unwrap();
    status.args.unwrap().get().to_owned()
}

#[tokio::test]
async fn every_scope_policy_and_state_has_its_answer() {
    for scope in [UniqueScope::Queued, UniqueScope::UntilFinal, PERIOD] {
        for policy in [OnConflict::Ignore, OnConflict::Replace, OnConflict::Reschedule] {
            for state in STATES {
                let case = format!("{scope:?} {policy:?} {state:?}");
                let rig = Rig::new().await;
                let mut worker = rig.worker().await;
                let (id, claim) = standing(&rig, &mut worker, scope, state).await;
                let job = second(&rig, scope, policy);
                let answer = rig.store.enqueue(from_ref(&job)).await.unwrap()[0].unwrap();
                rig.audit().await;

                let is_final = matches!(state, State::Completed | State::Dead | State::Cancelled);
                let holds = match scope {
                    // From its first run on the key is free, between attempts too.
                    UniqueScope::Queued => matches!(state, State::Ready | State::Scheduled),
                    UniqueScope::UntilFinal => !is_final,
                    UniqueScope::Period(_) => true,
                };
                let waits_for_its_time = matches!(state, State::Scheduled | State::Retrying);
                match policy {
                    _ if !holds => assert_eq!(answer, Enqueued::Created(job.id), "{case}"),
                    OnConflict::Replace if answer == Enqueued::Replaced(id) => {
                        assert!(waits_for_its_time || state == State::Ready || state == State::Parked, "{case}");
                        assert_eq!(args_of(&rig, id).await, r#"{"n":2}"#, "{case}");
                    }
                    OnConflict::Replace => {
                        let keeps = !waits_for_its_time && (state != State::Ready || scope == PERIOD);
                        assert!(keeps && answer == Enqueued::Exists(id), "{case}: {answer:?}");
                    }
                    OnConflict::Reschedule if waits_for_its_time => {
                        assert_eq!(answer, Enqueued::Rescheduled(id), "{case}");
                        let place = rig.place(Member::fast(id)).await;
                        assert_eq!(place, Some(Place::Scheduled { due: rig.now() + 5000 }), "{case}");
                        assert_eq!(args_of(&rig, id).await, r#"{"n":1}"#, "{case}");
                    }
                    _ => {
                        assert_eq!(answer, Enqueued::Exists(id), "{case}");
                        if !is_final {
                            assert_eq!(args_of(&rig, id).await, r#"{"n":1}"#, "{case}");
                        }
                    }
                }
                if let Some(claim) = claim {
                    worker.complete(&[claim]).await;
                }
                rig.audit().await;
            }
        }
    }
}

#[tokio::test]
async fn a_key_of_a_period_is_free_when_the_period_is_over() {
    let rig = Rig::new().await;
    let job = rig.job(1).unique_for("k", UniqueScope::Period(Duration::from_millis(200)), OnConflict::Ignore);
    rig.put(from_ref(&job)).await;
    rig.worker().await.drain().await;
    let again = || NewJob { id: JobId::new(), ..job.clone() };
    assert_eq!(rig.store.enqueue(&[again()]).await.unwrap(), [Ok(Enqueued::Exists(job.id))], "though it is done");
    eventually("the period ends", async || rig.store.enqueue(&[again()]).await.unwrap()[0].unwrap().is_created()).await;
    rig.audit().await;
}

#[tokio::test]
async fn a_replaced_job_keeps_its_place_and_weighs_what_its_new_args_weigh() {
    let rig = Rig::new().await;
    let first = rig.job(1).unique_for("k", UniqueScope::UntilFinal, OnConflict::Ignore);
    rig.put(from_ref(&first)).await;
    rig.put_many(2).await;
    let mut large = rig.job(2).unique_for("k", UniqueScope::UntilFinal, OnConflict::Replace);
    large.args = raw_args(format!("\"{}\"", "x".repeat(5000)));
    assert_eq!(rig.store.enqueue(&[large]).await.unwrap(), [Ok(Enqueued::Replaced(first.id))]);
    rig.audit().await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(3).await;
    assert_eq!(claims[0].member.id, first.id, "its place in the lane");
    assert!(claims[0].envelope.as_ref().unwrap().args.as_ref().unwrap().get().len() > 5000);
    rig.audit().await;
    worker.complete(&claims).await;
    rig.audit().await;
}

#[tokio::test]
async fn a_job_rescheduled_to_now_is_ready() {
    let rig = Rig::new().await;
    let mut first = rig.job(1).unique("k");
    first.due = due_in(60_000);
    rig.put(from_ref(&first)).await;
    let mut job = rig.job(2).unique_for("k", UniqueScope::UntilFinal, OnConflict::Reschedule);
    job.due = Due::Now;
    assert_eq!(rig.store.enqueue(&[job]).await.unwrap(), [Ok(Enqueued::Rescheduled(first.id))]);
    let snapshot = rig.audit().await;
    assert_eq!((&snapshot.places[&Member::fast(first.id).to_bytes()], snapshot.tokens), (&Place::Lane, 1));
    assert_eq!(rig.worker().await.drain().await.len(), 1);
}

#[tokio::test]
async fn two_jobs_with_one_key_in_one_call_are_one_job() {
    let rig = Rig::new().await;
    for policy in [OnConflict::Ignore, OnConflict::Replace, OnConflict::Reschedule] {
        let key = format!("{policy:?}");
        let jobs = [1, 2].map(|n| rig.job(n).unique_for(&key, UniqueScope::UntilFinal, policy));
        let answers = rig.store.enqueue(&jobs).await.unwrap();
        assert_eq!(answers, [Ok(Enqueued::Created(jobs[0].id)), Ok(Enqueued::Exists(jobs[0].id))], "{policy:?}");
        rig.audit().await;
    }
}

#[tokio::test]
async fn a_tenant_that_has_enough_is_refused_and_others_are_not() {
    let rig = Rig::with(|config| config.max_tenant_jobs = 2).await;
    let of = |name: &str, count| rig.jobs(count).into_iter().map(|job| job.tenant(tenant(name))).collect::<Vec<_>>();
    let greedy = of("greedy", 3);
    let answers = rig.store.enqueue(&greedy).await.unwrap();
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert_eq!(answers[2], Err(Refused::TenantFull), "exact within one call");
    let keyed = of("greedy", 1).remove(0).idempotent("k");
    assert_eq!(rig.store.enqueue(&[keyed]).await.unwrap(), [Err(Refused::TenantFull)], "with a key as without");
    assert!(rig.store.enqueue(&of("modest", 1)).await.unwrap()[0].is_ok());
    assert_eq!(rig.store.enqueue(&greedy[..1]).await.unwrap(), [Ok(Enqueued::Exists(greedy[0].id))]);
    rig.audit().await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    assert_eq!(rig.store.enqueue(&of("greedy", 1)).await.unwrap(), [Err(Refused::TenantFull)], "running ones count");
    worker.finish(&[outcome(&claim, retry(1, 1000))]).await;
    assert_eq!(rig.store.enqueue(&of("greedy", 1)).await.unwrap(), [Err(Refused::TenantFull)], "and scheduled ones");
    rig.store.cancel(&rig.queue, &[claim.member]).await.unwrap();
    assert!(rig.store.enqueue(&of("greedy", 1)).await.unwrap()[0].is_ok(), "room again");
    rig.audit().await;
}

#[tokio::test]
async fn caps_in_bytes_are_exact_for_the_queue_and_for_each_tenant() {
    let sized = |rig: &Rig, bytes: usize| {
        let mut job = rig.job(0);
        job.args = raw_args(format!("\"{}\"", "x".repeat(bytes - 2)));
        job
    };
    let rig = Rig::new().await;
    rig.put(&[sized(&rig, 1000)]).await;
    let header = rig.audit().await.jobs.values().next().unwrap().len() - 1000;

    let rig = Rig::with(|config| config.max_bytes = 3 * (1000 + header as u64)).await;
    let jobs: Vec<_> = [1000, 1000, 1001, 1000].iter().map(|&bytes| sized(&rig, bytes)).collect();
    let answers = rig.store.enqueue(&jobs).await.unwrap();
    assert_eq!(answers[2], Err(Refused::QueueBytes), "one byte too many");
    assert!(answers[3].is_ok(), "and one that fits");
    assert_eq!(rig.store.enqueue(&[sized(&rig, 2)]).await.unwrap(), [Err(Refused::QueueBytes)]);
    assert_eq!(rig.store.enqueue(&[sized(&rig, 2).idempotent("k")]).await.unwrap(), [Err(Refused::QueueBytes)]);
    let mut worker = rig.worker().await;
    let claims = worker.claim(1).await;
    worker.complete(&claims).await;
    assert!(rig.store.enqueue(&[sized(&rig, 1000)]).await.unwrap()[0].is_ok());
    rig.audit().await;

    let rig = Rig::with(|config| config.max_tenant_bytes = 2 * (1003 + header as u64)).await;
    let of = |name: &str, bytes| sized(&rig, bytes).tenant(tenant(name));
    let jobs = [of("abc", 1000), of("abc", 1001), of("abc", 1000), of("xyz", 1000)];
    let answers = rig.store.enqueue(&jobs).await.unwrap();
    assert_eq!(answers[1], Err(Refused::TenantFull));
    assert!(answers[0].is_ok() && answers[2].is_ok() && answers[3].is_ok(), "{answers:?}");
    let keyed = of("abc", 1000).idempotent("k");
    assert_eq!(rig.store.enqueue(&[keyed]).await.unwrap(), [Err(Refused::TenantFull)]);
    rig.audit().await;
}

#[tokio::test]
async fn dead_jobs_weigh_nothing_and_redriven_ones_do() {
    let rig = Rig::with(|config| config.max_tenant_jobs = 1).await;
    let job = rig.job(1).tenant(tenant("t"));
    rig.put(from_ref(&job)).await;
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&claim, Finish::Bury { error: error(1, "no") })]).await;
    rig.audit().await;
    rig.put(&[NewJob { id: JobId::new(), ..job }]).await;
    rig.audit().await;
    assert_eq!(worker.drain().await.len(), 1);
    rig.store.redrive(&rig.queue, &[claim.member.id]).await.unwrap();
    let snapshot = rig.audit().await;
    assert_eq!(snapshot.jobs.len(), 1);
}
