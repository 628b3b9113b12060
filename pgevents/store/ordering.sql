-- Order and concurrency of one events table. Everything that has to be decided under a lock is decided here,
-- from the stored data itself, so that every writer (any version of the library, another language, a person in
-- psql) takes the same locks.
--
-- Marks in double braces are filled in by pgevents.store.ordering: table and function names are quoted identifiers,
-- {{first_field}} picks the first data index that a stream names, {{generation}} is a digest of this text. What stands
-- between two marks of fields comes once for each data index (or the first, or the others), a part wherever its name stands.
--
-- Keys are advisory locks: hashes, with a seed for each table and kind of key (the bulk lock, the table, a type, a value
-- of each data index).
--
-- A transaction-local setting of the table's own remembers what this transaction has published and how many keys it
-- has asked for: 'published|keys|', or 'published|keys|bulk' once the bulk lock stands for those of its events; then
-- '|' and the last id that it has saved. A savepoint's rollback reverts it exactly as it releases the locks. While an
-- append inserts, it reads 'open:<generation>|'.
--
-- `[pause: ...]` marks where the tests of races put pauses.
--
-- PL/pgSQL makes each expression ready anew in each transaction, so what every save passes is kept to few of them.

-- [acquire] All locks of a validated save or a bulk save in one sorted pass by hash, each once in its strongest mode.
-- Behind a queued exclusive request every later shared one queues too: so exclusive locks are first only tried, then
-- awaited 50 ms at a time. Those who wait for the same exclusive lock stand in line at its gate (the key's
-- complement), which no shared lock ever asks for; but whoever holds locks already does not, or the first in line
-- might be waiting for those.
CREATE OR REPLACE FUNCTION {{acquire}}(_shared bigint[], _exclusive bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _own_timeout text;
    _deadline timestamptz;
    _round int := 0;
BEGIN
    BEGIN
        IF NOT EXISTS (
            SELECT FROM (
                SELECT k, bool_or(x) AS x
                FROM (SELECT unnest(_shared), false UNION ALL SELECT unnest(_exclusive), true) AS u(k, x)
                GROUP BY k ORDER BY k OFFSET 0
            ) AS sorted
            WHERE NOT CASE WHEN x THEN pg_try_advisory_xact_lock(k) ELSE pg_try_advisory_xact_lock_shared(k) END
        ) THEN
            RETURN;
        END IF;
        RAISE lock_not_available;  -- gives back those that were taken
    EXCEPTION WHEN lock_not_available THEN
        _own_timeout := current_setting('lock_timeout');
    END;
    IF _own_timeout = '0' THEN
        PERFORM set_config('lock_timeout', '10s', true);
    END IF;
    _deadline := clock_timestamp() + current_setting('lock_timeout')::interval;
    IF NOT EXISTS (SELECT FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid()) THEN
        PERFORM pg_advisory_xact_lock(~k)
        FROM (SELECT DISTINCT k FROM unnest(_exclusive) AS u(k) ORDER BY k OFFSET 0) AS sorted;
    END IF;
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '50ms', true);
            PERFORM CASE WHEN x THEN pg_advisory_xact_lock(k) ELSE pg_advisory_xact_lock_shared(k) END
            FROM (
                SELECT k, bool_or(x) AS x
                FROM (SELECT unnest(_shared), false UNION ALL SELECT unnest(_exclusive), true) AS u(k, x)
                GROUP BY k ORDER BY k OFFSET 0
            ) AS sorted;
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
                            AND (l.classid::bigint << 32 | l.objid::bigint) = ANY (_shared || _exclusive)
                    );
            END IF;
            -- PostgreSQL hardly finds a deadlock among those who wait in short turns, so it is looked for here: who
            -- holds the keys, whom do they wait for, and so on, back to this one.
            IF EXISTS (
                WITH RECURSIVE ahead(pid) AS (
                    SELECT l.pid FROM pg_locks AS l
                    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid()
                        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                        AND (l.classid::bigint << 32 | l.objid::bigint)
                            = ANY (CASE l.mode WHEN 'ExclusiveLock' THEN _shared || _exclusive ELSE _exclusive END)
                    UNION
                    SELECT unnest(pg_blocking_pids(a.pid)) FROM ahead AS a
                )
                SELECT FROM ahead WHERE pid = pg_backend_pid()
            ) THEN
                RAISE deadlock_detected USING MESSAGE = 'this transaction and another wait for each other';
            END IF;
        END;
        _round := _round + 1;
        PERFORM pg_sleep(least(0.01 * _round, 0.1) * random());
    END LOOP;
END
$pgevents$;

-- [stream_keys] The keys that stand for some streams: every event that matches one of them was saved under one of
-- these keys, or under the bulk lock.
CREATE OR REPLACE FUNCTION {{stream_keys}}(_streams jsonb) RETURNS bigint[]
LANGUAGE plpgsql STABLE AS $pgevents$
DECLARE
    _keys bigint[];
    _stream jsonb;
    _field text;
    _values jsonb;
BEGIN
    FOR _n IN 0 .. jsonb_array_length(_streams) - 1 LOOP
        _stream := _streams->_n;
        _field := {{first_field}};
        IF _field IS NOT NULL THEN
            _values := _stream->'match'->_field;
            FOR _i IN 0 .. jsonb_array_length(_values) - 1 LOOP
                _keys := _keys || {{key_of_field(_values->>_i)}};
            END LOOP;
        ELSIF jsonb_typeof(_stream->'types') = 'array' THEN
            _keys := _keys || ARRAY(SELECT {{type_key(t)}} FROM jsonb_array_elements_text(_stream->'types') AS t);
        ELSE
            _keys := _keys || {{table_key}};
        END IF;
    END LOOP;
    IF cardinality(_keys) > {{key_limit}} THEN
        _keys := ARRAY(SELECT DISTINCT unnest(_keys));
    END IF;
    IF cardinality(_keys) > {{key_limit}} THEN  -- coarser, by types: lock memory is shared by the whole cluster
        _keys := ARRAY(
            SELECT DISTINCT {{type_key(t)}}
            FROM jsonb_array_elements(_streams) AS s,
                jsonb_array_elements_text(CASE jsonb_typeof(s->'types') WHEN 'array' THEN s->'types' ELSE '[]' END) AS t);
        IF cardinality(_keys) > {{key_limit}} OR jsonb_path_exists(_streams, '$[*] ? (@.types == null)') THEN
            _keys := ARRAY[{{table_key}}];
        END IF;
    END IF;
    RETURN coalesce(_keys, '{}');
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

-- [refuse_order] The error of an id that came after a greater one.
CREATE OR REPLACE FUNCTION {{refuse_order}}(_id bigint, _last bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $pgevents$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PGE02',
        MESSAGE = 'the sequence of the events table gave out id ' || _id || ' after id ' || _last
            || ': it must be CACHE 1, INCREMENT 1, NO CYCLE and never be set back';
END
$pgevents$;

-- [lock] The exclusive locks of a decision, taken before it reads.
CREATE OR REPLACE FUNCTION {{lock}}(_streams jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $pgevents$
BEGIN
    PERFORM {{refuse}}();
    PERFORM {{acquire}}(
        ARRAY[{{bulk_key}}], {{stream_keys}}(_streams));
END
$pgevents$;

-- [final_bound] Events of these streams (NULL: of any) at or below the result can no longer change. To be called in
-- a statement before the one that reads: the reading statement's snapshot must be the younger one.
CREATE OR REPLACE FUNCTION {{final_bound}}(_streams jsonb DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _table CONSTANT oid := '{{table_literal}}'::regclass::oid;
    _bulk CONSTANT bigint := {{bulk_key}};
    _keys bigint[];
    _last bigint;
    _held bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' OR pg_is_in_recovery() THEN
        PERFORM {{refuse}}();
    END IF;
    _last := pg_sequence_last_value('{{sequence_literal}}'::regclass);  -- before the locks are looked at
    IF _last IS NULL THEN  -- nothing issued since the sequence was made or restarted
        SELECT last_value - 1 INTO _last FROM {{sequence}};
    END IF;
    IF NOT EXISTS (  -- most often nobody else is in the middle of a save
        SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = _table AND l.pid IS DISTINCT FROM pg_backend_pid()
    ) THEN
        RETURN _last;
    END IF;
    IF _streams IS NOT NULL THEN
        _keys := {{stream_keys}}(_streams);
    END IF;
    -- [pause: issued]
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
    -- [pause: bound]
    RETURN least(_last, _held);
END
$pgevents$;

-- [fetch] An ordinary read of the events that carry one value of one data index and have one of the _types (NULL: any),
-- above an id. The index range in its order is the whole plan, so it is kept, where a statement of its own would be
-- planned anew at each call. Result: all events in one text, six fields each, with chr(31) between all of them, for it
-- costs server and driver less than rows; what is as a rule (no metadata, never updated) is left empty. NULL if more
-- than {{read_limit}} events carry the value, or there is no such index: that is for a statement, whose plan may go by rare
-- types, and whose result need not be one value.
CREATE OR REPLACE FUNCTION {{fetch}}(_field text, _value text, _types text[], _after bigint) RETURNS text
LANGUAGE plpgsql STABLE SET plan_cache_mode TO force_generic_plan AS $pgevents$
#variable_conflict use_column
DECLARE
    _most bigint := {{read_limit}} + 1;  -- not a constant in the statement, or the plan would be to fetch all and sort
BEGIN
    {{#field}}
    IF _field = '{{field}}' THEN
        RETURN (
            SELECT CASE WHEN count(*) < _most THEN coalesce(string_agg(event, E'\x1f'), '') END
            FROM (
                SELECT CASE WHEN _types IS NULL OR type = ANY (_types) THEN concat(
                    id, E'\x1f', CASE WHEN _types IS NULL THEN replace(type, E'\x1f', '') ELSE type END, E'\x1f', data, E'\x1f',
                    nullif(metadata, '{}'), E'\x1f', created_at, E'\x1f', nullif(updated_at, created_at)
                ) END AS event
                FROM {{table}}
                WHERE data->>'{{field}}' = ANY (ARRAY[_value]) AND id > _after
                ORDER BY data->>'{{field}}', id LIMIT _most
            ) AS found
        );
    END IF;
    {{/field}}
    RETURN NULL;  -- the index has gone, or is still to come
END
$pgevents$;

-- [fetch_final] The same after the final bound of what is read, which is one field more.
CREATE OR REPLACE FUNCTION {{fetch_final}}(_field text, _value text, _types text[], _after bigint) RETURNS text
LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _bound text;
BEGIN
    _bound := {{final_bound}}(jsonb_build_array(
        jsonb_build_object('types', _types, 'match', jsonb_build_object(_field, ARRAY[_value]))));
    RETURN _bound || E'\x1f' || {{fetch}}(_field, _value, _types, _after);  -- in a snapshot younger than the bound
END
$pgevents$;

-- [fetch_view] A snapshot of this version and shape, in four fields (its latest event's id, its data, when it was made and
-- updated; empty if there is none), and after them the events that follow it, both as of the same moment.
CREATE OR REPLACE FUNCTION {{fetch_view}}(
    _projections regclass, _type text, _id text, _version int, _shape text, _field text, _value text, _types text[]
) RETURNS text
LANGUAGE plpgsql STABLE AS $pgevents$
DECLARE
    _latest bigint;
    _snapshot text;
BEGIN
    EXECUTE 'SELECT latest_event_id, concat_ws(E''\x1f'', latest_event_id, coalesce(exact, data::text), created_at, updated_at) FROM '
        || _projections || ' WHERE type = $1 AND id = $2 AND version = $3 AND shape = $4'
    INTO _latest, _snapshot USING _type, _id, _version, _shape;
    RETURN coalesce(_snapshot, repeat(E'\x1f', 3)) || E'\x1f' || {{fetch}}(_field, _value, _types, coalesce(_latest, 0));
END
$pgevents$;

-- [append] Appends events that are one document: the way into the table for other programs.
--   _events: [{"type": "CART_CREATED", "data": {...}, "metadata": {...}}, ...]
--   _conditions: NULL for a plain save; else [{"base": 0, "seen": 3, "streams": [{"types": [...], "match": {"cart_id": ["c1"]}}]}, ...]:
--       succeed only if exactly `seen` events above id `base` match one of the streams. A read inside a transaction
--       may have seen what a savepoint rolled back since, so it says which: "ids": "{1,2,5}", and if its base is
--       not 0, the last id that the transaction itself had saved: "own": 7. While that stands, all before it do.
--       Values and types are texts. "types": null is any type, "match": {} any event; an empty list matches none.
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
    _types text[];
    _data text[];
    _metadata text[];
    _answer text;
    _ids text;
BEGIN
    SELECT array_agg(e->>'type' ORDER BY n), array_agg((e->'data')::text ORDER BY n), array_agg((e->'metadata')::text ORDER BY n)
    INTO _types, _data, _metadata
    FROM jsonb_array_elements(_events) WITH ORDINALITY AS given(e, n);
    _answer := {{append_rows}}(_types, _data, _metadata, _conditions, _key, _created_at);
    IF starts_with(_answer, '{') THEN
        RETURN _answer;
    END IF;
    _ids := split_part(_answer, ' ', 1);
    RETURN jsonb_build_object(
        'status', 'saved',
        'ids', ARRAY(SELECT generate_series(split_part(_ids, '-', 1)::bigint, split_part(_ids, '-', -1)::bigint)),
        'created_at', to_char(split_part(_answer, '"', 2)::timestamp, 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'));
END
$pgevents$;

-- [append_rows] The same for events whose types, data and metadata are an array each, which takes less time than one document.
--   _types, _data, _metadata: of one dimension, from 1, and of one length; data and metadata are JSON. No metadata of an
--       event is NULL, no metadata at all NULL or an empty array.
-- Result: '<first id>-<last id> "<created_at in UTC>"' once saved, or '<id> "<created_at in UTC>"' if it was one event; if ids
--         are missing in between, or nothing was saved, what append returns, as text.
CREATE OR REPLACE FUNCTION {{append_rows}}(
    _types text[],
    _data text[],
    _metadata text[] DEFAULT NULL,
    _conditions jsonb DEFAULT NULL,
    _key text DEFAULT NULL,
    _created_at timestamptz DEFAULT NULL
) RETURNS text LANGUAGE plpgsql VOLATILE SET plan_cache_mode TO force_generic_plan AS $pgevents$
DECLARE
    _state text := current_setting({{setting}}, true);
    _published bigint;
    _keys int := 0;
    _is_bulk boolean := false;
    _own text := '';
    _shared bigint[];
    _exclusive bigint[];
    _last bigint;
    _condition jsonb;
    _stream jsonb;
    _only jsonb;
    _field text;
    _values text[];
    _rest jsonb;
    _base bigint;
    _most bigint;
    _found bigint[];
    _some bigint[];
    _id bigint;
    _ids bigint[];
    _inserted int;
    _done boolean;
    _count int := coalesce(array_length(_types, 1), 0);
    _form text := '[1:' || _count || ']';
    _step int := greatest(_count / {{key_limit}}, 1);
    _result jsonb;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' OR pg_is_in_recovery() THEN
        PERFORM {{refuse}}();
    ELSIF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF array_dims(_types) <> _form OR array_dims(_data) IS DISTINCT FROM array_dims(_types) OR array_dims(_metadata) <> _form THEN
        RAISE array_subscript_error USING MESSAGE = 'types, data and metadata of events to append are arrays of one dimension, '
            || 'from 1, and of one length; metadata may be left out';
    END IF;
    IF starts_with(_state, 'open:') THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE03',
            MESSAGE = 'a trigger of the events table saves an event while another one is inserted; '
                || 'save it with a plugin, or from a subscription';
    END IF;
    IF _state <> '' THEN  -- not the first save of this transaction
        _published := split_part(_state, '|', 1);
        _keys := split_part(_state, '|', 2);
        _is_bulk := split_part(_state, '|', 3) = 'bulk';
        _own := split_part(_state, '|', 4);
    END IF;

    -- Locks.
    _shared := '{}';
    _exclusive := '{}';
    IF NOT _is_bulk THEN
        LOOP  -- a look at some events, far apart, tells of most batches that they are too many
            _shared := ARRAY(
                SELECT DISTINCT k
                FROM (SELECT _types[i] AS type, _data[i]::jsonb AS data FROM generate_series(1, _count, _step) AS i OFFSET 0) AS e
                    CROSS JOIN LATERAL unnest(ARRAY[{{table_key}}, {{type_key(e.type)}}
                        {{#field}}
                        , {{field_key(e.data->>'{{field}}')}}
                        {{/field}}
                    ]) AS u(k)
                WHERE k IS NOT NULL);
            EXIT WHEN _step = 1 OR cardinality(_shared) > {{key_limit}};
            _step := greatest(_step / 4, 1);
        END LOOP;
    END IF;
    IF _conditions IS NOT NULL THEN
        IF jsonb_path_exists(_conditions, '$[*] ? (
            exists(@.streams[*].match.* ? (@.type() != "string"))
            || exists(@.streams[*] ? (@.types.type() != "null").types[*] ? (@.type() != "string"))
        )') THEN  -- they match nothing, so the save would be checked against nothing
            RAISE invalid_parameter_value USING
                MESSAGE = 'values and types of a stream are texts, neither null nor anything else',
                HINT = 'Write {"types": ["A"], "match": {"cart_id": ["1"]}}; of any type is "types": null, of anything "match": {}.';
        END IF;
        FOR _n IN 0 .. jsonb_array_length(_conditions) - 1 LOOP
            _exclusive := _exclusive || {{stream_keys}}(_conditions->_n->'streams');
        END LOOP;
    END IF;
    IF _keys > 0 AND _keys + cardinality(_shared || _exclusive) > {{key_limit}} THEN
        _keys := count(*) FROM pg_locks AS l  -- those that it really has: it may have asked for few again and again
            WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.pid = pg_backend_pid();
        IF _exclusive <> '{}' AND _keys + cardinality(_exclusive) > {{key_limit}} THEN
            _exclusive := ARRAY[{{table_key}}];  -- the whole table: everybody else takes that key too
        END IF;
    END IF;
    IF NOT _is_bulk AND _keys + cardinality(_shared) > {{key_limit}} THEN
        _is_bulk := true;
        _shared := '{}';
        _exclusive := _exclusive || {{bulk_key}};
    END IF;
    _keys := _keys + cardinality(_shared || _exclusive);
    IF _conditions IS NOT NULL THEN
        _shared := _shared || {{bulk_key}};
    END IF;
    IF _exclusive <> '{}' THEN
        _done := {{acquire}}(_shared, _exclusive) IS NULL;
    ELSE
        PERFORM pg_advisory_xact_lock_shared(k)
        FROM (SELECT k FROM unnest(_shared) AS u(k) ORDER BY k OFFSET 0) AS sorted;
    END IF;

    -- [pause: locked]
    -- Publish a lower bound of the ids to come, once per live (sub)transaction.
    _last := pg_sequence_last_value('{{sequence_literal}}'::regclass);
    IF _last IS NULL THEN  -- nothing issued since the sequence was made or restarted
        SELECT last_value - 1 INTO _last FROM {{sequence}};
    END IF;
    IF _published IS NULL THEN
        _published := _last;
        _done := pg_advisory_xact_lock_shared('{{table_literal}}'::regclass::oid::int, (_last & 2147483647)::int) IS NULL;
    END IF;
    -- [pause: published]
    _state := _published || '|' || _keys || CASE WHEN _is_bulk THEN '|bulk|' ELSE '||' END;

    IF _key IS NOT NULL THEN
        _result := {{repeated}}(_types, _data, _key);
        IF _result IS NOT NULL THEN
            _state := set_config({{setting}}, _state || _own, true);
            RETURN _result;
        END IF;
    END IF;

    -- Check, in statements that are younger than the locks.
    IF _conditions IS NOT NULL THEN
        FOR _n IN 0 .. jsonb_array_length(_conditions) - 1 LOOP
            _condition := _conditions->_n;
            _base := coalesce((_condition->>'base')::bigint, 0);
            _most := (_condition->>'seen')::bigint + 100;
            _found := '{}';
            IF _base > _last THEN
                _result := jsonb_build_object('status', 'future', 'ids', ARRAY[_last]);
                EXIT;
            END IF;
            FOR _i IN 0 .. jsonb_array_length(_condition->'streams') - 1 LOOP
                _stream := _condition->'streams'->_i;
                _field := {{first_field}};
                _only := nullif(_stream->'types', 'null');
                _rest := nullif((_stream->'match') - coalesce(_field, ''), '{}');
                IF _field IS NOT NULL AND jsonb_array_length(_stream->'match'->_field) = 1 THEN
                    _values := ARRAY[_stream->'match'->_field->>0];
                ELSIF _field IS NOT NULL THEN
                    _values := ARRAY(SELECT jsonb_array_elements_text(_stream->'match'->_field));
                ELSIF _only IS NOT NULL THEN
                    _values := ARRAY(SELECT jsonb_array_elements_text(_only));
                END IF;
                {{if}}
                {{#field}}
                {{elsif}} _field = '{{field}}' THEN
                    _some := ARRAY(
                        SELECT id FROM {{table}}
                        WHERE data->>'{{field}}' = ANY (_values) AND id > _base AND (_only IS NULL OR _only ? type)
                            AND (_rest IS NULL OR NOT EXISTS (
                                SELECT FROM jsonb_each(_rest) AS r WHERE coalesce(NOT r.value ? (data->>r.key), true)))
                        LIMIT _most);
                {{/field}}
                {{elsif}} _only IS NOT NULL THEN  -- in the order of the index, so that no other one seems cheaper
                    _some := ARRAY(
                        SELECT id FROM {{table}}
                        WHERE type = ANY (_values) AND id > _base
                            AND (_rest IS NULL OR NOT EXISTS (
                                SELECT FROM jsonb_each(_rest) AS r WHERE coalesce(NOT r.value ? (data->>r.key), true)))
                        ORDER BY type, id LIMIT _most);
                ELSE
                    _some := ARRAY(
                        SELECT id FROM {{table}}
                        WHERE id > _base
                            AND (_rest IS NULL OR NOT EXISTS (
                                SELECT FROM jsonb_each(_rest) AS r WHERE coalesce(NOT r.value ? (data->>r.key), true)))
                        ORDER BY id LIMIT _most);
                {{end if}};
                IF _found = '{}' THEN
                    _found := _some;
                ELSE
                    _found := ARRAY(SELECT unnest(_found) UNION SELECT unnest(_some));
                END IF;
            END LOOP;
            _done := cardinality(_found) = _most - 100;
            IF _condition ? 'ids' THEN
                _done := (_condition->>'ids')::bigint[] = ARRAY(SELECT unnest(_found) ORDER BY 1);
            END IF;
            IF _condition ? 'own' THEN
                _done := _done AND EXISTS (SELECT FROM {{table}} WHERE id = (_condition->>'own')::bigint);
            END IF;
            IF _done IS NOT TRUE THEN
                _result := jsonb_build_object('status', 'conflict', 'ids', _found);
                EXIT;
            END IF;
        END LOOP;
        IF _result IS NOT NULL THEN
            _state := set_config({{setting}}, _state || _own, true);
            RETURN _result;
        END IF;
    END IF;

    -- [pause: checked]
    -- Insert. The guard lets only an open setting of this generation pass.
    _created_at := coalesce(_created_at, clock_timestamp());
    _done := set_config({{setting}}, 'open:{{generation}}|', true) IS NULL;
    IF _key IS NULL AND _count = 1 THEN
        INSERT INTO {{table}} (type, data, metadata, created_at, updated_at)
        VALUES (_types[1], _data[1]::jsonb, coalesce(_metadata[1]::jsonb, '{}'), _created_at, _created_at)
        RETURNING id INTO _id;
        _ids := ARRAY[_id];
    ELSE
        _ids := ARRAY(SELECT nextval('{{sequence_literal}}'::regclass) FROM generate_series(1, _count));
        IF _key IS NULL THEN
            INSERT INTO {{table}} (id, type, data, metadata, created_at, updated_at) OVERRIDING SYSTEM VALUE
            SELECT _ids[i], _types[i], _data[i]::jsonb, coalesce(_metadata[i]::jsonb, '{}'), _created_at, _created_at
            FROM generate_series(1, _count) AS i;
        ELSE
            INSERT INTO {{table}} (id, type, data, metadata, idempotency_key, created_at, updated_at) OVERRIDING SYSTEM VALUE
            SELECT _ids[i], _types[i], _data[i]::jsonb, coalesce(_metadata[i]::jsonb, '{}'),
                _key || CASE WHEN i > 1 THEN chr(31) || i ELSE '' END, _created_at, _created_at
            FROM generate_series(1, _count) AS i ORDER BY i
            ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING;
            GET DIAGNOSTICS _inserted = ROW_COUNT;
            IF _inserted < _count THEN  -- the same key was saved while this one waited
                IF _inserted > 0 THEN
                    RAISE EXCEPTION USING ERRCODE = 'PGE04', MESSAGE = 'the idempotency key saved a shorter batch before';
                END IF;
                _state := set_config({{setting}}, _state || _own, true);
                RETURN {{repeated}}(_types, _data, _key);
            END IF;
        END IF;
    END IF;
    _state := set_config({{setting}}, _state || coalesce(_ids[_count]::text, _own), true);
    -- [pause: numbered]
    IF _ids[1] <= _last THEN
        PERFORM {{refuse_order}}(_ids[1], _last);
    END IF;
    IF _ids[_count] - _ids[1] = _count - 1 THEN
        RETURN concat(_ids[1], CASE WHEN _count > 1 THEN '-' || _ids[_count] END, ' ', to_json(_created_at AT TIME ZONE 'UTC'));
    END IF;
    RETURN jsonb_build_object(
        'status', 'saved', 'ids', _ids,
        'created_at', to_char(_created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'));
END
$pgevents$;

-- The three functions that follow append one event, in as few steps as possible, for most saves are of this kind: no
-- idempotency key, and no condition or one of one stream that is one value of one data index. Whatever is not as simple
-- as that (an earlier save in this transaction, a lock that is not free, a conflict) they leave to append_rows, and they
-- return what it returns for one event. There are three of them because every argument is parsed and planned at each
-- call, and each expression is made ready in each transaction; most saves need few of either.
{{part take_locks}}
        -- Locks, none of which is waited for, so in any order; then the last id issued, and at once its publication.
        BEGIN
            _last := CASE WHEN
                current_setting('transaction_isolation') = 'read committed'
                AND (current_setting({{setting}}, true) <> '') IS NOT TRUE
                AND (current_setting('synchronous_commit') <> 'off' OR set_config('synchronous_commit', 'on', true) IS NOT NULL)
                AND pg_try_advisory_xact_lock_shared({{table_key}})
                AND pg_try_advisory_xact_lock_shared({{type_key(_type)}})
{{end part}}
{{part take_locks_of_fields}}
                {{#field}}
                AND pg_try_advisory_xact_lock_shared({{field_key(_data->>'{{field}}')}}) IS NOT FALSE
                {{/field}}
{{end part}}
{{part publish}}
            THEN pg_sequence_last_value('{{sequence_literal}}'::regclass) END;
            IF _last IS NULL
                OR pg_advisory_xact_lock_shared('{{table_literal}}'::regclass::oid::int, (_last & 2147483647)::int) IS NULL
                OR set_config({{setting}}, 'open:{{generation}}|', true) IS NULL  -- for the guard
            THEN
                RAISE lock_not_available;  -- gives back those that were taken
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            EXIT simple;
        END;

        -- [pause: published]
        -- Check, if there is a condition, and insert, in a statement that is younger than the locks.
{{end part}}
{{part answer}}
        -- [pause: numbered]
        IF _id > _last THEN
            RETURN CASE WHEN set_config({{setting}}, concat(_last, '|{{keys_of_one}}||', _id), true) IS NOT NULL
                THEN concat(_id, ' ', to_json(_at AT TIME ZONE 'UTC')) END;  -- whatever DateStyle and TimeZone say
        ELSIF _id IS NOT NULL THEN
            PERFORM {{refuse_order}}(_id, _last);
        END IF;
        PERFORM set_config({{setting}}, '', true);
{{end part}}

-- [append_one] One event, with all that these functions can do.
--   _field, _value, _types, _base, _seen: a condition, or NULL. _types are NULL for any type, so what is not FALSE counts.
CREATE OR REPLACE FUNCTION {{append_one}}(
    _type text,
    _data jsonb,
    _field text DEFAULT NULL,
    _value text DEFAULT NULL,
    _types text[] DEFAULT NULL,
    _base bigint DEFAULT NULL,
    _seen bigint DEFAULT NULL,
    _metadata jsonb DEFAULT '{}',
    _created_at timestamptz DEFAULT NULL
) RETURNS text LANGUAGE plpgsql VOLATILE SET plan_cache_mode TO force_generic_plan AS $pgevents$
DECLARE
    _last bigint;
    _id bigint;
    _at timestamptz;
BEGIN
    <<simple>>
    BEGIN
        {{take_locks}}
                {{take_locks_of_fields}}
                AND (_field IS NULL OR pg_try_advisory_xact_lock_shared({{bulk_key}})
                    AND pg_try_advisory_xact_lock({{key_of_field(_value)}}))
        {{publish}}
        _at := coalesce(_created_at, clock_timestamp());
        IF _field IS NULL THEN
            INSERT INTO {{table}} (type, data, metadata, created_at, updated_at)
            VALUES (_type, _data, coalesce(_metadata, '{}'), _at, _at)
            RETURNING id INTO _id;
        {{#field}}
        ELSIF _field = '{{field}}' THEN  -- in the order of the index, so that no other one seems cheaper
            INSERT INTO {{table}} (type, data, metadata, created_at, updated_at)
            SELECT _type, _data, coalesce(_metadata, '{}'), _at, _at
            WHERE _base <= _last AND _seen = cardinality(ARRAY(
                SELECT id FROM {{table}}
                WHERE data->>'{{field}}' = ANY (ARRAY[_value]) AND id > _base AND (type = ANY (_types)) IS NOT FALSE
                ORDER BY data->>'{{field}}', id LIMIT greatest(_seen, 0) + 1
            ))
            RETURNING id INTO _id;
        {{/field}}
        END IF;
        {{answer}}
    END;
    RETURN {{append_rows}}(
        ARRAY[_type], ARRAY[_data::text], ARRAY[_metadata::text],
        CASE WHEN _field IS NOT NULL THEN jsonb_build_array(jsonb_build_object(
            'base', _base, 'seen', _seen,
            'streams', jsonb_build_array(jsonb_build_object('types', _types, 'match', jsonb_build_object(_field, ARRAY[_value])))
        )) END,
        NULL, _created_at);
END
$pgevents$;

-- [append_own] One event without metadata, if its own stream holds nothing above an id: the events of these types that have
-- the same value of the first data index, which is named so that nobody means another one.
CREATE OR REPLACE FUNCTION {{append_own}}(_type text, _data jsonb, _field text, _types text[], _base bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SET plan_cache_mode TO force_generic_plan AS $pgevents$
DECLARE
    _last bigint;
    _id bigint;
    _at timestamptz;
BEGIN
    {{#first}}
    <<simple>>
    BEGIN
        {{take_locks}}
                {{#others}}
                AND pg_try_advisory_xact_lock_shared({{field_key(_data->>'{{field}}')}}) IS NOT FALSE
                {{/others}}
                AND _field = '{{field}}'
                AND pg_try_advisory_xact_lock_shared({{bulk_key}})
                AND pg_try_advisory_xact_lock({{field_key(_data->>'{{field}}')}})
        {{publish}}
        _at := clock_timestamp();
        INSERT INTO {{table}} (type, data, created_at, updated_at)
        SELECT _type, _data, _at, _at
        WHERE _base <= _last AND (
            SELECT id FROM {{table}}
            WHERE data->>'{{field}}' = ANY (ARRAY[_data->>'{{field}}']) AND id > _base AND (type = ANY (_types)) IS NOT FALSE
            ORDER BY data->>'{{field}}', id LIMIT 1
        ) IS NULL
        RETURNING id INTO _id;
        {{answer}}
    END;
    {{/first}}
    IF _data->>_field IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = concat('an event without a ', _field, ' has no stream of its own by it'),
            HINT = 'Name the value that the condition is about, by the function append_one.';
    END IF;
    RETURN {{append_rows}}(
        ARRAY[_type], ARRAY[_data::text], NULL,
        jsonb_build_array(jsonb_build_object(
            'base', _base, 'seen', 0,
            'streams', jsonb_build_array(jsonb_build_object(
                'types', _types, 'match', jsonb_build_object(_field, ARRAY[_data->>_field])))
        )));
END
$pgevents$;

-- [append_plain] One event without metadata, whatever has happened.
CREATE OR REPLACE FUNCTION {{append_plain}}(_type text, _data jsonb) RETURNS text
LANGUAGE plpgsql VOLATILE SET plan_cache_mode TO force_generic_plan AS $pgevents$
DECLARE
    _last bigint;
    _id bigint;
    _at timestamptz;
BEGIN
    <<simple>>
    BEGIN
        {{take_locks}}
                {{take_locks_of_fields}}
        {{publish}}
        _at := clock_timestamp();
        INSERT INTO {{table}} (type, data, created_at, updated_at) VALUES (_type, _data, _at, _at) RETURNING id INTO _id;
        {{answer}}
    END;
    RETURN {{append_rows}}(ARRAY[_type], ARRAY[_data::text]);
END
$pgevents$;

-- [repeated] What an idempotency key saved before; NULL if it is new.
CREATE OR REPLACE FUNCTION {{repeated}}(_types text[], _data text[], _key text) RETURNS jsonb
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
            SELECT jsonb_agg(jsonb_build_object('type', t, 'data', d::jsonb) ORDER BY n)
            FROM unnest(_types, _data) WITH ORDINALITY AS given(t, d, n))
        THEN 'repeated' ELSE 'reused' END);
END
$pgevents$;

-- [insert_guard] No INSERT but through the append functions of this generation. (A condition of the trigger's own would be
-- parsed at each INSERT, which takes three times as long as this.)
CREATE OR REPLACE FUNCTION {{insert_guard}}() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $pgevents$
BEGIN
    IF current_setting({{setting}}, true) = 'open:{{generation}}|'
        AND set_config({{setting}}, 'open:used|', true) <> ''  -- for one statement: triggers may insert, too
    THEN
        RETURN NULL;
    ELSIF current_setting({{setting}}, true) = 'open:used|' THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE03',
            MESSAGE = 'a trigger of the events table inserts an event while another one is inserted; '
                || 'save it with a plugin, or from a subscription';
    ELSIF starts_with(current_setting({{setting}}, true), 'open:') THEN
        RAISE serialization_failure USING MESSAGE = 'the append function was replaced meanwhile; run the save again';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'PGE03',
        MESSAGE = 'the events table takes events through its append function only, which keeps their order',
        HINT = 'To restore a dump of data alone into tables that exist, make it with pg_dump --disable-triggers.';
END
$pgevents$;

-- [redactions] How often the log was changed under maintenance, and when last, as far as the calling statement sees. Whoever
-- folds a snapshot notes it before reading. With its owner's rights, for the trail itself is not everybody's to read.
CREATE OR REPLACE FUNCTION {{redactions}}() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $pgevents$
BEGIN
    RETURN (SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.max(at)) FROM {{maintenance}});
END
$pgevents$;

-- [hold_redactions] The same as of now, while nobody else changes the log until this transaction ends: what was noted before
-- and is still so was folded from events that stand. Maintenance holds the same key exclusively to its commit.
CREATE OR REPLACE FUNCTION {{hold_redactions}}() RETURNS text
LANGUAGE plpgsql VOLATILE AS $pgevents$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared({{redaction_key}}) THEN
        RAISE lock_not_available USING
            MESSAGE = 'the log is being changed under maintenance; a snapshot can be saved again once that has ended';
    END IF;
    RETURN {{redactions}}();
END
$pgevents$;

-- [guard] No other write at all. pgevents.maintenance, set to a reason, lets UPDATE, DELETE and TRUNCATE pass and leaves a
-- row in the maintenance table: who, why and which events. Of the statement it keeps the part before the first value or
-- comment, because what was erased must not live on in the trail.
CREATE OR REPLACE FUNCTION {{guard}}() RETURNS trigger
LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _reason text := coalesce(current_setting('pgevents.maintenance', true), '');
    _events bigint;
    _ids bigint[];
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        NEW.updated_at := clock_timestamp();
        RETURN NEW;
    ELSIF _reason = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE03',
            MESSAGE = 'the events table is append-only: ' || TG_OP || ' is refused',
            HINT = 'Save a correcting event, or use client.maintenance(reason).';
    END IF;
    PERFORM pg_advisory_xact_lock({{redaction_key}});  -- before anything is changed; see hold_redactions
    IF TG_WHEN = 'AFTER' THEN
        SELECT count(*), (array_agg(id ORDER BY id))[1:{{trail_limit}}] INTO _events, _ids FROM changed;
    ELSIF TG_OP <> 'TRUNCATE' THEN
        RETURN NULL;  -- the trigger after the statement knows which events it changed
    END IF;
    INSERT INTO {{maintenance}} (role, operation, reason, statement, events, ids)
    VALUES (
        session_user, TG_OP, _reason,
        rtrim((regexp_split_to_array(current_query(), $re$'|\$|--|/\*|\m[0-9]$re$))[1]), _events, _ids);
    RETURN NULL;
END
$pgevents$;
