-- The functions of one events table. They are written for the table my_app.events with the data index cart_id, and are
-- SQL as they stand. pgevents.store.functions puts the real table's names in their place. What stands between "for each
-- data index" and "end" stands there once for each index on one value, "for each list" once for each index on a list of
-- values, "for each field" once for each of both, and "for lists" only where there is one of those.
-- `[pause: ...]` marks where the tests of races put pauses.
--
-- Nobody can put functions of their own in place of PostgreSQL's: each function sets its search_path, or has a body that is
-- parsed when it is made (RETURN, BEGIN ATOMIC), which becomes part of the statement that calls it, as one with a SET could
-- not. A body that names the table by a constant would keep the table from being dropped: that one names schemas instead.

-- Keys are what saves lock: advisory locks, computed here from the stored data, so that every writer (any version of the
-- library, another language, a person in psql) takes the same ones. Kinds are 'table', 'bulk', 'type', 'idempotency',
-- 'redaction', and 'data ' with a field's name: so a key keeps its meaning when the data indexes change. NULL has no key.
CREATE OR REPLACE FUNCTION my_app.events_key(_kind text, _text text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $pgevents$
    SELECT pg_catalog.hashtextextended(
        _text, pg_catalog.hashtextextended(_kind, pg_catalog.int8('my_app.events'::pg_catalog.regclass::pg_catalog.oid)))
$pgevents$;

-- The values of a field that holds a list: the texts of its strings, numbers and booleans, each once. What is no list
-- counts as a list of itself. (Of this form it becomes part of the calling statement.)
CREATE OR REPLACE FUNCTION my_app.events_values(_list jsonb) RETURNS SETOF text LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT DISTINCT v #>> '{}'
    FROM jsonb_array_elements(CASE jsonb_typeof(_list) WHEN 'array' THEN _list ELSE jsonb_build_array(_list) END) AS v
    WHERE jsonb_typeof(v) IN ('string', 'number', 'boolean');
END;

-- Their keys.
CREATE OR REPLACE FUNCTION my_app.events_value_keys(_kind text, _list jsonb) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    RETURN ARRAY(SELECT my_app.events_key(_kind, v) FROM my_app.events_values(_list) AS v);
END
$pgevents$;

-- The keys of an event.
CREATE OR REPLACE FUNCTION my_app.events_event_keys(_type text, _data jsonb, _metadata jsonb) RETURNS bigint[]
LANGUAGE sql IMMUTABLE
    RETURN ARRAY[
        my_app.events_key('table', ''), my_app.events_key('type', _type)
        -- for each data index
        , my_app.events_key('data cart_id', pg_catalog.jsonb_object_field_text(_data, 'cart_id'))
        -- end
    ]
    -- for each list
    || CASE WHEN pg_catalog.jsonb_object_field(_data, 'cart_id') IS NULL THEN '{}'
        ELSE my_app.events_value_keys('data cart_id', pg_catalog.jsonb_object_field(_data, 'cart_id')) END
    -- end
    ;

-- How many keys a transaction has locked at most that has saved one event, and for a decision at most nine before.
CREATE OR REPLACE FUNCTION my_app.events_most_keys(_data jsonb, _metadata jsonb) RETURNS int LANGUAGE sql IMMUTABLE
    RETURN 9 + cardinality(my_app.events_event_keys('', '{}', '{}'))
        -- for each list
        + CASE jsonb_typeof(pg_catalog.jsonb_object_field(_data, 'cart_id')) WHEN 'array' THEN
            jsonb_array_length(pg_catalog.jsonb_object_field(_data, 'cart_id')) ELSE 1 END
        -- end
    ;

-- Whether the values of a list could be locked, shared, without waiting. Many are left to those who count keys.
CREATE OR REPLACE FUNCTION my_app.events_try_values(_kind text, _list jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    RETURN (
        SELECT count(*) <= 20 AND coalesce(bool_and(pg_try_advisory_xact_lock_shared(my_app.events_key(_kind, v))), true)
        FROM (SELECT v FROM my_app.events_values(_list) AS v LIMIT 21) AS first);
END
$pgevents$;

-- Whether all keys of an event could be locked so. (It takes less time than an array of them.)
CREATE OR REPLACE FUNCTION my_app.events_try_event(_type text, _data jsonb, _metadata jsonb) RETURNS boolean
LANGUAGE sql VOLATILE
    RETURN pg_catalog.pg_try_advisory_xact_lock_shared(my_app.events_key('table', ''))
        AND pg_catalog.pg_try_advisory_xact_lock_shared(my_app.events_key('type', _type))
        -- for each data index
        AND pg_catalog.pg_try_advisory_xact_lock_shared(
            my_app.events_key('data cart_id', pg_catalog.jsonb_object_field_text(_data, 'cart_id'))) IS NOT FALSE
        -- end
        -- for each list
        AND (pg_catalog.jsonb_object_field(_data, 'cart_id') IS NULL
            OR my_app.events_try_values('data cart_id', pg_catalog.jsonb_object_field(_data, 'cart_id')))
        -- end
    ;

-- Values of a stream's field of which every matching event has one: any of them; or, of {"all": [...]}, the first.
CREATE OR REPLACE FUNCTION my_app.events_first_values(_wanted jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN CASE jsonb_typeof(_wanted) WHEN 'object' THEN ARRAY[_wanted->'all'->>0]
        ELSE ARRAY(SELECT jsonb_array_elements_text(_wanted)) END;

-- The first data index that a stream names; NULL if it names none.
CREATE OR REPLACE FUNCTION my_app.events_index_of(_match jsonb) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN coalesce(
        NULL::text
        -- for each field
        , CASE WHEN pg_catalog.jsonb_exists(_match, 'cart_id') THEN 'cart_id' END
        -- end
    );

-- How many keys one transaction may lock one by one: a share of the server's lock table, but always those of one event.
CREATE OR REPLACE FUNCTION my_app.events_key_limit() RETURNS int LANGUAGE sql STABLE
    RETURN greatest(
        cardinality(my_app.events_event_keys('', '{}', '{}')) + 3,
        current_setting('max_locks_per_transaction')::int
            * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) / 32);

-- The keys that stand for some streams: every event that matches one of them is saved under one of these, or under the
-- bulk lock. They are the values of a stream's first data index; else, or if they are too many, its types; else the table.
CREATE OR REPLACE FUNCTION my_app.events_stream_keys(_streams jsonb) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _limit CONSTANT int := my_app.events_key_limit();
    _values_of text;
    _keys bigint[];
BEGIN
    FOR _is_coarse IN 0 .. 1 LOOP
        _keys := '{}';
        FOR _n IN 0 .. jsonb_array_length(_streams) - 1 LOOP
            _values_of := CASE _is_coarse WHEN 0 THEN my_app.events_index_of(_streams->_n->'match') END;
            IF _values_of IS NOT NULL THEN
                _keys := _keys || ARRAY(
                    SELECT my_app.events_key('data ' || _values_of, v)
                    FROM unnest(my_app.events_first_values(_streams->_n->'match'->_values_of)) AS v);
            ELSIF jsonb_typeof(_streams->_n->'types') = 'array' THEN
                _keys := _keys || ARRAY(
                    SELECT my_app.events_key('type', t) FROM jsonb_array_elements_text(_streams->_n->'types') AS t);
            ELSE
                _keys := _keys || my_app.events_key('table', '');
            END IF;
        END LOOP;
        EXIT WHEN cardinality(_keys) <= _limit;
    END LOOP;
    RETURN _keys;
END
$pgevents$;
