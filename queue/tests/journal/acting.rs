//! R20: cancelling; redriving and discarding by filter. What operators do, in bounded steps.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use windrow_queue::{
    Decision, Delivery, JobId, Kind, Member, QueueName, Tenant,
    journal::{
        self, Cancelled, CloseState, ClosedAction, ClosedFilter, Closing, StandingFilter, act_on_closed, cancel_where,
        find_standing,
    },
    policy::PolicyOverride,
};

use crate::support::{attempt, count, database, enqueue, note, patient};

fn done(id: JobId, generation: i32) -> Cancelled {
    Cancelled::Done { member: Member::journaled(id, generation), queue: "test".to_owned() }
}

async fn now(pool: &PgPool) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await.unwrap()
}

async fn die(pool: &PgPool, id: JobId, fingerprint: u8) {
    let closing =
        Closing { state: CloseState::Dead, reason: "because", fingerprint: [fingerprint; 16], error: None, attempt: 1 };
    assert!(journal::close(pool, id, 1, &closing).await.unwrap());
}

#[tokio::test]
async fn jobs_are_cancelled_once_and_each_is_answered() {
    let pool = database().await;
    let ids: Vec<_> = enqueue(&pool, &[note("live"), note("parked"), note("completed"), note("dead"), note("started")])
        .await
        .iter()
        .map(|job| job.id())
        .collect();
    journal::park(&pool, ids[1], 1, Duration::from_secs(60), 0).await.unwrap();
    attempt(&pool, ids[2], 1).begin().await.unwrap().commit().await.unwrap();
    die(&pool, ids[3], 1).await;
    let started = [(Member::journaled(ids[4], 1), Duration::from_secs(60))];
    journal::start_at_most_once(&pool, &started).await.unwrap();

    let answers = journal::cancel(&pool, &ids, "not wanted").await.unwrap();
    let expected = [done(ids[0], 1), done(ids[1], 1), Cancelled::Unknown, Cancelled::AlreadyFinal, done(ids[4], 1)];
    assert_eq!(answers, expected);
    let again = journal::cancel(&pool, &[ids[0], ids[0]], "again").await.unwrap();
    assert_eq!(again, [Cancelled::AlreadyFinal, Cancelled::AlreadyFinal]);
    let again = journal::cancel(&pool, &ids, "again").await.unwrap();
    assert_eq!(again.iter().filter(|answer| **answer == Cancelled::AlreadyFinal).count(), 4);
    let closed = journal::show_closed(&pool, ids[0]).await.unwrap().unwrap();
    assert_eq!((closed.state.as_str(), closed.reason.as_str()), ("cancelled", "not wanted"));
    let listed = journal::list_closed(&pool, CloseState::Cancelled, None, 10).await.unwrap();
    assert_eq!(listed.len(), 3, "the started one is not running any more");
    for id in [ids[0], ids[4]] {
        let running = attempt(&pool, id, 1).begin().await.unwrap_err();
        assert_eq!(running.decision(), Decision::Gone, "a running attempt has no effects any more");
    }
    assert!(journal::redrive(&pool, ids[1]).await.unwrap(), "it can be brought back");
    assert_eq!(journal::cancel(&pool, &[ids[1]], "x").await.unwrap(), [done(ids[1], 2)], "in its new generation");
}

#[tokio::test]
async fn a_job_that_is_being_decided_is_waited_for() {
    let pool = database().await;
    let ids: Vec<_> = enqueue(&pool, &[note("a"), note("b")]).await.iter().map(|job| job.id()).collect();
    let finishing = attempt(&pool, ids[0], 1).begin().await.unwrap();
    // Longer than a lock is waited for.
    let answers = journal::cancel(&pool, &ids, "no").await.unwrap();
    assert_eq!(answers, [Cancelled::Busy, done(ids[1], 1)]);
    let step = cancel_where(&pool, &StandingFilter::default(), None, "no", false).await.unwrap();
    assert_eq!((step.matched, step.cancelled.len(), step.busy), (1, 0, 1));
    let again = tokio::spawn({
        let (pool, id) = (patient(&pool).await, ids[0]);
        async move { journal::cancel(&pool, &[id], "no").await.unwrap().remove(0) }
    });
    crate::support::blocked(&pool).await;
    finishing.commit().await.unwrap();
    assert_eq!(again.await.unwrap(), Cancelled::AlreadyFinal);
}

#[tokio::test]
async fn of_two_that_cancel_and_one_that_completes_one_decides() {
    let pool = database().await;
    for _ in 0..20 {
        let id = enqueue(&pool, &[note("a")]).await[0].id();
        let ids = [id];
        let (one, two, completed) = tokio::join!(
            journal::cancel(&pool, &ids, "one"),
            journal::cancel(&pool, &ids, "two"),
            journal::complete_one(&pool, id, 1)
        );
        let cancelled = [one.unwrap(), two.unwrap()].concat().iter().filter(|answer| **answer == done(id, 1)).count();
        assert_eq!(cancelled + usize::from(completed.unwrap()), 1);
    }
}

#[tokio::test]
async fn what_a_filter_names_is_cancelled_in_steps_and_a_dry_run_counts_it() {
    let pool = database().await;
    let acme = Tenant::new("acme").unwrap();
    let jobs: Vec<_> = (0..1800)
        .map(|number| {
            let mut job = note("a");
            job.tenant = (number % 3 != 0).then(|| acme.clone());
            if number % 4 == 0 {
                job.queue = QueueName::from_static("other");
            }
            job
        })
        .collect();
    enqueue(&pool, &jobs).await;
    let filter = StandingFilter {
        tenant: Some(acme),
        queue: Some(QueueName::from_static("other")),
        ..StandingFilter::default()
    };
    let all = async |filter: &StandingFilter, dry_run| {
        let (mut matched, mut cancelled, mut steps, mut after) = (0, 0, 0, None);
        loop {
            let step = cancel_where(&pool, filter, after, "no", dry_run).await.unwrap();
            assert!(step.matched <= 500 && step.cancelled.iter().all(|(queue, _)| queue == "other"));
            matched += step.matched;
            cancelled += step.cancelled.len();
            steps += 1;
            after = step.next;
            if after.is_none() {
                return (matched, cancelled, steps);
            }
        }
    };
    assert_eq!(all(&filter, true).await, (300, 0, 1));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 1800);
    assert_eq!(all(&filter, false).await, (300, 300, 1));
    assert_eq!(all(&filter, false).await, (0, 0, 1));
    let now = now(&pool).await;
    let nobody = [
        StandingFilter { kind: Some(Kind::from_static("test.other")), ..StandingFilter::default() },
        StandingFilter { parked: Some(true), ..StandingFilter::default() },
        StandingFilter { since: Some(now + Duration::from_secs(60)), ..StandingFilter::default() },
        StandingFilter { until: Some(now - Duration::from_secs(60)), ..StandingFilter::default() },
    ];
    for filter in nobody {
        assert_eq!(all(&filter, true).await.0, 0, "{filter:?}");
    }
    assert_eq!(all(&StandingFilter::default(), true).await, (1500, 0, 4));
}

#[tokio::test]
async fn a_look_is_bounded_and_goes_on_where_it_ended_though_rows_go() {
    let pool = database().await;
    sqlx::query(
        "INSERT INTO job_journal (id, kind, queue, tenant, args)
         SELECT lpad(to_hex(n), 32, '0')::uuid, 'k', 'q', CASE WHEN n % 2500 = 0 THEN 't' END, '{}'
         FROM generate_series(1, 12000) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    let filter = StandingFilter { tenant: Some(Tenant::new("t").unwrap()), ..StandingFilter::default() };
    let first = find_standing(&pool, &filter, None, 500).await.unwrap();
    assert_eq!(first.jobs.len(), 2, "of the first 5,000 rows");
    sqlx::query("DELETE FROM job_journal WHERE tenant IS NULL").execute(&pool).await.unwrap();
    let rest = find_standing(&pool, &filter, first.next, 500).await.unwrap();
    assert_eq!((rest.jobs.len(), rest.next), (2, None));
    let mut one_by_one = Vec::new();
    let mut after = None;
    loop {
        let page = find_standing(&pool, &filter, after, 1).await.unwrap();
        one_by_one.extend(page.jobs.iter().map(|job| job.id.as_u128()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(one_by_one, [2500, 5000, 7500, 10000]);
}

#[tokio::test]
async fn dead_jobs_are_redriven_and_discarded_by_filter_in_steps() {
    let pool = database().await;
    let jobs: Vec<_> = (0..1200)
        .map(|number| if number % 2 == 0 { note("a").tenant(Tenant::new("acme").unwrap()) } else { note("a") })
        .collect();
    enqueue(&pool, &jobs).await;
    for (number, job) in jobs.iter().enumerate() {
        die(&pool, job.id, u8::try_from(number % 3).unwrap()).await;
    }
    sqlx::query("DELETE FROM job_outbox").execute(&pool).await.unwrap();
    let all = async |filter: &ClosedFilter, action| {
        let (mut matched, mut acted, mut steps, mut after) = (0, 0, 0, None);
        loop {
            let step = act_on_closed(&pool, filter, action, after).await.unwrap();
            assert!(step.matched <= 500);
            (matched, acted, steps, after) = (matched + step.matched, acted + step.done, steps + 1, step.next);
            if after.is_none() {
                return (matched, acted, steps);
            }
        }
    };
    let dead = ClosedFilter::all(CloseState::Dead);
    assert_eq!(all(&dead, ClosedAction::Count).await, (1200, 0, 3));
    let of_one =
        ClosedFilter { fingerprint: Some([1; 16]), tenant: Some(Tenant::new("acme").unwrap()), ..dead.clone() };
    assert_eq!(all(&of_one, ClosedAction::Count).await, (200, 0, 1));
    assert_eq!(all(&of_one, ClosedAction::Redrive).await, (200, 200, 1));
    assert_eq!(all(&of_one, ClosedAction::Redrive).await, (0, 0, 1));
    assert_eq!(count(&pool, "SELECT count(*) FROM job_outbox WHERE gen = 2").await, 200);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE state = 'live' AND gen = 2").await, 200);

    let now = now(&pool).await;
    let nobody = [
        ClosedFilter { kind: Some(Kind::from_static("test.other")), ..dead.clone() },
        ClosedFilter { queue: Some(QueueName::from_static("other")), ..dead.clone() },
        ClosedFilter { since: Some(now + Duration::from_secs(60)), ..dead.clone() },
        ClosedFilter { until: Some(now - Duration::from_secs(60)), ..dead.clone() },
        ClosedFilter::all(CloseState::Cancelled),
    ];
    for filter in nobody {
        assert_eq!(all(&filter, ClosedAction::Discard).await.0, 0, "{filter:?}");
    }
    assert_eq!(all(&dead, ClosedAction::Discard).await, (1000, 1000, 3));
    assert_eq!(all(&dead, ClosedAction::Redrive).await, (0, 0, 1), "given up for good");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_closed WHERE state = 'discarded'").await, 1000);
}

#[tokio::test]
async fn a_look_at_closed_jobs_is_bounded_and_goes_on_where_it_ended() {
    let pool = database().await;
    sqlx::query(
        "INSERT INTO job_closed (id, gen, state, queue, kind, tenant, reason, closed_at, job)
         SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 'dead', 'q', 'k', CASE WHEN n % 2500 = 0 THEN 't' END, 'r',
                now() - make_interval(secs => n / 10), '{}' FROM generate_series(1, 12000) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    let filter = ClosedFilter { tenant: Some(Tenant::new("t").unwrap()), ..ClosedFilter::all(CloseState::Dead) };
    let (mut found, mut looks, mut after) = (Vec::new(), 0, None);
    loop {
        let page = journal::find_closed(&pool, &filter, after, 500).await.unwrap();
        found.extend(page.jobs.iter().map(|job| job.id.as_u128()));
        (looks, after) = (looks + 1, page.next);
        if after.is_none() {
            break;
        }
    }
    assert_eq!((found, looks), (vec![2500, 5000, 7500, 10000], 3));
}

#[tokio::test]
async fn a_bulk_redrive_leaves_dead_whose_key_is_taken_and_brings_one_of_each_key_back() {
    let pool = database().await;
    let mut ids = Vec::new();
    for (text, key) in [("a", "k"), ("b", "k"), ("c", "taken"), ("d", "free")] {
        let id = enqueue(&pool, &[note(text).unique(key)]).await[0].id();
        die(&pool, id, 1).await;
        ids.push(id);
    }
    enqueue(&pool, &[note("e").unique("taken")]).await;
    let both = tokio::join!(journal::redrive_all(&pool, &ids), journal::redrive_all(&pool, &ids));
    let back = both.0.unwrap().len() + both.1.unwrap().len();
    assert_eq!(back, 2, "one of the two with the same key, and the free one");
    assert_eq!(count(&pool, "SELECT count(*) FROM job_closed WHERE state = 'dead'").await, 2);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 3);
}

#[tokio::test]
async fn a_redrive_waits_for_a_discard_and_finds_the_job_given_up() {
    let pool = patient(&database().await).await;
    let id = enqueue(&pool, &[note("a")]).await[0].id();
    die(&pool, id, 1).await;
    let mut discard = pool.begin().await.unwrap();
    sqlx::query("UPDATE job_closed SET state = 'discarded'").execute(&mut *discard).await.unwrap();
    let redrive = tokio::spawn({
        let pool = pool.clone();
        async move { journal::redrive(&pool, id).await.unwrap() }
    });
    crate::support::blocked(&pool).await;
    discard.commit().await.unwrap();
    assert!(!redrive.await.unwrap());
    assert_eq!(count(&pool, "SELECT count(*) FROM job_closed").await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal").await, 0);
}

#[tokio::test]
async fn a_row_that_was_closed_before_columns_were_added_comes_back() {
    let pool = database().await;
    let mut job = note("a");
    job.policy = PolicyOverride { rescue_limit: Some(3), delivery: Some(Delivery::AtMostOnce), ..job.policy };
    let ids: Vec<_> = enqueue(&pool, &[job, note("b")]).await.iter().map(|job| job.id()).collect();
    die(&pool, ids[0], 1).await;
    die(&pool, ids[1], 1).await;
    sqlx::query(
        "UPDATE job_closed SET job = job - 'at_most_once' - 'unique_queued' - 'rescue_limit' - 'follows' WHERE id = $1",
    )
    .bind(ids[1].0)
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(journal::redrive_all(&pool, &ids).await.unwrap().len(), 2);
    assert_eq!(count(&pool, "SELECT count(*) FROM job_journal WHERE at_most_once AND rescue_limit = 3").await, 1);
    assert_eq!(
        count(&pool, "SELECT count(*) FROM job_outbox WHERE gen = 2 AND at_most_once AND rescue_limit = 3").await,
        1
    );
}

#[tokio::test]
async fn dead_jobs_are_grouped_by_what_they_died_of() {
    let pool = database().await;
    let jobs: Vec<_> = (0..7).map(|_| note("a")).collect();
    enqueue(&pool, &jobs).await;
    for (number, job) in jobs.iter().enumerate() {
        die(&pool, job.id, if number < 5 { 1 } else { 2 }).await;
    }
    let groups = journal::dead_groups(&pool, None, None, 10).await.unwrap();
    let seen: Vec<_> = groups.iter().map(|group| (group.fingerprint[0], group.jobs, group.sample.as_str())).collect();
    assert_eq!(seen, [(1, 5, "because"), (2, 2, "because")]);
    assert!(groups[0].first <= groups[0].last);
    assert_eq!(journal::dead_groups(&pool, None, None, 1).await.unwrap().len(), 1);
    assert!(journal::dead_groups(&pool, Some(&Kind::from_static("x.y")), None, 10).await.unwrap().is_empty());
}
