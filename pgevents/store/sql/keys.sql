-- The functions of one events table. They are written for the table my_app.events with the data index cart_id, and are
-- SQL as they stand. pgevents.store.functions puts the real table's names in their place, and what stands between "for
-- each data index" and "end" once for each of them. `[pause: ...]` marks where the tests of races put pauses.
--
-- Functions that are called from outside fix their search_path, so that nobody can put functions of their own in place of
-- PostgreSQL's; all others are called by these alone, and inherit it.

-- Keys are what saves lock: advisory locks, computed here from the stored data, so that every writer (any version of the
-- library, another language, a person in psql) takes the same ones. Kinds are 'table', 'bulk', 'type', 'idempotency',
-- 'redaction', and 'data ' with a field's name: so a key keeps its meaning when the data indexes change. NULL has no key.
CREATE OR REPLACE FUNCTION my_app.events_key(_kind text, _text text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $pgevents$
    SELECT pg_catalog.hashtextextended(
        _text, pg_catalog.hashtextextended(_kind, pg_catalog.int8('my_app.events'::pg_catalog.regclass::pg_catalog.oid)))
$pgevents$;

-- The keys of an event.
CREATE OR REPLACE FUNCTION my_app.events_event_keys(_type text, _data jsonb, _metadata jsonb) RETURNS bigint[]
LANGUAGE sql IMMUTABLE AS $pgevents$
    SELECT ARRAY[
        my_app.events_key('table', ''), my_app.events_key('type', _type)
        -- for each data index
        , my_app.events_key('data cart_id', pg_catalog.jsonb_object_field_text(_data, 'cart_id'))
        -- end
    ]
$pgevents$;

-- Whether all of them could be locked, shared, without waiting. (It takes less time than an array of them.)
CREATE OR REPLACE FUNCTION my_app.events_try_event(_type text, _data jsonb, _metadata jsonb) RETURNS boolean
LANGUAGE sql VOLATILE AS $pgevents$
    SELECT pg_catalog.pg_try_advisory_xact_lock_shared(my_app.events_key('table', ''))
        AND pg_catalog.pg_try_advisory_xact_lock_shared(my_app.events_key('type', _type))
        -- for each data index
        AND pg_catalog.pg_try_advisory_xact_lock_shared(
            my_app.events_key('data cart_id', pg_catalog.jsonb_object_field_text(_data, 'cart_id'))) IS NOT FALSE
        -- end
$pgevents$;

-- The first data index that a stream names; NULL if it names none.
CREATE OR REPLACE FUNCTION my_app.events_index_of(_match jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $pgevents$
    SELECT coalesce(
        NULL::text
        -- for each data index
        , CASE WHEN pg_catalog.jsonb_exists(_match, 'cart_id') THEN 'cart_id' END
        -- end
    )
$pgevents$;

-- How many keys one transaction may lock one by one: a share of the server's lock table, but always those of one event.
CREATE OR REPLACE FUNCTION my_app.events_key_limit() RETURNS int LANGUAGE sql STABLE AS $pgevents$
    SELECT greatest(
        cardinality(my_app.events_event_keys('', '{}', '{}')) + 3,
        current_setting('max_locks_per_transaction')::int
            * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) / 32)
$pgevents$;

-- The keys that stand for some streams: every event that matches one of them is saved under one of these, or under the
-- bulk lock. They are the values of a stream's first data index; else, or if they are too many, its types; else the table.
CREATE OR REPLACE FUNCTION my_app.events_stream_keys(_streams jsonb) RETURNS bigint[]
LANGUAGE plpgsql STABLE AS $pgevents$
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
                    FROM jsonb_array_elements_text(_streams->_n->'match'->_values_of) AS v);
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
