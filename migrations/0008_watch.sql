-- What Redis and Postgres remember of each other, and what was found when they did not agree.

ALTER TABLE redis_watch
    -- When the beat was last raised: whichever scheduler comes next raises it about a second later.
    ADD COLUMN beat_at    timestamptz NOT NULL DEFAULT '-infinity',
    -- Set until what was found is healed.
    ADD COLUMN found      text CHECK (found IN ('new', 'wiped', 'rolled_back', 'postgres_behind', 'restarted', 'again')),
    ADD COLUMN found_at   timestamptz,
    -- When everything is asked for once more: a worker may tell Redis of a commit that a restored Postgres does not have.
    ADD COLUMN again_at   timestamptz,
    -- The pass that heals, and until when nobody else begins one.
    ADD COLUMN heal       uuid,
    ADD COLUMN heal_until timestamptz;

-- A few rows, each changed once a second.
ALTER TABLE redis_watch SET (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
