-- What a chaos run records beside Windrow's own tables. Nothing here is unique but what was sent: a second effect must be
-- able to show.

CREATE TABLE chaos_sent (
    job_id     uuid PRIMARY KEY,
    kind       text NOT NULL,
    -- What must become of it, as in `Expect`; and for how many effects.
    expect     text NOT NULL,
    steps      integer NOT NULL DEFAULT 1,
    -- What its effect must say.
    note       text NOT NULL DEFAULT 'done',
    unique_key text,
    batch_id   uuid,
    -- How long it was to wait.
    delay_ms   bigint NOT NULL DEFAULT 0,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE chaos_effect (
    job_id      uuid NOT NULL,
    note        text NOT NULL,
    node        text NOT NULL,
    attempt     integer NOT NULL,
    tenant      text,
    schedule_id uuid,
    fire_at     timestamptz,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Starts of handlers, outside any transaction of a job: what a call to the outside would be.
CREATE TABLE chaos_run (
    job_id uuid NOT NULL,
    node   text NOT NULL,
    at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX chaos_run_job ON chaos_run (job_id);

-- Tokens that were given to the outside, which is to call back or to keep silent.
CREATE TABLE chaos_token (
    digest  bytea PRIMARY KEY,
    job_id  uuid NOT NULL,
    answer  boolean NOT NULL,
    answers integer NOT NULL DEFAULT 0,
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
