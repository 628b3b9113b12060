-- What is refused, before anything is written.

-- A transaction in which a promise could not be kept. In any other, what is answered will be durable.
CREATE OR REPLACE FUNCTION my_app.events_refuse_transaction() RETURNS void LANGUAGE plpgsql VOLATILE AS $pgevents$
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
CREATE OR REPLACE FUNCTION my_app.events_refuse_order(_id bigint, _last bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $pgevents$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PGE02',
        MESSAGE = 'the sequence of the events table gave out id ' || _id || ' after id ' || _last
            || ': it must be CACHE 1, INCREMENT 1, NO CYCLE and never be set back';
END
$pgevents$;

-- Conditions that match nothing, so that the save would be checked against nothing.
CREATE OR REPLACE FUNCTION my_app.events_refuse_conditions(_conditions jsonb) RETURNS void LANGUAGE plpgsql VOLATILE AS $pgevents$
BEGIN
    IF jsonb_path_exists(_conditions, '$[*] ? (
        exists(@.streams[*].match.* ? (@.type() != "string"))
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
CREATE OR REPLACE FUNCTION my_app.events_refuse_unreadable(_events jsonb) RETURNS void LANGUAGE plpgsql VOLATILE AS $pgevents$
DECLARE
    _reason CONSTANT text := CASE
        WHEN jsonb_path_exists(_events, '$.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))') THEN
            'a number is beyond 1e308'
        WHEN jsonb_path_exists(_events, '$.**{203}') THEN 'data are nested more than 200 deep'
        WHEN jsonb_path_exists(_events, '$[*].data.* ? (exists(@."$encrypted" ? (@.type() != "string")))') THEN
            '"$encrypted" stands for a text' END;
BEGIN
    IF _reason IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE05', MESSAGE = 'no program could read these events: ' || _reason;
    END IF;
END
$pgevents$;
