-- Locks of a transaction: shared ones of the keys of its own events, exclusive ones of the streams that it decides on.
-- Whoever waits holds nothing that others need: all locks are tried; if one is not free, those that this save has taken
-- are given back, and that one alone is waited for.

-- Tries to take locks: the first key that is not free, or NULL once all are held. NULL among the keys is no key.
CREATE OR REPLACE FUNCTION my_app.events_try(_shared bigint[], _exclusive bigint[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _key bigint;
BEGIN
    FOREACH _key IN ARRAY _exclusive LOOP
        IF NOT pg_try_advisory_xact_lock(_key) THEN RETURN _key; END IF;
    END LOOP;
    FOREACH _key IN ARRAY _shared LOOP
        IF NOT pg_try_advisory_xact_lock_shared(_key) THEN RETURN _key; END IF;
    END LOOP;
    RETURN NULL;
END
$pgevents$;

-- Takes all locks of a save; after lock_timeout, or 10 seconds if that is not set, an error names who holds one.
CREATE OR REPLACE FUNCTION my_app.events_acquire(_shared bigint[], _exclusive bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _lock_timeout text;
    _deadline timestamptz;
    _blocked bigint;
    _next bigint;
BEGIN
    LOOP
        BEGIN
            IF _blocked IS NOT NULL THEN
                PERFORM my_app.events_wait(_blocked, _blocked = ANY (_exclusive), _deadline);
            END IF;
            _next := my_app.events_try(_shared, _exclusive);
            IF _next IS NULL AND (_blocked IS NULL OR set_config('lock_timeout', _lock_timeout, true) IS NOT NULL) THEN
                RETURN;
            END IF;
            RAISE lock_not_available;  -- gives back those that were taken
        EXCEPTION WHEN lock_not_available THEN
            _blocked := coalesce(_next, _blocked);
            _lock_timeout := current_setting('lock_timeout');
            _deadline := coalesce(
                _deadline, clock_timestamp() + CASE _lock_timeout WHEN '0' THEN '10s' ELSE _lock_timeout END::interval);
        END;
        IF clock_timestamp() >= _deadline THEN
            RAISE lock_not_available USING
                MESSAGE = 'other transactions keep the streams of this save locked',
                DETAIL = coalesce((
                    SELECT 'held by ' || string_agg(DISTINCT CASE WHEN h.pid IS NULL THEN 'a prepared transaction' ELSE concat(
                        'backend ', h.pid, ' (', a.application_name || ', ', 'in a transaction since ' || a.xact_start, ')') END, ', ')
                    FROM my_app.events_holders(ARRAY[_blocked]) AS h LEFT JOIN pg_stat_activity AS a ON a.pid = h.pid
                ), 'held by a transaction that has just ended');
        END IF;
    END LOOP;
END
$pgevents$;

-- Waits for one lock, until the deadline. Behind a queued exclusive request every later shared one queues, too; so one
-- transaction at a time queues for an exclusive lock, for 25 ms, and for a while after that looks only whether it is free.
-- The others stand in line at the key's gate (its complement), which no shared lock ever asks for. Who holds locks of
-- earlier saves stands there for 25 ms at a time, since the first in line may be waiting for those; and not for less, since
-- a gate is held until the transaction ends, and a deadlock is only found while somebody waits.
CREATE OR REPLACE FUNCTION my_app.events_wait(_key bigint, _is_exclusive boolean, _deadline timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _has_locks CONSTANT boolean := EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid());
    _is_first boolean := false;
BEGIN
    PERFORM set_config(
        'lock_timeout', greatest(1, ceil(1000 * extract(epoch FROM _deadline - clock_timestamp())))::text, true);
    IF NOT _is_exclusive THEN
        PERFORM pg_advisory_xact_lock_shared(_key);
        RETURN;
    ELSIF NOT _has_locks THEN
        PERFORM pg_advisory_xact_lock(~_key);
        _is_first := true;
    END IF;
    FOR _round IN 0 .. 1000000 LOOP
        IF mod(_round, 10) = 0 THEN
            PERFORM set_config('lock_timeout', '25ms', true);
            IF NOT _is_first THEN
                BEGIN
                    PERFORM pg_advisory_xact_lock(~_key);
                    _is_first := true;
                EXCEPTION WHEN lock_not_available THEN NULL;
                END;
            END IF;
        END IF;
        IF mod(_round, 10) = 0 AND _is_first THEN
            BEGIN
                PERFORM pg_advisory_xact_lock(_key);
                RETURN;
            EXCEPTION WHEN lock_not_available THEN NULL;
            END;
        ELSIF pg_try_advisory_xact_lock(_key) THEN
            RETURN;
        END IF;
        IF clock_timestamp() >= _deadline THEN
            RAISE lock_not_available;
        -- PostgreSQL hardly finds a deadlock among those who wait in short turns, so it is looked for here: who holds the
        -- key or its gate, whom do they wait for, and so on, back to this transaction.
        ELSIF _has_locks AND mod(_round, 5) = 0 AND EXISTS (
            WITH RECURSIVE ahead(pid) AS (
                SELECT pid FROM my_app.events_holders(ARRAY[_key, ~_key])
                UNION SELECT unnest(pg_blocking_pids(a.pid)) FROM ahead AS a
            )
            SELECT FROM ahead WHERE pid = pg_backend_pid()
        ) THEN
            RAISE deadlock_detected USING MESSAGE = 'this transaction and another wait for each other';
        END IF;
        PERFORM pg_sleep(0.005 + 0.01 * random());
    END LOOP;
END
$pgevents$;

-- Who else holds one of these keys; NULL is a prepared transaction.
CREATE OR REPLACE FUNCTION my_app.events_holders(_keys bigint[]) RETURNS TABLE (pid int)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
    SELECT l.pid FROM pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid IS DISTINCT FROM pg_backend_pid()
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
        AND (l.classid::bigint << 32 | l.objid::bigint) = ANY (_keys)
$pgevents$;

-- Locks within the limits of a transaction. Beyond the limit the bulk lock, which
-- excludes all who decide, stands for the keys of the transaction's own events; beyond twice the limit it may decide on no
-- more. Who has locked the whole table needs no other key.
--   _shared: NULL is too many
-- Result: how many keys the transaction has locked, and its scope, as it remembers them: '<keys>|<scope>'.
CREATE OR REPLACE FUNCTION my_app.events_lock_keys(_shared bigint[], _exclusive bigint[], _decides boolean) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _table CONSTANT bigint := my_app.events_key('table', '');
    _bulk CONSTANT bigint := my_app.events_key('bulk', '');
    _limit CONSTANT int := my_app.events_key_limit();
    _scope text := my_app.events_state(4);
    _count int := coalesce(nullif(my_app.events_state(3), ''), '0');
BEGIN
    IF _shared IS NULL AND _scope = '' THEN
        _scope := 'bulk';
    END IF;
    IF _count > 0 AND _count + cardinality(_shared || _exclusive) > _limit THEN  -- it may have asked for few again and again
        _count := count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid();
    END IF;
    IF _table = ANY (_exclusive) OR _scope = 'table' THEN
        _scope := 'table';
        _exclusive := ARRAY[_table];
        _decides := true;
    ELSIF _count + cardinality(_shared || _exclusive) > _limit THEN
        _scope := 'bulk';
    END IF;
    IF _scope <> '' THEN
        _shared := '{}';
    END IF;
    _count := _count + cardinality(_shared || _exclusive);
    IF _count > 2 * _limit AND cardinality(_exclusive) > 0 AND _scope <> 'table' THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE06',
            MESSAGE = 'this transaction locks more than the ' || 2 * _limit || ' keys that it may have one by one',
            HINT = 'Decide in several transactions, or lock the whole table first: SELECT my_app.events_lock(''[{}]'').';
    END IF;
    -- (PL/pgSQL evaluates an expression in much less time than a PERFORM.)
    RETURN CASE WHEN my_app.events_acquire(
        CASE WHEN _decides THEN _shared || _bulk ELSE _shared END,
        CASE WHEN _scope = 'bulk' THEN _exclusive || _bulk ELSE _exclusive END) IS NOT NULL
    THEN concat(_count, '|', _scope) END;
END
$pgevents$;

-- The exclusive locks of a decision, taken before it reads. '[{}]' is the whole table.
CREATE OR REPLACE FUNCTION my_app.events_lock(_streams jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    IF NOT my_app.events_is_usual_transaction() THEN
        PERFORM my_app.events_refuse_transaction();
    END IF;
    PERFORM my_app.events_remember(
        nullif(my_app.events_state(2), '')::bigint, my_app.events_lock_keys('{}', my_app.events_stream_keys(_streams), true));
END
$pgevents$;

-- The same for one value of a data index (of these types; NULL: any), and until the commit nobody changes the log under
-- maintenance: for a save that folds the view of that value. In few steps, if nothing was locked before and nobody is in
-- the way.
CREATE OR REPLACE FUNCTION my_app.events_lock_value(_field text, _value text, _types text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    BEGIN
        IF (coalesce(current_setting('pgevents.my_app_events', true), '') = ''
            AND pg_try_advisory_xact_lock_shared(my_app.events_key('bulk', ''))
            AND pg_try_advisory_xact_lock(my_app.events_key('data ' || _field, _value))
            AND pg_try_advisory_xact_lock_shared(my_app.events_key('redaction', ''))
            AND my_app.events_remember(NULL, '2|') IS NOT NULL) IS NOT TRUE
        THEN
            RAISE lock_not_available;  -- gives back those that were taken
        END IF;
    EXCEPTION WHEN lock_not_available THEN
        PERFORM my_app.events_lock(jsonb_build_array(
            jsonb_build_object('types', _types, 'match', jsonb_build_object(_field, ARRAY[_value]))));
        PERFORM my_app.events_hold_redactions();
    END;
END
$pgevents$;
