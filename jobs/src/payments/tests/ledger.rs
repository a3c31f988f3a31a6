//! The database holds the ledger's rules against anybody's SQL.

use super::*;

/// Executes statements in one transaction, as a stranger with a database client would, and says what Postgres answered.
async fn by_hand(books: &Books, sql: &str) -> Result<(), String> {
    let sql = sql
        .replace("$rent", &format!("'{}'", books.rent))
        .replace("$bank", &format!("'{}'", books.bank))
        .replace("$new", "(SELECT max(id) FROM ledger_transaction)");
    let text = |error: sqlx::Error| error.as_database_error().map_or(error.to_string(), |e| e.message().to_owned());
    let mut tx = books.pool.begin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(text)?;
    tx.commit().await.map_err(text)
}

const OPEN: &str =
    "INSERT INTO ledger_transaction (tenant, description, occurred_on) VALUES ('acme', 'by hand', '2024-05-01');";
const BALANCED: &str = "INSERT INTO ledger_entry (transaction_id, position, account_id, currency, amount)
    VALUES ($new, 1, $rent, 'EUR', 10.50), ($new, 2, $bank, 'EUR', -10.50);";

fn entry(position: i32, account: &str, amount: &str) -> String {
    format!(
        "INSERT INTO ledger_entry (transaction_id, position, account_id, currency, amount)
             VALUES ($new, {position}, {account}, 'EUR', {amount});"
    )
}

#[tokio::test]
async fn a_balanced_transaction_commits_in_one_statement_or_in_several_and_moves_the_balances() {
    let books = Books::open().await;
    by_hand(&books, &format!("{OPEN}{BALANCED}")).await.unwrap();
    by_hand(&books, &format!("{OPEN}{}{}", entry(2, "$bank", "-1"), entry(1, "$rent", "1"))).await.unwrap();
    assert_eq!(books.balance(books.rent).await, "11.50".parse().unwrap());
    assert_eq!(books.balance(books.bank).await, "-11.50".parse().unwrap());
    books.assert_sound().await;
}

#[tokio::test]
async fn what_does_not_balance_or_is_not_complete_fails_at_commit_at_the_latest() {
    let books = Books::open().await;
    let three = OPEN.replace("occurred_on)", "occurred_on, entries)").replace("'2024-05-01')", "'2024-05-01', 3)");
    for (sql, said) in [
        (OPEN.to_owned(), "declares 2 entries and has 0"),
        (format!("{OPEN}{}", entry(1, "$rent", "1")), "declares 2 entries and has 1"),
        (format!("{OPEN}{}{}", entry(1, "$rent", "1"), entry(2, "$bank", "-1.01")), "not balanced"),
        (format!("{OPEN}{}{}", entry(1, "$rent", "1"), entry(2, "$bank", "1")), "EUR by 2"),
        (format!("{three}{BALANCED}"), "declares 3 entries and has 2"),
        (OPEN.replace("occurred_on)", "occurred_on, entries)").replace("'2024-05-01')", "'2024-05-01', 1)"), "check"),
    ] {
        let error = by_hand(&books, &sql).await.unwrap_err();
        assert!(error.contains(said), "{sql}: {error}");
    }
    assert_eq!(count(&books.pool, "SELECT count(*) FROM ledger_entry").await, 0);
    books.assert_sound().await;
}

#[tokio::test]
async fn every_currency_of_a_transaction_balances_by_itself() {
    let books = Books::open().await;
    let dollars = account(&books.pool, &books.tenant, "dollars", "USD").await;
    let sql = format!(
        "{OPEN} INSERT INTO ledger_entry (transaction_id, position, account_id, currency, amount)
         VALUES ($new, 1, $rent, 'EUR', 10), ($new, 2, '{dollars}', 'USD', -10)"
    );
    let error = by_hand(&books, &sql).await.unwrap_err();
    assert!(error.contains("EUR by 10") && error.contains("USD by -10"), "{error}");
}

#[tokio::test]
async fn a_transaction_is_sealed_when_its_check_has_passed() {
    let books = Books::open().await;
    by_hand(&books, &format!("{OPEN}{BALANCED}")).await.unwrap();
    let again = "INSERT INTO ledger_entry (transaction_id, position, account_id, currency, amount)
        VALUES ($new, 3, $rent, 'EUR', 1), ($new, 4, $bank, 'EUR', -1);";
    let error = by_hand(&books, again).await.unwrap_err();
    assert!(error.contains("declares fewer entries"), "{error}");
    // Not even in the same database transaction, behind the check.
    let hidden = format!("{OPEN}{BALANCED} SET CONSTRAINTS ALL IMMEDIATE; {}", entry(3, "$rent", "5"));
    assert!(by_hand(&books, &hidden).await.unwrap_err().contains("declares fewer entries"));
    let taken = format!("{OPEN}{BALANCED} SET CONSTRAINTS ALL IMMEDIATE; {}", entry(2, "$rent", "5"));
    assert!(by_hand(&books, &taken).await.unwrap_err().contains("duplicate key"));
    books.assert_sound().await;
}

#[tokio::test]
async fn what_is_posted_is_neither_changed_nor_removed() {
    let books = Books::open().await;
    by_hand(&books, &format!("{OPEN}{BALANCED}")).await.unwrap();
    for sql in [
        "UPDATE ledger_entry SET amount = amount * 2",
        "DELETE FROM ledger_entry",
        "TRUNCATE ledger_entry",
        "UPDATE ledger_transaction SET entries = 4",
        "DELETE FROM ledger_transaction",
        "TRUNCATE ledger_transaction CASCADE",
        "UPDATE account SET balance = 0",
        "UPDATE account SET balance = 'NaN'",
        "UPDATE account SET currency = 'USD'",
        "UPDATE account SET tenant = 'other'",
        "DELETE FROM account",
        "INSERT INTO account (tenant, name, kind, currency, balance) VALUES ('acme', 'rich', 'asset', 'EUR', 1000000)",
    ] {
        let error = by_hand(&books, sql).await.expect_err(sql);
        assert!(
            ["refused", "sum of its entries", "fixed", "foreign key"].iter().any(|said| error.contains(said)),
            "{error}"
        );
    }
    assert_eq!(books.balance(books.rent).await, "10.50".parse().unwrap());
    books.assert_sound().await;
}

#[tokio::test]
async fn an_entry_fits_its_account_its_tenant_and_its_currency() {
    let books = Books::open().await;
    let other = tenant(&books.pool, "other").await;
    let foreign = account(&books.pool, &other, "bank", "EUR").await;
    let yen = account(&books.pool, &books.tenant, "yen", "JPY").await;
    let dinar = account(&books.pool, &books.tenant, "dinar", "KWD").await;
    let closed = account(&books.pool, &books.tenant, "closed", "EUR").await;
    assert!(account::set_account_active(&books.pool, closed, false).await.unwrap());
    let pair = |account: Uuid, currency: &str, amount: &str| {
        format!(
            "{OPEN} INSERT INTO ledger_entry (transaction_id, position, account_id, currency, amount)
             VALUES ($new, 1, '{account}', '{currency}', {amount}), ($new, 2, $bank, 'EUR', -({amount}))"
        )
    };
    for (sql, said) in [
        (pair(foreign, "EUR", "1"), "another tenant"),
        (pair(closed, "EUR", "1"), "not active"),
        (pair(yen, "EUR", "1"), "foreign key"),
        (pair(yen, "JPY", "0.5"), "finer than the smallest unit of JPY"),
        (pair(dinar, "KWD", "0.0005"), "finer than the smallest unit of"),
        (pair(books.rent, "EUR", "0.001"), "finer than the smallest unit of EUR"),
        (pair(books.rent, "EUR", "1.00000"), "check constraint"),
        (pair(books.rent, "EUR", "0"), "check constraint"),
        (pair(books.rent, "EUR", "'NaN'::numeric"), "check constraint"),
        (pair(books.rent, "EUR", "'Infinity'::numeric"), "check constraint"),
        (pair(books.rent, "EUR", "1e15"), "check constraint"),
        (pair(Uuid::nil(), "EUR", "1"), "foreign key"),
        (BALANCED.replace("$new", "4711"), "foreign key"),
    ] {
        let error = by_hand(&books, &sql).await.expect_err(&sql);
        assert!(error.contains(said), "{sql}: {error}");
    }
    let fine = OPEN.to_owned()
        + &format!(
            "INSERT INTO ledger_entry (transaction_id, position, account_id, currency, amount)
        VALUES ($new, 1, '{dinar}', 'KWD', 0.005), ($new, 2, '{}', 'KWD', -0.0050)",
            account(&books.pool, &books.tenant, "dinar 2", "KWD").await
        );
    by_hand(&books, &fine).await.unwrap();
    books.assert_sound().await;
}

#[tokio::test]
async fn verifying_finds_what_got_past_the_triggers() {
    let books = Books::open().await;
    by_hand(&books, &format!("{OPEN}{BALANCED}{OPEN}{BALANCED}")).await.unwrap();
    // Only a superuser can do this, and then the report must say so.
    by_hand(
        &books,
        "SET LOCAL session_replication_role = replica;
         UPDATE ledger_entry SET amount = 11 WHERE transaction_id = $new AND position = 1;
         UPDATE account SET balance = balance + 1 WHERE id = $bank;",
    )
    .await
    .unwrap();
    let report = verify_ledger(&books.pool).await.unwrap();
    assert_eq!((report.transactions, report.entries), (2, 4));
    assert_eq!((report.unbalanced, report.drifting, report.unmatched), (1, 2, 0));
    assert_eq!(report.unbalanced_ids.len(), 1);
    assert!(!report.is_sound());
}
