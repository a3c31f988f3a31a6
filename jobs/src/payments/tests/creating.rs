//! What could not be posted is not accepted.

use super::*;

async fn refused(books: &Books, change: impl FnOnce(&mut NewRecurringPayment)) -> String {
    let mut wanted = books.wanted();
    change(&mut wanted);
    create_recurring(&mut books.pool.acquire().await.unwrap(), &wanted).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_payment_that_could_never_be_posted_is_refused_with_the_reason() {
    let books = Books::open().await;
    let dollars = account(&books.pool, &books.tenant, "dollars", "USD").await;
    let closed = account(&books.pool, &books.tenant, "closed", "EUR").await;
    account::set_account_active(&books.pool, closed, false).await.unwrap();
    let other = tenant(&books.pool, "other").await;
    let foreign = account(&books.pool, &other, "bank", "EUR").await;

    let amount = |text: &str| text.parse::<Decimal>().unwrap();
    for (said, error) in [
        ("same account", refused(&books, |new| new.debit_account = new.credit_account).await),
        ("has no account", refused(&books, |new| new.debit_account = Uuid::nil()).await),
        ("has no account", refused(&books, |new| new.debit_account = foreign).await),
        ("kept in USD, not in EUR", refused(&books, |new| new.credit_account = dollars).await),
        ("not active", refused(&books, |new| new.credit_account = closed).await),
        ("out of range", refused(&books, |new| new.amount = Decimal::ZERO).await),
        ("out of range", refused(&books, |new| new.amount = amount("-1")).await),
        ("out of range", refused(&books, |new| new.amount = amount("1000000000000000")).await),
        ("EUR, which has 2 decimals", refused(&books, |new| new.amount = amount("1.005")).await),
        ("1 to 500 characters", refused(&books, |new| new.description.clear()).await),
        ("1 to 500 characters", refused(&books, |new| new.description = "x".repeat(501)).await),
        ("not a date", refused(&books, |new| new.start_on = date("1969-12-31")).await),
        ("not a date", refused(&books, |new| new.end_on = Some(NaiveDate::MAX)).await),
        ("never falls due", refused(&books, |new| new.end_on = Some(date("2024-01-30"))).await),
    ] {
        assert!(error.contains(said), "{error}");
    }
    assert_eq!(count(&books.pool, "SELECT count(*) FROM recurring_payment").await, 0);
    // Zeros behind the point are no finer than the cent.
    let wanted = NewRecurringPayment { amount: amount("1.5000"), ..books.wanted() };
    let created = create_recurring(&mut books.pool.acquire().await.unwrap(), &wanted).await.unwrap();
    assert_eq!(created.amount.to_string(), "1.50");
}

#[tokio::test]
async fn an_account_needs_its_tenant_a_currency_and_a_free_name() {
    let books = Books::open().await;
    let new = NewAccount {
        tenant: books.tenant.clone(),
        name: "cash".into(),
        kind: AccountKind::Asset,
        currency: "EUR".into(),
    };
    let mut connection = books.pool.acquire().await.unwrap();
    let cash = create_account(&mut connection, &new).await.unwrap();
    assert_eq!(cash.balance, Decimal::ZERO);
    let mut say = async |new: NewAccount| create_account(&mut connection, &new).await.unwrap_err().to_string();
    assert!(say(new.clone()).await.contains("has an account \"cash\" already"));
    assert!(say(NewAccount { currency: "euro".into(), ..new.clone() }).await.contains("ISO 4217"));
    assert!(say(NewAccount { tenant: Tenant::new("nobody").unwrap(), ..new.clone() }).await.contains("no tenant"));
    assert!(say(NewAccount { name: String::new(), ..new }).await.contains("1 to 200"));
    drop(connection);

    let mut listed = Vec::new();
    while let Some(account) =
        list_accounts(&books.pool, Some(&books.tenant), listed.last(), 1).await.unwrap().into_iter().next()
    {
        listed.push(account);
    }
    assert_eq!(listed.iter().map(|account| &*account.name).collect::<Vec<_>>(), ["bank", "cash", "rent"]);
}

#[tokio::test]
async fn the_first_due_date_is_the_rhythms_and_begins_where_the_tenant_is() {
    let books = Books::open().await;
    sqlx::query("UPDATE tenant SET time_zone = 'America/Havana'").execute(&books.pool).await.unwrap();
    let last = Rhythm::Monthly { day: MonthDay::LAST };
    let payment = books.payment(last, date("2024-02-10"), None).await;
    assert_eq!(payment.next_due_on, Some(date("2024-02-29")));
    assert_eq!(payment.next_due_at.unwrap().to_rfc3339(), "2024-02-29T05:00:00+00:00");
    assert_eq!(payment.rhythm.rhythm(), Some(last));
    let json = serde_json::to_value(&payment).unwrap();
    assert_eq!(
        (&json["amount"], &json["rhythm"], &json["month_day"]),
        (&"12.50".into(), &"monthly".into(), &(-1).into())
    );
}
