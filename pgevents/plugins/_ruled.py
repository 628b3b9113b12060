"""The personal fields of events as a table in the database, and a trigger that reads it.

The trigger refuses personal fields in the clear, whoever saves them: a client without the plugin, the command
line, or SQL. `create_tables()` makes it where the plugin is registered.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakSet

from pgevents import ConfigurationError, EventClient, NotInstalledError
from pgevents.plugins._tables import execute, literal

__all__ = ["RuledFields"]

TABLE_SQL = """\
CREATE TABLE IF NOT EXISTS {fields} (
    type text NOT NULL,
    field text NOT NULL,
    subject text NOT NULL,
    PRIMARY KEY (type, field)
)
"""
# Names have their schema: the function sets a search_path of its own, so that no other table can be meant.
CHECK_SQL = """\
CREATE OR REPLACE FUNCTION {schema}.{check_name}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgevents$
DECLARE
    _type text;
    _field text;
    _is_personal boolean;
BEGIN
    SELECT e.type, d.key, r.field IS NOT NULL INTO _type, _field, _is_personal
    FROM saved AS e
        CROSS JOIN LATERAL jsonb_each(e.data) AS d
        LEFT JOIN {schema}.{fields_name} AS r ON r.type = e.type AND r.field = d.key
    WHERE CASE WHEN r.field IS NULL
        THEN jsonb_typeof(d.value) = 'object' AND d.value ? '$encrypted'
        ELSE coalesce(
            jsonb_typeof(d.value) <> 'object'
            OR d.value - '$encrypted' <> '{{}}'
            OR jsonb_typeof(d.value->'$encrypted') <> 'string'
            OR d.value->>'$encrypted' !~ '^[A-Za-z0-9+/]{{22,}}={{0,2}}$'
            OR e.metadata->>'encrypted_with' !~ '^[A-Za-z0-9+/]{{22}}==$'
            OR e.metadata->>'encrypted_for' <> e.data->>r.subject, true)
    END LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF _is_personal THEN
        RAISE EXCEPTION USING ERRCODE = 'PGE20',
            MESSAGE = concat(
                _type, ': the field ', quote_literal(_field), ' is personal and not encrypted; '
                'nothing was written'),
            HINT = 'Save it through a client that has the encryption plugin.';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'PGE20',
        MESSAGE = concat(
            _type, ': the field ', quote_literal(_field), ' holds "$encrypted", and no rule names it; '
            'nothing was written'),
        HINT = 'Only the encryption plugin writes "$encrypted", in the fields that its rules name.';
END
$pgevents$;
REVOKE ALL ON FUNCTION {schema}.{check_name}() FROM PUBLIC
"""
SCHEMA_SQL = """\
SELECT quote_ident(n.nspname), EXISTS (
    SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgname = 'pgevents_personal')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = {table}::regclass
"""
TRIGGER_SQL = """\
CREATE TRIGGER pgevents_personal AFTER INSERT ON {events} REFERENCING NEW TABLE AS saved
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.{check_name}()
"""
RULE_SQL = """\
INSERT INTO {fields} (type, field, subject) VALUES (%s, %s, %s) ON CONFLICT (type, field) DO NOTHING
"""
RULES_SQL = "SELECT type, field, subject FROM {fields} WHERE type = ANY(%s)"

Rule = tuple[str, str, str]


class RuledFields:
    """The rules of one plugin, and the table of the rules of all programs.

    Args:
        rules: Event type, field, and the field that names the subject.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = sorted(set(rules))
        self._checked: WeakSet[EventClient] = WeakSet()

    def create(self, client: EventClient) -> None:
        """Create table and trigger, and add these rules; rules of other programs stay.

        Raises:
            ConfigurationError: The table names another subject for a field.
        """
        spec = client.events.pgevents_spec
        table = literal(spec.qualified())
        execute(client, TABLE_SQL)
        schema, has_trigger = execute(client, SCHEMA_SQL, table=table).fetchone()
        names = {
            "schema": schema,
            "check_name": f'"{spec.name}_personal_check"',
            "fields_name": f'"{spec.name}_personal"',
        }
        execute(client, CHECK_SQL, **names)
        if not has_trigger:
            execute(client, TRIGGER_SQL, **names)
        for rule in self._rules:
            execute(client, RULE_SQL, rule)
        self._missing(client)

    def check(self, client: EventClient) -> None:
        """Check before the client's first save that the table has these rules.

        Raises:
            NotInstalledError: A rule is missing, so that other programs could save its field in the clear.
        """
        if client in self._checked:
            return
        missing = self._missing(client)
        if missing:
            raise NotInstalledError(
                f"the table of personal fields does not name {missing[0][1]!r} of {missing[0][0]!r}, so that "
                "other programs could save it in the clear: run client.create_tables() with this plugin"
            )
        self._checked.add(client)

    def _missing(self, client: EventClient) -> list[Rule]:
        types = sorted({event_type for event_type, _, _ in self._rules})
        subjects = {
            (event_type, field): subject
            for event_type, field, subject in execute(client, RULES_SQL, [types]).fetchall()
        }
        for event_type, field, subject in self._rules:
            stored = subjects.get((event_type, field), subject)
            if stored != subject:
                raise ConfigurationError(
                    f"{event_type}: the field {field!r} belongs to {subject!r} here, and "
                    f"to {stored!r} in {client.events.pgevents_spec.qualified('_personal')}; correct one"
                )
        return [rule for rule in self._rules if rule[:2] not in subjects]
