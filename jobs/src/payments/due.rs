//! What is due: a payment as the poster reads it, and which of its dates are to be posted now.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc, Weekday};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Config, DueDates, MonthDay, Rhythm, day::begin_of_day};

/// A rhythm as it stands in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct RhythmColumns {
    /// `daily`, `weekly` or `monthly`.
    pub rhythm: String,
    /// 1 is Monday.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekday: Option<i16>,
    /// 1 to 31, or -1 for the last day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month_day: Option<i16>,
}

impl From<Rhythm> for RhythmColumns {
    fn from(rhythm: Rhythm) -> Self {
        let (name, weekday, month_day) = match rhythm {
            Rhythm::Daily => ("daily", None, None),
            Rhythm::Weekly { weekday } => ("weekly", i16::try_from(weekday.number_from_monday()).ok(), None),
            Rhythm::Monthly { day } => ("monthly", None, Some(i16::from(day))),
        };
        Self { rhythm: name.to_owned(), weekday, month_day }
    }
}

impl RhythmColumns {
    /// The rhythm; `None` when another program version wrote what this one does not know.
    #[must_use]
    pub fn rhythm(&self) -> Option<Rhythm> {
        match (&*self.rhythm, self.weekday, self.month_day) {
            ("daily", None, None) => Some(Rhythm::Daily),
            ("weekly", Some(number), None) => {
                let weekday = Weekday::try_from(u8::try_from(number).ok()?.checked_sub(1)?).ok()?;
                Some(Rhythm::Weekly { weekday })
            }
            ("monthly", None, Some(day)) => Some(Rhythm::Monthly { day: MonthDay::try_from(day).ok()? }),
            _ => None,
        }
    }
}

/// A due payment, locked by the poster's transaction.
#[derive(Debug, FromRow)]
pub(super) struct DuePayment {
    pub(super) id: Uuid,
    tenant: String,
    debit_account: Uuid,
    credit_account: Uuid,
    amount: Decimal,
    currency: String,
    scale: i16,
    #[sqlx(flatten)]
    rhythm: RhythmColumns,
    start_on: NaiveDate,
    end_on: Option<NaiveDate>,
    pub(super) next_due_on: NaiveDate,
    time_zone: String,
    /// The transaction's time, by Postgres' clock.
    now: DateTime<Utc>,
}

/// What is to happen to one payment now.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) id: Uuid,
    /// To be posted, oldest first; none when the tenant moved west and the day has not begun there.
    pub(super) dates: Vec<NaiveDate>,
    /// The first date that stays unposted, and when it begins. `None`: there is none, the payment is finished.
    pub(super) next: Option<(NaiveDate, DateTime<Utc>)>,
    /// The dates behind `dates` are due as well.
    pub(super) more: bool,
    /// How late the first date is, in seconds.
    pub(super) lag: f64,
    zone: Tz,
}

impl Plan {
    /// The plan for the first `count` dates of this one.
    pub(super) fn first(&self, count: usize) -> Self {
        let mut part = self.clone();
        if let Some(next) = self.dates.get(count) {
            part.dates.truncate(count);
            part.next = Some((*next, begin_of_day(*next, self.zone)));
        }
        part
    }

    /// The plan without its first date.
    pub(super) fn rest(&self) -> Self {
        let mut part = self.clone();
        part.dates.remove(0);
        part
    }
}

impl DuePayment {
    /// The dates that have begun in the tenant's zone, at most `limit` of them.
    pub(super) fn plan(&self, limit: usize) -> Result<Plan, String> {
        let zone: Tz = self
            .time_zone
            .parse()
            .map_err(|_| format!("tenant {:?} has no IANA time zone but {:?}", self.tenant, self.time_zone))?;
        let rhythm = self.rhythm.rhythm().ok_or_else(|| format!("the rhythm {:?} is not known", self.rhythm.rhythm))?;
        let dates_of = DueDates { rhythm, start_on: self.start_on, end_on: self.end_on };
        let mut dates = Vec::new();
        let mut next = dates_of.on_or_after(self.next_due_on);
        let mut more = false;
        while let Some(date) = next.filter(|date| begin_of_day(*date, zone) <= self.now) {
            if dates.len() == limit {
                more = true;
                break;
            }
            dates.push(date);
            next = dates_of.after(date);
        }
        let lag = (self.now - begin_of_day(self.next_due_on, zone)).as_seconds_f64().max(0.0);
        let next = next.map(|date| (date, begin_of_day(date, zone)));
        Ok(Plan { id: self.id, dates, next, more, lag, zone })
    }

    /// What is known to keep it from being posted, without asking Postgres. What this misses, Postgres refuses.
    pub(super) fn defect(&self, accounts: &HashMap<Uuid, LockedAccount>) -> Option<String> {
        if self.amount.normalize().scale() > u32::try_from(self.scale).unwrap_or(0) {
            return Some(format!("{} is finer than the smallest unit of {}", self.amount, self.currency));
        }
        [("debit", self.debit_account), ("credit", self.credit_account)].into_iter().find_map(|(side, id)| {
            let account = accounts.get(&id)?;
            if account.tenant != self.tenant {
                Some(format!("the {side} account {:?} belongs to another tenant", account.name))
            } else if !account.active {
                Some(format!("the {side} account {:?} is not active", account.name))
            } else if account.currency != self.currency {
                Some(format!(
                    "the {side} account {:?} is kept in {}, the payment is in {}",
                    account.name, account.currency, self.currency
                ))
            } else {
                None
            }
        })
    }

    pub(super) fn accounts(&self) -> [Uuid; 2] {
        [self.debit_account, self.credit_account]
    }
}

/// Whether anything is due, for a look before a transaction is opened.
pub(super) async fn any_due(pool: &sqlx::PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM recurring_payment p JOIN tenant t ON t.id = p.tenant
                        WHERE p.state = 'active' AND p.next_due_at <= now() AND t.active)",
    )
    .fetch_one(pool)
    .await
}

/// Locks up to a batch of due payments, the longest due first. Those that another poster holds are skipped. A tenant that is
/// not active has none posted; they stay due.
pub(super) async fn lock_due(tx: &mut PgConnection, config: &Config) -> Result<Vec<DuePayment>, sqlx::Error> {
    sqlx::query_as(
        "SELECT p.id, p.tenant, p.debit_account, p.credit_account, p.amount, p.currency, c.scale, p.rhythm, p.weekday,
                p.month_day, p.start_on, p.end_on, p.next_due_on, t.time_zone, now() AS now
         FROM recurring_payment p JOIN tenant t ON t.id = p.tenant JOIN currency c ON c.code = p.currency
         WHERE p.state = 'active' AND p.next_due_at <= now() AND t.active
         ORDER BY p.next_due_at, p.id LIMIT $1
         FOR NO KEY UPDATE OF p SKIP LOCKED",
    )
    .bind(i64::from(config.batch))
    .fetch_all(tx)
    .await
}

/// An account, locked by the poster's transaction.
#[derive(Debug, FromRow)]
pub(super) struct LockedAccount {
    id: Uuid,
    tenant: String,
    name: String,
    currency: String,
    active: bool,
}

/// Locks the accounts of these payments in the order of their ids, so that two posters never wait for each other in a
/// circle.
pub(super) async fn lock_accounts(
    tx: &mut PgConnection,
    payments: &[DuePayment],
) -> Result<HashMap<Uuid, LockedAccount>, sqlx::Error> {
    let mut ids: Vec<Uuid> = payments.iter().flat_map(DuePayment::accounts).collect();
    ids.sort_unstable();
    ids.dedup();
    let accounts: Vec<LockedAccount> = sqlx::query_as(
        "SELECT id, tenant, name, currency, active FROM account WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(ids)
    .fetch_all(tx)
    .await?;
    Ok(accounts.into_iter().map(|account| (account.id, account)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn due(rhythm: Rhythm, next_due_on: &str, zone: &str, now: &str) -> DuePayment {
        DuePayment {
            id: Uuid::nil(),
            tenant: "acme".into(),
            debit_account: Uuid::nil(),
            credit_account: Uuid::max(),
            amount: Decimal::ONE,
            currency: "EUR".into(),
            scale: 2,
            rhythm: rhythm.into(),
            start_on: "2020-01-01".parse().unwrap(),
            end_on: None,
            next_due_on: next_due_on.parse().unwrap(),
            time_zone: zone.into(),
            now: now.parse().unwrap(),
        }
    }

    fn dates(plan: &Plan) -> Vec<String> {
        plan.dates.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn missed_dates_are_planned_in_order_up_to_the_limit() {
        let payment = due(Rhythm::Daily, "2024-03-29", "Europe/Berlin", "2024-03-31T22:00:00Z");
        let plan = payment.plan(31).unwrap();
        assert_eq!(dates(&plan), ["2024-03-29", "2024-03-30", "2024-03-31", "2024-04-01"]);
        assert_eq!(plan.next.unwrap().0.to_string(), "2024-04-02");
        assert!(!plan.more);
        let plan = payment.plan(2).unwrap();
        assert_eq!(dates(&plan), ["2024-03-29", "2024-03-30"]);
        assert_eq!(plan.next.unwrap().0.to_string(), "2024-03-31");
        assert!(plan.more);
    }

    #[test]
    fn a_day_is_due_when_it_begins_there_and_not_a_second_earlier() {
        for (zone, now, expected) in [
            ("America/New_York", "2024-03-11T03:59:59Z", 0),
            ("America/New_York", "2024-03-11T04:00:00Z", 1),
            ("Pacific/Auckland", "2024-03-10T11:00:00Z", 1),
            ("Pacific/Auckland", "2024-03-10T10:59:59Z", 0),
        ] {
            let plan = due(Rhythm::Daily, "2024-03-11", zone, now).plan(31).unwrap();
            assert_eq!(plan.dates.len(), expected, "{zone} {now}");
        }
    }

    #[test]
    fn every_rhythm_survives_the_way_through_the_table() {
        let weekly = (0u8..7).map(|n| Rhythm::Weekly { weekday: Weekday::try_from(n).unwrap() });
        let monthly = (1..=31).chain([-1]).map(|n| Rhythm::Monthly { day: MonthDay::try_from(n).unwrap() });
        for rhythm in weekly.chain(monthly).chain([Rhythm::Daily]) {
            assert_eq!(RhythmColumns::from(rhythm).rhythm(), Some(rhythm));
        }
    }

    #[test]
    fn what_is_not_known_is_said_and_not_guessed() {
        let mut payment = due(Rhythm::Daily, "2024-03-11", "Mars/Olympus", "2024-03-11T04:00:00Z");
        assert!(payment.plan(1).unwrap_err().contains("Mars/Olympus"));
        payment.time_zone = "UTC".into();
        payment.rhythm.rhythm = "hourly".into();
        assert!(payment.plan(1).unwrap_err().contains("hourly"));
    }
}
