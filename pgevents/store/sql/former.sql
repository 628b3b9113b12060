-- Functions of earlier versions that have other parameters now, or are gone. Each is named with its parameters: beside a
-- new function of its name it would make the name ambiguous. Whoever changes a function's parameters adds the old ones,
-- and those of the functions that call it in a RETURN or BEGIN ATOMIC, which depend on it.
DROP FUNCTION IF EXISTS
    my_app.events_append_many(text[], text[], text[], jsonb, text, timestamptz),
    my_app.events_append_one(text, jsonb, jsonb, timestamptz, text, text, text[], bigint, bigint, bigint),
    my_app.events_append_one(text, jsonb, text, text, text[], bigint, bigint, jsonb, timestamptz),
    my_app.events_append_own(text, jsonb, text, text[], bigint),
    my_app.events_append_plain(text, jsonb),
    my_app.events_append_rows(text[], text[], text[], jsonb, text, timestamptz),
    my_app.events_event_keys(text, jsonb),
    my_app.events_fetch_view(regclass, text, text, int, text, text, text[]),
    my_app.events_has(jsonb, jsonb),
    my_app.events_insert(text[], text[], text[], text, timestamptz, bigint),
    my_app.events_lock_keys(bigint[], bigint[], boolean),
    my_app.events_lock_save(text[], text[], jsonb, text),
    my_app.events_lock_save(text[], text[], text[], jsonb, text),
    my_app.events_publish(),
    my_app.events_refuse(),
    my_app.events_remember(text, text, text),
    my_app.events_repeated(text[], text[], text),
    my_app.events_try_event(text, jsonb);
