use chrono::NaiveDate;
use rust_decimal::Decimal;
use uuid::Uuid;

/// Why an account or a recurring payment was not created or changed.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// There is no such tenant.
    #[error("there is no tenant {0:?}; create it first")]
    UnknownTenant(String),
    /// The tenant has no such account.
    #[error("tenant {tenant:?} has no account {account}")]
    UnknownAccount {
        /// The tenant.
        tenant: String,
        /// The account that was asked for.
        account: Uuid,
    },
    /// There is no such recurring payment in the state that this asks for.
    #[error("there is no recurring payment {id} that is {expected}")]
    UnknownPayment {
        /// What was asked for.
        id: Uuid,
        /// In which states it would have been taken.
        expected: &'static str,
    },
    /// Not a currency of ISO 4217.
    #[error("{0:?} is not a currency: use the three letters of ISO 4217, such as EUR")]
    UnknownCurrency(String),
    /// An account is kept in one currency.
    #[error("account {account:?} is kept in {kept_in}, not in {asked_for}")]
    WrongCurrency {
        /// The account's name.
        account: String,
        /// Its currency.
        kept_in: String,
        /// The currency of the payment.
        asked_for: String,
    },
    /// The account is closed.
    #[error("account {0:?} is not active")]
    InactiveAccount(String),
    /// The name is taken.
    #[error("tenant {tenant:?} has an account {name:?} already")]
    NameTaken {
        /// The tenant.
        tenant: String,
        /// The name.
        name: String,
    },
    /// A name or description is empty or too long.
    #[error("{what} must have 1 to {longest} characters, and has {length}")]
    Length {
        /// Which text.
        what: &'static str,
        /// How many it may have.
        longest: usize,
        /// How many it has.
        length: usize,
    },
    /// Debit and credit are the same account.
    #[error("debit and credit are the same account {0}")]
    SameAccount(Uuid),
    /// Zero, negative, or too large.
    #[error("the amount {0} is out of range: it must be more than 0 and less than 10^15")]
    AmountRange(Decimal),
    /// Finer than the currency's smallest unit.
    #[error("the amount {amount} is finer than the smallest unit of {currency}, which has {scale} decimals")]
    TooFine {
        /// What was given.
        amount: Decimal,
        /// In which currency.
        currency: String,
        /// Its decimals.
        scale: u32,
    },
    /// It would never fall due.
    #[error("a payment from {start_on} until {end_on} in this rhythm never falls due")]
    NeverDue {
        /// Its first day.
        start_on: NaiveDate,
        /// Its last day.
        end_on: NaiveDate,
    },
    /// Before 1970 or after 9999.
    #[error("{0} is not a date for a payment: use 1970-01-01 to 9999-12-31")]
    DateRange(NaiveDate),
    /// The tenant's time zone is not one.
    #[error(
        "tenant {tenant:?} has the time zone {zone:?}, which is no IANA name such as Europe/Berlin; correct it first"
    )]
    UnknownZone {
        /// The tenant.
        tenant: String,
        /// What stands there.
        zone: String,
    },
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
