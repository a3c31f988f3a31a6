//! What is due is posted once, in order, whatever else is due.

use std::{collections::HashSet, time::Duration};

use super::*;

#[tokio::test]
async fn missed_dates_are_posted_in_order_each_once() {
    let books = Books::open().await;
    let payment = books.daily(2).await;
    books.sweep(&Config::default()).await;
    books.sweep(&Config::default()).await;
    let posted: Vec<(NaiveDate, Decimal)> = sqlx::query_as(
        "SELECT t.occurred_on, e.amount FROM ledger_transaction t JOIN ledger_entry e ON e.transaction_id = t.id
         WHERE e.position = 1 AND t.recurring_payment_id = $1 ORDER BY t.id",
    )
    .bind(payment.id)
    .fetch_all(&books.pool)
    .await
    .unwrap();
    let first = payment.start_on;
    let expected: Vec<_> = first.iter_days().take(3).map(|day| (day, Decimal::new(1250, 2))).collect();
    assert_eq!(posted, expected);
    assert_eq!(books.balance(books.rent).await, Decimal::new(3750, 2));
    let after = books.find(payment.id).await;
    assert_eq!(after.next_due_on, first.checked_add_days(chrono::Days::new(3)));
    assert_eq!(after.state, PaymentState::Active);
    books.assert_sound().await;
}

#[tokio::test]
async fn a_payment_ends_with_its_last_date() {
    let books = Books::open().await;
    let monthly = Rhythm::Monthly { day: MonthDay::try_from(31).unwrap() };
    let payment = books.payment(monthly, date("2024-01-01"), Some(date("2024-04-30"))).await;
    books.sweep(&Config::default()).await;
    let dates: Vec<NaiveDate> =
        sqlx::query_scalar("SELECT due_on FROM payment_run ORDER BY due_on").fetch_all(&books.pool).await.unwrap();
    assert_eq!(dates, ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"].map(date));
    let after = books.find(payment.id).await;
    assert_eq!((after.state, after.next_due_on, after.next_due_at), (PaymentState::Finished, None, None));
    books.assert_sound().await;
}

#[tokio::test]
async fn years_of_missed_dates_are_left_to_follow_ups_and_hold_up_nobody() {
    let books = Books::open().await;
    books.daily(400).await;
    let other = books.daily(0).await;
    let config = Config { batch: 10, batches_per_job: 2, catch_up: 7 };
    let (ctx, _) = attempt(&books.pool, None, &PostDue {}).await;
    books.handler(&config).run(ctx, PostDue {}).await.unwrap();
    assert!(books.posted().await <= 20, "one job posts at most its share");
    assert_eq!(standing::<PostDue>(&books.pool).await.len(), 1, "one follow-up has the rest");
    let next = books.find(other.id).await.next_due_on.unwrap();
    assert!(next > other.start_on, "the payment of today did not wait for the years");
    books.sweep(&config).await;
    assert_eq!(books.posted().await, 402);
    let in_order = count(
        &books.pool,
        "SELECT count(*) FROM ledger_transaction a JOIN ledger_transaction b USING (recurring_payment_id)
         WHERE a.id < b.id AND a.occurred_on >= b.occurred_on",
    );
    assert_eq!(in_order.await, 0);
    books.assert_sound().await;
}

#[tokio::test]
async fn two_posters_at_once_post_nothing_twice() {
    let books = Books::open().await;
    books.due_today(600).await;
    books.daily(40).await;
    let config = Config { batch: 25, batches_per_job: 100, catch_up: 3 };
    let (one, _) = attempt(&books.pool, None, &PostDue {}).await;
    let (two, _) = attempt(&books.pool, None, &PostDue {}).await;
    let (handler, other) = (books.handler(&config), books.handler(&config));
    let (first, second) = tokio::join!(handler.run(one, PostDue {}), other.run(two, PostDue {}));
    first.unwrap();
    second.unwrap();
    books.sweep(&config).await;
    assert_eq!(books.posted().await, 641);
    assert_eq!(count(&books.pool, "SELECT count(*) FROM ledger_transaction").await, 641);
    books.assert_sound().await;
}

#[tokio::test]
async fn a_payment_that_somebody_else_holds_is_skipped_and_not_waited_for() {
    let books = Books::open().await;
    books.due_today(20).await;
    let held = books.daily(0).await;
    let mut other = books.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM recurring_payment WHERE id = $1 FOR NO KEY UPDATE")
        .bind(held.id)
        .execute(&mut *other)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(20), books.sweep(&Config::default())).await.unwrap();
    assert_eq!(books.posted().await, 20);
    other.rollback().await.unwrap();
    books.sweep(&Config::default()).await;
    assert_eq!(books.posted().await, 21);
}

#[tokio::test]
async fn accounts_are_locked_in_the_order_of_their_ids() {
    let books = Books::open().await;
    let [low, high] = [Uuid::from_u128(1), Uuid::from_u128(2)];
    // The higher one stands first in the table.
    for (id, name) in [(high, "high"), (low, "low")] {
        sqlx::query("INSERT INTO account (id, tenant, name, kind, currency) VALUES ($1, 'acme', $2, 'asset', 'EUR')")
            .bind(id)
            .bind(name)
            .execute(&books.pool)
            .await
            .unwrap();
    }
    let wanted = NewRecurringPayment { debit_account: high, credit_account: low, ..books.wanted() };
    let wanted = NewRecurringPayment { end_on: Some(wanted.start_on), ..wanted };
    create_recurring(&mut books.pool.acquire().await.unwrap(), &wanted).await.unwrap();
    let (ctx, _) = attempt(&books.pool, None, &PostDue {}).await;
    let handler = books.handler(&Config::default());

    let mut other = books.pool.begin().await.unwrap();
    let lock = "SELECT FROM account WHERE id = $1 FOR NO KEY UPDATE NOWAIT";
    sqlx::query(lock).bind(low).execute(&mut *other).await.unwrap();
    let poster = tokio::spawn(async move { handler.run(ctx, PostDue {}).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    tokio::time::timeout(Duration::from_secs(20), async { while count(&books.pool, waits).await == 0 {} })
        .await
        .unwrap();
    // The poster waits for the lower and so has not the higher.
    sqlx::query(lock).bind(high).execute(&mut *other).await.unwrap();
    other.rollback().await.unwrap();
    poster.await.unwrap().unwrap();
    assert_eq!(books.posted().await, 1);
    books.assert_sound().await;
}

#[tokio::test]
async fn a_bad_payment_among_500_is_left_out_with_its_reason_and_posted_once_it_is_mended() {
    let books = Books::open().await;
    books.due_today(499).await;
    let closed = account(&books.pool, &books.tenant, "closed", "EUR").await;
    let wanted = NewRecurringPayment {
        debit_account: closed,
        start_on: date("2024-06-01"),
        end_on: Some(date("2024-06-02")),
        ..books.wanted()
    };
    let bad = create_recurring(&mut books.pool.acquire().await.unwrap(), &wanted).await.unwrap();
    account::set_account_active(&books.pool, closed, false).await.unwrap();
    let metrics = PaymentMetrics::new(&Registry::new());
    let handler = PostDueHandler::new(&Config::default(), books.pool.clone(), metrics.clone());
    let (ctx, _) = attempt(&books.pool, None, &PostDue {}).await;
    handler.run(ctx, PostDue {}).await.unwrap();

    assert_eq!(books.posted().await, 499);
    let failed = books.find(bad.id).await;
    assert_eq!((failed.state, failed.next_due_on), (PaymentState::Failed, Some(date("2024-06-01"))));
    assert_eq!(failed.error.as_deref(), Some("the debit account \"closed\" is not active"));
    let run: (String, String) =
        sqlx::query_as("SELECT outcome, error FROM payment_run WHERE recurring_payment_id = $1")
            .bind(bad.id)
            .fetch_one(&books.pool)
            .await
            .unwrap();
    assert_eq!(run, ("failed".into(), failed.error.unwrap()));
    assert_eq!((metrics.posted.get(), metrics.failed.get(), metrics.blocked.get()), (499, 1, 1));

    account::set_account_active(&books.pool, closed, true).await.unwrap();
    books.sweep(&Config::default()).await;
    assert_eq!(books.posted().await, 499, "nothing happens to it until somebody resumes it");
    recurring::resume(&books.pool, bad.id).await.unwrap();
    books.sweep(&Config::default()).await;
    assert_eq!(books.posted().await, 501);
    assert_eq!(count(&books.pool, "SELECT count(*) FROM payment_run WHERE outcome = 'failed'").await, 0);
    assert_eq!(books.find(bad.id).await.state, PaymentState::Finished);
    assert!(matches!(recurring::resume(&books.pool, bad.id).await, Err(BookError::UnknownPayment { .. })));
    books.assert_sound().await;
}

#[tokio::test]
async fn what_only_postgres_knows_to_be_bad_is_found_by_halves() {
    let books = Books::open().await;
    books.due_today(499).await;
    let bad = books.daily(4).await;
    // A rule that the poster knows nothing of, and that one of its dates breaks.
    let sql = format!(
        "ALTER TABLE ledger_transaction ADD CONSTRAINT house_rule CHECK (description <> 'office' OR occurred_on <> '{}')",
        bad.start_on + chrono::TimeDelta::days(2)
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&books.pool).await.unwrap();
    books.sweep(&Config::default()).await;
    assert_eq!(books.posted().await, 499 + 2, "all the others, and its own dates before the bad one");
    let failed = books.find(bad.id).await;
    assert_eq!(failed.state, PaymentState::Failed);
    assert_eq!(failed.next_due_on, bad.start_on.checked_add_days(chrono::Days::new(2)));
    assert!(failed.error.unwrap().contains("house_rule"));
    books.assert_sound().await;

    sqlx::raw_sql("ALTER TABLE ledger_transaction DROP CONSTRAINT house_rule").execute(&books.pool).await.unwrap();
    recurring::resume(&books.pool, bad.id).await.unwrap();
    books.sweep(&Config::default()).await;
    assert_eq!(books.posted().await, 499 + 5);
    books.assert_sound().await;
}

#[tokio::test]
async fn what_would_fail_only_at_commit_is_found_before_and_costs_the_others_nothing() {
    let books = Books::open().await;
    books.due_today(99).await;
    let bad = books.daily(0).await;
    sqlx::raw_sql(
        "CREATE FUNCTION late_rule() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'late rule'; END $$;
         CREATE CONSTRAINT TRIGGER late_rule AFTER INSERT ON ledger_transaction DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.description = 'office') EXECUTE FUNCTION late_rule()",
    )
    .execute(&books.pool)
    .await
    .unwrap();
    let (ctx, _) = attempt(&books.pool, None, &PostDue {}).await;
    books.handler(&Config::default()).run(ctx, PostDue {}).await.unwrap();
    assert_eq!(books.posted().await, 99);
    let failed = books.find(bad.id).await;
    assert_eq!((failed.state, failed.error.as_deref()), (PaymentState::Failed, Some("late rule")));
    books.assert_sound().await;
}

#[tokio::test]
async fn a_date_that_was_posted_is_never_posted_again_whoever_turns_the_payment_back() {
    let books = Books::open().await;
    let payment = books.daily(1).await;
    books.sweep(&Config::default()).await;
    sqlx::query("UPDATE recurring_payment SET next_due_on = start_on, next_due_at = now() WHERE id = $1")
        .bind(payment.id)
        .execute(&books.pool)
        .await
        .unwrap();
    books.sweep(&Config::default()).await;
    assert_eq!(count(&books.pool, "SELECT count(*) FROM ledger_transaction").await, 2);
    books.assert_sound().await;
}

#[tokio::test]
async fn a_tenant_that_moves_has_its_days_begin_elsewhere() {
    let books = Books::open().await;
    let payment = books.payment(Rhythm::Daily, date("2999-01-01"), None).await;
    assert_eq!(payment.next_due_at.unwrap().to_rfc3339(), "2999-01-01T00:00:00+00:00");
    sqlx::query("UPDATE tenant SET time_zone = 'Asia/Tokyo'").execute(&books.pool).await.unwrap();
    books.sweep(&Config::default()).await;
    let moved = books.find(payment.id).await;
    assert_eq!(moved.next_due_at.unwrap().to_rfc3339(), "2998-12-31T15:00:00+00:00");
    assert_eq!(books.posted().await, 0);

    sqlx::query("UPDATE tenant SET time_zone = 'Nowhere/Land'").execute(&books.pool).await.unwrap();
    books.sweep(&Config::default()).await;
    let failed = books.find(payment.id).await;
    assert_eq!(failed.state, PaymentState::Failed);
    assert!(failed.error.unwrap().contains("Nowhere/Land"));
}

#[tokio::test]
async fn paused_payments_and_those_of_inactive_tenants_wait_and_then_catch_up() {
    let books = Books::open().await;
    let paused = books.daily(2).await;
    recurring::pause(&books.pool, paused.id).await.unwrap();
    sqlx::query("UPDATE tenant SET active = false").execute(&books.pool).await.unwrap();
    books.daily(1).await;
    books.sweep(&Config::default()).await;
    assert_eq!(books.posted().await, 0);
    sqlx::query("UPDATE tenant SET active = true").execute(&books.pool).await.unwrap();
    books.sweep(&Config::default()).await;
    assert_eq!(books.posted().await, 2);
    recurring::resume(&books.pool, paused.id).await.unwrap();
    books.sweep(&Config::default()).await;
    assert_eq!(books.posted().await, 5);
}

#[tokio::test]
async fn amounts_stay_exact_over_many_postings() {
    let books = Books::open().await;
    let wanted =
        NewRecurringPayment { amount: "0.07".parse().unwrap(), end_on: Some(date("2024-12-31")), ..books.wanted() };
    create_recurring(&mut books.pool.acquire().await.unwrap(), &wanted).await.unwrap();
    books.sweep(&Config::default()).await;
    let days: HashSet<NaiveDate> = sqlx::query_scalar("SELECT due_on FROM payment_run")
        .fetch_all(&books.pool)
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(days.len(), 336);
    assert_eq!(books.balance(books.rent).await.to_string(), "23.52");
    books.assert_sound().await;
}
