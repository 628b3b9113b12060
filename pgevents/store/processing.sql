-- Subscriptions of one events table: where they stand, what is parked, who works. Names in double braces are filled
-- in by pgevents.store.processing; %(names)s are parameters. A line "-- [name]" begins a statement.
--
-- One row of {{checkpoints}} is one lane of one subscription. Whoever handles a lane's events holds the row's lock
-- (effects in this database) or its lease (effects outside) and moves its place.

-- [table checkpoints]
CREATE TABLE IF NOT EXISTS {{checkpoints}} (
    name text NOT NULL CHECK (name <> ''),
    lane int NOT NULL CHECK (lane >= 0),
    lanes int NOT NULL CHECK (lanes > lane),
    question jsonb NOT NULL,                    -- the streams and the key that the place answers
    key_hash bigint NOT NULL,                   -- of a fixed text: lanes are dealt out by the same hash function
    position bigint NOT NULL,                   -- every event of the lane up to here is dealt with
    layers jsonb NOT NULL DEFAULT '[]',         -- earlier divisions into lanes, and the places that they had reached
    generation bigint NOT NULL DEFAULT 1,       -- raised by whoever takes the lane away: leases, pause, reset
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'stopped')),
    state_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz,                         -- waits until then
    attempts int NOT NULL DEFAULT 0,            -- failures of the event failed_id, above the place
    failed_id bigint,
    interruptions int NOT NULL DEFAULT 0,       -- errors of the database at the place
    careful int NOT NULL DEFAULT 0,             -- how many events are still given one by one
    announced bigint,                           -- the event being handled, where workers may die of it; 0: none yet
    leased_at timestamptz,
    leased_until timestamptz,
    leased_by text,                             -- host, process and thread that have the lease
    error text,
    PRIMARY KEY (name, lane)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- [table parked]
CREATE TABLE IF NOT EXISTS {{parked}} (
    name text NOT NULL,
    key text NOT NULL,                          -- '' where the subscription has no key
    event_id bigint NOT NULL,
    hash bigint NOT NULL,                       -- of the key; its lane is this modulo the number of lanes
    state text NOT NULL CHECK (state IN ('queued', 'retrying', 'parked', 'discarded')),
    attempts int NOT NULL DEFAULT 0,
    due_at timestamptz,
    error text,
    failed_at timestamptz,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    note text,                                  -- who discarded it or tried it again, and why
    PRIMARY KEY (name, key, event_id)
);

-- [table notes]
-- What people did with parked events. It is kept when the event is handled and leaves {{parked}}.
CREATE TABLE IF NOT EXISTS {{notes}} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    key text NOT NULL,
    event_id bigint NOT NULL,
    action text NOT NULL CHECK (action IN ('retried', 'discarded')),
    by text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- [table runners]
CREATE TABLE IF NOT EXISTS {{runners}} (
    id text PRIMARY KEY,
    host text NOT NULL,
    pid int NOT NULL,
    workers int NOT NULL,
    names text[] NOT NULL,
    notes jsonb NOT NULL DEFAULT '{}',
    batch_seconds jsonb NOT NULL DEFAULT '{}',  -- by subscription: how long a batch takes
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- [table seen]
CREATE TABLE IF NOT EXISTS {{seen}} (
    at timestamptz PRIMARY KEY DEFAULT clock_timestamp(),
    last_id bigint NOT NULL
);

-- [lacks_holder]
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(%(checkpoints)s)) AND NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass(%(checkpoints)s) AND attname = 'leased_by' AND NOT attisdropped
);

-- [add_holder]
ALTER TABLE {{checkpoints}} ADD COLUMN leased_by text;

-- [is_old_form]
SELECT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass(%(checkpoints)s) AND attname = 'streams' AND NOT attisdropped
);

-- [set_aside]
ALTER TABLE {{checkpoints}} RENAME TO {{old_name}};
ALTER TABLE {{old}} DROP CONSTRAINT IF EXISTS {{old_key}};

-- [bring_along]
INSERT INTO {{checkpoints}} (name, lane, lanes, question, key_hash, position, moved_at)
SELECT name, 0, 1, jsonb_build_object('streams', streams, 'key', '[]'::jsonb), hashtextextended('pgevents ' || getdatabaseencoding(), 0), position, updated_at
FROM {{old}};
DROP TABLE {{old}};

-- [ensure]
INSERT INTO {{checkpoints}} (name, lane, lanes, question, key_hash, position)
SELECT %(name)s, lane, %(lanes)s, %(question)s, hashtextextended('pgevents ' || getdatabaseencoding(), 0), 0
FROM generate_series(0, %(lanes)s - 1) AS lane
WHERE NOT EXISTS (SELECT FROM {{checkpoints}} WHERE name = %(name)s)
ON CONFLICT DO NOTHING;

-- [rows]
SELECT lane, lanes, question::text, position, layers::text, generation, state, key_hash <> hashtextextended('pgevents ' || getdatabaseencoding(), 0),
    careful, announced, attempts, interruptions, error, due_at, leased_until > clock_timestamp(),
    extract(epoch FROM clock_timestamp() - moved_at)::float8, state_at
FROM {{checkpoints}} WHERE name = %(name)s ORDER BY lane;

-- [lock_rows]
SELECT lane FROM {{checkpoints}} WHERE name = %(name)s ORDER BY lane FOR UPDATE;

-- [gate]
SELECT pg_advisory_xact_lock(hashtextextended(%(gate)s, 0));

-- [claim]
-- The lanes that nobody else has, in the order asked for. xmax is who locked the row last: if that transaction was
-- aborted, its worker died or was cut off in the middle.
WITH gate AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%(gate)s, 0)) AS is_open,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next,
        EXISTS (SELECT FROM {{checkpoints}} WHERE name = %(name)s AND (careful > 0 OR interruptions >= 3)) AS has_careful
)
SELECT c.lane, c.lanes, c.question::text, c.position, c.layers::text, c.generation,
    c.key_hash <> hashtextextended('pgevents ' || getdatabaseencoding(), 0), c.careful, c.announced, c.attempts, c.failed_id,
    c.interruptions,
    CASE WHEN c.xmax::text <> '0' AND (next - c.xmax::text::bigint & 4294967295) BETWEEN 1 AND 2147483647 THEN
        pg_xact_status((next - (next - c.xmax::text::bigint & 4294967295))::text::xid8) = 'aborted' END,
    clock_timestamp() > c.moved_at + interval '10 s', has_careful
FROM {{checkpoints}} AS c, gate
WHERE is_open AND c.name = %(name)s AND c.lane = ANY (%(lanes)s) AND c.state = 'active'
    AND (c.due_at IS NULL OR c.due_at <= clock_timestamp())
    AND (c.leased_until IS NULL OR c.leased_until <= clock_timestamp() OR c.leased_at > clock_timestamp())
    AND (%(careful)s IS NULL OR (c.careful > 0 OR c.interruptions >= 3) = %(careful)s)
ORDER BY array_position(%(lanes)s, c.lane) LIMIT %(limit)s
FOR UPDATE OF c SKIP LOCKED;

-- [move]
UPDATE {{checkpoints}} AS c
SET position = m.position, moved_at = clock_timestamp(), interruptions = 0, due_at = NULL,
    attempts = CASE WHEN c.failed_id > m.position THEN c.attempts ELSE 0 END,
    failed_id = CASE WHEN c.failed_id > m.position THEN c.failed_id END,
    error = CASE WHEN c.failed_id > m.position THEN c.error END,
    announced = CASE WHEN c.careful > m.handled AND c.announced IS NOT NULL THEN 0 END,
    careful = greatest(c.careful - m.handled, 0)
FROM unnest(%(lanes)s::int[], %(positions)s::bigint[], %(handled)s::int[]) AS m (lane, position, handled)
WHERE c.name = %(name)s AND c.lane = m.lane;

-- [drop_layers]
UPDATE {{checkpoints}} SET layers = '[]' WHERE name = %(name)s AND lane = %(lane)s;

-- [note]
UPDATE {{checkpoints}}
SET attempts = %(attempts)s, failed_id = %(failed_id)s, interruptions = %(interruptions)s, careful = %(careful)s,
    announced = %(announced)s, error = %(error)s,
    due_at = CASE WHEN %(delay)s > 0 THEN clock_timestamp() + %(delay)s * interval '1 s' END
WHERE name = %(name)s AND lane = %(lane)s;

-- [lease]
UPDATE {{checkpoints}}
SET generation = generation + 1, leased_at = clock_timestamp(),
    leased_until = clock_timestamp() + %(lease)s * interval '1 s', leased_by = %(holder)s
WHERE name = %(name)s AND lane = %(lane)s RETURNING generation;

-- [announce]
-- Before an event is handled outside: only while the lane is still this worker's.
UPDATE {{checkpoints}}
SET announced = %(event_id)s, leased_at = clock_timestamp(),
    leased_until = clock_timestamp() + %(lease)s * interval '1 s'
WHERE name = %(name)s AND lane = %(lane)s AND generation = %(generation)s AND state = 'active'
    AND leased_until > clock_timestamp() AND leased_at <= clock_timestamp();

-- [handled_outside]
UPDATE {{checkpoints}}
SET position = greatest(position, %(position)s), moved_at = clock_timestamp(), attempts = 0, failed_id = NULL,
    interruptions = 0, due_at = NULL, error = NULL, announced = NULL, careful = 0
WHERE name = %(name)s AND lane = %(lane)s AND generation = %(generation)s;

-- [hold]
-- Whether the lane is still this worker's; locks the row for the rest of the transaction.
SELECT lane FROM {{checkpoints}} WHERE name = %(name)s AND lane = %(lane)s AND generation = %(generation)s FOR UPDATE;

-- [give_back]
UPDATE {{checkpoints}} SET leased_at = NULL, leased_until = NULL
WHERE name = %(name)s AND lane = %(lane)s AND generation = %(generation)s;

-- [leases]
SELECT lane, announced, leased_until FROM {{checkpoints}}
WHERE name = %(name)s AND leased_until > clock_timestamp() AND leased_at <= clock_timestamp() ORDER BY lane;

-- [set_state]
UPDATE {{checkpoints}}
SET state = %(state)s, state_at = clock_timestamp(), generation = generation + 1, error = coalesce(%(error)s, error),
    due_at = NULL, announced = NULL, leased_at = NULL, leased_until = NULL,
    attempts = CASE %(state)s WHEN 'active' THEN 0 ELSE attempts END,
    failed_id = CASE %(state)s WHEN 'active' THEN NULL ELSE failed_id END,
    interruptions = CASE %(state)s WHEN 'active' THEN 0 ELSE interruptions END
WHERE name = %(name)s;

-- [forget_error]
UPDATE {{checkpoints}} SET error = NULL WHERE name = %(name)s;

-- [forget_parked_errors]
UPDATE {{parked}} SET error = NULL WHERE error IS NOT NULL;

-- [forget_lane_errors]
UPDATE {{checkpoints}} SET error = NULL WHERE error <> 'the log was truncated: reset the subscription';  -- which is the guard's

-- [reset]
UPDATE {{checkpoints}}
SET position = %(position)s, layers = '[]', question = %(question)s, generation = generation + 1,
    state_at = clock_timestamp(),
    key_hash = hashtextextended('pgevents ' || getdatabaseencoding(), 0), moved_at = clock_timestamp(), due_at = NULL, attempts = 0,
    failed_id = NULL, interruptions = 0, careful = 0, announced = NULL, leased_at = NULL, leased_until = NULL, error = NULL
WHERE name = %(name)s;

-- [discard_above]
WITH done AS (
    UPDATE {{parked}} SET state = 'discarded', due_at = NULL, error = NULL, note = %(note)s
    WHERE name = %(name)s AND event_id > %(position)s AND state <> 'discarded' RETURNING key, event_id)
INSERT INTO {{notes}} (name, key, event_id, action, by, reason)
SELECT %(name)s, key, event_id, 'discarded', %(by)s, %(reason)s FROM done ORDER BY event_id;

-- [ask_again]
UPDATE {{checkpoints}} SET question = %(question)s, generation = generation + 1, state_at = clock_timestamp() WHERE name = %(name)s;

-- [deal_out]
INSERT INTO {{checkpoints}} (name, lane, lanes, question, key_hash, position, layers, generation, state, state_at)
SELECT %(name)s, lane, %(lanes)s, %(question)s, %(key_hash)s, %(position)s, %(layers)s, %(generation)s, %(state)s,
    clock_timestamp()
FROM generate_series(0, %(lanes)s - 1) AS lane;

-- [key_hash]
SELECT min(key_hash), min(state), max(generation) FROM {{checkpoints}} WHERE name = %(name)s;

-- [delete_rows]
DELETE FROM {{checkpoints}} WHERE name = %(name)s;

-- [same_hash]
UPDATE {{checkpoints}} SET key_hash = hashtextextended('pgevents ' || getdatabaseencoding(), 0) WHERE name = %(name)s;

-- [hash_parked]
UPDATE {{parked}} SET hash = hashtextextended(key, 0) WHERE name = %(name)s AND hash <> hashtextextended(key, 0);

-- [rename]
UPDATE {{checkpoints}} SET name = %(new)s, generation = generation + 1 WHERE name = %(name)s;

-- [rename_parked]
UPDATE {{parked}} SET name = %(new)s WHERE name = %(name)s;
UPDATE {{notes}} SET name = %(new)s WHERE name = %(name)s;

-- [blocked]
-- Of these keys, those that are parked: from which event on, and which of these events, each of which has its key.
SELECT k.key, first.event_id, mine.ids
FROM (SELECT DISTINCT key FROM unnest(%(keys)s::text[]) AS u (key)) AS k
CROSS JOIN LATERAL (
    SELECT p.event_id FROM {{parked}} AS p
    WHERE p.name = %(name)s AND p.key = k.key AND p.state <> 'discarded' ORDER BY p.event_id LIMIT 1) AS first
LEFT JOIN (
    SELECT i.key, array_agg(i.id ORDER BY i.id) AS ids
    FROM unnest(%(of)s::text[], %(ids)s::bigint[]) AS i (key, id)
    JOIN {{parked}} AS p ON p.name = %(name)s AND p.key = i.key AND p.event_id = i.id AND p.state <> 'discarded'
    GROUP BY i.key) AS mine ON mine.key = k.key;

-- [park]
INSERT INTO {{parked}} AS p (name, key, event_id, hash, state, attempts, due_at, error, failed_at)
VALUES (%(name)s, %(key)s, %(event_id)s, %(hash)s, %(state)s, %(attempts)s,
    CASE %(state)s WHEN 'retrying' THEN clock_timestamp() + %(delay)s * interval '1 s' END, %(error)s, clock_timestamp())
ON CONFLICT (name, key, event_id) DO UPDATE
SET state = excluded.state, attempts = excluded.attempts, due_at = excluded.due_at, error = excluded.error,
    failed_at = excluded.failed_at, note = NULL;

-- [queue]
INSERT INTO {{parked}} (name, key, event_id, hash, state)
SELECT %(name)s, q.key, q.event_id, q.hash, 'queued'
FROM unnest(%(keys)s::text[], %(ids)s::bigint[], %(hashes)s::bigint[]) AS q (key, event_id, hash)
ON CONFLICT (name, key, event_id) DO UPDATE SET state = 'queued', attempts = 0, note = NULL
WHERE {{parked}}.state = 'discarded';

-- [due]
-- The key whose retry is due for longest, in lanes that this worker has.
SELECT p.key, p.event_id, p.attempts, p.hash, p.error IS NOT DISTINCT FROM %(died)s
FROM {{parked}} AS p
WHERE p.name = %(name)s AND p.state = 'retrying' AND p.due_at <= clock_timestamp()
    AND p.event_id <= (%(positions)s::bigint[])[1 + mod(mod(p.hash, %(lanes)s) + %(lanes)s, %(lanes)s)]
    AND NOT EXISTS (
        SELECT FROM {{parked}} AS q
        WHERE %(is_keyed)s AND q.name = p.name AND q.key = p.key AND q.event_id < p.event_id AND q.state <> 'discarded')
ORDER BY p.due_at LIMIT 1;

-- [attempt]
UPDATE {{parked}}
SET attempts = %(attempts)s, state = %(state)s, error = coalesce(%(error)s, error), failed_at = clock_timestamp(),
    due_at = CASE %(state)s WHEN 'retrying' THEN clock_timestamp() + %(delay)s * interval '1 s' END
WHERE name = %(name)s AND key = %(key)s AND event_id = %(event_id)s AND state <> 'discarded';

-- [key_queue]
SELECT event_id, state, attempts FROM {{parked}}
WHERE name = %(name)s AND key = %(key)s AND event_id >= %(event_id)s AND state <> 'discarded'
ORDER BY event_id LIMIT %(limit)s;

-- [release]
DELETE FROM {{parked}}
WHERE name = %(name)s AND key = %(key)s AND event_id = ANY (%(ids)s) AND state <> 'discarded';

-- [promote]
-- An event that is the first of its key is tried at once.
UPDATE {{parked}} AS p SET state = 'retrying', due_at = clock_timestamp()
FROM (
    SELECT key, (
        SELECT q.event_id FROM {{parked}} AS q
        WHERE q.name = %(name)s AND q.key = k.key AND q.state <> 'discarded' ORDER BY q.event_id LIMIT 1) AS event_id
    FROM unnest(%(keys)s::text[]) AS k (key)) AS first
WHERE p.name = %(name)s AND p.key = first.key AND p.event_id = first.event_id AND p.state = 'queued';

-- [failing_keys]
SELECT count(DISTINCT p.key)
FROM {{parked}} AS p
WHERE p.name = %(name)s AND p.state IN ('retrying', 'parked') AND p.parked_at > clock_timestamp() - interval '1 min'
    AND p.parked_at > (SELECT max(state_at) FROM {{checkpoints}} WHERE name = %(name)s);

-- [parked_rows]
SELECT p.key, p.event_id, p.state, p.attempts, p.due_at, p.error, p.failed_at, p.parked_at, p.note
FROM {{parked}} AS p
WHERE p.name = %(name)s AND (%(key)s IS NULL OR p.key = %(key)s) AND (%(all)s OR p.state <> 'discarded')
    AND (%(after_key)s IS NULL OR (p.key, p.event_id) > (%(after_key)s, %(after_id)s))
ORDER BY p.key, p.event_id LIMIT %(limit)s;

-- [parked_sum]
SELECT count(*), count(DISTINCT key), min(parked_at), coalesce(sum(attempts), 0)::bigint
FROM {{parked}} WHERE name = %(name)s AND state <> 'discarded';

-- [parked_of]
-- Each with the state of the first event that is set aside of its key, for which it waits.
SELECT p.name, p.key, p.event_id, p.state, CASE WHEN p.key = '' AND p.state <> 'queued' THEN p.state ELSE (
    SELECT q.state FROM {{parked}} AS q
    WHERE q.name = p.name AND q.key = p.key AND q.state <> 'discarded' ORDER BY q.event_id LIMIT 1) END
FROM {{parked}} AS p WHERE p.name = %(name)s AND p.event_id = ANY (%(ids)s);

-- [parked_below]
SELECT min(event_id) FILTER (WHERE state = 'parked'), min(event_id)
FROM {{parked}} WHERE name = %(name)s AND event_id <= %(event_id)s AND state <> 'discarded';

-- [retry]
WITH done AS (
    UPDATE {{parked}} AS p
    SET state = 'retrying', due_at = clock_timestamp(), attempts = 0, note = coalesce(%(note)s, p.note)
    WHERE p.name = %(name)s AND (%(key)s IS NULL OR p.key = %(key)s) AND (%(event_id)s IS NULL OR p.event_id = %(event_id)s)
        AND p.state = ANY (%(states)s) RETURNING p.key, p.event_id)
INSERT INTO {{notes}} (name, key, event_id, action, by, reason)
SELECT %(name)s, key, event_id, 'retried', %(by)s, %(reason)s FROM done ORDER BY event_id;

-- [is_parked]
SELECT EXISTS (SELECT FROM {{parked}} WHERE name = %(name)s AND state = 'parked');

-- [is_trying]
SELECT EXISTS (SELECT FROM {{parked}} WHERE name = %(name)s AND state = 'retrying');

-- [discard]
WITH done AS (
    UPDATE {{parked}} SET state = 'discarded', due_at = NULL, error = NULL, note = %(note)s
    WHERE name = %(name)s AND key = %(key)s AND event_id = %(event_id)s AND state <> 'discarded' RETURNING key, event_id)
INSERT INTO {{notes}} (name, key, event_id, action, by, reason)
SELECT %(name)s, key, event_id, 'discarded', %(by)s, %(reason)s FROM done;

-- [forget_notes]
-- Notes of any subscription that are too old, and of this one all but the newest.
DELETE FROM {{notes}}
WHERE at < clock_timestamp() - %(days)s * interval '1 day'
    OR name = %(name)s AND number <= (
        SELECT number FROM {{notes}} WHERE name = %(name)s ORDER BY number DESC OFFSET %(most)s LIMIT 1);

-- [notes]
SELECT number, key, event_id, action, by, reason, at FROM {{notes}}
WHERE name = %(name)s AND (%(key)s IS NULL OR key = %(key)s) AND (%(event_id)s IS NULL OR event_id = %(event_id)s)
    AND (%(below)s IS NULL OR number < %(below)s)
ORDER BY number DESC LIMIT %(limit)s;

-- [hash_of]
SELECT hashtextextended(%(key)s, 0);

-- [arrivals]
SELECT (last_value - (NOT is_called)::int)::bigint, current_setting('transaction_read_only') = 'on' FROM {{sequence}};

-- [at_lanes]
-- Who has a lane right now: the backend whose transaction locked its row, or a lease.
SELECT c.lane, l.pid, a.application_name, host(a.client_addr), extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
    CASE WHEN c.leased_until > clock_timestamp() THEN c.leased_until END, nullif(c.announced, 0),
    CASE WHEN c.leased_until > clock_timestamp() THEN c.leased_by END
FROM {{checkpoints}} AS c
LEFT JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock'
    AND l.transactionid = c.xmax AND l.pid <> pg_backend_pid()
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE c.name = %(name)s ORDER BY c.lane;

-- [came]
-- How far the log is final, and then the newest event of each type: what commits in between is seen.
SELECT set_config('pgevents.bound', {{final_bound}}(%(streams)s)::text, true);
SELECT NULL AS type, current_setting('pgevents.bound')::bigint
UNION ALL
SELECT type, max(id) FROM {{events}} WHERE id > %(after)s GROUP BY type;

-- [changes]
SELECT c.name, max(c.state_at)::text, max(c.lanes), bool_or(c.state = 'active'),
    bool_or(c.state = 'active' AND c.due_at <= clock_timestamp()), bool_or(c.careful > 0 OR c.interruptions >= 3),
    EXISTS (SELECT FROM {{parked}} AS p WHERE p.name = c.name AND p.state = 'retrying' AND p.due_at <= clock_timestamp())
FROM {{checkpoints}} AS c WHERE c.name = ANY (%(names)s) GROUP BY c.name;

-- [here]
INSERT INTO {{runners}} (id, host, pid, workers, names, notes, batch_seconds)
VALUES (%(id)s, %(host)s, %(pid)s, %(workers)s, %(names)s, %(notes)s, %(batch_seconds)s)
ON CONFLICT (id) DO UPDATE
SET seen_at = clock_timestamp(), notes = excluded.notes, batch_seconds = excluded.batch_seconds;

-- [gone]
DELETE FROM {{runners}} WHERE id = %(id)s;

-- [long_gone]
DELETE FROM {{runners}} WHERE seen_at < clock_timestamp() - interval '1 day';

-- [at_work]
SELECT r.id, r.host, r.pid, r.workers, r.names, r.notes::text, r.seen_at,
    extract(epoch FROM clock_timestamp() - r.seen_at)::float8
FROM {{runners}} AS r ORDER BY r.seen_at DESC;

-- [batch_seconds]
SELECT max((r.batch_seconds->>%(name)s)::float8) FROM {{runners}} AS r
WHERE r.seen_at > clock_timestamp() - interval '30 s';

-- [workers]
-- A runner is seen every 5 s. Who was killed must not count for long: each worker takes its share of the lanes.
SELECT n.name, sum(r.workers)::int
FROM {{runners}} AS r, unnest(r.names) AS n (name)
WHERE r.seen_at > clock_timestamp() - interval '12 s' AND n.name = ANY (%(names)s) GROUP BY n.name;

-- [saw]
INSERT INTO {{seen}} (last_id) SELECT %(last)s
WHERE NOT EXISTS (SELECT FROM {{seen}} WHERE last_id >= %(last)s)
ON CONFLICT DO NOTHING;

-- [forget_seen]
DELETE FROM {{seen}} WHERE at < clock_timestamp() - interval '1 day'
    OR last_id > %(last)s;

-- [seen_since]
SELECT extract(epoch FROM clock_timestamp() - min(at))::float8 FROM {{seen}} WHERE last_id >= %(event_id)s;

-- [names]
SELECT DISTINCT name FROM {{checkpoints}} ORDER BY name;

-- [table kept]
-- Views that subscriptions keep up to date; their places stand in {{checkpoints}} under the name.
CREATE TABLE IF NOT EXISTS {{kept}} (
    name text PRIMARY KEY,
    type text NOT NULL,
    version int NOT NULL,
    projections text NOT NULL,                  -- the table that holds the views
    fields text[],                              -- of events, whose values are the views' ids; NULL: the program says
    target bigint NOT NULL,                     -- the last id when it began: with the places there, it is complete
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    complete_at timestamptz,
    read_at timestamptz                         -- when somebody queried it, to the minute
);

-- [table ranges]
-- Views that a cluster folds, by ranges of their ids' hashes; the rows are gone when all ranges are folded.
CREATE TABLE IF NOT EXISTS {{ranges}} (
    name text NOT NULL,                         -- of the places in {{checkpoints}}
    number int NOT NULL CHECK (number >= 0),    -- the hash of an id modulo the number of ranges
    ranges int NOT NULL CHECK (ranges > number),
    fold text NOT NULL,                         -- another one whenever it begins anew
    bound bigint NOT NULL,                      -- all views are folded up to this final id
    redactions text NOT NULL,                   -- how often the log had been changed under maintenance
    asked text NOT NULL,                        -- a digest of what is folded: streams, and the views' shape
    key_hash bigint NOT NULL,                   -- as in {{checkpoints}}
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at timestamptz,
    PRIMARY KEY (name, number)
);

-- [ranges]
SELECT number, ranges, fold, bound, redactions, asked,
    key_hash = hashtextextended('pgevents ' || getdatabaseencoding(), 0), done_at IS NOT NULL
FROM {{ranges}} WHERE name = %(name)s ORDER BY number;

-- [lock_ranges]
SELECT number FROM {{ranges}} WHERE name = %(name)s ORDER BY number FOR UPDATE;

-- [begin_ranges]
INSERT INTO {{ranges}} (name, number, ranges, fold, bound, redactions, asked, key_hash)
SELECT %(name)s, number, %(ranges)s, %(fold)s, %(bound)s, %(redactions)s, %(question)s,
    hashtextextended('pgevents ' || getdatabaseencoding(), 0)
FROM generate_series(0, %(ranges)s - 1) AS number;

-- [range_done]
UPDATE {{ranges}} SET done_at = coalesce(done_at, clock_timestamp())
WHERE name = %(name)s AND number = %(number)s AND fold = %(fold)s;

-- [drop_ranges]
DELETE FROM {{ranges}} WHERE name = %(name)s;

-- [final_bound]
SELECT {{final_bound}}(%(streams)s);

-- [keep]
INSERT INTO {{kept}} AS k (name, type, version, projections, fields, target)
SELECT %(name)s, %(type)s, %(version)s, format('%%I.%%I', n.nspname, c.relname), %(fields)s::text[], %(target)s
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = %(projections)s::regclass
ON CONFLICT (name) DO UPDATE SET fields = excluded.fields
WHERE k.fields IS DISTINCT FROM excluded.fields AND k.projections = excluded.projections;

-- [is_kept_so]
SELECT EXISTS (SELECT FROM {{kept}} WHERE name = %(name)s AND fields IS NOT DISTINCT FROM %(fields)s::text[]
    AND to_regclass(projections) IS NOT DISTINCT FROM %(projections)s::regclass);

-- [is_kept_there]
SELECT to_regclass(projections) IS NOT DISTINCT FROM %(projections)s::regclass FROM {{kept}} WHERE name = %(name)s;

-- [complete]
UPDATE {{kept}} AS k SET complete_at = clock_timestamp()
WHERE k.name = %(name)s AND k.complete_at IS NULL
    AND k.target <= (SELECT min(c.position) FROM {{checkpoints}} AS c WHERE c.name = k.name)
    AND NOT EXISTS (SELECT FROM {{parked}} AS p WHERE p.name = k.name AND p.state <> 'discarded');

-- [kept]
SELECT k.name, k.type, k.version, k.target, k.began_at, k.complete_at, k.read_at,
    coalesce((SELECT min(c.position) FROM {{checkpoints}} AS c WHERE c.name = k.name), 0),
    (SELECT count(DISTINCT p.key) FROM {{parked}} AS p WHERE p.name = k.name AND p.state <> 'discarded')
FROM {{kept}} AS k WHERE %(name)s IS NULL OR k.name = %(name)s ORDER BY k.type, k.version;

-- [keepers]
SELECT r.host, r.pid FROM {{runners}} AS r
WHERE %(name)s = ANY (r.names) AND r.seen_at > clock_timestamp() - interval '30 s';

-- [drop_kept]
DELETE FROM {{kept}} WHERE name = %(name)s;

-- [drop_parked]
DELETE FROM {{parked}} WHERE name = %(name)s;

-- [hashes]
SELECT t, hashtextextended(t, 0) FROM unnest(%(texts)s::text[]) AS t;

-- [hold_redactions]
SELECT {{hold_redactions}}();

-- [behind]
-- All that is parked of a key up to an id.
SELECT event_id FROM {{parked}}
WHERE name = %(name)s AND key = %(key)s AND event_id <= %(to)s AND state <> 'discarded' ORDER BY event_id;

-- [is_wanted]
-- Whether another transaction waits for this one.
SELECT EXISTS (
    SELECT FROM pg_locks AS l WHERE NOT l.granted AND pg_backend_pid() = ANY (pg_blocking_pids(l.pid)));

-- [begin_keeping]
SELECT {{begin_keeping}}(%(name)s);

-- [table timers]
-- Events that are saved later; see timers.sql.
CREATE TABLE IF NOT EXISTS {{timers}} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text COLLATE "C" NOT NULL UNIQUE,
    due_at timestamptz NOT NULL,
    try_at timestamptz NOT NULL,                -- when it is due, or due again after a failure
    type text NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    locks int NOT NULL,                         -- how many keys a save of the event locks
    state text NOT NULL DEFAULT 'scheduled' CHECK (state IN ('scheduled', 'retrying', 'parked')),
    attempts int NOT NULL DEFAULT 0,
    error text,
    scheduled_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- [schedule]
SELECT * FROM {{schedule}}(
    %(type)s, %(data)s, %(metadata)s, %(key)s, %(at)s, %(after)s, %(replace)s, %(ahead)s);

-- [unschedule]
SELECT * FROM {{unschedule}}(%(key)s);

-- [due_timers]
SELECT * FROM {{due_timers}}(%(limit)s, %(lock_timeout)s, %(ahead)s);

-- [fired]
DELETE FROM {{timers}} WHERE number = ANY (%(numbers)s);

-- [not_fired]
UPDATE {{timers}}
SET state = %(state)s, attempts = attempts + 1, error = %(error)s,
    try_at = clock_timestamp() + %(ahead)s + %(delay)s * interval '1 s'
WHERE number = %(number)s;

-- [until_next_timer]
-- Seconds until one is due, below 0 if one is late; NULL without any.
SELECT extract(epoch FROM (
    SELECT try_at FROM {{timers}} WHERE state <> 'parked' ORDER BY try_at, number LIMIT 1
) - clock_timestamp() - %(ahead)s::interval)::float8;

-- [timers]
SELECT number, key, due_at, type, data::text, nullif(metadata, '{}')::text, state, attempts, error, scheduled_at
FROM {{timers}}
WHERE (%(key)s IS NULL OR key = %(key)s) AND (%(state)s IS NULL OR state = %(state)s)
ORDER BY due_at, number LIMIT %(limit)s;

-- [forget_timer_errors]
UPDATE {{timers}} SET error = NULL WHERE error IS NOT NULL;

-- [retry_timers]
UPDATE {{timers}} SET state = 'scheduled', attempts = 0, try_at = due_at
WHERE state <> 'scheduled' AND (%(key)s IS NULL OR key = %(key)s);

-- [timers_sum]
SELECT count(t.number), count(*) FILTER (WHERE t.state = 'parked'), count(*) FILTER (WHERE t.state = 'retrying'),
    count(*) FILTER (WHERE t.state <> 'parked' AND t.due_at <= n.now),
    greatest(extract(epoch FROM n.now - min(t.due_at) FILTER (WHERE t.state <> 'parked' AND t.due_at <= n.now)), 0)::float8,
    min(t.due_at) FILTER (WHERE t.state <> 'parked')
FROM (SELECT clock_timestamp() + %(ahead)s::interval AS now) AS n LEFT JOIN {{timers}} AS t ON true GROUP BY n.now;
