-- Appending: lock, publish, check, insert, each in statements of its own. A statement sees what was committed before it
-- began, so what is checked after the locks were taken is what stands there.
--
-- What a transaction remembers of this table stands in a setting: '<open>|<published>|<keys>|<scope>'.
--   open: the generation of these functions while they insert, for the guard, which makes it 'used'; else empty
--   published: the lower bound of the ids to come
--   keys: how many keys it has locked, at most
--   scope: 'bulk' or 'table' if that lock stands for the keys of its events
-- A savepoint's rollback reverts it exactly as it releases the locks. Anybody can change it, so nothing rests on it: what it
-- says to be locked or published is locked and published again, which costs nothing if it is true.
CREATE OR REPLACE FUNCTION my_app.events_state(_part int) RETURNS text LANGUAGE sql STABLE
    RETURN coalesce(split_part(current_setting('pgevents.my_app_events', true), '|', _part), '');

CREATE OR REPLACE FUNCTION my_app.events_remember(_published bigint, _locks text) RETURNS text
LANGUAGE sql VOLATILE
    RETURN set_config('pgevents.my_app_events', concat('|', _published, '|', _locks), true);

-- Appends events that are one document: the way into the table for other programs.
--   _events: [{"type": "CART_CREATED", "data": {...}, "metadata": {...}, "created_at": "2026-01-31T12:00:00Z"}, ...]
--       Without a time of its own an event has _created_at, or now.
--   _conditions: NULL for a plain save; else what must hold, each of:
--       [{"base": 0, "seen": 3, "digest": 123, "streams": [{"types": [...], "match": {"cart_id": ["c1"]}}]}, ...]
--       Above id `base` exactly `seen` events match one of the streams, and events_digest(ids) is `digest`. Values and types
--       are texts. "types": null is any type, "match": {} any event; an empty list matches none. Of a field
--       of many values {"tags": {"all": ["a", "b"]}} wants each.
--   _key: an idempotency key: these events are saved once, however often they are sent.
-- Result: {"status": ..., "ids": [...], ...}. 'saved' (with created_at), 'repeated' (the key saved these before),
--         'conflict' (the ids that match now), 'reused' (the key saved other content: these; none if it is of a decision that
--         had nothing to save), 'future' (the last id issued). Only 'saved' has written anything.
CREATE OR REPLACE FUNCTION my_app.events_append(
    _events jsonb, _conditions jsonb DEFAULT NULL, _key text DEFAULT NULL, _created_at timestamptz DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _types text[];
    _data text[];
    _metadata text[];
    _times timestamptz[] := CASE WHEN _created_at IS NOT NULL THEN ARRAY[_created_at] END;
    _answer text[];
BEGIN
    PERFORM my_app.events_refuse_unreadable(_events);
    IF jsonb_path_exists(_events, '$[*].created_at ? (@.type() == "string")') THEN
        _created_at := coalesce(_created_at, clock_timestamp());
        SELECT array_agg(coalesce((e->>'created_at')::timestamptz, _created_at) ORDER BY n)
        INTO _times
        FROM jsonb_array_elements(_events) WITH ORDINALITY AS given(e, n);
    END IF;
    SELECT array_agg(e->>'type' ORDER BY n), array_agg((e->'data')::text ORDER BY n), array_agg((e->'metadata')::text ORDER BY n)
    INTO _types, _data, _metadata
    FROM jsonb_array_elements(_events) WITH ORDINALITY AS given(e, n);
    _answer := string_to_array(my_app.events_append_many(
        _types, _data, _metadata, _conditions, _key, NULL, _times), ' ');
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'status', _answer[1],
        'ids', ARRAY(
            SELECT generate_series(split_part(i, '-', 1)::bigint, split_part(i, '-', -1)::bigint)
            FROM unnest(string_to_array(_answer[2], ',')) AS i),
        'created_at', to_char(trim('"' FROM _answer[3])::timestamp, 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')));
END
$pgevents$;

-- Appends any number of events.
--   _types, _data, _metadata: of one dimension, from 1, and of one length; data and metadata are JSON. No metadata of an
--       event is NULL, no metadata at all NULL or an empty array.
--   _key: an idempotency key of all of them.
--   _keys: instead of it the stored key of each event, to bring along those of another log; one that is there is an error.
--   _times: when they happened: NULL is now, one is of all of them, else there is one for each.
-- Result: '<status> <ids>', for 'saved' also ' "<created_at of the first, in UTC>"'. Ids are parted by commas, or
-- '<first>-<last>'.
CREATE OR REPLACE FUNCTION my_app.events_append_many(
    _types text[], _data text[], _metadata text[], _conditions jsonb, _key text, _keys text[], _times timestamptz[]
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $pgevents$
DECLARE
    _form CONSTANT text := '[1:' || cardinality(_types) || ']';
    _locks text;
    _last bigint;
    _answer text;
BEGIN
    IF NOT my_app.events_is_usual_transaction() THEN
        PERFORM my_app.events_refuse_transaction();
    END IF;
    IF array_dims(_types) <> _form OR array_dims(_data) IS DISTINCT FROM array_dims(_types) OR array_dims(_metadata) <> _form
        OR array_dims(_keys) <> _form OR array_dims(_times) NOT IN (_form, '[1:1]')
    THEN
        RAISE array_subscript_error USING
            MESSAGE = 'types, data, metadata, keys and times of events to append are arrays of one dimension, from 1, and of one '
                || 'length';
    ELSIF my_app.events_state(1) <> '' THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE03', MESSAGE = 'a trigger of the events table saves an event while another '
            || 'one is inserted; save it with a plugin, or from a subscription';
    END IF;
    _locks := my_app.events_lock_save(_types, _data, _metadata, _conditions, _key);
    -- [pause: locked]
    _last := my_app.events_publish(_locks);
    -- [pause: published]
    IF _key IS NOT NULL THEN
        _answer := my_app.events_saved_before(_types, _data, _key);
    END IF;
    IF _answer IS NULL AND _conditions IS NOT NULL THEN
        _answer := my_app.events_check(_conditions, _last);
    END IF;
    -- [pause: checked]
    IF _answer IS NULL THEN
        _answer := my_app.events_insert(_types, _data, _metadata, _key, _keys, _times, _last);
    END IF;
    RETURN _answer;
END
$pgevents$;

-- Appends one event in few steps, as the first save of its transaction (a decision may have locked its streams before), if
-- no lock has to be waited for and the condition holds; all else is left to events_append_many. It is apart because most
-- saves are of this kind. PL/pgSQL makes each expression ready anew in each transaction, when it is first met, function by
-- function: so what only some saves need stands in statements of its own.
--   _key: an idempotency key, or NULL
--   _stream, _premise: NULL, or a condition on one value of a data index. _stream is the field, the value, and the types if
--       not any will do; _premise is what events_append calls base, seen and digest.
CREATE OR REPLACE FUNCTION my_app.events_append_one(
    _type text, _data jsonb, _metadata jsonb, _key text, _created_at timestamptz, _stream text[], _premise bigint[]
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $pgevents$
DECLARE
    _state CONSTANT text := coalesce(current_setting('pgevents.my_app_events', true), '');
    _is_free boolean;
    _last bigint;
    _ids bigint[];
    _id bigint;
    _at timestamptz;
BEGIN
    <<short>>
    BEGIN
        -- Lock, look up the last id issued, and publish it.
        BEGIN
            IF _key IS NOT NULL THEN
                _is_free := pg_try_advisory_xact_lock(my_app.events_key('idempotency', _key));
            END IF;
            IF _stream IS NOT NULL OR _premise IS NOT NULL THEN
                _is_free := (_is_free IS NOT FALSE AND pg_try_advisory_xact_lock_shared(my_app.events_key('bulk', ''))
                    AND pg_try_advisory_xact_lock(my_app.events_key('data ' || _stream[1], _stream[2]))) IS TRUE;
            END IF;
            _last := CASE WHEN current_setting('transaction_isolation') = 'read committed'
                AND (current_setting('synchronous_commit') <> 'off' OR set_config('synchronous_commit', 'on', true) IS NOT NULL)
                AND (_state = '' OR _state LIKE '||_|')  -- nothing but few locks, of a decision
                AND _is_free IS NOT FALSE
                AND my_app.events_try_event(_type, _data, _metadata)
            THEN pg_sequence_last_value('my_app.events_id_seq'::regclass) END;
            IF _last IS NULL
                OR pg_advisory_xact_lock_shared('my_app.events'::regclass::oid::int, (_last & 2147483647)::int) IS NULL
            THEN
                RAISE lock_not_available;  -- gives back those that were taken
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            EXIT short;
        END;
        -- [pause: published]
        IF _key IS NOT NULL THEN
            EXIT short WHEN my_app.events_saved_before(ARRAY[_type], ARRAY[_data::text], _key) IS NOT NULL;
        END IF;
        IF _stream IS NOT NULL THEN
            _ids := my_app.events_above(_stream[1], _stream[2:2], nullif(_stream[3:], '{}'), NULL, _premise[1], _premise[2] + 1);
            IF _premise[1] <= _last AND cardinality(_ids) = _premise[2] THEN
                IF _premise[2] > 0 THEN
                    EXIT short WHEN (my_app.events_digest(_ids) = _premise[3]) IS NOT TRUE;
                END IF;
            ELSE
                EXIT short;
            END IF;
        END IF;
        -- [pause: checked]
        IF my_app.events_is_storable(_type, _data, _metadata, _created_at) IS NOT TRUE THEN
            _data := my_app.events_refuse_event(_type, _data, _metadata, _created_at);
        END IF;
        _at := CASE WHEN set_config('pgevents.my_app_events', 'the generation|', true) IS NOT NULL THEN  -- opens the guard
            coalesce(_created_at, clock_timestamp()) END;
        INSERT INTO my_app.events (type, data, metadata, idempotency_key, created_at, updated_at)
        VALUES (_type, _data, coalesce(_metadata, '{}'), _key, _at, _at)
        RETURNING id INTO _id;
        -- for each list
        IF pg_catalog.jsonb_object_field(_data, 'cart_id') IS NOT NULL THEN
            INSERT INTO my_app.events_lists (field, value, id)
            SELECT 'cart_id', v, _id FROM my_app.events_values(pg_catalog.jsonb_object_field(_data, 'cart_id')) AS v;
        END IF;
        -- end
        -- [pause: numbered]
        IF _id > _last AND my_app.events_remember(_last, my_app.events_most_keys(_data, _metadata)::text || '|') IS NOT NULL THEN
            RETURN concat('saved ', _id, ' ', to_json(_at AT TIME ZONE 'UTC'));  -- whatever DateStyle and TimeZone say
        END IF;
        PERFORM my_app.events_refuse_order(_id, _last);
    END;
    RETURN my_app.events_append_many(
        ARRAY[_type], ARRAY[_data::text], ARRAY[_metadata::text],
        CASE WHEN _stream IS NOT NULL OR _premise IS NOT NULL THEN jsonb_build_array(jsonb_build_object(
            'base', _premise[1], 'seen', _premise[2], 'digest', _premise[3],
            'streams', jsonb_build_array(jsonb_build_object(
                'types', nullif(_stream[3:], '{}'), 'match', jsonb_build_object(_stream[1], _stream[2:2])))
        )) END,
        _key, NULL, CASE WHEN _created_at IS NOT NULL THEN ARRAY[_created_at] END);
END
$pgevents$;

-- The locks of a save. Result: what to remember of them, '<keys>|<scope>'.
CREATE OR REPLACE FUNCTION my_app.events_lock_save(
    _types text[], _data text[], _metadata text[], _conditions jsonb, _key text
) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _count CONSTANT int := cardinality(_types);
    _step int := greatest(_count / 100, 1);
    _shared bigint[] := '{}';
    _exclusive bigint[] := '{}';
BEGIN
    WHILE my_app.events_state(4) = '' LOOP  -- a look at some events, far apart, tells of most batches that they have too many keys
        _shared := ARRAY(
            SELECT DISTINCT k
            FROM (
                SELECT _types[i] AS type, _data[i]::jsonb AS data, _metadata[i]::jsonb AS metadata
                FROM generate_series(1, _count, _step) AS i OFFSET 0
            ) AS e, unnest(my_app.events_event_keys(e.type, e.data, e.metadata)) AS k
            WHERE k IS NOT NULL);
        EXIT WHEN _step = 1;
        IF cardinality(_shared) * _step > 2 * my_app.events_key_limit() THEN
            _shared := NULL;
            EXIT;
        END IF;
        _step := 1;
    END LOOP;
    IF _conditions IS NOT NULL THEN
        PERFORM my_app.events_refuse_conditions(_conditions);
        FOR _n IN 0 .. jsonb_array_length(_conditions) - 1 LOOP
            _exclusive := _exclusive || my_app.events_stream_keys(_conditions->_n->'streams');
        END LOOP;
    END IF;
    IF _key IS NOT NULL THEN
        _exclusive := _exclusive || my_app.events_key('idempotency', _key);
    END IF;
    RETURN my_app.events_lock_keys(_shared, _exclusive, _conditions IS NOT NULL);
END
$pgevents$;

-- Publishes a lower bound of the ids to come, before any is taken: as a shared lock, modulo 2^31, in the key space of the
-- table. The first one of the transaction stands. Remembers it, and what is to be remembered of locks. Result: the last id
-- issued.
CREATE OR REPLACE FUNCTION my_app.events_publish(_locks text) RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _last CONSTANT bigint := coalesce(
        pg_sequence_last_value('my_app.events_id_seq'::regclass), my_app.events_last_issued());
    _published CONSTANT bigint := least(_last, nullif(my_app.events_state(2), '')::bigint);
BEGIN
    IF pg_advisory_xact_lock_shared('my_app.events'::regclass::oid::int, (_published & 2147483647)::int) IS NOT NULL
        AND my_app.events_remember(_published, _locks) IS NOT NULL
    THEN
        RETURN _last;
    END IF;
END
$pgevents$;

-- What an idempotency key saved before; NULL if it is new. The key is locked, so nobody else is about to save it. A decision
-- that had nothing to save is found, too: 'reused', without ids.
CREATE OR REPLACE FUNCTION my_app.events_saved_before(_types text[], _data text[], _key text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _answer text;
BEGIN
    -- Most keys are new, and this says so by one look into the index. The planner takes the range below for a share of the
    -- table, so that in a large one it would begin parallel workers for nothing.
    IF (SELECT idempotency_key FROM my_app.events
        WHERE idempotency_key >= _key AND idempotency_key < _key || chr(32) ORDER BY idempotency_key LIMIT 1) IS NOT NULL
    THEN
        SELECT CASE WHEN jsonb_agg(jsonb_build_array(type, data) ORDER BY id) = (
            SELECT jsonb_agg(jsonb_build_array(t, d::jsonb) ORDER BY n)
            FROM unnest(_types, _data) WITH ORDINALITY AS given(t, d, n)
        ) THEN 'repeated ' ELSE 'reused ' END || string_agg(id::text, ',' ORDER BY id)
        INTO _answer
        FROM my_app.events
        WHERE idempotency_key = _key OR idempotency_key > _key || chr(31) AND idempotency_key < _key || chr(32);
    END IF;
    RETURN coalesce(_answer, (SELECT 'reused ' FROM my_app.events_commands WHERE key = _key));
END
$pgevents$;

-- Records that a decision had nothing to save under its idempotency key, so that the command is never decided again.
-- Result: NULL; or the ids of what the key saved before, and then nothing is recorded.
CREATE OR REPLACE FUNCTION my_app.events_settle(_key text) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _answer text;
BEGIN
    IF NOT my_app.events_is_usual_transaction() THEN
        PERFORM my_app.events_refuse_transaction();
    END IF;
    PERFORM my_app.events_remember(
        nullif(my_app.events_state(2), '')::bigint,
        my_app.events_lock_keys('{}', ARRAY[my_app.events_key('idempotency', _key)], false));
    _answer := my_app.events_saved_before('{}', '{}', _key);
    IF _answer IS NULL THEN
        INSERT INTO my_app.events_commands (key) VALUES (_key);
    END IF;
    RETURN string_to_array(split_part(_answer, ' ', 2), ',')::bigint[];
END
$pgevents$;

-- Checks conditions, in statements that are younger than the locks. NULL if all hold.
CREATE OR REPLACE FUNCTION my_app.events_check(_conditions jsonb, _last bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _condition jsonb;
    _stream jsonb;
    _field text;
    _base bigint;
    _seen bigint;
    _ids bigint[];
BEGIN
    FOR _n IN 0 .. jsonb_array_length(_conditions) - 1 LOOP
        _condition := _conditions->_n;
        _base := coalesce((_condition->>'base')::bigint, 0);
        _seen := _condition->>'seen';
        _ids := '{}';
        IF _base > _last THEN
            RETURN 'future ' || _last;
        END IF;
        FOR _i IN 0 .. jsonb_array_length(_condition->'streams') - 1 LOOP
            _stream := _condition->'streams'->_i;
            _field := my_app.events_index_of(_stream->'match');
            _ids := _ids || my_app.events_above(
                _field,
                CASE WHEN _field IS NOT NULL THEN my_app.events_first_values(_stream->'match'->_field) END,
                CASE jsonb_typeof(_stream->'types') WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(_stream->'types')) END,
                nullif((_stream->'match')
                    - CASE jsonb_typeof(_stream->'match'->_field) WHEN 'array' THEN _field ELSE '' END, '{}'),
                _base, _seen + 100);  -- a conflict names so many more
        END LOOP;
        IF jsonb_array_length(_condition->'streams') > 1 THEN
            _ids := ARRAY(SELECT DISTINCT unnest(_ids));
        END IF;
        IF my_app.events_is_as_read(_ids, _seen, (_condition->>'digest')::bigint) IS NOT TRUE THEN
            RETURN 'conflict ' || array_to_string(ARRAY(SELECT unnest(_ids) ORDER BY 1), ',');
        END IF;
    END LOOP;
    RETURN NULL;
END
$pgevents$;

-- The ids of the events of a stream above an id, at most so many. Each statement goes along one index in its order, so that
-- no other one seems cheaper.
--   _field, _values: a data index and its values, or NULL
--   _types: NULL is any type
--   _rest: fields and the values that each of them may have, or NULL
CREATE OR REPLACE FUNCTION my_app.events_above(
    _field text, _values text[], _types text[], _rest jsonb, _base bigint, _most bigint
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    -- for each data index
    IF _field = 'cart_id' THEN
        RETURN ARRAY(
            SELECT id FROM my_app.events
            WHERE data->>'cart_id' = ANY (_values) AND id > _base AND (type = ANY (_types)) IS NOT FALSE
                AND (_rest IS NULL OR my_app.events_has(data, metadata, _rest))
            ORDER BY data->>'cart_id', id LIMIT greatest(_most, 0));
    END IF;
    -- end
    -- for each list
    IF _field = 'cart_id' AND cardinality(_values) = 1 THEN
        RETURN ARRAY(
            SELECT id FROM my_app.events_lists AS l
            WHERE field = 'cart_id' AND value = _values[1] AND id > _base
                AND (_types IS NULL AND _rest IS NULL OR my_app.events_is_of(id, _types, _rest))
            ORDER BY value, field, id LIMIT greatest(_most, 0));
    ELSIF _field = 'cart_id' THEN
        RETURN ARRAY(
            SELECT DISTINCT id FROM my_app.events_lists AS l
            WHERE field = 'cart_id' AND value = ANY (_values) AND id > _base
                AND (_types IS NULL AND _rest IS NULL OR my_app.events_is_of(id, _types, _rest))
            LIMIT greatest(_most, 0));
    END IF;
    -- end
    IF _field IS NOT NULL THEN
        RETURN NULL;  -- no such index
    ELSIF _types IS NOT NULL THEN
        RETURN ARRAY(
            SELECT id FROM my_app.events
            WHERE type = ANY (_types) AND id > _base AND (_rest IS NULL OR my_app.events_has(data, metadata, _rest))
            ORDER BY type, id LIMIT greatest(_most, 0));
    END IF;
    RETURN ARRAY(
        SELECT id FROM my_app.events
        WHERE id > _base AND (_rest IS NULL OR my_app.events_has(data, metadata, _rest))
        ORDER BY id LIMIT greatest(_most, 0));
END
$pgevents$;

-- Whether an event is of these types, and each of these fields has one of its values.
CREATE OR REPLACE FUNCTION my_app.events_is_of(_id bigint, _types text[], _rest jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    RETURN (
        SELECT (type = ANY (_types)) IS NOT FALSE AND (_rest IS NULL OR my_app.events_has(data, metadata, _rest))
        FROM my_app.events WHERE id = _id);
END
$pgevents$;

-- Whether each of these fields has one of its values.
CREATE OR REPLACE FUNCTION my_app.events_has(_data jsonb, _metadata jsonb, _match jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM jsonb_each(_match) AS m
        WHERE coalesce(NOT CASE
            -- for each list
            WHEN m.key = 'cart_id' THEN my_app.events_has_values(
                m.value, ARRAY(SELECT v FROM my_app.events_values(pg_catalog.jsonb_object_field(_data, 'cart_id')) AS v))
            -- end
            WHEN jsonb_typeof(m.value) = 'object' THEN
                my_app.events_has_values(m.value, ARRAY[my_app.events_text(_data, _metadata, m.key)])
            WHEN strpos(m.key, '.') = 0 THEN m.value ? (_data->>m.key)
            ELSE m.value ? my_app.events_text(_data, _metadata, m.key) END, true));
END
$pgevents$;

-- Whether values are those that a stream wants: one of a list, or all of {"all": [...]}.
CREATE OR REPLACE FUNCTION my_app.events_has_values(_wanted jsonb, _values text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE
    RETURN CASE jsonb_typeof(_wanted) WHEN 'object' THEN ARRAY(SELECT jsonb_array_elements_text(_wanted->'all')) <@ _values
        ELSE _wanted ?| _values END;

-- The text of a field: what stands at the end of its path, which begins in the data, or after 'metadata.' in the metadata.
CREATE OR REPLACE FUNCTION my_app.events_text(_data jsonb, _metadata jsonb, _field text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _path text[] := string_to_array(_field, '.');
BEGIN
    IF cardinality(_path) > 1 AND _path[1] = 'metadata' THEN
        _data := _metadata;
        _path := _path[2:];
    END IF;
    FOR _n IN 1 .. cardinality(_path) - 1 LOOP
        _data := _data->_path[_n];
    END LOOP;
    RETURN _data->>_path[cardinality(_path)];
END
$pgevents$;

-- A digest of a set of ids; pgevents.store.ordering computes the same.
CREATE OR REPLACE FUNCTION my_app.events_digest(_ids bigint[]) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    RETURN (
        SELECT coalesce(bit_xor(mixed * mixed), 0)
        FROM (SELECT mod(mod(id, 2147483647) * 1103515245, 2147483647) AS mixed FROM unnest(_ids) AS id) AS every);
END
$pgevents$;

-- Whether these are the events that were read: as many, and with the same digest.
CREATE OR REPLACE FUNCTION my_app.events_is_as_read(_ids bigint[], _seen bigint, _digest bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE
    RETURN cardinality(_ids) = _seen AND (_seen = 0 OR my_app.events_digest(_ids) = _digest);

-- Inserts. The guard lets only an open setting of this generation pass.
CREATE OR REPLACE FUNCTION my_app.events_insert(
    _types text[], _data text[], _metadata text[], _key text, _keys text[], _times timestamptz[], _last bigint
) RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _count CONSTANT int := coalesce(cardinality(_types), 0);
    _ids CONSTANT bigint[] := ARRAY(SELECT nextval('my_app.events_id_seq'::regclass) FROM generate_series(1, _count));
    _at CONSTANT timestamptz := coalesce(_times[1], clock_timestamp());
    _state CONSTANT text := current_setting('pgevents.my_app_events');
    _guard text;
BEGIN
    _guard := set_config('pgevents.my_app_events', 'the generation|', true);
    -- for lists
    WITH saved AS (
    -- end
    INSERT INTO my_app.events (id, type, data, metadata, idempotency_key, created_at, updated_at) OVERRIDING SYSTEM VALUE
    SELECT _ids[i], type,
        CASE WHEN my_app.events_is_storable(type, data, metadata, CASE WHEN _times IS NOT NULL
                AND at NOT BETWEEN '0001-01-03 00:00:00+00' AND '9999-12-29 00:00:00+00' THEN at END) THEN data
            ELSE my_app.events_refuse_event(type, data, metadata, CASE WHEN _times IS NOT NULL THEN at END) END,
        coalesce(metadata, '{}'),
        coalesce(_key || CASE WHEN i > 1 THEN chr(31) || i ELSE '' END, _keys[i]), at, at
    FROM (
        SELECT i, _types[i] AS type, _data[i]::jsonb AS data, _metadata[i]::jsonb AS metadata, CASE WHEN cardinality(_times) > 1 THEN _times[i] ELSE _at END AS at
        FROM generate_series(1, _count) AS i OFFSET 0
    ) AS given
    -- for lists
    RETURNING id, data, metadata)
    INSERT INTO my_app.events_lists (field, value, id)
    SELECT NULL::text AS field, NULL::text AS value, NULL::bigint AS id WHERE false
    -- end
    -- for each list
    UNION ALL
    SELECT 'cart_id', v, saved.id FROM saved, my_app.events_values(saved.data->'cart_id') AS v
    WHERE saved.data->'cart_id' IS NOT NULL
    -- end
    -- for lists
    ORDER BY value, field, id  -- the order of the index, which is then written from one end to the other
    -- end
    ;
    _guard := set_config('pgevents.my_app_events', _state, true);
    -- [pause: numbered]
    IF _ids[1] <= _last THEN
        PERFORM my_app.events_refuse_order(_ids[1], _last);
    END IF;
    RETURN concat(
        'saved ',
        CASE WHEN _ids[_count] - _ids[1] = _count - 1 THEN concat_ws('-', _ids[1], _ids[_count])
            ELSE array_to_string(_ids, ',') END,
        ' ', to_json(_at AT TIME ZONE 'UTC'));
END
$pgevents$;
