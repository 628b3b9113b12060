"""Rows of kept views: many read at once, and many written at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import itemgetter
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.events import Event, UndecodedData, parts_of
from pgevents.fields import text_sql
from pgevents.hooks.details import Snapshot
from pgevents.snapshots import UPSERT_SQL, Noted, SnapshotKey
from pgevents.store.conditions import shape_of, where_params, where_sql
from pgevents.store.queries import COLUMNS
from pgevents.subscriptions.items import Item, event_and_error, is_dropped
from pgevents.subscriptions.transient import is_transient
from pgevents.subscriptions.whose import Rule

__all__ = [
    "Held",
    "earlier_events",
    "has_snapshot_hooks",
    "held_views",
    "dirty_in_order",
    "read_rows",
    "rows_above",
    "short_lock_wait",
    "write",
    "write_locked",
    "write_statement",
]

SNAPSHOT_HOOKS = {"pgevents_before_snapshot", "pgevents_after_snapshot"}
LOCK_WAIT = "200ms"
"""How long to wait for a row that a caller has locked, before all is tried again."""
READ_SQL = """\
SELECT id, coalesce(exact, data::text), latest_event_id, shape, updated_at
FROM {table} WHERE type = %s AND version = %s AND id = ANY (%s)
"""
# In the order of ids, so that two who write the same rows do not lock each other out.
WRITE_SQL = f"""\
INSERT INTO {{table}} AS stands (type, id, data, exact, latest_event_id, version, shape)
SELECT %(type)s, w.id, w.data::jsonb, w.exact, w.latest, %(version)s, w.shape
FROM unnest(%(ids)s::text[], %(data)s::text[], %(exact)s::text[], %(latest)s::bigint[], %(shapes)s::text[])
    AS w (id, data, exact, latest, shape)
ORDER BY w.id
{UPSERT_SQL}"""
# The same for one view, which the server plans and runs in half the time.
WRITE_ONE_SQL = f"""\
INSERT INTO {{table}} AS stands (type, id, data, exact, latest_event_id, version, shape)
VALUES (%s, %s, %s::jsonb, %s, %s, %s, %s)
{UPSERT_SQL}"""


@attrs.define(eq=False)
class Held:
    """A view in memory.

    Attributes:
        id: Its id, as text.
        projection: Its projection.
        view: The view as of `latest`; None before any event.
        initial: The view before any event, if no reducer can change anything in it.
        saved_at: When the stored row that it began with was saved; None if there was none.
        latest: The last event that is folded into it.
        stored: The last event that is folded into the stored row.
        key: Where the row stands.
        events: What was folded since, if plugins are to see it.
    """

    id: str
    projection: Any
    view: Any = None
    initial: Any = None
    saved_at: datetime | None = None
    latest: int = 0
    stored: int = 0
    key: SnapshotKey | None = None
    events: list[Event[Any]] = attrs.field(factory=list[Event[Any]])

    @property
    def is_dirty(self) -> bool:
        """Whether the stored row is behind."""
        return self.latest > self.stored

    def begin_with(self, view: Any, latest: int, saved_at: datetime) -> None:
        """Take the view of a stored row."""
        self.view, self.saved_at = view, saved_at
        self.latest = self.stored = latest

    def fold(self, events: Sequence[Event[Any]], *, has_hooks: bool) -> None:
        """Fold some events into it, all parts of those that are split, and note them if plugins are to see
        them."""
        if self.projection.client.decoder.has_parts:
            events = parts_of(events)
        if not events:
            return
        if self.view is not None and self.initial is None:
            self.initial = self.projection.fixed_initial_view()
        self.view = self.projection.folded_on(self.view, events, self.initial)
        self.latest = events[-1].id
        if has_hooks:
            self.events += events


def has_snapshot_hooks(client: EventClient) -> bool:
    """Whether plugins are to see each view before it is written."""
    return bool(SNAPSHOT_HOOKS & client.plugins.implemented)


def held_views(rule: Rule, ids: Sequence[str]) -> tuple[dict[str, Held], dict[str, Exception]]:
    """The views of these ids as they are stored; those of another shape are as if they were not.

    Returns:
        The views; and of texts that are no ids of the projection, why not.
    """
    found: dict[str, Held] = {}
    refused: dict[str, Exception] = {}
    for text in ids:
        try:
            found[text] = Held(text, rule.projection_of(text))
        except Exception as error:  # of the application's class, or a text that is none of its ids
            if is_transient(error):
                raise
            refused[text] = error
    if found:
        read_rows(rule, found)
    return found, refused


def read_rows(rule: Rule, views: Mapping[str, Held]) -> None:
    """Let each of these views begin with its stored row, if it has one."""
    client, cls = rule.client, rule.projection
    sql = client.snapshots.sql(READ_SQL)
    rows = client.session.execute(sql, [cls.projection_type, cls.version, list(views)]).fetchall()
    for text, data, latest, shape, saved_at in rows:
        held = views[text]
        key = held.key = held.projection.snapshot_key()
        if shape == key.shape:
            held.begin_with(client.snapshots.view_of(data, key.view_class, key.type), latest, saved_at)


def earlier_events(rule: Rule, wanted: Sequence[tuple[Held, int]]) -> Mapping[str, list[Item]]:
    """The events of some views above what is folded into them, each up to an id at which all is final.

    Returns:
        By id, in order: the events, without lanes.
    """
    found: dict[str, list[Item]] = {}
    rows = rows_above(rule, wanted)
    decoded = rule.client.decoder.events([row[1:] for row in rows], keep_undecodable=True)
    for (text, *_), event in zip(rows, decoded, strict=True):
        if is_dropped(event):
            continue
        either = event.data.error if event.data.__class__ is UndecodedData else event
        found.setdefault(text, []).append(Item(event.id, *event_and_error(either), text, 0, 0))
    return found


def rows_above(rule: Rule, wanted: Sequence[tuple[Held, int]]) -> list[Any]:
    """The same as rows: each view's id, and an event's columns; those of each view in order."""
    if not wanted:
        return []
    rows: list[Any] = []
    if rule.fields:
        rows = _rows_by_field(rule, wanted)
    else:
        client = rule.client
        for held, to in wanted:
            streams = client.identifiers.check(held.projection.get_streams())
            select, params = client.reader.select(streams, held.latest, to)
            rows += [(held.id, *row) for row in client.session.execute(select, params).fetchall()]
    rows.sort(key=itemgetter(1))
    return rows


def _rows_by_field(rule: Rule, wanted: Sequence[tuple[Held, int]]) -> list[Any]:
    spec = rule.client.events.pgevents_spec
    parts: list[str] = []
    params: list[Any] = [
        [held.id for held, _ in wanted],
        [held.latest for held, _ in wanted],
        [to for _, to in wanted],
    ]
    for stream, field in zip(rule.streams, rule.fields, strict=True):
        condition = where_sql(shape_of(stream), spec)
        conditions = [f"{text_sql(field)} = w.vid", "id > w.after", "id <= w.upto", condition]
        params += where_params(stream)
        parts.append(f"(SELECT {COLUMNS} FROM {spec.qualified()} WHERE {' AND '.join(conditions)})")
    every = " UNION ".join(parts)
    sql = (
        "SELECT w.vid, e.* FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS w (vid, after, upto), "
        f"LATERAL ({every}) AS e"
    )
    return list(rule.client.session.execute(sql, params).fetchall())


def write(rule: Rule, views: Sequence[Held], redactions: str) -> int:
    """Write those views that are ahead of their rows, in the caller's transaction.

    Args:
        rule: Of the projection.
        views: Views in memory.
        redactions: What `hold_redactions` gave in this transaction, before anything was read.

    Returns:
        How many characters of JSON a row has on average; 0 if that is not known.
    """
    dirty = dirty_in_order(views)
    if not dirty:
        return 0
    client, length = rule.client, 0
    with short_lock_wait(client):
        if has_snapshot_hooks(client):
            _write_with_hooks(rule, dirty, Noted(redactions, None, None))
        else:
            length = _write(rule, dirty)
    for held in dirty:
        held.stored = held.latest
    return length


def dirty_in_order(views: Iterable[Held]) -> list[Held]:
    """Those views that are ahead of their rows, in the order in which rows are locked."""
    return sorted((held for held in views if held.is_dirty), key=lambda held: held.id)


@contextmanager
def short_lock_wait(client: EventClient) -> Generator[None, None, None]:
    """In a transaction: wait for a row that a caller has locked for a short time only."""
    (former,) = client.session.execute("SELECT current_setting('lock_timeout')").fetchone()
    client.session.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_WAIT])
    yield  # after an error the transaction is rolled back, and the setting with it
    client.session.execute("SELECT set_config('lock_timeout', %s, true)", [former])


def write_locked(rule: Rule, views: Sequence[Held], write: Callable[[str, Any], object]) -> None:
    """Write views in the caller's transaction, which has locked what they are folded from."""
    if has_snapshot_hooks(rule.client):
        _write_with_hooks(rule, views, None)
    elif views:
        sql, values, _ = write_statement(rule, views)
        write(sql, values)


def _write(rule: Rule, dirty: Sequence[Held]) -> int:
    sql, values, length = write_statement(rule, dirty)
    rule.client.session.execute(sql, values)
    return length // len(dirty)


def write_statement(rule: Rule, dirty: Sequence[Held]) -> tuple[str, Any, int]:
    """The statement that writes views, its parameters, and how many characters of JSON the views have.

    Each view is proven to come back as it is.

    Raises:
        EventEncodeError: A view would come back as another.
    """
    client, cls = rule.client, rule.projection
    rows = [_row(client, held) for held in dirty]
    length = sum(len(row[1]) for row in rows)
    if len(rows) == 1:
        id_, data, exact, latest, shape = rows[0]
        params = cls.projection_type, id_, data, exact, latest, cls.version, shape
        return client.snapshots.sql(WRITE_ONE_SQL), params, length
    columns = zip(("ids", "data", "exact", "latest", "shapes"), zip(*rows, strict=True), strict=True)
    values = {"type": cls.projection_type, "version": cls.version}
    return client.snapshots.sql(WRITE_SQL), values | {name: list(column) for name, column in columns}, length


def _row(client: EventClient, held: Held) -> tuple[str, str, str | None, int, str | None]:
    """A view's id, data, the same if they are to be kept as they are written, last event, and shape."""
    key = held.key = held.key or held.projection.snapshot_key()
    encoded = client.serializer.encode(held.view, f"the view of {key.type} {held.id!r}")
    snapshot = Snapshot(key.type, held.id, encoded, held.view, held.latest, key.version, (), None)
    text, as_written = client.snapshots.proven(snapshot, key)
    return held.id, text, as_written, held.latest, key.shape


def _write_with_hooks(rule: Rule, dirty: Sequence[Held], noted: Noted[Any] | None) -> None:
    """One by one, for plugins may change each, or write beside it; the views in memory are then of no use."""
    save = rule.client.save_snapshot
    for held in dirty:
        save(held.projection, held.view, held.latest, held.events, held.saved_at, noted=noted)
