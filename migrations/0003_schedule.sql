-- Recurring work, and the record of every time it was due.

CREATE TABLE schedule (
    id             uuid PRIMARY KEY,
    name           text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    -- 'config' rows belong to config/schedules.toml and follow it; 'api' rows are never touched by it.
    origin         text NOT NULL CHECK (origin IN ('config', 'api')),
    -- Raised by every edit; an edited schedule starts again from the later of now and its last fire time.
    version        integer NOT NULL DEFAULT 1,
    kind           text NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
    args           jsonb NOT NULL,
    cron           text,
    every_s        bigint CHECK (every_s >= 1),
    -- An IANA name, in which `cron` is read.
    time_zone      text NOT NULL DEFAULT 'UTC',
    -- Fires are put off by a share of this that is fixed for each schedule, so that they do not all come at once.
    jitter_ms      bigint NOT NULL DEFAULT 0 CHECK (jitter_ms >= 0),
    overlap        text NOT NULL DEFAULT 'skip' CHECK (overlap IN ('allow', 'skip', 'queue_one')),
    missed         text NOT NULL DEFAULT 'run_once' CHECK (missed IN ('skip', 'run_once', 'catch_up')),
    catch_up       integer NOT NULL DEFAULT 0 CHECK (catch_up >= 0),
    starts_at      timestamptz,
    ends_at        timestamptz,
    tenant         text CHECK (length(tenant) BETWEEN 1 AND 64),
    -- One job for every active tenant.
    each_tenant    boolean NOT NULL DEFAULT false,
    -- The declaration's word; `paused` is the operator's, and outlives a new declaration.
    enabled        boolean NOT NULL DEFAULT true,
    paused         boolean NOT NULL DEFAULT false,
    -- Every fire time up to this one has its outcome. What comes next is computed from here and from nothing else.
    handled_until  timestamptz NOT NULL,
    -- The first fire time after it; null when there is none. Kept for the index and for people.
    next_fire_at   timestamptz,
    -- When a scheduler has to look: next_fire_at with its share of the jitter, or later after an error.
    due_at         timestamptz,
    -- Fire times missed since the last job, to be told to the next one.
    missed_count   integer NOT NULL DEFAULT 0,
    -- queue_one: the one fire time that waits for the standing job to end.
    queued_fire_at timestamptz,
    -- each_tenant: the fire time being fanned out, and the last tenant that has its job.
    fan_fire_at    timestamptz,
    fan_after      text,
    fan_missed     integer NOT NULL DEFAULT 0,
    -- Why it cannot fire. It is tried again.
    error          text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    CHECK ((cron IS NULL) <> (every_s IS NULL)),
    CHECK (tenant IS NULL OR NOT each_tenant),
    UNIQUE NULLS NOT DISTINCT (tenant, name)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX schedule_due ON schedule (due_at) WHERE enabled AND NOT paused AND due_at IS NOT NULL;
CREATE INDEX schedule_queued ON schedule (queued_fire_at) WHERE queued_fire_at IS NOT NULL;
CREATE INDEX schedule_fanning ON schedule (fan_fire_at) WHERE fan_fire_at IS NOT NULL;

-- One row for each fire time, whoever noticed it: the primary key is what makes a fire unique. Consecutive missed fire times
-- share a row: `fire_at` is the first of them, `through` the last, `times` how many they are.
CREATE TABLE schedule_fire (
    schedule_id uuid NOT NULL,
    fire_at     timestamptz NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('fired', 'missed', 'skipped', 'queued', 'fanning')),
    -- The job; of a fan-out the number of jobs is in `jobs`.
    job_id      uuid,
    jobs        integer NOT NULL DEFAULT 0,
    through     timestamptz,
    times       integer NOT NULL DEFAULT 1,
    -- How long after its due time (jitter included) it was recorded.
    late_ms     bigint NOT NULL DEFAULT 0,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schedule_id, fire_at)
);
CREATE INDEX schedule_fire_recorded ON schedule_fire (recorded_at);

-- One row: the generation of the newest schedules.toml that was ever put in force. A program with an older file leaves the
-- schedules alone, so that two versions running side by side do not undo each other's changes for ever.
CREATE TABLE schedule_config (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation bigint NOT NULL DEFAULT 0
);
INSERT INTO schedule_config DEFAULT VALUES;

-- The outbox by lanes: within a band, queue and tenant, then age. A relay finds the lanes by index probes, takes from each in
-- turn, and never walks the rows of a queue that is in back-off, nor the million rows of one tenant to reach another's.
ALTER TABLE job_outbox DROP CONSTRAINT job_outbox_pkey;
UPDATE job_outbox SET tenant = '' WHERE tenant IS NULL;
ALTER TABLE job_outbox
    ALTER COLUMN queue TYPE text COLLATE "C",
    ALTER COLUMN tenant TYPE text COLLATE "C",
    ALTER COLUMN tenant SET DEFAULT '',
    ALTER COLUMN tenant SET NOT NULL,
    ADD PRIMARY KEY (band, queue, tenant, relay_at, seq);
