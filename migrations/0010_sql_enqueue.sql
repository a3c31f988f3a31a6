-- windrow_enqueue: a job enqueued by SQL, in the caller's transaction. What it writes is what journal::enqueue_in writes.

-- The kinds that programs of this database know. Written when workers and schedulers start, and by `windrow migrate`. A kind that
-- was taken out keeps its row: its jobs wait for a program that knows it.
CREATE TABLE job_kind (
    kind           text PRIMARY KEY,
    queue          text NOT NULL,
    band           smallint NOT NULL CHECK (band BETWEEN 0 AND 3),
    -- Null: the limit of its queue.
    rescue_limit   smallint CHECK (rescue_limit BETWEEN 0 AND 254),
    at_most_once   boolean NOT NULL,
    -- Its args are sealed by whoever enqueues; the database has no key.
    encrypted      boolean NOT NULL,
    -- Names that its args must have.
    required       text[] NOT NULL,
    max_args_bytes integer NOT NULL,
    changed_at     timestamptz NOT NULL DEFAULT now()
);

-- A job that was found good.
CREATE TYPE windrow_plan AS (
    kind text, queue text, tenant text, band smallint, args jsonb, policy jsonb, run_at timestamptz, rescue_limit smallint,
    at_most_once boolean, unique_digest bytea, unique_queued boolean, unique_period interval, on_conflict text,
    idempotency_digest bytea, request bytea, batch uuid, traceparent text
);

-- Stands for a key: the first 16 bytes of SHA-256 over kind, tenant and key, each behind its length.
CREATE FUNCTION windrow_key_digest(kind text, tenant text, key text) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT substring(sha256(
        int8send(octet_length(convert_to($1, 'UTF8'))) || convert_to($1, 'UTF8')
        || int8send(octet_length(convert_to(coalesce($2, ''), 'UTF8'))) || convert_to(coalesce($2, ''), 'UTF8')
        || int8send(octet_length(convert_to($3, 'UTF8'))) || convert_to($3, 'UTF8')) FOR 16)
$$;

-- A number as serde_json prints it: whole ones of 64 bits as they are, others as the shortest text of their double.
CREATE FUNCTION windrow_number_text(number numeric) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET extra_float_digits = 1 AS $$
DECLARE
    plain text := number::text;
    short text;
    digits text;
    point integer;
BEGIN
    IF plain !~ '[.]' AND number BETWEEN -9223372036854775808 AND 18446744073709551615 THEN
        RETURN plain;
    END IF;
    short := abs(number::float8)::text;
    -- As 0.digits times ten to the power of point.
    digits := split_part(split_part(short, 'e', 1), '.', 1);
    point := length(digits) + coalesce(nullif(split_part(short, 'e', 2), '')::integer, 0);
    digits := digits || split_part(split_part(short, 'e', 1), '.', 2);
    point := point - (length(digits) - length(ltrim(digits, '0')));
    digits := rtrim(ltrim(digits, '0'), '0');
    RETURN CASE WHEN number::float8 < 0 THEN '-' ELSE '' END || CASE
        WHEN digits = '' THEN '0.0'
        WHEN point >= length(digits) AND point <= 16 THEN rpad(digits, point, '0') || '.0'
        WHEN point BETWEEN 1 AND 16 THEN left(digits, point) || '.' || substr(digits, point + 1)
        WHEN point BETWEEN -4 AND 0 THEN '0.' || repeat('0', -point) || digits
        ELSE left(digits, 1) || CASE WHEN length(digits) > 1 THEN '.' || substr(digits, 2) ELSE '' END
             || CASE WHEN point > 0 THEN 'e+' ELSE 'e' END || (point - 1)::text
    END;
END $$;

-- A value with the members of objects in the order of their names; every part says what it is and how long.
CREATE FUNCTION windrow_request_bytes(value jsonb, depth integer DEFAULT 1) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    plain bytea;
BEGIN
    IF depth > 127 THEN
        RAISE EXCEPTION 'the args are nested deeper than 127 levels'
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Workers cannot read them: make them flatter.';
    END IF;
    CASE jsonb_typeof(value)
    WHEN 'array' THEN
        RETURN '\x5b'::bytea || int8send(jsonb_array_length(value)) || coalesce((
            SELECT string_agg(windrow_request_bytes(item, depth + 1), ''::bytea ORDER BY position)
            FROM jsonb_array_elements(value) WITH ORDINALITY AS element (item, position)), '');
    WHEN 'object' THEN
        RETURN (
            SELECT '\x7b'::bytea || int8send(count(*)) || coalesce(string_agg(
                int8send(octet_length(name)) || name || windrow_request_bytes(item, depth + 1), ''::bytea ORDER BY name), '')
            FROM (SELECT convert_to(key, 'UTF8') AS name, each.value AS item FROM jsonb_each(value) AS each) AS member);
    WHEN 'number' THEN
        plain := convert_to(windrow_number_text(value::numeric), 'UTF8');
    ELSE
        plain := convert_to(value::text, 'UTF8');
    END CASE;
    RETURN '\x3d'::bytea || int8send(octet_length(plain)) || plain;
END $$;

-- A duration as policies hold it: `1day 2h 3m`.
CREATE FUNCTION windrow_duration_text(duration interval) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT concat_ws(' ',
        CASE WHEN us >= 86400000000 THEN us / 86400000000 || CASE WHEN us >= 172800000000 THEN 'days' ELSE 'day' END END,
        nullif(us / 3600000000 % 24, 0) || 'h', nullif(us / 60000000 % 60, 0) || 'm', nullif(us / 1000000 % 60, 0) || 's',
        nullif(us / 1000 % 1000, 0) || 'ms', nullif(us % 1000, 0) || 'us')
    FROM (SELECT (extract(epoch FROM duration) * 1000000)::bigint AS us) AS whole
$$;

-- Checks a job. What is wrong is an error that names the parameter (as COLUMN), the value, and what would be right.
CREATE FUNCTION windrow_check(
    kind text, args jsonb, tenant text, queue text, delay interval, run_at timestamptz, band text, unique_key text,
    unique_scope text, unique_period interval, on_conflict text, idempotency_key text, max_attempts integer, timeout interval,
    rescue_limit integer, delivery text, keep_result boolean, batch uuid, traceparent text
) RETURNS windrow_plan LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_variable
DECLARE
    known job_kind;
    plan windrow_plan;
    missing text;
    bytes integer;
    -- An upper bound in which no calendar makes a difference.
    ten_years CONSTANT interval := interval '3660 days';
BEGIN
    IF kind IS NULL THEN
        RAISE EXCEPTION 'the kind is null'
            USING ERRCODE = 'null_value_not_allowed', COLUMN = 'kind', HINT = 'Say what the job is: the table job_kind has the kinds.';
    END IF;
    SELECT * INTO known FROM job_kind AS k WHERE k.kind = windrow_check.kind;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no kind %', quote_literal(left(kind, 80))
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'kind',
                  DETAIL = coalesce('Known are: ' || (SELECT string_agg(k.kind, ', ' ORDER BY k.kind) FROM job_kind AS k) || '.',
                                    'No program has registered any kind yet.'),
                  HINT = 'Workers and schedulers register their kinds when they start, and so does `windrow migrate`.';
    END IF;
    IF known.encrypted THEN
        RAISE EXCEPTION 'the args of % are encrypted, and the database has no key', known.kind
            USING ERRCODE = 'feature_not_supported', COLUMN = 'kind',
                  HINT = 'Enqueue it over the HTTP API or with `windrow jobs enqueue`, which have the key.';
    END IF;
    plan.kind := known.kind;
    plan.queue := known.queue;
    IF queue <> known.queue THEN
        RAISE EXCEPTION '% jobs wait in queue %, not in %', known.kind, known.queue, quote_literal(left(queue, 80))
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'queue', HINT = 'Leave it out.';
    END IF;
    IF tenant COLLATE "C" !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$' THEN
        RAISE EXCEPTION 'the tenant % is not valid', quote_literal(left(tenant, 80))
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'tenant',
                  HINT = 'Use 1 to 64 letters, digits, ''_'', ''-'' or ''.'', beginning with a letter or digit; null for none.';
    END IF;
    plan.tenant := tenant;

    IF args IS NULL THEN
        RAISE EXCEPTION 'the args of % are null', known.kind
            USING ERRCODE = 'null_value_not_allowed', COLUMN = 'args', HINT = 'Give an object, {} if there is nothing to say.';
    END IF;
    IF jsonb_typeof(args) <> 'object' THEN
        RAISE EXCEPTION 'the args of % are not an object but: %', known.kind, jsonb_typeof(args)
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'args', HINT = 'Give an object with named fields.';
    END IF;
    bytes := octet_length(args::text);
    IF bytes > known.max_args_bytes THEN
        RAISE EXCEPTION 'the args of % have % bytes, more than %', known.kind, bytes, known.max_args_bytes
            USING ERRCODE = 'program_limit_exceeded', COLUMN = 'args',
                  HINT = 'Put the data into a table or a file and its key into the args.';
    END IF;
    IF NOT args ?& known.required THEN
        SELECT string_agg(name, ', ') INTO missing FROM unnest(known.required) AS name WHERE NOT args ? name;
        RAISE EXCEPTION 'the args of % lack %', known.kind, missing
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'args',
                  DETAIL = 'Required are: ' || array_to_string(known.required, ', ') || '.';
    END IF;
    plan.args := args;

    IF delay IS NOT NULL AND run_at IS NOT NULL THEN
        RAISE EXCEPTION 'delay and run_at are both given'
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'run_at', HINT = 'Say one of them.';
    ELSIF NOT isfinite(delay) OR delay < interval '0' OR delay > ten_years THEN
        RAISE EXCEPTION 'the delay % is not between none and ten years', delay
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'delay', HINT = 'What recurs belongs into a schedule.';
    ELSIF NOT isfinite(run_at) OR extract(year FROM run_at AT TIME ZONE 'UTC') NOT BETWEEN 1970 AND 2199 THEN
        RAISE EXCEPTION 'the year of run_at % is not 1970 to 2199', run_at
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'run_at';
    END IF;
    plan.run_at := coalesce(run_at, clock_timestamp() + coalesce(delay, interval '0'));

    plan.band := CASE coalesce(band, '') WHEN '' THEN known.band WHEN 'critical' THEN 0 WHEN 'high' THEN 1 WHEN 'normal' THEN 2
                     WHEN 'low' THEN 3 END;
    IF plan.band IS NULL OR band = '' THEN
        RAISE EXCEPTION 'there is no band %', quote_literal(left(band, 80))
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'band', HINT = 'Say critical, high, normal or low; null for the kind''s own.';
    END IF;
    IF max_attempts NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'max_attempts is %, not 1 to 1000', max_attempts
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'max_attempts';
    END IF;
    IF NOT isfinite(timeout) OR timeout NOT BETWEEN interval '100 milliseconds' AND interval '7 days' THEN
        RAISE EXCEPTION 'the timeout % is not between 100 milliseconds and 7 days', timeout
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'timeout';
    END IF;
    IF rescue_limit NOT BETWEEN 0 AND 20 THEN
        RAISE EXCEPTION 'rescue_limit is %, not 0 to 20', rescue_limit
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'rescue_limit';
    END IF;
    IF delivery NOT IN ('at_least_once', 'at_most_once') THEN
        RAISE EXCEPTION 'there is no delivery %', quote_literal(left(delivery, 80))
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'delivery', HINT = 'Say at_least_once or at_most_once.';
    END IF;
    plan.policy := nullif(jsonb_strip_nulls(jsonb_build_object(
        'max_attempts', max_attempts, 'timeout', windrow_duration_text(timeout), 'rescue_limit', rescue_limit,
        'delivery', delivery, 'keep_result', CASE WHEN keep_result THEN true END)), '{}');
    plan.rescue_limit := coalesce(rescue_limit, known.rescue_limit);
    plan.at_most_once := coalesce(delivery = 'at_most_once', known.at_most_once);

    IF unique_key IS NULL AND (unique_scope IS NOT NULL OR unique_period IS NOT NULL OR on_conflict IS NOT NULL) THEN
        RAISE EXCEPTION 'there is no unique_key for which unique_scope, unique_period or on_conflict could hold'
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'unique_key', HINT = 'Give the key, or leave them out.';
    END IF;
    IF octet_length(unique_key) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'unique_key has % bytes, not 1 to 255', octet_length(unique_key)
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'unique_key', HINT = 'A digest of a longer key will do.';
    END IF;
    IF octet_length(idempotency_key) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'idempotency_key has % bytes, not 1 to 255', octet_length(idempotency_key)
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'idempotency_key', HINT = 'A digest of a longer key will do.';
    END IF;
    IF unique_scope NOT IN ('until_final', 'queued', 'period') THEN
        RAISE EXCEPTION 'there is no unique_scope %', quote_literal(left(unique_scope, 80))
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'unique_scope', HINT = 'Say until_final, queued or period.';
    END IF;
    IF (unique_period IS NULL) = (unique_scope = 'period') THEN
        RAISE EXCEPTION 'unique_scope is %, and unique_period is %', unique_scope, coalesce(unique_period::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'unique_period',
                  HINT = 'A unique_period belongs to the scope period, which needs one.';
    END IF;
    IF NOT isfinite(unique_period) OR unique_period NOT BETWEEN interval '1 second' AND interval '366 days' THEN
        RAISE EXCEPTION 'the unique_period % is not between 1 second and 366 days', unique_period
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'unique_period';
    END IF;
    IF on_conflict NOT IN ('ignore', 'replace', 'reschedule') THEN
        RAISE EXCEPTION 'on_conflict cannot be %', quote_literal(left(on_conflict, 80))
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'on_conflict', HINT = 'Say ignore, replace or reschedule.';
    END IF;
    IF unique_key IS NOT NULL THEN
        plan.unique_digest := windrow_key_digest(known.kind, tenant, unique_key);
        plan.unique_period := unique_period;
        plan.on_conflict := coalesce(on_conflict, 'ignore');
    END IF;
    plan.unique_queued := coalesce(unique_scope = 'queued', false);
    IF idempotency_key IS NOT NULL THEN
        plan.idempotency_digest := windrow_key_digest(known.kind, tenant, idempotency_key);
        plan.request := substring(sha256(windrow_request_bytes(args)) FOR 16);
    END IF;
    plan.batch := batch;
    IF traceparent !~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' THEN
        RAISE EXCEPTION 'the traceparent % is not one', quote_literal(left(traceparent, 80))
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'traceparent',
                  HINT = 'It is 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, as in W3C Trace Context.';
    END IF;
    plan.traceparent := traceparent;
    RETURN plan;
END $$;

-- A UUIDv7: 48 bits of milliseconds, then chance.
CREATE FUNCTION windrow_job_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
$$;

-- Inserts jobs, and answers with those that no other job with their key stands against: journal, outbox, members of batches, and
-- a NOTIFY only if the relay sleeps.
CREATE FUNCTION windrow_insert(ids uuid[], plans windrow_plan[]) RETURNS SETOF uuid LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY WITH journal AS (
        INSERT INTO job_journal (id, kind, queue, tenant, band, args, policy, run_at, unique_key, traceparent, rescue_limit,
                                 at_most_once, unique_queued, batch_id)
        SELECT windrow_insert.ids[position], kind, queue, tenant, band, args, policy, run_at,
               CASE WHEN unique_period IS NULL THEN unique_digest END, traceparent, rescue_limit, at_most_once, unique_queued,
               batch
        FROM unnest(windrow_insert.plans) WITH ORDINALITY AS plan (kind, queue, tenant, band, args, policy, run_at, rescue_limit,
             at_most_once, unique_digest, unique_queued, unique_period, on_conflict, idempotency_digest, request, batch,
             traceparent, position)
        ORDER BY position
        ON CONFLICT DO NOTHING
        RETURNING id, gen, band, queue, tenant, kind, run_at, rescue_limit, at_most_once, batch_id
    ), part AS (
        INSERT INTO job_batch_part (batch_id, members)
        SELECT batch_id, count(*) FROM journal WHERE batch_id IS NOT NULL GROUP BY batch_id ORDER BY batch_id
    ), outbox AS (
        INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at, rescue_limit, at_most_once)
        SELECT band, now(), id, gen, queue, coalesce(tenant, ''), kind, run_at, rescue_limit, at_most_once FROM journal
        RETURNING id
    ), wake AS (
        SELECT pg_notify('windrow_outbox', '') FROM relay_flag WHERE idle AND EXISTS (SELECT FROM outbox)
    )
    SELECT outbox.id FROM outbox LEFT JOIN wake ON true;
END $$;

-- Gives the job that stands what the new one asks for; true if it may still be changed: it is live, its time has not come, and
-- no batch counts it. It goes on in a new generation.
CREATE FUNCTION windrow_change(standing uuid, plan windrow_plan) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    replaces CONSTANT boolean := plan.on_conflict = 'replace';
    is_changed boolean;
BEGIN
    WITH changed AS (
        UPDATE job_journal j SET gen = j.gen + 1,
            args = CASE WHEN replaces THEN plan.args ELSE j.args END,
            policy = CASE WHEN replaces THEN plan.policy ELSE j.policy END,
            rescue_limit = CASE WHEN replaces THEN plan.rescue_limit ELSE j.rescue_limit END,
            at_most_once = CASE WHEN replaces THEN plan.at_most_once ELSE j.at_most_once END,
            checkpoint = CASE WHEN replaces THEN NULL ELSE j.checkpoint END,
            run_at = CASE WHEN replaces THEN j.run_at ELSE plan.run_at END
        WHERE j.id = standing AND j.state = 'live' AND j.run_at > clock_timestamp() AND j.batch_id IS NULL
          AND (plan.unique_period IS NOT NULL OR j.unique_key = plan.unique_digest)
        RETURNING j.id, j.gen, j.band, j.queue, j.tenant, j.kind, j.run_at, j.rescue_limit, j.at_most_once
    ), outbox AS (
        INSERT INTO job_outbox (band, relay_at, id, gen, queue, tenant, kind, run_at, rescue_limit, at_most_once)
        SELECT band, now(), id, gen, queue, coalesce(tenant, ''), kind, run_at, rescue_limit, at_most_once FROM changed
        RETURNING id
    ), wake AS (
        SELECT pg_notify('windrow_outbox', '') FROM relay_flag WHERE idle AND EXISTS (SELECT FROM outbox)
    )
    SELECT count(*) > 0 INTO is_changed FROM outbox LEFT JOIN wake ON true;
    RETURN is_changed;
END $$;

-- Takes an idempotency key for a job; null if it was free, else the job that it stands for. An expired key counts as free, unless
-- its job stands.
CREATE FUNCTION windrow_claim(made uuid, plan windrow_plan) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known record;
BEGIN
    INSERT INTO job_idempotency AS k (digest, job_id, request, expires_at)
    VALUES (plan.idempotency_digest, made, plan.request, now() + interval '72 hours')
    ON CONFLICT (digest) DO UPDATE SET job_id = excluded.job_id, request = excluded.request, expires_at = excluded.expires_at
        WHERE k.expires_at <= now() AND NOT EXISTS (SELECT FROM job_journal j WHERE j.id = k.job_id);
    IF FOUND THEN
        RETURN NULL;
    END IF;
    SELECT k.job_id, k.request INTO STRICT known FROM job_idempotency k WHERE k.digest = plan.idempotency_digest;
    IF known.request <> plan.request THEN
        RAISE EXCEPTION 'the idempotency key was used for a request with other args, which made job %', known.job_id
            USING ERRCODE = 'unique_violation', TABLE = 'job_idempotency', COLUMN = 'idempotency_key',
                  HINT = 'Use a new key for a new request, or send the same args again.';
    END IF;
    RETURN known.job_id;
END $$;

-- Puts one job in, or answers with the one that stands in its way. Its idempotency key is its own by now.
CREATE FUNCTION windrow_put(made uuid, plan windrow_plan, OUT job_id uuid, OUT outcome text) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    -- Whoever holds the key may be over when it is looked for: then it is free.
    FOR round IN 1..3 LOOP
        windrow_put.job_id := made;
        windrow_put.outcome := 'created';
        IF plan.unique_period IS NULL THEN
            EXIT WHEN EXISTS (SELECT FROM windrow_insert(ARRAY[made], ARRAY[plan]));
            windrow_put.job_id := (SELECT j.id FROM job_journal j WHERE j.unique_key = plan.unique_digest);
        ELSE
            -- Not the row's: it outlives it. An expired one counts as free.
            INSERT INTO job_unique AS k (digest, job_id, expires_at)
            VALUES (plan.unique_digest, made, now() + plan.unique_period)
            ON CONFLICT (digest) DO UPDATE SET job_id = excluded.job_id, expires_at = excluded.expires_at
                WHERE k.expires_at <= now();
            IF FOUND THEN
                PERFORM windrow_insert(ARRAY[made], ARRAY[plan]);
                EXIT;
            END IF;
            windrow_put.job_id := (SELECT k.job_id FROM job_unique k WHERE k.digest = plan.unique_digest);
        END IF;
        windrow_put.outcome := NULL;
        IF windrow_put.job_id IS NOT NULL THEN
            windrow_put.outcome := CASE WHEN plan.on_conflict <> 'ignore' AND windrow_change(windrow_put.job_id, plan)
                THEN plan.on_conflict || 'd' ELSE 'exists' END;
            EXIT;
        END IF;
    END LOOP;
    IF windrow_put.outcome IS NULL THEN
        RAISE EXCEPTION 'the unique key changed hands while it was looked at'
            USING ERRCODE = 'serialization_failure', HINT = 'Try the transaction again.';
    END IF;
    IF plan.idempotency_digest IS NOT NULL AND windrow_put.outcome <> 'created' THEN
        -- The unique key found another job: that one is the answer to this request from now on.
        UPDATE job_idempotency k SET job_id = windrow_put.job_id WHERE k.digest = plan.idempotency_digest;
    END IF;
END $$;

-- One job, in the caller's transaction: it stands if and only if that commits. `outcome` is created, exists, replaced or
-- rescheduled; `id` is the job that stands.
CREATE FUNCTION windrow_enqueue(
    kind text, args jsonb DEFAULT '{}', tenant text DEFAULT NULL, queue text DEFAULT NULL, delay interval DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, band text DEFAULT NULL, unique_key text DEFAULT NULL, unique_scope text DEFAULT NULL,
    unique_period interval DEFAULT NULL, on_conflict text DEFAULT NULL, idempotency_key text DEFAULT NULL,
    max_attempts integer DEFAULT NULL, timeout interval DEFAULT NULL, rescue_limit integer DEFAULT NULL,
    delivery text DEFAULT NULL, keep_result boolean DEFAULT NULL, batch uuid DEFAULT NULL, traceparent text DEFAULT NULL,
    OUT id uuid, OUT outcome text
) LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
DECLARE
    plan CONSTANT windrow_plan := windrow_check(
        kind, args, tenant, queue, delay, run_at, band, unique_key, unique_scope, unique_period, on_conflict, idempotency_key,
        max_attempts, timeout, rescue_limit, delivery, keep_result, batch, traceparent);
    made CONSTANT uuid := windrow_job_id();
BEGIN
    IF plan.idempotency_digest IS NOT NULL THEN
        id := windrow_claim(made, plan);
        IF id IS NOT NULL THEN
            outcome := 'exists';
            RETURN;
        END IF;
    END IF;
    SELECT put.job_id, put.outcome INTO id, outcome FROM windrow_put(made, plan) AS put;
END $$;

-- Many jobs: an array of objects whose members are named as the parameters of windrow_enqueue. All of them or, with an error, none.
-- Answers come in the order of the array; `position` counts from 1.
CREATE FUNCTION windrow_enqueue_many(jobs jsonb) RETURNS TABLE ("position" integer, id uuid, outcome text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
#variable_conflict use_column
DECLARE
    known CONSTANT text[] := '{kind,args,tenant,queue,delay,run_at,band,unique_key,unique_scope,unique_period,on_conflict,idempotency_key,max_attempts,timeout,rescue_limit,delivery,keep_result,batch,traceparent}';
    job jsonb;
    place integer := 0;
    unknown text;
    plans windrow_plan[] := '{}';
    keyless integer[];
    made uuid[];
    ids uuid[];
    outcomes text[];
    answer record;
    message text;
    code text;
    details text;
    advice text;
    parameter text;
BEGIN
    IF jobs IS NULL OR jsonb_typeof(jobs) <> 'array' THEN
        RAISE EXCEPTION 'the jobs are not an array' USING ERRCODE = 'invalid_parameter_value', COLUMN = 'jobs',
            HINT = 'Give an array of objects: [{"kind": "…", "args": {…}}, …].';
    END IF;
    IF jsonb_array_length(jobs) > 10000 THEN
        RAISE EXCEPTION 'there are % jobs, more than 10000', jsonb_array_length(jobs)
            USING ERRCODE = 'program_limit_exceeded', COLUMN = 'jobs', HINT = 'Call it several times in the same transaction.';
    END IF;
    BEGIN
        FOR job IN SELECT value FROM jsonb_array_elements(jobs) LOOP
            place := place + 1;
            IF jsonb_typeof(job) <> 'object' THEN
                RAISE EXCEPTION 'it is not an object but: %', jsonb_typeof(job)
                    USING ERRCODE = 'invalid_parameter_value', COLUMN = 'jobs';
            END IF;
            SELECT string_agg(key, ', ' ORDER BY key) INTO unknown FROM jsonb_object_keys(job) AS key WHERE key <> ALL (known);
            IF unknown IS NOT NULL THEN
                RAISE EXCEPTION 'there is no parameter %', left(unknown, 200)
                    USING ERRCODE = 'invalid_parameter_value', COLUMN = 'jobs', HINT = 'Known are: ' || array_to_string(known, ', ') || '.';
            END IF;
            plans := plans || windrow_check(
                job->>'kind', CASE WHEN job ? 'args' THEN nullif(job->'args', 'null') ELSE '{}' END, job->>'tenant',
                job->>'queue', (job->>'delay')::interval, (job->>'run_at')::timestamptz, job->>'band', job->>'unique_key',
                job->>'unique_scope', (job->>'unique_period')::interval, job->>'on_conflict', job->>'idempotency_key',
                (job->>'max_attempts')::integer, (job->>'timeout')::interval, (job->>'rescue_limit')::integer,
                job->>'delivery', (job->>'keep_result')::boolean, (job->>'batch')::uuid, job->>'traceparent');
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, code = RETURNED_SQLSTATE, details = PG_EXCEPTION_DETAIL,
            advice = PG_EXCEPTION_HINT, parameter = COLUMN_NAME;
        RAISE EXCEPTION 'job %: %', place, message
            USING ERRCODE = code, COLUMN = parameter,
                  DETAIL = concat_ws(' ', 'It is at place ' || place || ' of the array.', nullif(details, '')),
                  HINT = coalesce(nullif(advice, ''), 'None of the jobs was enqueued.');
    END;

    made := ARRAY(SELECT windrow_job_id() FROM unnest(plans));
    ids := made;
    outcomes := array_fill('created'::text, ARRAY[cardinality(plans)]);
    keyless := ARRAY(SELECT n FROM generate_subscripts(plans, 1) AS n
                     WHERE plans[n].unique_digest IS NULL AND plans[n].idempotency_digest IS NULL ORDER BY n);
    PERFORM windrow_insert(ARRAY(SELECT ids[n] FROM unnest(keyless) AS n), ARRAY(SELECT plans[n] FROM unnest(keyless) AS n));
    -- Keys are taken in one order, that of enqueue_in for unique ones, so that two callers never wait for each other in a circle.
    FOR place IN SELECT n FROM generate_subscripts(plans, 1) AS n WHERE plans[n].idempotency_digest IS NOT NULL
                 ORDER BY plans[n].idempotency_digest, n LOOP
        IF windrow_claim(made[place], plans[place]) IS NOT NULL THEN
            outcomes[place] := 'exists';
        END IF;
    END LOOP;
    FOR place IN SELECT n FROM generate_subscripts(plans, 1) AS n WHERE outcomes[n] = 'created' AND n <> ALL (keyless)
                 ORDER BY plans[n].unique_period IS NULL, plans[n].unique_digest, n LOOP
        SELECT put.job_id, put.outcome INTO answer FROM windrow_put(made[place], plans[place]) AS put;
        ids[place] := answer.job_id;
        outcomes[place] := answer.outcome;
    END LOOP;
    -- By now it is known which job each key stands for: that of a request of this very call may have met another job's unique key.
    FOR place IN SELECT n FROM generate_subscripts(plans, 1) AS n
                 WHERE outcomes[n] = 'exists' AND plans[n].idempotency_digest IS NOT NULL LOOP
        ids[place] := (SELECT k.job_id FROM job_idempotency k WHERE k.digest = plans[place].idempotency_digest);
    END LOOP;
    RETURN QUERY SELECT n, ids[n], outcomes[n] FROM generate_subscripts(plans, 1) AS n;
END $$;

-- Whoever may execute the two may enqueue any kind for any tenant, and needs no right on any table. Within them no name is looked
-- up in a schema of the caller's.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT p.oid::regprocedure::text FROM pg_proc p
                WHERE p.pronamespace = current_schema()::regnamespace AND p.proname LIKE 'windrow\_%' LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
        IF name LIKE '%windrow\_enqueue%' THEN
            EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', name, current_schema());
        END IF;
    END LOOP;
END $$;
