-- What is refused, before anything is written.

-- Whether a transaction is as most are: the promises can be kept, and what is answered will be durable.
CREATE OR REPLACE FUNCTION my_app.events_is_usual_transaction() RETURNS boolean LANGUAGE sql VOLATILE
    RETURN current_setting('transaction_isolation') = 'read committed' AND NOT pg_is_in_recovery()
        AND current_setting('synchronous_commit') <> 'off';

-- A transaction in which a promise could not be kept. In any other, what is answered will be durable.
CREATE OR REPLACE FUNCTION my_app.events_refuse_transaction() RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE01',
            MESSAGE = 'this transaction is ' || upper(current_setting('transaction_isolation'))
                || ', whose frozen snapshot cannot see what other writers commit; appends and final reads need READ COMMITTED';
    ELSIF pg_is_in_recovery() THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE01',
            MESSAGE = 'this server is a standby: it answers ordinary reads only; connect to the primary';
    ELSIF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END
$pgevents$;

-- An id that came after a greater one.
CREATE OR REPLACE FUNCTION my_app.events_refuse_order(_id bigint, _last bigint) RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PGE02',
        MESSAGE = 'the sequence of the events table gave out id ' || _id || ' after id ' || _last
            || ': it must be CACHE 1, INCREMENT 1, NO CYCLE and never be set back';
END
$pgevents$;

-- An event that no reader could take; the data of any other. NULL is left to the columns.
CREATE OR REPLACE FUNCTION my_app.events_refuse_event(_type text, _data jsonb, _metadata jsonb, _created_at timestamptz)
RETURNS jsonb LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _reason CONSTANT text := CASE
        WHEN length(_type) NOT BETWEEN 1 AND 200 THEN 'a type has 1 to 200 characters'
        WHEN jsonb_typeof(_data) <> 'object' THEN 'data are a JSON object'
        WHEN jsonb_typeof(_metadata) <> 'object' THEN 'metadata are a JSON object'
        WHEN _metadata ? '$version' AND NOT _metadata @? '$."$version" ? (@ >= 1 && @ <= 10000 && @ == @.floor())' THEN
            '$version in metadata is a number from 1 to 10000'
        WHEN _created_at NOT BETWEEN '0001-01-03 00:00:00+00' AND '9999-12-29 00:00:00+00' THEN
            'created_at lies in the years 1 to 9999' END;
BEGIN
    IF _reason IS NOT NULL THEN
        RAISE check_violation USING MESSAGE = _reason;
    END IF;
    RETURN _data;
END
$pgevents$;

-- Whether an event is as most are, and may be stored; what is NULL here, events_refuse_event looks at. (The table's CHECK
-- constraints would do it, but PostgreSQL reads their text anew at each INSERT, which takes as long as all the rest of it.)
CREATE OR REPLACE FUNCTION my_app.events_is_storable(_type text, _data jsonb, _metadata jsonb, _created_at timestamptz)
RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN length(nullif(_type, '')) <= 200 AND _data @> '{}' AND _metadata IS NULL AND _created_at IS NULL;

-- Conditions that match nothing, so that the save would be checked against nothing.
CREATE OR REPLACE FUNCTION my_app.events_refuse_conditions(_conditions jsonb) RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    IF jsonb_path_exists(_conditions, '$[*] ? (
        exists(@.streams[*].match.* ? (@.type() != "string" && (@.type() != "object" || !exists(@.all[*]))))
        || exists(@.streams[*].match.*.all[*] ? (@.type() != "string"))
        || exists(@.streams[*] ? (@.types.type() != "null").types[*] ? (@.type() != "string"))
    )') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'values and types of a stream are texts, neither null nor anything else',
            HINT = 'Write {"types": ["A"], "match": {"cart_id": ["1"]}}; of any type is "types": null, of anything "match": {}.';
    ELSIF jsonb_path_exists(_conditions, '$[*] ? (@.seen > 0 && !exists(@.digest ? (@.type() == "number")))') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'a condition that has seen events names their digest',
            HINT = 'SELECT count(*) AS seen, my_app.events_digest(array_agg(id)) AS digest ...';
    END IF;
END
$pgevents$;

-- Documents of other programs that no reader could take.
CREATE OR REPLACE FUNCTION my_app.events_refuse_unreadable(_events jsonb) RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _reason CONSTANT text := CASE
        WHEN jsonb_path_exists(_events, '$.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))') THEN
            'a number is beyond 1e308'
        WHEN jsonb_path_exists(_events, '$.**{203}') THEN 'data are nested more than 200 deep'
        WHEN jsonb_path_exists(_events, '$[*].data.* ? (exists(@."$encrypted" ? (@.type() != "string")))') THEN
            '"$encrypted" stands for a text'
        -- Without a zone a time would mean what the session's settings make of it.
        WHEN jsonb_path_exists(_events, '$[*].created_at.type() ? (@ != "string" && @ != "null")')
            OR jsonb_path_exists(_events, '$[*].created_at ? (!(@ like_regex
                "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$"))') THEN
            'created_at is a time with its zone, as in "2026-01-31T12:00:00Z"' END;
BEGIN
    IF _reason IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE05', MESSAGE = 'no program could read these events: ' || _reason;
    END IF;
END
$pgevents$;
