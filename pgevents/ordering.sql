-- Order and concurrency of one events table. Everything that has to be decided under a lock is decided here,
-- from the stored data itself, so that every writer (any version of the library, another language, a person in
-- psql) takes the same locks.
--
-- Marks in double braces are filled in by pgevents.ordering: table and function names are quoted identifiers,
-- {{fields}} is the list of data indexes in declared order, {{generation}} a digest of this text.
--
-- A transaction-local setting, pgevents.t<oid of the table>, remembers what this transaction has published and
-- which keys it holds: 'published|{shared}|{exclusive}' (shared '*': the bulk lock stands for all of them). A
-- savepoint's rollback reverts it exactly as it releases the locks. While an append inserts, it reads
-- 'open:<generation>|...'.

-- [acquire] All locks of a save in one sorted pass by hash, each once in its strongest mode.
-- Behind a queued exclusive request every later shared one queues too: so exclusive locks are first only tried, then
-- awaited 50 ms at a time. Those who wait for the same exclusive lock stand in line at its gate (the key's
-- complement), which no shared lock ever asks for.
CREATE OR REPLACE FUNCTION {{acquire}}(_shared bigint[], _exclusive bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _keys bigint[];
    _own_timeout text;
    _deadline timestamptz;
    _round int := 0;
    _k bigint;
    _done boolean;
BEGIN
    _keys := ARRAY(SELECT DISTINCT k FROM unnest(_shared || _exclusive) AS u(k) ORDER BY k);
    IF _exclusive = '{}' THEN
        FOREACH _k IN ARRAY _keys LOOP
            _done := pg_advisory_xact_lock_shared(_k) IS NULL;
        END LOOP;
        RETURN;
    END IF;
    BEGIN
        FOREACH _k IN ARRAY _keys LOOP
            IF _k = ANY (_exclusive) THEN
                _done := pg_try_advisory_xact_lock(_k);
            ELSE
                _done := pg_try_advisory_xact_lock_shared(_k);
            END IF;
            IF NOT _done THEN
                RAISE lock_not_available;  -- gives back those that were taken
            END IF;
        END LOOP;
        RETURN;
    EXCEPTION WHEN lock_not_available THEN
        _own_timeout := current_setting('lock_timeout');
    END;
    IF _own_timeout = '0' THEN
        PERFORM set_config('lock_timeout', '10s', true);
    END IF;
    _deadline := clock_timestamp() + current_setting('lock_timeout')::interval;
    PERFORM pg_advisory_xact_lock(~k) FROM (SELECT DISTINCT k FROM unnest(_exclusive) AS u(k) ORDER BY k OFFSET 0) AS sorted;
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '50ms', true);
            FOREACH _k IN ARRAY _keys LOOP
                IF _k = ANY (_exclusive) THEN
                    _done := pg_advisory_xact_lock(_k) IS NULL;
                ELSE
                    _done := pg_advisory_xact_lock_shared(_k) IS NULL;
                END IF;
            END LOOP;
            PERFORM set_config('lock_timeout', _own_timeout, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > _deadline THEN
                RAISE lock_not_available USING
                    MESSAGE = 'other transactions keep the streams of this save locked',
                    DETAIL = (
                        SELECT 'held by backend ' || string_agg(DISTINCT coalesce(l.pid::text, '(prepared transaction)'), ', ')
                        FROM pg_locks AS l
                        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                            AND l.pid IS DISTINCT FROM pg_backend_pid()
                            AND (l.classid::bigint << 32 | l.objid::bigint) = ANY (_keys)
                    );
            END IF;
        END;
        _round := _round + 1;
        PERFORM pg_sleep(least(0.01 * _round, 0.1));
    END LOOP;
END
$pgevents$;

-- [stream_keys] The keys that stand for some streams: every event that matches one of them was saved under one of
-- these keys, or under the bulk lock.
CREATE OR REPLACE FUNCTION {{stream_keys}}(_streams jsonb) RETURNS bigint[]
LANGUAGE plpgsql STABLE AS $pgevents$
DECLARE
    _table CONSTANT bigint := '{{table_literal}}'::regclass::oid::bigint;
    _keys bigint[] := '{}';
    _types bigint[] := '{}';
    _stream jsonb;
    _values jsonb;
    _field text;
    _anything boolean := false;
BEGIN
    FOR _n IN 0 .. jsonb_array_length(_streams) - 1 LOOP
        _stream := _streams->_n;
        _values := NULL;
        FOREACH _field IN ARRAY {{fields}} LOOP
            _values := _stream->'match'->_field;
            EXIT WHEN _values IS NOT NULL;
        END LOOP;
        IF _values IS NOT NULL THEN
            FOR _i IN 0 .. jsonb_array_length(_values) - 1 LOOP
                _keys := _keys || hashtextextended('v' || _field || '=' || (_values->>_i), _table);
            END LOOP;
        END IF;
        IF jsonb_typeof(_stream->'types') = 'array' THEN
            FOR _i IN 0 .. jsonb_array_length(_stream->'types') - 1 LOOP
                _types := _types || hashtextextended('t' || (_stream->'types'->>_i), _table);
                IF _values IS NULL THEN
                    _keys := _keys || _types[cardinality(_types)];
                END IF;
            END LOOP;
        ELSE
            _anything := true;
            IF _values IS NULL THEN
                _keys := _keys || hashtextextended('e', _table);
            END IF;
        END IF;
    END LOOP;
    IF cardinality(_keys) > {{key_limit}} THEN  -- coarser: lock memory is shared by the whole cluster
        _keys := ARRAY(SELECT DISTINCT unnest(_keys));
        IF cardinality(_keys) > {{key_limit}} THEN
            _keys := ARRAY(SELECT DISTINCT unnest(_types));
            IF _anything OR cardinality(_keys) > {{key_limit}} THEN
                _keys := ARRAY[hashtextextended('e', _table)];
            END IF;
        END IF;
    END IF;
    RETURN _keys;
END
$pgevents$;

-- [refuse] Where a promise could not be kept.
CREATE OR REPLACE FUNCTION {{refuse}}() RETURNS void
LANGUAGE plpgsql VOLATILE AS $pgevents$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE01',
            MESSAGE = 'this transaction is ' || upper(current_setting('transaction_isolation'))
                || ', whose frozen snapshot cannot see what other writers commit; appends and final reads need READ COMMITTED';
    END IF;
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE01',
            MESSAGE = 'this server is a standby: it answers ordinary reads only; connect to the primary';
    END IF;
END
$pgevents$;

-- [lock] The exclusive locks of a decision, taken before it reads.
CREATE OR REPLACE FUNCTION {{lock}}(_streams jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $pgevents$
BEGIN
    PERFORM {{refuse}}();
    PERFORM {{acquire}}(
        ARRAY[hashtextextended('b', '{{table_literal}}'::regclass::oid::bigint)], {{stream_keys}}(_streams));
END
$pgevents$;

-- [final_bound] Events of these streams (NULL: of any) at or below the result can no longer change. To be called in
-- a statement before the one that reads: the reading statement's snapshot must be the younger one.
CREATE OR REPLACE FUNCTION {{final_bound}}(_streams jsonb DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _table CONSTANT oid := '{{table_literal}}'::regclass::oid;
    _bulk CONSTANT bigint := hashtextextended('b', _table::bigint);
    _keys bigint[];
    _last bigint;
    _held bigint;
BEGIN
    PERFORM {{refuse}}();
    IF _streams IS NOT NULL THEN
        _keys := {{stream_keys}}(_streams);
    END IF;
    _last := coalesce(pg_sequence_last_value('{{sequence_literal}}'::regclass), 0);  -- before the locks are looked at
    WITH locks AS MATERIALIZED (
        SELECT l.virtualtransaction AS vxid, l.objsubid, l.classid, l.objid, l.mode,
            l.classid::bigint << 32 | l.objid::bigint AS key
        FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    )
    SELECT min(_last + ((p.objid::bigint - (_last & 2147483647) + 3221225472 & 2147483647) - 1073741824)) INTO _held
    FROM locks AS p
    WHERE p.objsubid = 2 AND p.classid = _table AND (
        _keys IS NULL OR EXISTS (
            SELECT FROM locks AS k
            WHERE k.vxid = p.vxid AND k.objsubid = 1
                AND (k.key = ANY (_keys) OR k.key = _bulk AND k.mode = 'ExclusiveLock')
        )
    );
    RETURN least(_last, _held);
END
$pgevents$;

-- [append] The one way into the table.
--   _events: [{"type": "CART_CREATED", "data": {...}, "metadata": {...}}, ...]
--   _conditions: NULL for a plain save; else [{"base": 0, "seen": 3, "streams": [{"types": [...], "match": {"cart_id": ["c1"]}}]}, ...]:
--       succeed only if exactly `seen` events above id `base` match one of the streams.
-- Result: {"status": ..., "ids": [...], ...}. 'saved' (with created_at), 'repeated' (the key saved these before),
--         'conflict' (the ids that match now), 'reused' (the key saved other content: these), 'future' (the last id
--         issued). Only 'saved' has written anything.
CREATE OR REPLACE FUNCTION {{append}}(
    _events jsonb,
    _conditions jsonb DEFAULT NULL,
    _key text DEFAULT NULL,
    _created_at timestamptz DEFAULT NULL
) RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _table CONSTANT oid := '{{table_literal}}'::regclass::oid;
    _seed CONSTANT bigint := _table::bigint;
    _setting CONSTANT text := 'pgevents.t' || _seed;
    _everything CONSTANT bigint := hashtextextended('e', _seed);
    _bulk bigint;
    _state text := current_setting(_setting, true);
    _published bigint;
    _held bigint[] := '{}';
    _held_exclusive bigint[] := '{}';
    _shared bigint[] := '{}';
    _exclusive bigint[] := '{}';
    _last bigint;
    _event jsonb;
    _data jsonb;
    _condition jsonb;
    _stream jsonb;
    _match jsonb;
    _types jsonb;
    _names text[];
    _values text[];
    _rest jsonb;
    _base bigint;
    _most bigint;
    _found bigint[];
    _some bigint[];
    _k bigint;
    _next bigint;
    _done boolean;
    _count CONSTANT int := jsonb_array_length(_events);
    _ids bigint[];
    _result jsonb;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' OR pg_is_in_recovery() THEN
        PERFORM {{refuse}}();
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;

    IF _state <> '' THEN  -- not the first save of this transaction
        _published := split_part(_state, '|', 1);
        _held := nullif(split_part(_state, '|', 2), '*');
        _held_exclusive := split_part(_state, '|', 3);
    END IF;

    -- Locks. _held IS NULL: this transaction has the bulk lock, which stands for all keys of its events.
    IF _held IS NOT NULL THEN
        _shared := ARRAY[_everything];
        FOR _n IN 0 .. _count - 1 LOOP
            _event := _events->_n;
            _data := _event->'data';
            _k := hashtextextended('t' || (_event->>'type'), _seed);
            IF _k <> ALL (_shared) THEN _shared := _shared || _k; END IF;
            {{#field}}
            _k := hashtextextended('v{{field}}=' || (_data->>'{{field}}'), _seed);
            IF _k <> ALL (_shared) THEN _shared := _shared || _k; END IF;
            {{/field}}
            EXIT WHEN cardinality(_shared) > {{key_limit}};
        END LOOP;
        IF _held <> '{}' THEN
            _shared := ARRAY(SELECT unnest(_shared) EXCEPT SELECT unnest(_held));
        END IF;
        _held := _held || _shared;
        IF cardinality(_held) > {{key_limit}} THEN
            _held := NULL;
            _shared := '{}';
            _exclusive := ARRAY[hashtextextended('b', _seed)];
        END IF;
    END IF;
    IF _conditions IS NOT NULL THEN
        _bulk := hashtextextended('b', _seed);
        FOR _n IN 0 .. jsonb_array_length(_conditions) - 1 LOOP
            _condition := _conditions->_n;
            _some := {{stream_keys}}(_condition->'streams');
            IF _everything = ANY (_held_exclusive) THEN
                _some := '{}';
            ELSIF _held_exclusive <> '{}' THEN
                _some := ARRAY(SELECT unnest(_some) EXCEPT SELECT unnest(_held_exclusive));
            END IF;
            _held_exclusive := _held_exclusive || _some;
            _exclusive := _exclusive || _some;
        END LOOP;
        IF cardinality(_held_exclusive) > {{key_limit}} THEN  -- the whole table: every other key is taken beside it
            _exclusive := CASE WHEN _bulk = ANY (_exclusive) THEN ARRAY[_bulk, _everything] ELSE ARRAY[_everything] END;
            _held_exclusive := ARRAY[_everything];
        END IF;
        _shared := _shared || _bulk;
    END IF;
    IF _exclusive = '{}' AND _count = 1 THEN  -- few enough to be sorted here
        LOOP
            _next := NULL;
            FOREACH _k IN ARRAY _shared LOOP
                IF _k < _next OR _next IS NULL THEN _next := _k; END IF;
            END LOOP;
            EXIT WHEN _next IS NULL;
            _done := pg_advisory_xact_lock_shared(_next) IS NULL;
            _shared := array_remove(_shared, _next);
        END LOOP;
    ELSE
        _done := {{acquire}}(_shared, _exclusive) IS NULL;
    END IF;

    -- Publish a lower bound of the ids to come, once per live (sub)transaction.
    _last := coalesce(pg_sequence_last_value('{{sequence_literal}}'::regclass), 0);
    IF _published IS NULL THEN
        _published := _last;
        _done := pg_advisory_xact_lock_shared(_table::int, (_last & 2147483647)::int) IS NULL;
    END IF;
    _state := _published || '|' || coalesce(_held::text, '*') || '|' || _held_exclusive::text;

    IF _key IS NOT NULL THEN
        _result := {{repeated}}(_events, _key);
        IF _result IS NOT NULL THEN
            _state := set_config(_setting, _state, true);
            RETURN _result;
        END IF;
    END IF;

    -- Check, in statements that are younger than the locks.
    IF _conditions IS NOT NULL THEN
        FOR _n IN 0 .. jsonb_array_length(_conditions) - 1 LOOP
            _condition := _conditions->_n;
            _base := (_condition->>'base')::bigint;
            _most := (_condition->>'seen')::bigint + 100;
            _found := '{}';
            IF _base > _last THEN
                _result := jsonb_build_object('status', 'future', 'ids', ARRAY[_last]);
                EXIT;
            END IF;
            FOR _i IN 0 .. jsonb_array_length(_condition->'streams') - 1 LOOP
                _stream := _condition->'streams'->_i;
                _match := _stream->'match';
                _types := nullif(_stream->'types', 'null');
                _rest := NULL;
                {{#field}}
                {{elsif}} _match ? '{{field}}' THEN
                    IF jsonb_array_length(_match->'{{field}}') = 1 THEN
                        _values := ARRAY[_match->'{{field}}'->>0];
                    ELSE
                        _values := ARRAY(SELECT jsonb_array_elements_text(_match->'{{field}}'));
                    END IF;
                    _rest := nullif(_match - '{{field}}', '{}');
                    _some := ARRAY(
                        SELECT id FROM {{table}}
                        WHERE data->>'{{field}}' = ANY (_values) AND id > _base AND (_types IS NULL OR _types ? type)
                            AND (_rest IS NULL OR NOT EXISTS (
                                SELECT FROM jsonb_each(_rest) AS r WHERE coalesce(NOT r.value ? (data->>r.key), true)))
                        LIMIT _most);
                {{/field}}
                {{elsif}} _types IS NOT NULL THEN
                    _names := ARRAY(SELECT jsonb_array_elements_text(_types));
                    _rest := nullif(_match, '{}');
                    _some := ARRAY(
                        SELECT id FROM {{table}}
                        WHERE type = ANY (_names) AND id > _base
                            AND (_rest IS NULL OR NOT EXISTS (
                                SELECT FROM jsonb_each(_rest) AS r WHERE coalesce(NOT r.value ? (data->>r.key), true)))
                        LIMIT _most);
                ELSE
                    _rest := nullif(_match, '{}');
                    _some := ARRAY(
                        SELECT id FROM {{table}}
                        WHERE id > _base
                            AND (_rest IS NULL OR NOT EXISTS (
                                SELECT FROM jsonb_each(_rest) AS r WHERE coalesce(NOT r.value ? (data->>r.key), true)))
                        LIMIT _most);
                END IF;
                _found := CASE WHEN _found = '{}' THEN _some ELSE ARRAY(SELECT unnest(_found) UNION SELECT unnest(_some)) END;
            END LOOP;
            IF cardinality(_found) <> _most - 100 THEN
                _result := jsonb_build_object('status', 'conflict', 'ids', _found);
                EXIT;
            END IF;
        END LOOP;
        IF _result IS NOT NULL THEN
            _state := set_config(_setting, _state, true);
            RETURN _result;
        END IF;
    END IF;

    -- Insert. The guard lets only an open setting of this generation pass.
    _created_at := coalesce(_created_at, clock_timestamp());
    _done := set_config(_setting, 'open:{{generation}}|', true) IS NULL;
    IF _key IS NULL AND _count = 1 THEN
        INSERT INTO {{table}} (type, data, metadata, created_at, updated_at)
        VALUES (_events->0->>'type', _events->0->'data', coalesce(_events->0->'metadata', '{}'), _created_at, _created_at)
        RETURNING id INTO _k;
        _ids := ARRAY[_k];
    ELSIF _key IS NULL THEN
        WITH inserted AS (
            INSERT INTO {{table}} (type, data, metadata, created_at, updated_at)
            SELECT e->>'type', e->'data', coalesce(e->'metadata', '{}'), _created_at, _created_at
            FROM jsonb_array_elements(_events) WITH ORDINALITY AS given(e, n) ORDER BY n
            RETURNING id
        )
        SELECT array_agg(id ORDER BY id) INTO _ids FROM inserted;
    ELSE
        WITH inserted AS (
            INSERT INTO {{table}} (type, data, metadata, idempotency_key, created_at, updated_at)
            SELECT e->>'type', e->'data', coalesce(e->'metadata', '{}'),
                _key || CASE WHEN n > 1 THEN chr(31) || n ELSE '' END, _created_at, _created_at
            FROM jsonb_array_elements(_events) WITH ORDINALITY AS given(e, n) ORDER BY n
            ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
            RETURNING id
        )
        SELECT array_agg(id ORDER BY id) INTO _ids FROM inserted;
    END IF;
    _state := set_config(_setting, _state, true);
    IF coalesce(cardinality(_ids), 0) < _count THEN  -- the same key was saved while this one waited
        IF _ids IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'PGE04', MESSAGE = 'the idempotency key saved a shorter batch before';
        END IF;
        RETURN {{repeated}}(_events, _key);
    END IF;
    IF _ids[1] <= _last THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE02',
            MESSAGE = 'the sequence of the events table gave out id ' || _ids[1] || ' after id ' || _last
                || ': it must be CACHE 1, INCREMENT 1, NO CYCLE and never be set back';
    END IF;
    RETURN jsonb_build_object(
        'status', 'saved', 'ids', _ids,
        'created_at', to_char(_created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'));
END
$pgevents$;

-- [repeated] What an idempotency key saved before; NULL if it is new.
CREATE OR REPLACE FUNCTION {{repeated}}(_events jsonb, _key text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _ids bigint[];
    _stored jsonb;
BEGIN
    SELECT array_agg(id ORDER BY id), jsonb_agg(jsonb_build_object('type', type, 'data', data) ORDER BY id)
    INTO _ids, _stored
    FROM {{table}}
    WHERE idempotency_key = _key OR idempotency_key > _key || chr(31) AND idempotency_key < _key || chr(32);
    IF _ids IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN jsonb_build_object('ids', _ids, 'status', CASE
        WHEN _stored = (
            SELECT jsonb_agg(e - 'metadata' ORDER BY n) FROM jsonb_array_elements(_events) WITH ORDINALITY AS given(e, n))
        THEN 'repeated' ELSE 'reused' END);
END
$pgevents$;

-- [guard] No write but through the append function. pgevents.maintenance, set to a reason, lets UPDATE, DELETE and
-- TRUNCATE pass and leaves a row in the maintenance table.
CREATE OR REPLACE FUNCTION {{guard}}() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _state text := coalesce(current_setting('pgevents.t' || TG_RELID::bigint, true), '');
    _reason text := coalesce(current_setting('pgevents.maintenance', true), '');
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        NEW.updated_at := clock_timestamp();
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' THEN  -- the trigger's own condition has let this generation's appends pass
        IF starts_with(_state, 'open:') THEN
            RAISE serialization_failure USING MESSAGE = 'the append function was replaced meanwhile; run the save again';
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'PGE03',
            MESSAGE = 'the events table takes events through its append function only, which keeps their order';
    ELSIF _reason = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE03',
            MESSAGE = 'the events table is append-only: ' || TG_OP || ' is refused',
            HINT = 'Save a correcting event, or use client.maintenance(reason).';
    END IF;
    INSERT INTO {{maintenance}} (role, operation, reason, statement)
    VALUES (session_user, TG_OP, _reason, current_query());
    RETURN NULL;
END
$pgevents$;
