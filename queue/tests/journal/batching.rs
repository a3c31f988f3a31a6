//! R29: batches fire once, when nothing of them stands; R23: one transaction for many jobs.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;
use windrow_queue::{
    BatchId, Delivery, Due, Fire, JobId, Member, NewJob,
    journal::{self, BatchError, BatchTx, CloseState, Closing, is_batch_closed},
    policy::PolicyOverride,
    store::NewBatch,
};

use crate::support::{
    LosesCommit, attempt, blocked, connect, count, database, database_url, enqueue, note, patient, write_effect,
};

async fn open(pool: &PgPool) -> NewBatch {
    let batch = NewBatch { id: BatchId(Uuid::from_u128(7)), follow_up: note("follow-up") };
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(journal::open_batch_in(&mut tx, &batch).await.unwrap(), batch.follow_up.id);
    tx.commit().await.unwrap();
    batch
}

async fn seal(pool: &PgPool, id: BatchId) {
    let mut tx = pool.begin().await.unwrap();
    assert!(journal::seal_batch_in(&mut tx, id).await.unwrap());
    tx.commit().await.unwrap();
}

async fn add(pool: &PgPool, batch: &NewBatch, jobs: usize) -> Vec<JobId> {
    let jobs: Vec<_> = (0..jobs).map(|_| note("member").batch(batch.id)).collect();
    enqueue(pool, &jobs).await.iter().map(|answer| answer.id()).collect()
}

async fn fire(pool: &PgPool) -> u64 {
    journal::fire_batches(pool, None, 100).await.unwrap().fired
}

/// Members, completed, dead, cancelled.
async fn counts(pool: &PgPool, id: BatchId) -> (u64, u64, u64, u64) {
    let status = journal::batch(pool, id).await.unwrap().unwrap();
    (status.members, status.completed, status.dead, status.cancelled)
}

async fn complete(pool: &PgPool, id: JobId) {
    attempt(pool, id, 1).begin().await.unwrap().commit().await.unwrap();
}

async fn close(pool: &PgPool, id: JobId, generation: i32, state: CloseState) {
    let closing = Closing { state, reason: "no", fingerprint: [0; 16], error: None, attempt: 1 };
    assert!(journal::close(pool, id, generation, &closing).await.unwrap());
}

#[tokio::test]
async fn a_follow_up_is_enqueued_once_when_all_members_are_final() {
    let pool = database().await;
    let batch = open(&pool).await;
    let mut members = add(&pool, &batch, 3).await;
    members.extend(add(&pool, &batch, 2).await);
    complete(&pool, members[0]).await;
    close(&pool, members[1], 1, CloseState::Dead).await;
    close(&pool, members[2], 1, CloseState::Cancelled).await;
    assert_eq!(counts(&pool, batch.id).await, (5, 1, 1, 1));
    assert_eq!(fire(&pool).await, 0, "it is not sealed");
    seal(&pool, batch.id).await;
    seal(&pool, batch.id).await;
    assert_eq!(fire(&pool).await, 0, "two stand");
    journal::park(&pool, members[3], 1, Duration::from_secs(60), 0).await.unwrap();
    complete(&pool, members[4]).await;
    assert_eq!(fire(&pool).await, 0, "a parked one stands");
    journal::cancel(&pool, &[members[3]], "no").await.unwrap();
    sqlx::query("DELETE FROM job_outbox").execute(&pool).await.unwrap();

    let both = tokio::join!(fire(&pool), fire(&pool));
    assert_eq!(both.0 + both.1, 1);
    assert_eq!(fire(&pool).await, 0);
    let status = journal::batch(&pool, batch.id).await.unwrap().unwrap();
    assert_eq!((status.sealed, status.fired_at.is_some(), status.follow_up), (true, true, batch.follow_up.id));
    assert_eq!(counts(&pool, batch.id).await, (5, 2, 1, 2));
    let member = Member::journaled(batch.follow_up.id, 1);
    let row = journal::start_check(&pool, &[member]).await.unwrap().remove(&member).unwrap();
    assert_eq!((row.args.get(), row.follows), (r#"{"text": "follow-up"}"#, Some(batch.id.0)));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox").await, 1);

    assert!(journal::redrive(&pool, members[1]).await.unwrap());
    assert_eq!(fire(&pool).await, 0, "it fired");
    assert_eq!(counts(&pool, batch.id).await, (5, 2, 1, 2), "as it was then");
    close(&pool, members[1], 2, CloseState::Dead).await;
    assert_eq!(fire(&pool).await, 0);
}

#[tokio::test]
async fn last_members_that_complete_at_once_fire_it_once_whoever_looks() {
    let pool = patient(&database().await).await;
    let batch = open(&pool).await;
    let members = add(&pool, &batch, 8).await;
    seal(&pool, batch.id).await;
    let looks = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut fired = 0;
            for _ in 0..30 {
                let both = tokio::join!(fire(&pool), fire(&pool));
                fired += both.0 + both.1;
            }
            fired
        }
    });
    let completions: Vec<_> = members
        .into_iter()
        .map(|id| {
            let pool = pool.clone();
            tokio::spawn(async move { complete(&pool, id).await })
        })
        .collect();
    for completion in completions {
        completion.await.unwrap();
    }
    let fired = looks.await.unwrap() + fire(&pool).await;
    assert_eq!(fired, 1);
    assert_eq!(counts(&pool, batch.id).await, (8, 8, 0, 0));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1);
}

#[tokio::test]
async fn members_are_added_before_it_is_sealed_or_not_at_all() {
    let pool = patient(&database().await).await;
    let batch = open(&pool).await;
    let mut adding = pool.begin().await.unwrap();
    journal::enqueue_in(&mut adding, &[note("member").batch(batch.id)]).await.unwrap();
    // Others may add at the same time; sealing waits for all of them.
    add(&pool, &batch, 1).await;
    let sealing = tokio::spawn({
        let (pool, id) = (pool.clone(), batch.id);
        async move { seal(&pool, id).await }
    });
    blocked(&pool).await;
    adding.commit().await.unwrap();
    sealing.await.unwrap();
    assert_eq!(counts(&pool, batch.id).await, (2, 0, 0, 0));
    for id in [batch.id, BatchId(Uuid::from_u128(8))] {
        let mut late = pool.begin().await.unwrap();
        let error = journal::enqueue_in(&mut late, &[note("late").batch(id)]).await.unwrap_err();
        assert!(is_batch_closed(&error) && error.to_string().contains(&id.to_string()), "{error}");
    }
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 2);
    let mut tx = pool.begin().await.unwrap();
    assert!(!journal::seal_batch_in(&mut tx, BatchId(Uuid::from_u128(8))).await.unwrap());
}

#[tokio::test]
async fn a_batch_in_one_transaction_stands_or_falls_with_it() {
    let pool = database().await;
    for commits in [false, true] {
        let batch = NewBatch { id: BatchId(Uuid::from_u128(7)), follow_up: note("follow-up") };
        let mut tx = pool.begin().await.unwrap();
        journal::open_batch_in(&mut tx, &batch).await.unwrap();
        journal::enqueue_in(&mut tx, &[note("member").batch(batch.id)]).await.unwrap();
        journal::seal_batch_in(&mut tx, batch.id).await.unwrap();
        if commits {
            tx.commit().await.unwrap()
        } else {
            tx.rollback().await.unwrap()
        }
        let status = journal::batch(&pool, batch.id).await.unwrap();
        assert_eq!(status.map(|status| status.members), commits.then_some(1));
        assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, i64::from(commits));
    }
}

#[tokio::test]
async fn a_batch_without_members_fires_at_once_and_opening_it_again_changes_nothing() {
    let pool = database().await;
    let batch = open(&pool).await;
    let mut tx = pool.begin().await.unwrap();
    let again = NewBatch { follow_up: note("another"), ..batch.clone() };
    assert_eq!(journal::open_batch_in(&mut tx, &again).await.unwrap(), batch.follow_up.id);
    let wrong = NewBatch { follow_up: note("x").due(Due::In(Duration::from_secs(1))), ..batch.clone() };
    let error = journal::open_batch_in(&mut tx, &wrong).await.unwrap_err();
    assert!(matches!(error, BatchError::FollowUp("a time of its own")), "{error}");
    tx.commit().await.unwrap();
    seal(&pool, batch.id).await;
    assert_eq!(fire(&pool).await, 1);
    assert_eq!(counts(&pool, batch.id).await, (0, 0, 0, 0));
}

#[tokio::test]
async fn a_job_that_stands_already_is_no_member_and_a_started_one_is_until_its_end_is_known() {
    let pool = database().await;
    let batch = open(&pool).await;
    enqueue(&pool, &[note("a").unique("key")]).await;
    let mut once = note("once").batch(batch.id);
    once.policy = PolicyOverride { delivery: Some(Delivery::AtMostOnce), ..PolicyOverride::default() };
    enqueue(&pool, &[note("b").unique("key").batch(batch.id), once.clone()]).await;
    assert_eq!(counts(&pool, batch.id).await, (1, 0, 0, 0));
    seal(&pool, batch.id).await;
    let started = [(Member::journaled(once.id, 1), Duration::from_secs(60))];
    assert_eq!(journal::start_at_most_once(&pool, &started).await.unwrap().len(), 1);
    assert_eq!(counts(&pool, batch.id).await, (1, 0, 0, 0));
    assert_eq!(fire(&pool).await, 0, "it may be running");
    complete(&pool, once.id).await;
    assert_eq!(fire(&pool).await, 1);
    assert_eq!(counts(&pool, batch.id).await, (1, 1, 0, 0));
}

#[tokio::test]
async fn batches_are_looked_at_a_page_at_a_time() {
    let pool = database().await;
    for number in 1..=25_u128 {
        let batch = NewBatch { id: BatchId(Uuid::from_u128(number)), follow_up: note("follow-up") };
        let mut tx = pool.begin().await.unwrap();
        journal::open_batch_in(&mut tx, &batch).await.unwrap();
        if number % 2 == 0 {
            journal::enqueue_in(&mut tx, &[note("member").batch(batch.id)]).await.unwrap();
        }
        journal::seal_batch_in(&mut tx, batch.id).await.unwrap();
        tx.commit().await.unwrap();
    }
    let (mut after, mut fired, mut looks) = (None, 0, 0);
    loop {
        let look = journal::fire_batches(&pool, after, 10).await.unwrap();
        (after, fired, looks) = (look.next, fired + look.fired, looks + 1);
        if after.is_none() {
            break;
        }
    }
    assert_eq!((fired, looks), (13, 3));
}

#[tokio::test]
async fn many_jobs_complete_in_one_transaction_with_the_effects_of_those_that_stand() {
    let pool = database().await;
    let fire = Fire { schedule_id: Uuid::from_u128(7), fire_at: chrono::DateTime::UNIX_EPOCH, missed: 0 };
    let mut jobs: Vec<NewJob> = (0..500).map(|_| note("a")).collect();
    jobs[0].fire = Some(fire);
    enqueue(&pool, &jobs).await;
    let members: Vec<_> = jobs.iter().map(|job| Member::journaled(job.id, 1)).collect();
    complete(&pool, jobs[1].id).await;
    let mut held = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM job_journal WHERE id = $1 FOR UPDATE")
        .bind(jobs[2].id.0)
        .execute(&mut *held)
        .await
        .unwrap();
    let mut asked = members.clone();
    asked[3] = Member::journaled(jobs[3].id, 2);

    let mut spoilt = BatchTx::begin(&pool, &asked).await.unwrap();
    write_effect(&mut spoilt, jobs[0].id).await;
    spoilt.rollback().await.unwrap();

    let mut tx = BatchTx::begin(&pool, &asked).await.unwrap();
    assert_eq!(tx.standing().count(), 497);
    assert!(!tx.stands(members[1]) && !tx.stands(members[2]) && !tx.stands(asked[3]));
    assert_eq!(tx.busy(), &[members[2]].into(), "the others are over");
    for member in tx.standing().collect::<Vec<_>>() {
        write_effect(&mut tx, member.id).await;
    }
    tx.enqueue(vec![(members[0], note("child")), (members[4], note("child"))]).await.unwrap();
    assert_eq!(tx.commit().await.unwrap().members().len(), 497);
    assert_eq!(count(&pool, "SELECT count(*) FROM effect").await, 497);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE schedule_id IS NOT NULL").await, 1);
    held.rollback().await.unwrap();
    let again = BatchTx::begin(&pool, &members).await.unwrap();
    assert_eq!(again.standing().count(), 2, "the one that was held and the one of another generation");
}

#[tokio::test]
async fn an_overlooked_error_is_no_commit_of_many_and_a_lost_answer_is_one() {
    let url = database_url().await;
    let direct = connect(&url).await;
    let server = windrow_devserver::shared_postgres().unwrap();
    let proxy = LosesCommit::start(server.port()).await;
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let pool = connect(&server.url_through(proxy.port, name)).await;
    let members: Vec<_> =
        enqueue(&direct, &[note("a"), note("b")]).await.iter().map(|job| Member::journaled(job.id(), 1)).collect();
    let mut tx = BatchTx::begin(&pool, &members).await.unwrap();
    assert!(sqlx::query("SELECT 1 / 0").execute(&mut *tx).await.is_err());
    tx.commit().await.unwrap_err();
    assert_eq!(count(&direct, "SELECT count(*) FROM job_journal").await, 2);

    let mut tx = BatchTx::begin(&pool, &members).await.unwrap();
    write_effect(&mut tx, members[0].id).await;
    proxy.armed.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(tx.commit().await.unwrap().members().len(), 2);
    assert_eq!(count(&direct, "SELECT count(*) FROM effect").await, 1);
}
