"""Forgets a subject beyond its key: deletes snapshots, and reports events in the clear."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from pgevents import EventClient, RetryableError, Snapshot
from pgevents.plugins._tables import execute, literal

__all__ = ["Forgotten", "SnapshotNotes", "events_in_clear", "overwrite"]

ALL = ""
"""The subject of a note that says up to which event all subjects of a snapshot are noted."""

TABLE_SQL = """\
CREATE TABLE IF NOT EXISTS {uses} (
    projections text NOT NULL,
    type text NOT NULL,
    id text NOT NULL,
    subject text NOT NULL,
    version int NOT NULL,
    latest_event_id bigint,
    PRIMARY KEY (projections, type, id, version, subject)
);
CREATE INDEX IF NOT EXISTS {uses_index} ON {uses} (subject);
"""
# The base snapshot is locked, so that forgetting cannot delete it before the new snapshot is saved.
BASE_SQL = """\
SELECT EXISTS (
    SELECT FROM {uses} AS u
    WHERE u.projections = {this_table} AND u.type = p.type AND u.id = p.id AND u.subject = ''
        AND u.version = p.version AND u.latest_event_id = p.latest_event_id
) AND p.updated_at = %s
FROM {projections} AS p WHERE p.type = %s AND p.id = %s AND p.version = %s FOR UPDATE
"""
USE_SQL = """\
INSERT INTO {uses} (projections, type, id, version, subject)
SELECT {this_table}, %s, %s, %s, unnest(%s::text[]) ON CONFLICT DO NOTHING
"""
ALL_SQL = """\
INSERT INTO {uses} AS stands (projections, type, id, version, subject, latest_event_id)
VALUES ({this_table}, %s, %s, %s, '', %s)
ON CONFLICT (projections, type, id, version, subject) DO UPDATE SET latest_event_id = excluded.latest_event_id
WHERE excluded.latest_event_id > stands.latest_event_id
"""
TABLES_SQL = """\
SELECT t.name, to_regclass(t.name) IS NOT NULL
FROM (SELECT {this_table} UNION SELECT projections FROM {uses}) AS t(name) ORDER BY 1
"""
DELETE_SQL = """\
DELETE FROM {table} AS p WHERE
    EXISTS (
        SELECT FROM {uses} AS u
        WHERE u.projections = {name} AND u.type = p.type AND u.id = p.id AND u.version = p.version
            AND u.subject = %(subject)s)
    OR (p.id = %(subject)s OR jsonb_path_exists(p.data, '$.** ? (@ == $text || @ == $number)', %(values)s))
        AND {is_unknown}
"""
UNKNOWN_SQL = "SELECT count(*) FROM {table} AS p WHERE {is_unknown}"
FORGET_NOTES_SQL = """\
DELETE FROM {uses} AS u WHERE u.projections = {name} AND u.subject = ''
    AND NOT EXISTS (SELECT FROM {table} AS p WHERE u.type = p.type AND u.id = p.id AND u.version = p.version)
"""
IS_UNKNOWN_SQL = """\
NOT EXISTS (
    SELECT FROM {uses} AS u
    WHERE u.projections = {name} AND u.type = p.type AND u.id = p.id AND u.subject = ''
        AND u.version = p.version AND u.latest_event_id = p.latest_event_id)"""
IN_CLEAR_SQL = """\
SELECT DISTINCT e.id FROM {events} AS e JOIN {fields} AS r ON r.type = e.type AND e.data->>r.subject = %s
WHERE e.metadata->'redacted' IS DISTINCT FROM 'true' AND (
    e.data ? r.field AND NOT (jsonb_typeof(e.data->r.field) = 'object' AND e.data->r.field ? '$encrypted')
    OR NOT e.metadata ? 'encrypted_for')
ORDER BY 1
"""
TYPES_SQL = (
    "SELECT type, array_agg(id ORDER BY id) FROM {events} WHERE id = ANY(%s) GROUP BY type ORDER BY type"
)
OVERWRITE_SQL = """\
UPDATE {events} SET
    data = data || coalesce((
        SELECT jsonb_object_agg(key, %(values)s::jsonb->key) FROM jsonb_each(data)
        WHERE %(values)s::jsonb ? key AND NOT (jsonb_typeof(value) = 'object' AND value ? '$encrypted')
    ), '{{}}'),
    metadata = metadata || %(mark)s
WHERE id = ANY(%(ids)s) AND data ?| %(fields)s::text[]
"""


@attrs.frozen
class Forgotten:
    """The result of forgetting a subject. It is true if none of the subject's data was found to stay.

    Attributes:
        subject: The subject, as text.
        had_key: Whether there was a key; it is deleted.
        deleted_snapshots: How many snapshots were deleted.
        events_in_clear: Ids of the subject's events that were saved without encryption and still hold
            personal fields as they are. Reads through the plugin show them redacted.
        unknown_snapshots: How many snapshots may hold the subject's data without naming it: they were saved
            by programs without the plugin, or without their events, or on top of such a snapshot. Delete
            them, and they are folded anew.
        missing_tables: Projections tables with noted snapshots that do not exist any more: they were dropped,
            renamed or moved.
    """

    subject: str
    had_key: bool
    deleted_snapshots: int
    events_in_clear: tuple[int, ...] = ()
    unknown_snapshots: int = 0
    missing_tables: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether none of the subject's data was found to stay in the tables of this log."""
        return not (self.events_in_clear or self.unknown_snapshots or self.missing_tables)

    def __bool__(self) -> bool:
        return self.is_complete


class SnapshotNotes:
    """The table of which snapshots hold whose data, written with each snapshot."""

    def create(self, client: EventClient) -> None:
        """Create the table if it is missing."""
        execute(client, TABLE_SQL)

    def note(self, client: EventClient, snapshot: Snapshot, subjects: Sequence[str]) -> None:
        """Note whose data a snapshot will hold, before it is saved.

        Raises:
            RetryableError: The snapshot that the fold started from was deleted in the meantime.
        """
        # A snapshot that is saved without the events it was folded from may hold anybody's data.
        is_known = bool(snapshot.events) or snapshot.latest_event_id == 0
        if snapshot.base_saved_at is not None:
            base = [snapshot.base_saved_at, snapshot.type, snapshot.id, snapshot.version]
            row = execute(client, BASE_SQL, base).fetchone()
            if row is None:
                raise folded_too_early(snapshot, "the snapshot that it starts from was deleted")
            is_known = row[0]
        if subjects:
            execute(client, USE_SQL, [snapshot.type, snapshot.id, snapshot.version, list(subjects)])
        if is_known:
            position = [snapshot.version, snapshot.latest_event_id]
            execute(client, ALL_SQL, [snapshot.type, snapshot.id, *position])

    def delete(self, client: EventClient, subject: str) -> tuple[int, int, tuple[str, ...]]:
        """Delete the snapshots that hold a subject's data, and those of unknown content that name it.

        Returns:
            How many were deleted, how many of unknown content stay, and the tables that do not exist.
        """
        is_number = subject.isascii() and subject.lstrip("-").isdigit() and str(int(subject)) == subject
        values = {"text": subject, "number": int(subject) if is_number else subject}
        params = {"subject": subject, "values": json.dumps(values)}
        deleted, unknown, missing = 0, 0, list[str]()
        for name, exists in execute(client, TABLES_SQL).fetchall():
            if not exists:
                missing.append(name)
                continue
            names = {"table": name, "name": literal(name)}
            names["is_unknown"] = IS_UNKNOWN_SQL.replace("{name}", names["name"]).replace(
                "{uses}", client.events.pgevents_spec.qualified("_key_uses")
            )
            deleted += execute(client, DELETE_SQL, params, **names).rowcount
            execute(client, FORGET_NOTES_SQL, **names)
            unknown += execute(client, UNKNOWN_SQL, **names).fetchone()[0]
        return deleted, unknown, tuple(missing)


def folded_too_early(snapshot: Snapshot, reason: str) -> RetryableError:
    """The error for a snapshot that was folded before a subject was forgotten."""
    return RetryableError(
        f"{reason} while {snapshot.type} {snapshot.id} was folded; nothing was written: try again"
    )


def is_early(
    subject: str, forgotten_at: datetime | None, subjects: Sequence[str], base: datetime | None
) -> bool:
    """Whether a snapshot of these subjects, on this base, was folded before a subject was forgotten."""
    return forgotten_at is not None and (subject in subjects or (base is not None and base < forgotten_at))


def events_in_clear(client: EventClient, subject: str) -> tuple[int, ...]:
    """Ids of the events of ruled types whose personal fields are not encrypted."""
    return tuple(row[0] for row in execute(client, IN_CLEAR_SQL, [subject]).fetchall())


def overwrite(
    client: EventClient, ids: Sequence[int], subject: str, rules: Mapping[str, Mapping[str, Any]]
) -> None:
    """Replace personal fields in the clear by their redacted values; call it under `client.maintenance()`."""
    mark = json.dumps({"encrypted_for": subject, "redacted": True})
    for event_type, of_type in execute(client, TYPES_SQL, [list(ids)]).fetchall():
        values = rules.get(event_type, {})
        params = {"ids": of_type, "fields": list(values), "values": json.dumps(dict(values)), "mark": mark}
        execute(client, OVERWRITE_SQL, params)
