-- Parks and callbacks, unique policies, batches, at most once.

ALTER TABLE job_journal
    -- What Redis has to know of a job besides where it waits. Null: the limit of its queue.
    ADD COLUMN rescue_limit  smallint CHECK (rescue_limit BETWEEN 0 AND 254),
    ADD COLUMN at_most_once  boolean NOT NULL DEFAULT false,
    -- The unique key is given up when the job starts, not when it is final.
    ADD COLUMN unique_queued boolean NOT NULL DEFAULT false,
    -- The batch that it follows.
    ADD COLUMN follows       uuid;

ALTER TABLE job_outbox
    ADD COLUMN rescue_limit smallint,
    ADD COLUMN at_most_once boolean NOT NULL DEFAULT false;

ALTER TABLE job_closed
    ADD COLUMN batch_id   uuid,
    -- A job that runs at most once is closed before its handler starts. Until then it may still be running, and is no dead job
    -- yet; a worker that is not lost says earlier what came of it.
    ADD COLUMN runs_until timestamptz;
CREATE INDEX job_closed_batch ON job_closed (batch_id) WHERE batch_id IS NOT NULL;

-- A token whose deadline is over takes no callback; whoever gives up a park ends the deadlines of its tokens.
CREATE INDEX job_callback_job ON job_callback (id, gen);
CREATE INDEX job_callback_deadline ON job_callback (deadline);

-- What was asked for under an idempotency key, so that another request under the same key is not answered with it.
ALTER TABLE job_idempotency ADD COLUMN request bytea;

-- Unique keys that hold for a period, whatever becomes of their job.
CREATE TABLE job_unique (
    digest     bytea PRIMARY KEY,
    job_id     uuid NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 85);
CREATE INDEX job_unique_expires ON job_unique (expires_at);

-- Sets of jobs with a follow-up. Members are rows of job_journal and job_closed with their batch_id.
CREATE TABLE job_batch (
    id        uuid PRIMARY KEY,
    -- The follow-up as it is enqueued when the batch is over.
    follow_up jsonb NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- From then on it takes no more members.
    sealed_at timestamptz,
    -- When the follow-up was enqueued. The counts below are those of that moment.
    fired_at  timestamptz,
    members   bigint,
    completed bigint,
    dead      bigint,
    cancelled bigint
);
CREATE INDEX job_batch_waiting ON job_batch (id) WHERE sealed_at IS NOT NULL AND fired_at IS NULL;
CREATE INDEX job_batch_opened ON job_batch (opened_at);

-- How many members each call added: rows that are only ever inserted, where a counter would be a row that all wait for.
CREATE TABLE job_batch_part (
    batch_id uuid NOT NULL REFERENCES job_batch ON DELETE CASCADE,
    members  bigint NOT NULL
);
CREATE INDEX job_batch_part_batch ON job_batch_part (batch_id);

-- Adding members and sealing exclude each other: the lock is shared among those who add, and whoever seals waits for them.
CREATE FUNCTION job_batch_is_open() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM job_batch WHERE id = NEW.batch_id AND sealed_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'batch % takes no members: it was sealed, or never opened', NEW.batch_id
            USING ERRCODE = 'check_violation', TABLE = 'job_batch', CONSTRAINT = 'job_batch_is_open',
                  HINT = 'Open the batch first, and add all its members before it is sealed.';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER job_batch_is_open BEFORE INSERT ON job_batch_part FOR EACH ROW EXECUTE FUNCTION job_batch_is_open();
