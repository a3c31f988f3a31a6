//! enqueue and relay.

use std::time::Duration;

use windrow_queue::{
    Due, Enqueued, Member,
    store::{JobState, Refused},
};

use crate::support::*;

#[tokio::test]
async fn the_same_job_twice_is_taken_once() {
    let rig = Rig::new().await;
    let job = rig.job(1);
    let batch = [job.clone(), job.clone()];
    let answers = rig.store.enqueue(&batch).await.unwrap();
    assert_eq!(answers, [Ok(Enqueued::Created(job.id)), Ok(Enqueued::Exists(job.id))]);
    assert_eq!(rig.store.enqueue(&batch[..1]).await.unwrap(), [Ok(Enqueued::Exists(job.id))]);
    assert_eq!(rig.audit().await.places.len(), 1);
    let relayed = rig.relay_job();
    for is_new in [true, false] {
        assert_eq!(rig.store.relay(&rig.queue, std::slice::from_ref(&relayed)).await.unwrap(), [Ok(is_new)]);
    }
    assert_eq!(rig.audit().await.places.len(), 2);
}

#[tokio::test]
async fn a_unique_key_stands_until_its_job_is_final() {
    let rig = Rig::new().await;
    let mut worker = rig.worker().await;
    for end in 0..4 {
        let (first, second) = (rig.job(1).unique("k"), rig.job(2).unique("k"));
        let answers = rig.store.enqueue(&[first.clone(), second.clone()]).await.unwrap();
        assert_eq!(answers, [Ok(Enqueued::Created(first.id)), Ok(Enqueued::Exists(first.id))]);
        let claim = worker.claim(5).await.pop().unwrap();
        assert_eq!(rig.store.enqueue(std::slice::from_ref(&second)).await.unwrap(), [Ok(Enqueued::Exists(first.id))]);
        worker.finish(&[outcome(&claim, retry(1, 100))]).await;
        assert_eq!(rig.store.enqueue(std::slice::from_ref(&second)).await.unwrap(), [Ok(Enqueued::Exists(first.id))]);
        rig.audit().await;
        rig.advance(100).await;
        rig.tick().await;
        let claim = worker.claim(5).await.pop().unwrap();
        use windrow_queue::store::Finish::{Bury, Cancel, Gone};
        let finish = match end {
            0 => complete(),
            1 => Cancel { keep: None },
            2 => Gone,
            _ => Bury { error: error(2, "no") },
        };
        worker.finish(&[outcome(&claim, finish)]).await;
        assert!(rig.audit().await.unique.is_empty());
    }
}

#[tokio::test]
async fn an_idempotency_key_answers_with_the_first_job_even_when_that_is_over() {
    let rig = Rig::new().await;
    let (first, second, third) =
        (rig.job(1).idempotent("k"), rig.job(2).idempotent("k"), rig.job(3).tenant(tenant("other")).idempotent("k"));
    let answers = rig.store.enqueue(&[first.clone(), second.clone(), third.clone()]).await.unwrap();
    assert_eq!(
        answers,
        [Ok(Enqueued::Created(first.id)), Ok(Enqueued::Exists(first.id)), Ok(Enqueued::Created(third.id))]
    );
    assert_eq!(rig.worker().await.drain().await.len(), 2);
    assert_eq!(rig.store.enqueue(&[second]).await.unwrap(), [Ok(Enqueued::Exists(first.id))]);
    assert!(rig.audit().await.jobs.is_empty());
}

#[tokio::test]
async fn a_delayed_job_waits_for_its_time_and_one_of_the_past_does_not() {
    let rig = Rig::new().await;
    let (mut later, mut past, mut never, mut at) = (rig.job(1), rig.job(2), rig.job(3), rig.job(4));
    later.due = due_in(1500);
    past.due = Due::At(chrono::DateTime::UNIX_EPOCH);
    never.due = Due::In(Duration::MAX);
    at.due = Due::At(chrono::DateTime::from_timestamp_millis(i64::try_from(START).unwrap() + 2000).unwrap());
    rig.put(&[later.clone(), past.clone(), never.clone(), at.clone()]).await;
    assert_eq!(rig.place(Member::fast(past.id)).await, Some(Place::Lane));
    assert_eq!(rig.place(Member::fast(at.id)).await, Some(Place::Scheduled { due: START + 2000 }));
    let status = rig.store.status(&rig.queue, Member::fast(later.id)).await.unwrap().unwrap();
    assert_eq!(status.state, JobState::Scheduled);
    assert_eq!(status.ready_at.unwrap().timestamp_millis().unsigned_abs(), START + 1500);
    let tick = rig.tick().await;
    assert_eq!((tick.promoted, tick.next_due), (0, Some(Duration::from_millis(1500))));
    rig.advance(1500).await;
    assert_eq!(rig.tick().await.promoted, 1);
    rig.advance(1_000_000_000).await;
    assert_eq!(rig.tick().await.promoted, 1);
    assert!(matches!(rig.place(Member::fast(never.id)).await, Some(Place::Scheduled { .. })));
}

#[tokio::test]
async fn a_full_queue_refuses_exactly_what_is_beyond_its_cap_and_still_knows_what_it_has() {
    let rig = Rig::with(|config| config.max_jobs = 3).await;
    let jobs = rig.jobs(5);
    let answers = rig.store.enqueue(&jobs).await.unwrap();
    assert!(answers[..3].iter().all(Result::is_ok));
    assert_eq!(answers[3..], [Err(Refused::QueueFull); 2]);
    assert_eq!(rig.store.enqueue(&jobs[..1]).await.unwrap(), [Ok(Enqueued::Exists(jobs[0].id))]);
    assert_eq!(rig.store.relay(&rig.queue, &[rig.relay_job()]).await.unwrap(), [Err(Refused::QueueFull)]);
    let mut worker = rig.worker().await;
    let claim = worker.claim(1).await.pop().unwrap();
    worker.finish(&[outcome(&claim, retry(1, 0))]).await;
    assert_eq!(rig.audit().await.places.len(), 3, "a retry is never refused");
    worker.drain().await;
    assert!(rig.store.enqueue(&jobs[3..]).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_closed_gate_refuses_new_jobs_only() {
    let rig = Rig::new().await;
    let (job, unique, keyed) = (rig.job(1), rig.job(2).unique("u"), rig.job(3).idempotent("i"));
    rig.put(&[job.clone(), unique.clone(), keyed.clone()]).await;
    rig.raw::<()>(redis::cmd("HSET").arg(rig.key("meta")).arg("gate").arg(1)).await;
    let asked = [job.clone(), rig.job(4).unique("u"), rig.job(5).idempotent("i"), rig.job(6)];
    assert_eq!(
        rig.store.enqueue(&asked).await.unwrap(),
        [
            Ok(Enqueued::Exists(job.id)),
            Ok(Enqueued::Exists(unique.id)),
            Ok(Enqueued::Exists(keyed.id)),
            Err(Refused::MemoryGate)
        ]
    );
    let refusal = Refused::MemoryGate.to_string();
    assert!(refusal.contains("wait") && refusal.contains("maxmemory"), "it says what to do: {refusal}");
    rig.store.refresh_gates(std::slice::from_ref(&rig.queue)).await.unwrap();
    assert!(rig.store.enqueue(&asked[3..]).await.unwrap()[0].is_ok(), "a look opens the gate when there is memory");
    rig.audit().await;
}

#[tokio::test]
async fn thousands_of_jobs_in_one_call_and_of_one_moment_pass_through() {
    let rig = Rig::new().await;
    let mut jobs = rig.jobs(9000);
    for job in &mut jobs[..8500] {
        job.due = due_in(1000);
    }
    let mut members = rig.put(&jobs).await;
    rig.advance(1000).await;
    assert_eq!(rig.tick().await.promoted, 8500);
    let mut done = rig.worker().await.drain().await;
    members.sort_by_key(|member| member.id);
    done.sort_by_key(|member| member.id);
    assert_eq!(done, members);
    rig.audit().await;
}
