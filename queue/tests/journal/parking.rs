//! R27: parks and callbacks, in every order in which they can come.

use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::PgPool;
use windrow_queue::{
    Decision, JobId, Member,
    journal::{self, CallbackError, CloseState, Closing, Parked, StandingFilter, find_standing, start_check},
    store::{Callback, CalledBack, MAX_CALLBACK_BYTES, TokenDigest},
};

use crate::support::{attempt, blocked, count, database, enqueue, note, patient};

const HOUR: Duration = Duration::from_secs(3600);
const TOKEN: TokenDigest = TokenDigest([1; 16]);

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

async fn one(pool: &PgPool) -> JobId {
    let id = enqueue(pool, &[note("a")]).await[0].id();
    sqlx::query("DELETE FROM job_outbox").execute(pool).await.unwrap();
    id
}

async fn expect(pool: &PgPool, id: JobId, generation: i32, token: TokenDigest) -> bool {
    journal::expect_callback(pool, id, generation, token, HOUR).await.unwrap()
}

async fn park(pool: &PgPool, id: JobId, generation: i32) -> Parked {
    journal::park(pool, id, generation, HOUR, 0).await.unwrap()
}

async fn call_back(pool: &PgPool, token: TokenDigest, text: &str) -> Callback {
    journal::call_back(pool, token, &json(text)).await.unwrap()
}

/// State, generation, and the generations on their way to Redis.
async fn row(pool: &PgPool) -> (String, i32, Vec<i32>) {
    let (state, generation) = sqlx::query_as("SELECT state, gen FROM job_journal").fetch_one(pool).await.unwrap();
    let outbox = sqlx::query_scalar("SELECT gen FROM job_outbox ORDER BY gen").fetch_all(pool).await.unwrap();
    (state, generation, outbox)
}

fn is(state: &str, generation: i32, outbox: &[i32]) -> (String, i32, Vec<i32>) {
    (state.to_owned(), generation, outbox.to_vec())
}

/// What the next attempt is told.
async fn called_back(pool: &PgPool, id: JobId, generation: i32) -> Option<String> {
    let member = Member::journaled(id, generation);
    let mut row = start_check(pool, &[member]).await.unwrap().remove(&member).expect("it is live");
    row.take_callback().map(|came| match came {
        CalledBack::Payload(payload) => payload.get().to_owned(),
        CalledBack::TimedOut => "timed out".to_owned(),
    })
}

async fn end_deadline(pool: &PgPool) {
    sqlx::query("UPDATE job_journal SET park_deadline = now() - interval '1 s'").execute(pool).await.unwrap();
}

#[tokio::test]
async fn a_parked_job_goes_on_with_what_it_was_called_back_with() {
    let pool = database().await;
    let id = one(&pool).await;
    assert!(expect(&pool, id, 1, TOKEN).await);
    assert_eq!(journal::park(&pool, id, 1, HOUR, 4).await.unwrap(), Parked::Parked);
    assert_eq!(row(&pool).await, is("parked", 1, &[]));
    assert_eq!(park(&pool, id, 1).await, Parked::Gone, "the same park again moves no deadline");
    assert!(!expect(&pool, id, 1, TokenDigest([8; 16])).await, "no attempt of it runs");
    assert!(start_check(&pool, &[Member::journaled(id, 1)]).await.unwrap().is_empty(), "it runs nowhere");
    assert_eq!(attempt(&pool, id, 1).begin().await.unwrap_err().decision(), Decision::Gone);

    assert_eq!(call_back(&pool, TOKEN, r#"{"score": 7}"#).await, Callback::Delivered);
    assert_eq!(row(&pool).await, is("live", 2, &[2]));
    assert_eq!(called_back(&pool, id, 2).await.as_deref(), Some(r#"{"score": 7}"#));
    assert_eq!(called_back(&pool, id, 2).await.as_deref(), Some(r#"{"score": 7}"#), "a retry finds it, too");
    assert_eq!(count(&pool, "SELECT attempt::bigint FROM job_journal").await, 4, "attempts that count are kept");
    assert_eq!(call_back(&pool, TOKEN, "8").await, Callback::Duplicate);
    assert_eq!(called_back(&pool, id, 2).await.as_deref(), Some(r#"{"score": 7}"#));

    assert_eq!(park(&pool, id, 1).await, Parked::Gone, "an earlier generation");
    assert_eq!(park(&pool, id, 2).await, Parked::Parked);
    end_deadline(&pool).await;
    assert_eq!(journal::unpark_due(&pool, 100).await.unwrap(), (1, 1));
    assert_eq!(called_back(&pool, id, 3).await.as_deref(), Some("timed out"), "not what came before");
    attempt(&pool, id, 3).begin().await.unwrap().commit().await.unwrap();
    assert_eq!(call_back(&pool, TOKEN, "8").await, Callback::Duplicate);
}

#[tokio::test]
async fn a_callback_that_comes_before_the_park_is_consumed_by_it() {
    let pool = database().await;
    let id = one(&pool).await;
    expect(&pool, id, 1, TOKEN).await;
    assert_eq!(call_back(&pool, TOKEN, "7").await, Callback::Delivered);
    assert_eq!(row(&pool).await, is("live", 1, &[]), "the attempt still runs");
    assert_eq!(park(&pool, id, 1).await, Parked::CameAlready);
    assert_eq!(row(&pool).await, is("live", 2, &[2]));
    assert_eq!(called_back(&pool, id, 2).await.as_deref(), Some("7"));
    assert_eq!(park(&pool, id, 1).await, Parked::Gone, "the same park again");
    assert_eq!(call_back(&pool, TOKEN, "8").await, Callback::Duplicate);
    assert_eq!(row(&pool).await, is("live", 2, &[2]));
}

#[tokio::test]
async fn a_callback_while_the_park_commits_waits_and_finds_the_job_parked() {
    let pool = patient(&database().await).await;
    let id = one(&pool).await;
    expect(&pool, id, 1, TOKEN).await;
    // A park that has locked its tokens and not committed yet: both sides lock the token row first.
    let mut park = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM job_callback WHERE id = $1 FOR UPDATE").bind(id.0).execute(&mut *park).await.unwrap();
    let callback = tokio::spawn({
        let pool = pool.clone();
        async move { call_back(&pool, TOKEN, "7").await }
    });
    blocked(&pool).await;
    sqlx::query("UPDATE job_journal SET state = 'parked', park_deadline = now() + interval '1 h'")
        .execute(&mut *park)
        .await
        .unwrap();
    park.commit().await.unwrap();
    assert_eq!(callback.await.unwrap(), Callback::Delivered);
    assert_eq!(row(&pool).await, is("live", 2, &[2]));
}

#[tokio::test]
async fn a_park_while_the_callback_commits_waits_and_finds_it() {
    let pool = patient(&database().await).await;
    let id = one(&pool).await;
    expect(&pool, id, 1, TOKEN).await;
    let mut callback = pool.begin().await.unwrap();
    sqlx::query("UPDATE job_callback SET payload = '7'").execute(&mut *callback).await.unwrap();
    let parked = tokio::spawn({
        let pool = pool.clone();
        async move { park(&pool, id, 1).await }
    });
    blocked(&pool).await;
    callback.commit().await.unwrap();
    assert_eq!(parked.await.unwrap(), Parked::CameAlready);
    assert_eq!(called_back(&pool, id, 2).await.as_deref(), Some("7"));
}

#[tokio::test]
async fn parks_and_callbacks_that_race_lose_no_answer_and_go_on_once() {
    let pool = patient(&database().await).await;
    let ids: Vec<_> = enqueue(&pool, &(0..60).map(|_| note("a")).collect::<Vec<_>>()).await;
    sqlx::query("DELETE FROM job_outbox").execute(&pool).await.unwrap();
    for (number, job) in ids.iter().enumerate() {
        let token = TokenDigest([u8::try_from(number).unwrap(); 16]);
        expect(&pool, job.id(), 1, token).await;
        let (parked, first, second) =
            tokio::join!(park(&pool, job.id(), 1), call_back(&pool, token, "1"), call_back(&pool, token, "2"));
        assert_ne!(parked, Parked::Gone);
        let answers = [first, second];
        assert!(answers.contains(&Callback::Delivered) && answers.contains(&Callback::Duplicate), "{answers:?}");
    }
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE state = 'live' AND gen = 2").await, 60);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox WHERE gen = 2").await, 60);
}

#[tokio::test]
async fn what_a_crashed_park_or_callback_began_has_not_happened() {
    let pool = database().await;
    let id = one(&pool).await;
    expect(&pool, id, 1, TOKEN).await;
    // The statements of both, up to where their transaction is dropped.
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("UPDATE job_callback SET payload = '7'").execute(&mut *tx).await.unwrap();
    sqlx::query("UPDATE job_journal SET state = 'parked'").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(park(&pool, id, 1).await, Parked::Parked);
    assert_eq!(call_back(&pool, TOKEN, "8").await, Callback::Delivered);
    assert_eq!(called_back(&pool, id, 2).await.as_deref(), Some("8"));
}

#[tokio::test]
async fn a_park_that_is_past_its_deadline_goes_on_and_its_callback_is_late() {
    let pool = database().await;
    let id = one(&pool).await;
    let other = TokenDigest([2; 16]);
    assert!(expect(&pool, id, 1, TOKEN).await && expect(&pool, id, 1, other).await);
    park(&pool, id, 1).await;
    assert_eq!(journal::unpark_due(&pool, 100).await.unwrap(), (0, 0), "it is not due");
    end_deadline(&pool).await;
    let both = tokio::join!(journal::unpark_due(&pool, 100), journal::unpark_due(&pool, 100));
    assert_eq!(both.0.unwrap().1 + both.1.unwrap().1, 1, "once, whoever looks");
    assert_eq!(row(&pool).await, is("live", 2, &[2]));
    assert_eq!(called_back(&pool, id, 2).await.as_deref(), Some("timed out"));
    assert_eq!(call_back(&pool, TOKEN, "7").await, Callback::Late);
    assert_eq!(call_back(&pool, other, "7").await, Callback::Late, "every token of the park");
    assert_eq!(row(&pool).await, is("live", 2, &[2]));
    assert_eq!(park(&pool, id, 2).await, Parked::Parked, "a late payload is nobody's");
}

#[tokio::test]
async fn of_a_deadline_and_a_callback_at_the_same_time_one_decides() {
    let pool = patient(&database().await).await;
    let (mut in_time, mut late) = (0, 0);
    for number in 0..40 {
        let id = one(&pool).await;
        let token = TokenDigest([number; 16]);
        expect(&pool, id, 1, token).await;
        park(&pool, id, 1).await;
        sqlx::query("UPDATE job_journal SET park_deadline = now()").execute(&pool).await.unwrap();
        let (callback, unparked) = tokio::join!(call_back(&pool, token, "7"), journal::unpark_due(&pool, 100));
        let came = called_back(&pool, id, 2).await;
        match callback {
            Callback::Delivered => {
                in_time += 1;
                assert_eq!((came.as_deref(), unparked.unwrap().1), (Some("7"), 0));
            }
            Callback::Late => {
                late += 1;
                assert_eq!((came.as_deref(), unparked.unwrap().1), (Some("timed out"), 1));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(row(&pool).await, is("live", 2, &[2]));
        attempt(&pool, id, 2).begin().await.unwrap().commit().await.unwrap();
    }
    assert_eq!(in_time + late, 40);
}

#[tokio::test]
async fn a_deadline_that_passes_while_a_callback_commits_waits_for_it() {
    // It goes on; it goes on, and parks again.
    for (state, generation) in [("live", 2), ("parked", 2), ("live", 1)] {
        let pool = patient(&database().await).await;
        let id = one(&pool).await;
        expect(&pool, id, 1, TOKEN).await;
        park(&pool, id, 1).await;
        end_deadline(&pool).await;
        let mut callback = pool.begin().await.unwrap();
        sqlx::query("UPDATE job_callback SET payload = NULL").execute(&mut *callback).await.unwrap();
        let unparked = tokio::spawn({
            let pool = pool.clone();
            async move { journal::unpark_due(&pool, 100).await.unwrap() }
        });
        blocked(&pool).await;
        sqlx::query("UPDATE job_journal SET state = $1, gen = $2")
            .bind(state)
            .bind(generation)
            .execute(&mut *callback)
            .await
            .unwrap();
        callback.commit().await.unwrap();
        assert_eq!(unparked.await.unwrap(), (1, 0));
        assert_eq!(row(&pool).await, is(state, generation, &[]));
    }
}

#[tokio::test]
async fn the_first_of_two_tokens_counts_and_the_other_is_late() {
    let pool = database().await;
    let id = one(&pool).await;
    let other = TokenDigest([2; 16]);
    assert!(expect(&pool, id, 1, TOKEN).await && expect(&pool, id, 1, other).await);
    park(&pool, id, 1).await;
    assert_eq!(call_back(&pool, other, "7").await, Callback::Delivered);
    assert_eq!(call_back(&pool, TOKEN, "8").await, Callback::Late);
    assert_eq!(called_back(&pool, id, 2).await.as_deref(), Some("7"));
}

#[tokio::test]
async fn tokens_are_fenced_by_the_live_row_and_belong_to_one_job() {
    let pool = database().await;
    let (id, other) = (one(&pool).await, one(&pool).await);
    assert!(!expect(&pool, id, 2, TOKEN).await, "another generation");
    assert!(expect(&pool, id, 1, TOKEN).await);
    assert!(expect(&pool, id, 1, TOKEN).await, "again changes nothing");
    assert!(!expect(&pool, other, 1, TOKEN).await, "it is another job's");
    assert_eq!(call_back(&pool, TokenDigest([9; 16]), "7").await, Callback::Unknown);
    assert_eq!(call_back(&pool, TOKEN, "7").await, Callback::Delivered);
    assert!(expect(&pool, id, 1, TOKEN).await, "answered, and still its own");
    attempt(&pool, id, 1).begin().await.unwrap().commit().await.unwrap();
    assert!(!expect(&pool, id, 1, TokenDigest([3; 16])).await, "it completed");

    expect(&pool, other, 1, TokenDigest([4; 16])).await;
    let closing = Closing { state: CloseState::Cancelled, reason: "no", fingerprint: [0; 16], error: None, attempt: 0 };
    park(&pool, other, 1).await;
    assert!(journal::close(&pool, other, 1, &closing).await.unwrap(), "a parked job can be cancelled");
    assert_eq!(call_back(&pool, TokenDigest([4; 16]), "7").await, Callback::Late, "its job is over");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_callback WHERE payload IS NOT NULL").await, 1);
}

#[tokio::test]
async fn a_redriven_job_keeps_what_came_and_asks_again_for_what_did_not() {
    for (came, kept) in [(true, Some("7")), (false, None)] {
        let pool = database().await;
        let id = one(&pool).await;
        expect(&pool, id, 1, TOKEN).await;
        park(&pool, id, 1).await;
        if came {
            call_back(&pool, TOKEN, "7").await;
        } else {
            end_deadline(&pool).await;
            journal::unpark_due(&pool, 100).await.unwrap();
        }
        let closing = Closing { state: CloseState::Dead, reason: "no", fingerprint: [0; 16], error: None, attempt: 1 };
        assert!(journal::close(&pool, id, 2, &closing).await.unwrap());
        assert!(journal::redrive(&pool, id).await.unwrap());
        assert_eq!(called_back(&pool, id, 3).await.as_deref(), kept);
    }
}

#[tokio::test]
async fn a_parked_job_is_seen_where_it_waits_and_comes_back_when_it_was_cancelled() {
    let pool = database().await;
    let id = one(&pool).await;
    sqlx::query("UPDATE job_journal SET checkpoint = '5', policy = '{\"max_attempts\": 3}'")
        .execute(&pool)
        .await
        .unwrap();
    expect(&pool, id, 1, TOKEN).await;
    park(&pool, id, 1).await;
    let parked = StandingFilter { parked: Some(true), ..StandingFilter::default() };
    let seen = find_standing(&pool, &parked, None, 10).await.unwrap().jobs;
    assert_eq!((seen.len(), seen[0].id, seen[0].parked, seen[0].generation), (1, id.0, true, 1));
    assert!(seen[0].park_deadline.is_some());

    let closing = Closing { state: CloseState::Cancelled, reason: "no", fingerprint: [0; 16], error: None, attempt: 1 };
    assert!(journal::close(&pool, id, 1, &closing).await.unwrap());
    assert!(find_standing(&pool, &parked, None, 10).await.unwrap().jobs.is_empty());
    let closed = journal::list_closed(&pool, CloseState::Cancelled, None, 10).await.unwrap();
    assert_eq!(closed.iter().map(|job| job.id).collect::<Vec<_>>(), [id.0]);
    assert!(journal::redrive(&pool, id).await.unwrap());
    assert_eq!(row(&pool).await, is("live", 2, &[2]), "ready, and on its way to Redis");
    let kept = "SELECT count(*) FROM job_journal WHERE checkpoint = '5' AND policy->>'max_attempts' = '3' AND park_deadline IS NULL";
    assert_eq!(count(&pool, kept).await, 1);
}

#[tokio::test]
async fn an_attempt_of_an_earlier_generation_parks_nothing() {
    let pool = database().await;
    let id = one(&pool).await;
    sqlx::query("UPDATE job_journal SET gen = 2").execute(&pool).await.unwrap();
    assert_eq!(park(&pool, id, 1).await, Parked::Gone);
    assert_eq!(row(&pool).await, is("live", 2, &[]));
}

#[tokio::test]
async fn a_token_is_good_until_the_end_of_the_park() {
    let pool = database().await;
    let id = one(&pool).await;
    journal::expect_callback(&pool, id, 1, TOKEN, Duration::from_secs(1)).await.unwrap();
    park(&pool, id, 1).await;
    let same = "SELECT count(*) FROM job_callback c JOIN job_journal j ON c.deadline = j.park_deadline";
    assert_eq!(count(&pool, same).await, 1);
    sqlx::query("UPDATE job_callback SET deadline = now()").execute(&pool).await.unwrap();
    assert_eq!(call_back(&pool, TOKEN, "7").await, Callback::Late, "though nobody has looked yet");
    assert_eq!(row(&pool).await, is("parked", 1, &[]));
}

#[tokio::test]
async fn payloads_that_cannot_be_kept_are_refused_with_a_reason() {
    let pool = database().await;
    let id = one(&pool).await;
    expect(&pool, id, 1, TOKEN).await;
    let large = format!("\"{}\"", "x".repeat(MAX_CALLBACK_BYTES));
    let error = journal::call_back(&pool, TOKEN, &json(&large)).await.unwrap_err();
    assert!(matches!(error, CallbackError::TooLarge(_)), "{error}");
    let error = journal::call_back(&pool, TOKEN, &json(r#""a\u0000b""#)).await.unwrap_err();
    assert!(matches!(error, CallbackError::Nul), "{error}");
    assert_eq!(call_back(&pool, TOKEN, "7").await, Callback::Delivered, "the token is not used up");
}

#[tokio::test]
async fn five_hundred_parks_go_on_in_one_call_and_those_that_wait_longest_first() {
    let pool = database().await;
    let jobs: Vec<_> = (0..600).map(|_| note("a")).collect();
    enqueue(&pool, &jobs).await;
    sqlx::raw_sql(
        "DELETE FROM job_outbox;
         UPDATE job_journal SET state = 'parked', park_deadline = now() - interval '1 s';
         INSERT INTO job_callback (token_hash, id, gen, deadline) SELECT uuid_send(id), id, 1, now() + interval '1 h' FROM job_journal",
    )
    .execute(&pool)
    .await
    .unwrap();
    let oldest = jobs[599].id;
    sqlx::query("UPDATE job_journal SET park_deadline = now() - interval '1 h' WHERE id = $1")
        .bind(oldest.0)
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(journal::unpark_due(&pool, 500).await.unwrap(), (500, 500));
    assert_eq!(called_back(&pool, oldest, 2).await.as_deref(), Some("timed out"));
    assert_eq!(journal::unpark_due(&pool, 500).await.unwrap(), (100, 100));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox WHERE gen = 2").await, 600);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_callback WHERE deadline > clock_timestamp()").await, 0);
}
