-- Schedules by the million: lists page by page, triggers that reach every tenant in batches, dying jobs found by their schedule.

-- Lists go by name, then tenant; those that are out of order are found without walking past the others.
CREATE INDEX schedule_name ON schedule (name, (coalesce(tenant, '')));
CREATE INDEX schedule_error ON schedule (name, (coalesce(tenant, ''))) WHERE error IS NOT NULL;
CREATE INDEX schedule_held ON schedule (name, (coalesce(tenant, ''))) WHERE paused OR NOT enabled;

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
