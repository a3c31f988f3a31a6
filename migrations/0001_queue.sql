-- The journal: what still has to happen, and nothing else. A job that completed, died or was cancelled has no row here.
-- A job finishes by deleting its own row in the transaction that holds its effects.

CREATE TABLE job_journal (
    id            uuid PRIMARY KEY,
    -- Raised by every return to work (un-park, redrive), so that two lives of one job never dedupe each other.
    gen           integer NOT NULL DEFAULT 1,
    state         text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'parked')),
    kind          text NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
    queue         text NOT NULL CHECK (length(queue) BETWEEN 1 AND 64),
    tenant        text CHECK (length(tenant) BETWEEN 1 AND 64),
    band          smallint NOT NULL DEFAULT 2 CHECK (band BETWEEN 0 AND 3),
    args          jsonb NOT NULL,
    -- Overrides of the kind's policy (max_attempts, timeout, backoff); null is the kind's own.
    policy        jsonb,
    run_at        timestamptz NOT NULL DEFAULT now(),
    attempt       integer NOT NULL DEFAULT 0,
    checkpoint    jsonb,
    unique_key    bytea,
    schedule_id   uuid,
    fire_at       timestamptz,
    missed        integer NOT NULL DEFAULT 0,
    batch_id      uuid,
    park_deadline timestamptz,
    callback      jsonb,
    -- The last attempts' errors, newest last; bounded by the worker that mirrors them.
    errors        jsonb,
    traceparent   text,
    enqueued_at   timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0);

CREATE UNIQUE INDEX job_journal_unique_key ON job_journal (unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX job_journal_schedule ON job_journal (schedule_id) WHERE schedule_id IS NOT NULL;
CREATE INDEX job_journal_batch ON job_journal (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX job_journal_park_deadline ON job_journal (park_deadline) WHERE state = 'parked';

-- What the relay still has to put into Redis. Apart from the journal, so that relaying a job rewrites no wide row.
CREATE TABLE job_outbox (
    band     smallint NOT NULL,
    relay_at timestamptz NOT NULL,
    seq      bigint GENERATED ALWAYS AS IDENTITY,
    id       uuid NOT NULL,
    gen      integer NOT NULL,
    queue    text NOT NULL,
    tenant   text,
    kind     text NOT NULL,
    run_at   timestamptz NOT NULL,
    PRIMARY KEY (band, relay_at, seq)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0);

-- Jobs that will not run unless somebody says so.
CREATE TABLE job_closed (
    id          uuid PRIMARY KEY,
    gen         integer NOT NULL,
    state       text NOT NULL CHECK (state IN ('dead', 'cancelled', 'discarded')),
    queue       text NOT NULL,
    kind        text NOT NULL,
    tenant      text,
    reason      text NOT NULL,
    fingerprint bytea,
    closed_at   timestamptz NOT NULL DEFAULT now(),
    -- The journal row as it stood.
    job         jsonb NOT NULL
);
CREATE INDEX job_closed_state ON job_closed (state, closed_at DESC, id);

CREATE TABLE job_callback (
    token_hash bytea PRIMARY KEY,
    id         uuid NOT NULL,
    gen        integer NOT NULL,
    deadline   timestamptz NOT NULL,
    payload    jsonb
);

-- The same request twice: the answer of the first is given again until the key expires.
CREATE TABLE job_idempotency (
    digest     bytea PRIMARY KEY,
    job_id     uuid NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX job_idempotency_expires ON job_idempotency (expires_at);

-- What Postgres last saw of each queue's Redis: a beat that went backwards is a Redis that was rolled back.
CREATE TABLE redis_watch (
    queue  text PRIMARY KEY,
    epoch  uuid,
    beat   bigint NOT NULL DEFAULT 0,
    run_id text
);

-- One row. A relay that is about to sleep says so here, and only then do enqueuers pay for a NOTIFY.
CREATE TABLE relay_flag (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    idle boolean NOT NULL DEFAULT true
);
INSERT INTO relay_flag DEFAULT VALUES;
