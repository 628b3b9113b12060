-- Timers: events that are saved at a time to come, by the server's clock. A row of my_app.events_timers is an event that is
-- not saved yet. Whoever fires it appends the event under the idempotency key 'timer: <key>' and deletes the row, in one
-- transaction. So a key is in the table or in the log, never in both, and what has fired is found in the log.
--
-- `_ahead` is by how much a test has moved its clock forward; otherwise it is 0.

-- Schedules an event.
--   _key: names the timer, for good: it fires once.
--   _at, _after: when; one of them is NULL. `_after` is counted from now, by this server's clock.
--   _replace: whether the event and the time of a timer that has not fired yet are replaced.
-- Result: status ('scheduled', 'replaced', 'pending': the timer that was there stands, 'parked': it stands and waits for a
--   person, 'fired'), when it is due or was fired, the event's id if it has fired, and the event of a timer that stands.
CREATE OR REPLACE FUNCTION my_app.events_schedule(
    _type text, _data jsonb, _metadata jsonb, _key text, _at timestamptz, _after interval,
    _replace boolean DEFAULT false, _ahead interval DEFAULT '0',
    OUT status text, OUT due_at timestamptz, OUT event_id bigint, OUT type text, OUT data text, OUT metadata text
) LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _due CONSTANT timestamptz := coalesce(_at, clock_timestamp() + _ahead + _after);
    _keys CONSTANT int := cardinality(my_app.events_event_keys(_type, _data, coalesce(_metadata, '{}')));
    _number bigint;
BEGIN
    IF NOT my_app.events_is_usual_transaction() THEN
        PERFORM my_app.events_refuse_transaction();
    END IF;
    PERFORM my_app.events_refuse_event(_type, _data, coalesce(_metadata, '{}'), _due);
    IF _due IS NULL OR (_at IS NULL) = (_after IS NULL) OR length(_key) NOT BETWEEN 1 AND 400 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'a timer has a key of 1 to 400 characters, and either a time or an interval after now';
    END IF;
    LOOP
        INSERT INTO my_app.events_timers AS t (key, due_at, try_at, type, data, metadata, locks)
        VALUES (_key, _due, _due, _type, _data, coalesce(_metadata, '{}'), _keys)
        ON CONFLICT (key) DO NOTHING RETURNING t.number INTO _number;
        -- [pause: scheduled]
        IF _number IS NOT NULL THEN
            -- A later statement sees the event of whoever had the key until now, and has committed.
            SELECT e.id, e.created_at INTO event_id, due_at FROM my_app.events AS e
            WHERE e.idempotency_key = 'timer: ' || _key;
            IF event_id IS NULL THEN
                status := 'scheduled';
                due_at := _due;
            ELSE
                DELETE FROM my_app.events_timers AS t WHERE t.number = _number;
                status := 'fired';
            END IF;
            RETURN;
        END IF;
        SELECT t.number, CASE t.state WHEN 'parked' THEN 'parked' ELSE 'pending' END, t.due_at, t.type, t.data::text,
            nullif(t.metadata, '{}')::text
        INTO _number, status, due_at, type, data, metadata
        FROM my_app.events_timers AS t WHERE t.key = _key FOR UPDATE;
        CONTINUE WHEN _number IS NULL;  -- it has fired or was cancelled meanwhile
        IF _replace THEN
            UPDATE my_app.events_timers AS t
            SET due_at = _due, try_at = _due, type = _type, data = _data, metadata = coalesce(_metadata, '{}'),
                locks = _keys, state = 'scheduled', attempts = 0, error = NULL, scheduled_at = clock_timestamp()
            WHERE t.number = _number;
            status := 'replaced';
            due_at := _due;
        END IF;
        RETURN;
    END LOOP;
END
$pgevents$;

-- Cancels a timer that has not fired. Result: status ('cancelled', 'fired', 'unknown'), and the event's id if it has fired.
CREATE OR REPLACE FUNCTION my_app.events_unschedule(_key text, OUT status text, OUT event_id bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    IF NOT my_app.events_is_usual_transaction() THEN
        PERFORM my_app.events_refuse_transaction();
    END IF;
    DELETE FROM my_app.events_timers AS t WHERE t.key = _key;  -- waits for whoever fires it
    IF FOUND THEN
        status := 'cancelled';
        RETURN;
    END IF;
    SELECT e.id INTO event_id FROM my_app.events AS e WHERE e.idempotency_key = 'timer: ' || _key;
    status := CASE WHEN event_id IS NULL THEN 'unknown' ELSE 'fired' END;
END
$pgevents$;

-- The timers that are due, in order, locked until the end of the transaction; none while another transaction fires. As many
-- as their events' keys can be locked one by one. From here on the transaction waits for locks only so long.
CREATE OR REPLACE FUNCTION my_app.events_due_timers(_limit int, _lock_timeout text, _ahead interval DEFAULT '0')
RETURNS TABLE (number bigint, key text, attempts int, type text, data text, metadata text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _now timestamptz;
BEGIN
    IF NOT my_app.events_is_usual_transaction() THEN
        PERFORM my_app.events_refuse_transaction();
    END IF;
    IF NOT pg_try_advisory_xact_lock(my_app.events_key('timers', '')) THEN
        RETURN;
    END IF;
    PERFORM set_config('lock_timeout', _lock_timeout, true);
    -- Who is stopped in the middle of it does not keep all others from firing.
    PERFORM set_config('idle_in_transaction_session_timeout', '60s', true);
    _now := clock_timestamp() + _ahead;
    RETURN QUERY
        WITH due AS MATERIALIZED (
            SELECT t.*
            FROM my_app.events_timers AS t
            WHERE t.state <> 'parked' AND t.try_at <= _now
            ORDER BY t.try_at, t.number LIMIT _limit FOR UPDATE SKIP LOCKED
        ), counted AS (
            -- Of the keys of an event, that of the table is locked once for all, and that of its type once for each type.
            SELECT d.*, 1 + sum(d.locks - 2 + d.is_first_of_type) OVER w AS keys, row_number() OVER w AS place
            FROM (
                SELECT due.*, (row_number() OVER (PARTITION BY due.type ORDER BY due.try_at, due.number) = 1)::int
                    AS is_first_of_type
                FROM due
            ) AS d WINDOW w AS (ORDER BY d.try_at, d.number)
        )
        SELECT c.number, c.key, c.attempts, c.type, c.data::text, c.metadata::text
        FROM counted AS c WHERE c.place = 1 OR c.keys <= my_app.events_key_limit() ORDER BY c.place;
END
$pgevents$;
