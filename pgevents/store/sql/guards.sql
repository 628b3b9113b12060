-- Triggers that refuse every write but through the functions. Where nobody but the owner has INSERT, they are a second door;
-- else they guard against accidents.

-- No INSERT but through the append functions of this generation. (A condition of the trigger's own would be parsed at each
-- INSERT, which takes three times as long.)
CREATE OR REPLACE FUNCTION my_app.events_insert_guard() RETURNS trigger
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _state CONSTANT text := coalesce(current_setting('pgevents.my_app_events', true), '');
BEGIN
    IF _state = 'the generation|'
        AND set_config('pgevents.my_app_events', 'used|', true) IS NOT NULL  -- open for one statement: triggers may insert, too
    THEN
        RETURN NULL;
    ELSIF starts_with(_state, 'used|') THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE03',
            MESSAGE = 'a trigger of the events table inserts an event while another one is inserted; '
                'save it with a plugin, or from a subscription';
    ELSIF split_part(_state, '|', 1) <> '' THEN
        RAISE serialization_failure USING MESSAGE = 'the append function was replaced meanwhile; run the save again';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'PGE03',
        MESSAGE = 'the events table takes events through its append function only, which keeps their order',
        HINT = 'To restore a dump of data alone into tables that exist, make it with pg_dump --disable-triggers.';
END
$pgevents$;

-- How often the log was changed under maintenance, and when last, as far as the calling statement sees. Whoever folds a
-- snapshot notes it before reading.
CREATE OR REPLACE FUNCTION my_app.events_redactions() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    RETURN (SELECT concat(count(*), ' ', max(at)) FROM my_app.events_maintenance);
END
$pgevents$;

-- The same as of now, while nobody else changes the log until this transaction ends: what was noted before and is still so
-- was folded from events that stand. Maintenance holds the same key exclusively to its commit.
CREATE OR REPLACE FUNCTION my_app.events_hold_redactions() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(my_app.events_key('redaction', '')) THEN
        RAISE lock_not_available USING
            MESSAGE = 'the log is being changed under maintenance; a snapshot can be saved again once that has ended';
    END IF;
    RETURN my_app.events_redactions();
END
$pgevents$;

-- No other write at all. pgevents.maintenance, set to a reason, lets UPDATE, DELETE and TRUNCATE pass and leaves a row in
-- the maintenance table: who, why and which events. Of the statement it keeps the part before the first value or comment,
-- because what was erased must not live on in the trail.
CREATE OR REPLACE FUNCTION my_app.events_guard() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _reason text := coalesce(current_setting('pgevents.maintenance', true), '');
    _events bigint;
    _ids bigint[];
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        NEW.data := my_app.events_refuse_event(NEW.type, NEW.data, NEW.metadata, NEW.created_at);
        NEW.updated_at := clock_timestamp();
        RETURN NEW;
    ELSIF _reason = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE03',
            MESSAGE = 'the events table is append-only: ' || TG_OP || ' is refused',
            HINT = 'Save a correcting event, or use client.maintenance(reason).';
    END IF;
    PERFORM pg_advisory_xact_lock(my_app.events_key('redaction', ''));  -- before anything is changed
    IF TG_WHEN = 'AFTER' THEN
        SELECT count(*), (array_agg(id ORDER BY id))[1:1000] INTO _events, _ids FROM changed;
    ELSIF TG_OP <> 'TRUNCATE' THEN
        RETURN NULL;  -- the trigger after the statement knows which events it changed
    END IF;
    IF TG_OP = 'TRUNCATE' THEN  -- ids may be given out anew, and a place would then stand for other events
        UPDATE my_app.events_checkpoints
        SET state = 'stopped', state_at = clock_timestamp(), generation = generation + 1,
            leased_at = NULL, leased_until = NULL, error = 'the log was truncated: reset the subscription';
    END IF;
    -- for each list
    IF TG_WHEN = 'AFTER' THEN
        DELETE FROM my_app.events_lists AS l USING changed AS c, my_app.events_values(c.data->'cart_id') AS v
        WHERE l.field = 'cart_id' AND l.value = v AND l.id = c.id;
        INSERT INTO my_app.events_lists (field, value, id)
        SELECT 'cart_id', v, e.id
        FROM changed AS c JOIN my_app.events AS e ON e.id = c.id, my_app.events_values(e.data->'cart_id') AS v;
    ELSE
        DELETE FROM my_app.events_lists WHERE field = 'cart_id';
    END IF;
    -- end
    INSERT INTO my_app.events_maintenance (role, operation, reason, statement, events, ids)
    VALUES (
        session_user, TG_OP, _reason,
        rtrim((regexp_split_to_array(current_query(), $re$'|\$|--|/\*|\m[0-9]$re$))[1]), _events, _ids);
    RETURN NULL;
END
$pgevents$;

-- The values of lists are written with their events alone.
CREATE OR REPLACE FUNCTION my_app.events_lists_guard() RETURNS trigger
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    IF strpos(current_setting('pgevents.my_app_events', true), '|') > 1 OR current_setting('pgevents.maintenance', true) <> '' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'PGE03',
        MESSAGE = 'the values by which events belong to streams are written with the events: ' || TG_OP || ' is refused',
        HINT = 'To restore a dump of data alone into tables that exist, make it with pg_dump --disable-triggers.';
END
$pgevents$;

-- Marks what a change of the log under maintenance touches: rows of kept views that events before or after it belong to are
-- deleted, so that nobody is served what was erased, and their keepers fold them anew.
CREATE OR REPLACE FUNCTION my_app.events_mark() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _kept my_app.events_kept;
    _ids text[];
    _views regclass;
BEGIN
    FOR _kept IN SELECT k.* FROM my_app.events_kept AS k LOOP
        _views := my_app.events_views_of(_kept.projections);
        CONTINUE WHEN _views IS NULL;
        IF TG_OP = 'TRUNCATE' OR _kept.fields IS NULL THEN
            PERFORM my_app.events_begin_anew(_kept.name);
            EXECUTE 'DELETE FROM ' || _views || ' WHERE type = $1 AND version = $2' USING _kept.type, _kept.version;
            CONTINUE;
        END IF;
        IF TG_OP = 'UPDATE' THEN
            _ids := ARRAY(
                SELECT DISTINCT my_app.events_text(e.data, e.metadata, f)
                FROM (SELECT * FROM before UNION ALL SELECT * FROM after) AS e, unnest(_kept.fields) AS f);
        ELSE
            _ids := ARRAY(
                SELECT DISTINCT my_app.events_text(e.data, e.metadata, f) FROM before AS e, unnest(_kept.fields) AS f);
        END IF;
        EXECUTE 'DELETE FROM ' || _views || ' WHERE type = $1 AND version = $2 AND id = ANY ($3)'
        USING _kept.type, _kept.version, _ids;
        PERFORM my_app.events_fold_anew(_kept.name, _ids);
    END LOOP;
    RETURN NULL;
END
$pgevents$;

-- A projections table by the name under which it is noted; NULL if there is none, or it is another table.
CREATE OR REPLACE FUNCTION my_app.events_views_of(_projections text) RETURNS regclass LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $pgevents$
    SELECT t.tgrelid::regclass FROM pg_catalog.pg_trigger AS t
    WHERE t.tgrelid = to_regclass(_projections) AND t.tgname = 'pgevents_refold'
$pgevents$;

-- A view begins to be kept. What was saved of it before the last change of the log under maintenance, and what was folded on
-- from that, may hold what was erased.
CREATE OR REPLACE FUNCTION my_app.events_begin_keeping(_name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _kept my_app.events_kept;
BEGIN
    SELECT k.* INTO _kept FROM my_app.events_kept AS k WHERE k.name = _name;
    IF EXISTS (SELECT FROM my_app.events_maintenance) AND my_app.events_views_of(_kept.projections) IS NOT NULL THEN
        EXECUTE 'DELETE FROM ' || my_app.events_views_of(_kept.projections) || ' WHERE type = $1 AND version = $2'
        USING _kept.type, _kept.version;
    END IF;
END
$pgevents$;

-- Lets the keeper of a view fold these ids anew, before it goes on with any of their events: hence the id 0. A keeper that has
-- not begun folds them anyway, but a cluster may have folded them already.
CREATE OR REPLACE FUNCTION my_app.events_fold_anew(_name text, _ids text[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
    INSERT INTO my_app.events_parked (name, key, event_id, hash, state, due_at, note)
    SELECT DISTINCT _name, w.key, 0, hashtextextended(w.key, 0), 'retrying', clock_timestamp(), 'to be folded anew'
    FROM unnest(_ids) AS w(key)
    WHERE w.key IS NOT NULL AND (
        (SELECT max(c.position) FROM my_app.events_checkpoints AS c WHERE c.name = _name) > 0
        OR EXISTS (SELECT FROM my_app.events_ranges AS r WHERE r.name = _name))
    ON CONFLICT (name, key, event_id) DO UPDATE
    SET state = 'retrying', due_at = clock_timestamp(), attempts = 0, note = excluded.note
$pgevents$;

-- Lets the keeper of a view fold all of it anew.
CREATE OR REPLACE FUNCTION my_app.events_begin_anew(_name text) RETURNS void LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $pgevents$
    UPDATE my_app.events_kept SET complete_at = NULL, target = my_app.events_last_issued() WHERE name = _name;
    DELETE FROM my_app.events_ranges WHERE name = _name;
    UPDATE my_app.events_checkpoints
    SET position = 0, layers = '[]', generation = generation + 1, state_at = clock_timestamp() WHERE name = _name;
$pgevents$;

-- Trigger of the projections table: what is deleted of a kept view is folded anew.
CREATE OR REPLACE FUNCTION my_app.events_refold() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM my_app.events_begin_anew(k.name) FROM my_app.events_kept AS k WHERE to_regclass(k.projections) = TG_RELID;
    ELSE
        PERFORM my_app.events_fold_anew(t.name, t.ids)
        FROM (
            SELECT k.name, array_agg(d.id) AS ids
            FROM deleted AS d JOIN my_app.events_kept AS k USING (type, version)
            WHERE to_regclass(k.projections) = TG_RELID GROUP BY k.name) AS t;
    END IF;
    RETURN NULL;
END
$pgevents$;

-- Whether a view is kept, for those who query it; notes that it is read.
CREATE OR REPLACE FUNCTION my_app.events_view_asked(_name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
BEGIN
    IF current_setting('transaction_read_only') = 'off' THEN
        UPDATE my_app.events_kept SET read_at = clock_timestamp()
        WHERE name = (
            SELECT k.name FROM my_app.events_kept AS k
            WHERE k.name = _name AND (k.read_at IS NULL OR k.read_at < clock_timestamp() - interval '1 min')
            FOR UPDATE SKIP LOCKED);
    END IF;
    RETURN EXISTS (SELECT FROM my_app.events_kept AS k WHERE k.name = _name);
END
$pgevents$;
