-- Where vacancies come from, what was found, and how it was scored.

CREATE TABLE source (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant           text NOT NULL REFERENCES tenant (id),
    name             text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    format           text NOT NULL CHECK (format IN ('json', 'rss', 'atom', 'feed')),
    url              text NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
    -- Where in a JSON document the items and their fields are; null for feeds.
    mapping          jsonb,
    -- How to come to the next page; null for a single page.
    paging           jsonb,
    -- Sent with every request; no secrets.
    headers          jsonb NOT NULL DEFAULT '{}',
    active           boolean NOT NULL DEFAULT true,
    -- Raised by every change of what is fetched; a fetch begun before it leaves no validators behind.
    version          integer NOT NULL DEFAULT 1,
    -- Validators of the first page, sent back as If-None-Match and If-Modified-Since.
    etag             text,
    last_modified    text,
    -- The last fetch that came through, a 304 included.
    last_fetch_at    timestamptz,
    last_error       text,
    last_error_at    timestamptz,
    -- Failed attempts since the last fetch that came through.
    failures         integer NOT NULL DEFAULT 0,
    -- Totals over all fetches, changed in the transaction that holds what they count.
    fetches          bigint NOT NULL DEFAULT 0,
    not_modified     bigint NOT NULL DEFAULT 0,
    items_fetched    bigint NOT NULL DEFAULT 0,
    items_inserted   bigint NOT NULL DEFAULT 0,
    items_updated    bigint NOT NULL DEFAULT 0,
    items_duplicate  bigint NOT NULL DEFAULT 0,
    items_skipped    bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, name)
);

CREATE TABLE vacancy (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant        text NOT NULL REFERENCES tenant (id),
    source_id     uuid REFERENCES source (id) ON DELETE SET NULL,
    url           text NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
    title         text NOT NULL CHECK (length(title) BETWEEN 1 AND 500),
    -- As the source gave it, mostly HTML.
    description   text NOT NULL DEFAULT '',
    company       text,
    location      text,
    salary_min    numeric(14, 2) CHECK (salary_min > 0),
    salary_max    numeric(14, 2) CHECK (salary_max > 0),
    tags          text[] NOT NULL DEFAULT '{}',
    published_at  timestamptz,
    status        text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'queued', 'scored')),
    score         smallint CHECK (score BETWEEN 1 AND 10),
    reason        text CHECK (length(reason) BETWEEN 1 AND 2000),
    -- Scoring jobs made for it, so that the sweep does not make another for ever.
    score_jobs    integer NOT NULL DEFAULT 0,
    queued_at     timestamptz,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    -- When its content last changed.
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, url),
    CHECK (status <> 'scored' OR (score IS NOT NULL AND reason IS NOT NULL))
);
CREATE INDEX vacancy_newest ON vacancy (tenant, first_seen_at DESC, id DESC);
CREATE INDEX vacancy_source ON vacancy (source_id);
-- What the sweep walks.
CREATE INDEX vacancy_unscored ON vacancy (id) WHERE status <> 'scored';

-- What a tenant looks for. A tenant without a row is scored by the built-in rules with their defaults.
CREATE TABLE scoring_profile (
    tenant      text PRIMARY KEY REFERENCES tenant (id),
    -- Raised by every change; recorded with each score.
    version     integer NOT NULL DEFAULT 1,
    scorer      text NOT NULL DEFAULT 'rules' CHECK (scorer IN ('rules', 'webhook')),
    -- Keywords with their weights, exclusions, expected salary, freshness.
    rules       jsonb NOT NULL DEFAULT '{}',
    webhook_url text CHECK (length(webhook_url) BETWEEN 1 AND 2048),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (scorer <> 'webhook' OR webhook_url IS NOT NULL)
);

CREATE TABLE scoring_history (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vacancy_id      uuid NOT NULL REFERENCES vacancy (id) ON DELETE CASCADE,
    tenant          text NOT NULL,
    -- A scoring job leaves one row, however often it is executed.
    job_id          uuid NOT NULL UNIQUE,
    score           smallint NOT NULL CHECK (score BETWEEN 1 AND 10),
    reason          text NOT NULL CHECK (length(reason) BETWEEN 1 AND 2000),
    scorer          text NOT NULL,
    profile_version integer NOT NULL,
    scored_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX scoring_history_vacancy ON scoring_history (vacancy_id, scored_at);
