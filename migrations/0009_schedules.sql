-- Schedules by the million: lists page by page, triggers that reach every tenant in batches, dying jobs found by their schedule.

-- Lists of those that are out of order do not walk past the others. (Lists of all go by the unique key: each further index over
-- all rows would be written to by each fire.)
CREATE INDEX schedule_error ON schedule (tenant, name) WHERE error IS NOT NULL;
CREATE INDEX schedule_held ON schedule (tenant, name) WHERE paused OR NOT enabled;

-- By id within one instant: a scheduler that works off many which are due at once goes on behind those that it has fired, and does
-- not walk over what they left in the index.
DROP INDEX schedule_due;
CREATE INDEX schedule_due ON schedule (due_at, id) WHERE enabled AND NOT paused AND due_at IS NOT NULL;

-- Jobs that somebody asked for by hand, apart from fire times.
CREATE TABLE schedule_trigger (
    id           uuid PRIMARY KEY,
    schedule_id  uuid NOT NULL,
    triggered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Who asked.
    caller       text,
    -- The same request twice is answered with the first trigger.
    request_key  text CHECK (length(request_key) BETWEEN 1 AND 255),
    -- The job; of a fan-out the number of jobs is in `jobs`.
    job_id       uuid,
    jobs         integer NOT NULL DEFAULT 0,
    -- each_tenant: the last tenant that has its job. Null once all of them have.
    fan_after    text,
    UNIQUE (schedule_id, request_key)
);
CREATE INDEX schedule_trigger_history ON schedule_trigger (schedule_id, triggered_at DESC);
CREATE INDEX schedule_trigger_fanning ON schedule_trigger (triggered_at) WHERE fan_after IS NOT NULL;
CREATE INDEX schedule_trigger_done ON schedule_trigger (triggered_at) WHERE fan_after IS NULL;

-- Dead jobs by the schedule that made them.
CREATE INDEX job_closed_schedule ON job_closed (((job->>'schedule_id')::uuid), closed_at)
    WHERE state = 'dead' AND job->>'schedule_id' IS NOT NULL;
