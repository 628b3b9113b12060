-- Reading: up to where events are final, and reads whose plans are kept.

-- The last id that was given out.
CREATE OR REPLACE FUNCTION my_app.events_last_issued() RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _last bigint := pg_sequence_last_value('my_app.events_id_seq'::regclass);
BEGIN
    IF _last IS NULL THEN  -- nothing since the sequence was made or restarted
        SELECT last_value - 1 INTO _last FROM my_app.events_id_seq;
    END IF;
    RETURN _last;
END
$pgevents$;

-- The lower bound that this transaction has published; NULL if it has saved nothing. Its own events stand above it, and are
-- final only as long as no savepoint takes them back.
CREATE OR REPLACE FUNCTION my_app.events_published() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
    SELECT nullif(my_app.events_state(2), '')::bigint
$pgevents$;

-- Events of these streams (NULL: of any) at or below the result can no longer change. To be called in a statement before
-- the one that reads: the reading statement's snapshot must be the younger one.
CREATE OR REPLACE FUNCTION my_app.events_final_bound(_streams jsonb DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _table CONSTANT oid := 'my_app.events'::regclass::oid;
    _scopes CONSTANT bigint[] := ARRAY[my_app.events_key('bulk', ''), my_app.events_key('table', '')];
    _keys bigint[];
    _last bigint;
    _any bigint;
    _theirs bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' OR pg_is_in_recovery() THEN
        PERFORM my_app.events_refuse_transaction();
    END IF;
    _last := my_app.events_last_issued();  -- before the locks are looked at
    IF NOT EXISTS (  -- most often nobody else is in the middle of a save
        SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = _table AND l.pid IS DISTINCT FROM pg_backend_pid()
    ) THEN
        RETURN _last;
    END IF;
    IF _streams IS NOT NULL THEN
        _keys := my_app.events_stream_keys(_streams);
    END IF;
    -- [pause: issued]
    WITH locks AS MATERIALIZED (
        SELECT l.virtualtransaction AS vxid, l.objsubid, l.classid, l.objid, l.mode,
            l.classid::bigint << 32 | l.objid::bigint AS key
        FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    ), published AS (
        SELECT _last + ((p.objid::bigint - (_last & 2147483647) + 3221225472 & 2147483647) - 1073741824) AS bound,
            EXISTS (
                SELECT FROM locks AS k
                WHERE k.vxid = p.vxid AND k.objsubid = 1
                    AND (k.key = ANY (_keys) OR k.key = ANY (_scopes) AND k.mode = 'ExclusiveLock')
            ) AS is_theirs
        FROM locks AS p
        WHERE p.objsubid = 2 AND p.classid = _table
    )
    SELECT min(bound), min(bound) FILTER (WHERE is_theirs) INTO _any, _theirs FROM published;
    -- If the functions were replaced meanwhile, others may lock by other data indexes: anybody may then add to the streams.
    IF _keys IS NULL OR NOT EXISTS (
        SELECT FROM pg_description AS d
        WHERE d.objoid = 'my_app.events_append'::regproc AND d.classoid = 'pg_proc'::regclass AND starts_with(d.description, 'pgevents the generation')
    ) THEN
        _theirs := _any;
    END IF;
    -- [pause: bound]
    RETURN least(_last, _theirs);
END
$pgevents$;

-- An ordinary read of the events that carry one value of one data index and have one of the _types (NULL: any), above an
-- id. The index range in its order is the whole plan, so it is kept, where a statement of its own would be planned anew at
-- each call. Result: all events in one text, which costs server and driver less than rows: six fields each, chr(31) between
-- all of them, nothing for no metadata and for no update. NULL if more than 1000 events carry the value, or there is no such
-- index: that is for a statement, whose plan may go by rare types, and whose result need not be one value.
CREATE OR REPLACE FUNCTION my_app.events_fetch(_field text, _value text, _types text[], _after bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $pgevents$
#variable_conflict use_column
DECLARE
    _most bigint := 1001;  -- not a constant in the statement, or the plan would be to fetch all and sort
BEGIN
    -- for each data index
    IF _field = 'cart_id' THEN
        RETURN (
            SELECT CASE WHEN count(*) < _most THEN coalesce(string_agg(event, E'\x1f'), '') END
            FROM (
                SELECT CASE WHEN _types IS NULL OR type = ANY (_types) THEN concat(
                    id, E'\x1f', CASE WHEN _types IS NULL THEN replace(type, E'\x1f', '') ELSE type END, E'\x1f', data, E'\x1f',
                    nullif(metadata, '{}'), E'\x1f', created_at, E'\x1f', nullif(updated_at, created_at)
                ) END AS event
                FROM my_app.events
                WHERE data->>'cart_id' = ANY (ARRAY[_value]) AND id > _after
                ORDER BY data->>'cart_id', id LIMIT _most
            ) AS found);
    END IF;
    -- end
    -- for each list
    IF _field = 'cart_id' THEN
        RETURN (
            SELECT CASE WHEN count(*) < _most THEN coalesce(string_agg(event, E'\x1f'), '') END
            FROM (
                SELECT CASE WHEN _types IS NULL OR type = ANY (_types) THEN concat(
                    id, E'\x1f', CASE WHEN _types IS NULL THEN replace(type, E'\x1f', '') ELSE type END, E'\x1f', data, E'\x1f',
                    nullif(metadata, '{}'), E'\x1f', created_at, E'\x1f', nullif(updated_at, created_at)
                ) END AS event
                FROM (
                    SELECT id FROM my_app.events_lists
                    WHERE field = 'cart_id' AND value = _value AND id > _after
                    ORDER BY value, field, id LIMIT _most
                ) AS l, LATERAL (  -- one by one, whatever the planner thinks of their number
                    SELECT type, data, metadata, created_at, updated_at FROM my_app.events AS e WHERE e.id = l.id OFFSET 0
                ) AS e
                ORDER BY id
            ) AS found);
    END IF;
    -- end
    RETURN NULL;
END
$pgevents$;

-- The same after the final bound of what is read, which is one field more.
CREATE OR REPLACE FUNCTION my_app.events_fetch_final(_field text, _value text, _types text[], _after bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _bound text;
BEGIN
    _bound := my_app.events_final_bound(jsonb_build_array(
        jsonb_build_object('types', _types, 'match', jsonb_build_object(_field, ARRAY[_value]))));
    RETURN _bound || E'\x1f' || my_app.events_fetch(_field, _value, _types, _after);  -- in a snapshot younger than the bound
END
$pgevents$;

-- A snapshot of this version and shape, in four fields (its latest event's id, its data, when it was made and updated; empty if there
-- is none), and after them the events that follow it, both as of the same moment.
CREATE OR REPLACE FUNCTION my_app.events_fetch_view(
    _projections regclass, _type text, _id text, _version int, _shape text, _field text, _value text, _types text[]
) RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _latest bigint;
    _snapshot text;
BEGIN
    EXECUTE 'SELECT latest_event_id, concat_ws(
        E''\x1f'', latest_event_id, coalesce(exact, data::text), created_at, updated_at) FROM '
        || _projections || ' WHERE type = $1 AND id = $2 AND version = $3 AND shape = $4'
    INTO _latest, _snapshot USING _type, _id, _version, _shape;
    RETURN coalesce(_snapshot, repeat(E'\x1f', 3)) || E'\x1f' || my_app.events_fetch(_field, _value, _types, coalesce(_latest, 0));
END
$pgevents$;

-- The answer of an append, and after it in a further field the same as of now, with the events that it has saved: so
-- that a save which folds a view reads it in its own statement. The last field is empty where events_fetch gives NULL.
CREATE OR REPLACE FUNCTION my_app.events_view_after(
    _answer text,
    _projections regclass, _type text, _id text, _version int, _shape text, _field text, _value text, _types text[]
) RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    RETURN _answer || E'\x1f' || coalesce(
        my_app.events_fetch_view(_projections, _type, _id, _version, _shape, _field, _value, _types), '');
END
$pgevents$;
