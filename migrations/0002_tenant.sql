-- Whoever the work is done for. The id stands in job envelopes and metrics-free logs, so it is a short readable name.
CREATE TABLE tenant (
    id         text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$'),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    active     boolean NOT NULL DEFAULT true,
    -- An IANA name; recurring payments fall due at midnight there.
    time_zone  text NOT NULL DEFAULT 'UTC',
    created_at timestamptz NOT NULL DEFAULT now()
);
