-- Phone numbers of customer projects, and the imports that bring them in.

CREATE TABLE project (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant     text NOT NULL REFERENCES tenant (id),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, name)
);

-- One row an import job, under the job's own id. It holds what the job itself commits: counters and the end. Whether a
-- job that has not finished still stands, is dead or was cancelled is the journal's to say, and is not repeated here.
CREATE TABLE import (
    id           uuid PRIMARY KEY,
    project_id   uuid NOT NULL REFERENCES project (id),
    path         text NOT NULL,
    supplier     text CHECK (length(supplier) BETWEEN 1 AND 200),
    bytes_total  bigint NOT NULL CHECK (bytes_total >= 0),
    bytes_done   bigint NOT NULL DEFAULT 0 CHECK (bytes_done BETWEEN 0 AND bytes_total),
    rows_read    bigint NOT NULL DEFAULT 0,
    inserted     bigint NOT NULL DEFAULT 0,
    duplicates   bigint NOT NULL DEFAULT 0,
    rejected     bigint NOT NULL DEFAULT 0,
    -- Null until a row was rejected.
    error_file   text,
    started_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    -- No row is lost between reading and counting.
    CHECK (rows_read = inserted + duplicates + rejected)
);
CREATE INDEX import_project ON import (project_id, started_at DESC);

-- E.164 has at most 15 digits and no leading zero, so a number is a bigint without its plus sign: 8 bytes instead of 13 to
-- 16, and half the size of the index that every import probes for every row. Hashed by number, so that a lookup by number
-- (a call comes in) knows its partition, and large projects spread over all of them.
--
-- No foreign key to project: it would look the same project up once a row. Whoever writes locks the project once a batch
-- (FOR KEY SHARE); whoever removes a project removes its numbers first.
CREATE TABLE phone_number (
    project_id uuid NOT NULL,
    number     bigint NOT NULL CHECK (number BETWEEN 100000 AND 999999999999999),
    import_id  uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- ISO 3166, or 001 for numbers of no country (+800 and the like).
    region     text NOT NULL CHECK (length(region) BETWEEN 2 AND 3),
    PRIMARY KEY (project_id, number)
) PARTITION BY HASH (number);

DO $$
BEGIN
    FOR part IN 0..15 LOOP
        EXECUTE format('CREATE TABLE phone_number_%s PARTITION OF phone_number FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
                       to_char(part, 'FM00'), part);
    END LOOP;
END $$;
