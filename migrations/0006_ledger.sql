-- The ledger: double entry, balanced by the database itself, and the recurring payments that post into it.
--
-- What holds here, whoever writes:
--   * the entries of a transaction sum to zero in every currency, and there are at least two;
--   * a transaction is complete when it commits and sealed from then on: it says how many entries it has, each has its
--     position, and all positions are taken, so that nothing can be added;
--   * transactions and entries are never changed or removed; a mistake is corrected by another transaction;
--   * an entry has its account's currency, no finer than that currency's smallest unit, and its account belongs to the
--     transaction's tenant and is active;
--   * an account's balance is the sum of its entries: only the trigger on entries writes it.

-- ISO 4217, with the decimals of the smallest unit.
CREATE TABLE currency (
    code  text PRIMARY KEY CHECK (code ~ '^[A-Z]{3}$'),
    scale smallint NOT NULL CHECK (scale BETWEEN 0 AND 4)
);
INSERT INTO currency (code, scale) VALUES
    ('AED', 2), ('AFN', 2), ('ALL', 2), ('AMD', 2), ('AOA', 2), ('ARS', 2), ('AUD', 2), ('AWG', 2),
    ('AZN', 2), ('BAM', 2), ('BBD', 2), ('BDT', 2), ('BGN', 2), ('BHD', 3), ('BIF', 0), ('BMD', 2),
    ('BND', 2), ('BOB', 2), ('BRL', 2), ('BSD', 2), ('BTN', 2), ('BWP', 2), ('BYN', 2), ('BZD', 2),
    ('CAD', 2), ('CDF', 2), ('CHF', 2), ('CLF', 4), ('CLP', 0), ('CNY', 2), ('COP', 2), ('CRC', 2),
    ('CUP', 2), ('CVE', 2), ('CZK', 2), ('DJF', 0), ('DKK', 2), ('DOP', 2), ('DZD', 2), ('EGP', 2),
    ('ERN', 2), ('ETB', 2), ('EUR', 2), ('FJD', 2), ('FKP', 2), ('GBP', 2), ('GEL', 2), ('GHS', 2),
    ('GIP', 2), ('GMD', 2), ('GNF', 0), ('GTQ', 2), ('GYD', 2), ('HKD', 2), ('HNL', 2), ('HTG', 2),
    ('HUF', 2), ('IDR', 2), ('ILS', 2), ('INR', 2), ('IQD', 3), ('IRR', 2), ('ISK', 0), ('JMD', 2),
    ('JOD', 3), ('JPY', 0), ('KES', 2), ('KGS', 2), ('KHR', 2), ('KMF', 0), ('KPW', 2), ('KRW', 0),
    ('KWD', 3), ('KYD', 2), ('KZT', 2), ('LAK', 2), ('LBP', 2), ('LKR', 2), ('LRD', 2), ('LSL', 2),
    ('LYD', 3), ('MAD', 2), ('MDL', 2), ('MGA', 2), ('MKD', 2), ('MMK', 2), ('MNT', 2), ('MOP', 2),
    ('MRU', 2), ('MUR', 2), ('MVR', 2), ('MWK', 2), ('MXN', 2), ('MYR', 2), ('MZN', 2), ('NAD', 2),
    ('NGN', 2), ('NIO', 2), ('NOK', 2), ('NPR', 2), ('NZD', 2), ('OMR', 3), ('PAB', 2), ('PEN', 2),
    ('PGK', 2), ('PHP', 2), ('PKR', 2), ('PLN', 2), ('PYG', 0), ('QAR', 2), ('RON', 2), ('RSD', 2),
    ('RUB', 2), ('RWF', 0), ('SAR', 2), ('SBD', 2), ('SCR', 2), ('SDG', 2), ('SEK', 2), ('SGD', 2),
    ('SHP', 2), ('SLE', 2), ('SOS', 2), ('SRD', 2), ('SSP', 2), ('STN', 2), ('SVC', 2), ('SYP', 2),
    ('SZL', 2), ('THB', 2), ('TJS', 2), ('TMT', 2), ('TND', 3), ('TOP', 2), ('TRY', 2), ('TTD', 2),
    ('TWD', 2), ('TZS', 2), ('UAH', 2), ('UGX', 0), ('USD', 2), ('UYU', 2), ('UYW', 4), ('UZS', 2),
    ('VED', 2), ('VES', 2), ('VND', 0), ('VUV', 0), ('WST', 2), ('XAF', 0), ('XCD', 2), ('XOF', 0),
    ('XPF', 0), ('YER', 2), ('ZAR', 2), ('ZMW', 2);

CREATE TABLE account (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant     text NOT NULL REFERENCES tenant (id),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    kind       text NOT NULL CHECK (kind IN ('asset', 'liability', 'equity', 'income', 'expense')),
    currency   text NOT NULL REFERENCES currency (code),
    -- Debits minus credits.
    balance    numeric NOT NULL DEFAULT 0,
    -- Nothing is posted to an account that is not.
    active     boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, name),
    -- What entries refer to, so that an entry's currency is its account's.
    UNIQUE (id, currency)
) WITH (fillfactor = 70);

CREATE TABLE recurring_payment (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant         text NOT NULL REFERENCES tenant (id),
    debit_account  uuid NOT NULL REFERENCES account (id),
    credit_account uuid NOT NULL REFERENCES account (id),
    -- Without a declared scale, which would round silently: what is too fine is refused.
    amount         numeric NOT NULL CHECK (amount > 0 AND amount < 1e15 AND scale(amount) <= 4),
    currency       text NOT NULL REFERENCES currency (code),
    description    text NOT NULL CHECK (length(description) BETWEEN 1 AND 500),
    rhythm         text NOT NULL CHECK (rhythm IN ('daily', 'weekly', 'monthly')),
    -- ISO: 1 is Monday.
    weekday        smallint CHECK (weekday BETWEEN 1 AND 7),
    -- 1 to 31, in shorter months their last day; -1 is the last day as such.
    month_day      smallint CHECK (month_day BETWEEN 1 AND 31 OR month_day = -1),
    start_on       date NOT NULL CHECK (start_on BETWEEN '1970-01-01' AND '9999-12-31'),
    -- The last day on which it may fall due.
    end_on         date CHECK (end_on >= start_on AND end_on <= '9999-12-31'),
    -- The first due date that has not been posted. Null when there is none left.
    next_due_on    date,
    -- When to look at it again: the beginning of that day in the tenant's time zone. An index for the poster, not the
    -- truth: the poster computes it anew before it posts.
    next_due_at    timestamptz,
    state          text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'failed', 'finished')),
    -- Why it is failed.
    error          text,
    failed_at      timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CHECK ((rhythm = 'weekly') = (weekday IS NOT NULL)),
    CHECK ((rhythm = 'monthly') = (month_day IS NOT NULL)),
    CHECK (debit_account <> credit_account),
    CHECK ((state = 'finished') = (next_due_on IS NULL)),
    CHECK ((next_due_on IS NULL) = (next_due_at IS NULL)),
    CHECK ((state = 'failed') = (error IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX recurring_payment_due ON recurring_payment (next_due_at, id) WHERE state = 'active';
CREATE INDEX recurring_payment_tenant ON recurring_payment (tenant, id);
CREATE INDEX recurring_payment_failed ON recurring_payment (failed_at) WHERE state = 'failed';

CREATE TABLE ledger_transaction (
    id                   bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    tenant               text NOT NULL REFERENCES tenant (id),
    description          text NOT NULL,
    -- The day it belongs to in the tenant's books; for a recurring payment its due date.
    occurred_on          date NOT NULL,
    entries              smallint NOT NULL DEFAULT 2 CHECK (entries BETWEEN 2 AND 1000),
    recurring_payment_id uuid REFERENCES recurring_payment (id),
    posted_at            timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ledger_transaction_tenant ON ledger_transaction (tenant, occurred_on DESC, id DESC);

CREATE TABLE ledger_entry (
    transaction_id bigint NOT NULL REFERENCES ledger_transaction (id),
    position       smallint NOT NULL CHECK (position >= 1),
    account_id     uuid NOT NULL,
    currency       text NOT NULL,
    -- Debits are positive, credits negative.
    amount         numeric NOT NULL CHECK (amount <> 0 AND abs(amount) < 1e15 AND scale(amount) <= 4),
    PRIMARY KEY (transaction_id, position),
    FOREIGN KEY (account_id, currency) REFERENCES account (id, currency)
);
CREATE INDEX ledger_entry_account ON ledger_entry (account_id, transaction_id DESC);

-- One row a payment and due date, for ever: the primary key is what makes a date's posting happen once.
CREATE TABLE payment_run (
    recurring_payment_id uuid NOT NULL REFERENCES recurring_payment (id),
    due_on               date NOT NULL,
    outcome              text NOT NULL CHECK (outcome IN ('posted', 'failed')),
    transaction_id       bigint REFERENCES ledger_transaction (id),
    error                text,
    at                   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (recurring_payment_id, due_on),
    CHECK ((outcome = 'posted') = (transaction_id IS NOT NULL)),
    CHECK ((outcome = 'failed') = (error IS NOT NULL))
);

-- A transaction is checked when it commits, or at SET CONSTRAINTS ALL IMMEDIATE. One check a transaction, not one an entry:
-- it passes only when all declared positions are taken, and then nothing can be added to it any more.
CREATE FUNCTION ledger_transaction_is_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    found    bigint;
    unequal  text;
BEGIN
    SELECT coalesce(sum(n), 0), string_agg(currency || ' by ' || total, ', ') FILTER (WHERE total <> 0)
    INTO found, unequal
    FROM (SELECT currency, count(*) AS n, sum(amount) AS total FROM ledger_entry
          WHERE transaction_id = NEW.id GROUP BY currency) AS per_currency;
    IF found <> NEW.entries THEN
        RAISE EXCEPTION 'ledger transaction % declares % entries and has %', NEW.id, NEW.entries, found
            USING ERRCODE = 'check_violation', TABLE = 'ledger_transaction', CONSTRAINT = 'ledger_transaction_complete';
    END IF;
    IF unequal IS NOT NULL THEN
        RAISE EXCEPTION 'ledger transaction % is not balanced: %', NEW.id, unequal
            USING ERRCODE = 'check_violation', TABLE = 'ledger_transaction', CONSTRAINT = 'ledger_transaction_balanced';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_transaction_balanced AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_transaction_is_balanced();

-- Once a statement, over all its entries: locks the accounts in the order of their ids (so that two postings never wait for
-- each other in a circle), checks what constraints cannot, and adds to the balances, one update an account.
CREATE FUNCTION ledger_entry_post() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    fault record;
BEGIN
    PERFORM FROM account WHERE id IN (SELECT account_id FROM entry) ORDER BY id FOR NO KEY UPDATE;

    SELECT e.transaction_id, e.position, e.amount, a.name AS account, a.active, c.code AS currency,
           e.position > t.entries AS beyond, a.tenant <> t.tenant AS foreign_account,
           e.amount <> round(e.amount, c.scale) AS too_fine
    INTO fault
    FROM entry e
    JOIN ledger_transaction t ON t.id = e.transaction_id
    JOIN account a ON a.id = e.account_id
    JOIN currency c ON c.code = a.currency
    WHERE NOT a.active OR a.tenant <> t.tenant OR e.position > t.entries OR e.amount <> round(e.amount, c.scale)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation', TABLE = 'ledger_entry',
            CONSTRAINT = CASE WHEN fault.beyond THEN 'ledger_entry_position'
                              WHEN fault.foreign_account THEN 'ledger_entry_tenant'
                              WHEN NOT fault.active THEN 'ledger_entry_account_active'
                              ELSE 'ledger_entry_scale' END,
            MESSAGE = format('entry %s of ledger transaction %s: ', fault.position, fault.transaction_id) ||
                CASE WHEN fault.beyond THEN 'the transaction declares fewer entries'
                     WHEN fault.foreign_account THEN format('account %L belongs to another tenant', fault.account)
                     WHEN NOT fault.active THEN format('account %L is not active', fault.account)
                     ELSE format('%s is finer than the smallest unit of %s', fault.amount, fault.currency) END;
    END IF;

    UPDATE account a SET balance = a.balance + change.amount
    FROM (SELECT account_id, sum(amount) AS amount FROM entry GROUP BY account_id) AS change
    WHERE a.id = change.account_id;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_entry_post AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS entry FOR EACH STATEMENT EXECUTE FUNCTION ledger_entry_post();

CREATE FUNCTION ledger_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: what is posted stays; correct it by another transaction', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER ledger_entry_immutable BEFORE UPDATE OR DELETE ON ledger_entry
    FOR EACH ROW EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_entry_kept BEFORE TRUNCATE ON ledger_entry EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_transaction_immutable BEFORE UPDATE OR DELETE ON ledger_transaction
    FOR EACH ROW EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_transaction_kept BEFORE TRUNCATE ON ledger_transaction EXECUTE FUNCTION ledger_is_immutable();

-- Balances move by entries alone: at depth 0 it is somebody's own statement, below it is the trigger on entries.
CREATE FUNCTION account_balance_is_derived() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the balance of account % is the sum of its entries: post a transaction instead', NEW.id
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER account_opens_empty BEFORE INSERT ON account
    FOR EACH ROW WHEN (NEW.balance <> 0) EXECUTE FUNCTION account_balance_is_derived();
CREATE TRIGGER account_balance BEFORE UPDATE OF balance ON account
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 AND NEW.balance IS DISTINCT FROM OLD.balance)
    EXECUTE FUNCTION account_balance_is_derived();

-- What entries say depends on them.
CREATE FUNCTION account_identity_is_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'tenant and currency of account % are fixed: open another account', OLD.id
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER account_identity BEFORE UPDATE OF tenant, currency ON account
    FOR EACH ROW WHEN (NEW.tenant <> OLD.tenant OR NEW.currency <> OLD.currency)
    EXECUTE FUNCTION account_identity_is_fixed();

-- A tenant that moves to another time zone has its days begin at another time: its payments are looked at anew.
CREATE FUNCTION tenant_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE recurring_payment SET next_due_at = now() WHERE tenant = NEW.id AND state = 'active';
    RETURN NULL;
END $$;
CREATE TRIGGER tenant_moved AFTER UPDATE OF time_zone ON tenant
    FOR EACH ROW WHEN (NEW.time_zone <> OLD.time_zone) EXECUTE FUNCTION tenant_moved();
