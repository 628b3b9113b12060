"""The tables and statements of subscriptions; their SQL is in `processing.sql`, to be reviewed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import attrs

from pgevents.caches import remembered
from pgevents.errors import ConfigurationError
from pgevents.fields import text_sql
from pgevents.store.conditions import shape_of, where_params
from pgevents.store.conditions import where_sql as stream_sql
from pgevents.store.layout import TableSpec
from pgevents.store.ordering import streams_json
from pgevents.store.session import Session
from pgevents.streams import Stream

__all__ = [
    "NEXT_BY_KEY",
    "ONLY_TIMES",
    "STACK",
    "Found",
    "Statements",
    "bring_along",
    "declare_by_key",
    "add_lease_holder",
    "has_old_checkpoints",
    "lacks_lease_holder",
    "read_lanes",
    "split_error",
    "table_statements",
    "where_sql",
]

STACK = "\nTraceback (most recent call last):\n"
"""Stands between an error and its stack, in the one text that a redaction clears."""
TABLES = ("checkpoints", "parked", "notes", "runners", "seen", "kept", "timers", "ranges")
COLUMNS = """\
e.id, e.type, e.data::text, nullif(e.metadata, '{}')::text AS metadata, e.created_at::text AS created_at, \
nullif(e.updated_at, e.created_at)::text AS updated_at"""


ONLY_TIMES = "e.id, e.type, NULL, NULL, extract(epoch FROM e.created_at)::text AS created_at, NULL"
"""The same columns to count by: without what an event holds, its time as seconds since 1970."""


NEXT_BY_KEY = "FETCH %s FROM pgevents_by_key"
"""The next rows of what `declare_by_key` has begun; its parameter is how many."""
RAW_COLUMNS = "e.id, e.type, e.data, e.metadata, e.created_at, e.updated_at"
ONE_TEXT = """\
concat(id, E'\\x1f', replace(type, E'\\x1f', ''), E'\\x1f', data, E'\\x1f', nullif(metadata, '{}'), \
E'\\x1f', created_at, \
E'\\x1f', nullif(updated_at, created_at))"""
"""An event as one text, which costs server and driver less than columns. JSON escapes the separator."""


@remembered("sections of SQL")
def _sections() -> Mapping[str, str]:
    text = (files("pgevents.store") / "processing.sql").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^-- \[([\w ]+)\]\n", text)
    return dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))


@remembered("statements of subscriptions")
def _filled(spec: TableSpec, section: str) -> str:
    names = {name: spec.qualified(f"_{name}") for name in TABLES}
    names |= {
        "events": spec.qualified(),
        "sequence": spec.qualified("_id_seq"),
        "final_bound": spec.qualified("_final_bound"),
        "hold_redactions": spec.qualified("_hold_redactions"),
        "schedule": spec.qualified("_schedule"),
        "unschedule": spec.qualified("_unschedule"),
        "due_timers": spec.qualified("_due_timers"),
        "begin_keeping": spec.qualified("_begin_keeping"),
        "old": spec.qualified("_checkpoints_old"),
        "old_name": f'"{spec.name}_checkpoints_old"',
        "old_key": f'"{spec.name}_checkpoints_pkey"',
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: names[mark[1]], _sections()[section])


@attrs.frozen
class Statements:
    """The statements of one events table's subscriptions, run by their names."""

    session: Session
    spec: TableSpec

    def run(self, name: str, /, *, before: str = "", **params: Any) -> Any:
        """Run a statement; a cursor.

        Args:
            name: The statement's name in `processing.sql`.
            before: SQL that is sent before it in the same message; it may use the same parameters.
            **params: Its parameters.
        """
        return self.session.execute(before + _filled(self.spec, name), params)

    def rows(self, name: str, /, *, before: str = "", **params: Any) -> list[Any]:
        """Run a statement; all its rows."""
        return list(self.run(name, before=before, **params).fetchall())

    def value(self, name: str, /, **params: Any) -> Any:
        """Run a statement; the first column of its first row."""
        return self.run(name, **params).fetchone()[0]

    def unknown(self, subscription: str) -> ConfigurationError:
        """The error for a name that no subscription has; it lists those that there are."""
        if subscription.startswith("view "):
            return ConfigurationError(
                f"no runner has kept the {subscription} yet: run Runner(client, [keep(...)]) with its class"
            )
        names = ", ".join(row[0] for row in self.rows("names")) or "none"
        return ConfigurationError(f"there is no subscription {subscription!r}; there are: {names}")


def table_statements(spec: TableSpec) -> dict[str, str]:
    """The DDL of the tables, by the quoted name of what each statement makes."""
    statements = {spec.qualified(f"_{name}"): _filled(spec, f"table {name}") + "\n" for name in TABLES}
    due = spec.index_name("parked", "due")
    statements[spec.beside(due)] = (
        f"CREATE INDEX IF NOT EXISTS {due} ON {spec.qualified('_parked')} (name, due_at) "
        "WHERE state = 'retrying';\n"
    )
    notes = spec.index_name("notes", "name")
    statements[spec.beside(notes)] = (
        f"CREATE INDEX IF NOT EXISTS {notes} ON {spec.qualified('_notes')} (name, number);\n"
    )
    timers = spec.index_name("timers", "due")
    statements[spec.beside(timers)] = (
        f"CREATE INDEX IF NOT EXISTS {timers} ON {spec.qualified('_timers')} (try_at, number) "
        "WHERE state <> 'parked';\n"
    )
    return statements


def has_old_checkpoints(session: Session, spec: TableSpec) -> bool:
    """Whether the table of checkpoints has the first form: a row a subscription."""
    return bool(Statements(session, spec).value("is_old_form", checkpoints=spec.qualified("_checkpoints")))


def bring_along(session: Session, spec: TableSpec) -> None:
    """Give checkpoints of the first form today's: a row a lane."""
    for name in ("set_aside", "table checkpoints", "bring_along"):
        session.execute(_filled(spec, name))


def lacks_lease_holder(session: Session, spec: TableSpec) -> bool:
    """Whether the table of checkpoints is of a version that did not say who has a lease."""
    return bool(Statements(session, spec).value("lacks_holder", checkpoints=spec.qualified("_checkpoints")))


def add_lease_holder(session: Session, spec: TableSpec) -> None:
    """Give the table of checkpoints the column for it."""
    session.execute(_filled(spec, "add_holder"))


def split_error(text: str | None) -> tuple[str | None, str | None]:
    """The error and the stack of a text that is kept of both."""
    error, mark, stack = (text or "").partition(STACK)
    return error or None, stack if mark else None


@attrs.frozen
class Found:
    """A read for lanes: rows of events, each with the text and the hash of its key, and the final bound.

    Also whether anything of the subscription is parked, if that was asked for.
    """

    bound: int
    rows: Sequence[Any]
    has_parked: bool = False


def read_lanes(
    statements: Statements,
    streams: Sequence[Stream[Any]],
    key: Sequence[str],
    places: Sequence[int | None],
    limit: int,
    *,
    parked_of: str = "",
    columns: str = COLUMNS,
    bound: int | None = None,
) -> Found:
    """The next final events of some lanes, in order.

    Args:
        statements: Of the events table.
        streams: Merged streams.
        key: The field that the lanes go by, and the names that it had before; empty for one lane.
        places: For each lane the id above which to read; None for a lane not to read.
        limit: At most this many events.
        parked_of: The subscription of which to say whether anything is parked.
        columns: `COLUMNS`, or `ONLY_TIMES` to count by.
        bound: An id up to which all is known to be final, so that nobody is asked; on a standby, too.

    Returns:
        Rows of an event's six columns, the key's text, and the key's hash; and the bound, which was looked
        at in a statement before.
    """
    spec = statements.spec
    params: list[Any] = [(streams_json(streams) if streams else "[]") if bound is None else bound, parked_of]
    branches, values = _branches(
        spec,
        streams,
        key,
        places,
        columns,
        "current_setting('pgevents.bound')::bigint",
        (),
        f" ORDER BY e.id LIMIT {limit:d}",
    )
    params += values
    found = "\nUNION ALL\n".join(branches) or _NOTHING
    if len(branches) > 1:
        found = f"SELECT DISTINCT ON (id) * FROM (\n{found}\n) AS several ORDER BY id LIMIT {limit:d}"
    final = f"{spec.qualified('_final_bound')}(%s)" if bound is None else "%s::bigint"
    sql = (
        f"SELECT set_config('pgevents.bound', {final}::text, true);\n"
        "SELECT current_setting('pgevents.bound')::bigint AS id, NULL AS type, NULL AS data, NULL AS "
        "metadata, "
        "NULL AS created_at, NULL AS updated_at, NULL AS key, "
        f"EXISTS (SELECT FROM {spec.qualified('_parked')} WHERE name = %s AND state <> 'discarded')::int "
        "AS hash\n"
        f"UNION ALL\n({found})"
    )
    rows = list(statements.session.execute(sql, params).fetchall())
    head = next(row for row in rows if row[1] is None)
    events = [row for row in rows if row[1] is not None]
    events.sort(key=_id_of)
    return Found(int(head[0]), events, bool(head[7]))


def declare_by_key(
    statements: Statements,
    streams: Sequence[Stream[Any]],
    key: Sequence[str],
    places: Sequence[int | None],
    to: int,
) -> None:
    """Begin to read the events of some lanes up to a final id, those of one key together and in order.

    `NEXT_BY_KEY` then gives rows of a key's text, its hash, and an event as one text, for `rows_of`, in the
    order of the hash; two keys of the same hash may alternate. The server sorts them, and keeps what does not
    fit into its memory in a temporary file, until the end of the transaction.

    Args:
        statements: Of the events table.
        streams: Merged streams.
        key: The field that the lanes go by, and the names that it had before.
        places: For each lane the id above which to read; None for a lane not to read.
        to: The last id to read; all up to it is final.
    """
    branches, params = _branches(statements.spec, streams, key, places, RAW_COLUMNS, "%s", (to,), "")
    found = "\nUNION ALL\n".join(branches) or _NOTHING
    distinct = "DISTINCT ON (hash, id) " if len(branches) > 1 else ""
    statements.session.execute(
        "DECLARE pgevents_by_key NO SCROLL CURSOR FOR\n"
        f"SELECT key, hash, {ONE_TEXT} FROM (\n"
        # OFFSET 0: the texts are made when they are fetched, so that they are not sorted.
        f"SELECT {distinct}* FROM (\n{found}\n) AS every ORDER BY hash, id OFFSET 0\n) AS sorted",
        params,
    )


def _branches(
    spec: TableSpec,
    streams: Sequence[Stream[Any]],
    key: Sequence[str],
    places: Sequence[int | None],
    columns: str,
    to: str,
    to_params: Sequence[Any],
    order: str,
) -> tuple[list[str], list[Any]]:
    """A SELECT for each stream, of what the lanes have above their places, and the parameters."""
    low = min(place for place in places if place is not None)
    key_sql = ", ".join(text_sql(name, "e.") for name in key) or "NULL"
    hash_sql = f"hashtextextended(coalesce({key_sql}, ''), 0)" if key else "0::bigint"
    ours: tuple[str, tuple[Any, ...]] = ("", ())
    if len(places) > 1:
        count = len(places)
        # Text, because psycopg2 knows no array of NULLs.
        array = "{" + ",".join("NULL" if place is None else str(place) for place in places) + "}"
        lane = f"mod(mod({hash_sql}, {count:d}) + {count:d}, {count:d})"
        ours = f" AND e.id > (%s::bigint[])[1 + {lane}]", (array,)
    branches: list[str] = []
    params: list[Any] = []
    for stream in streams:
        where, values = where_sql(spec, stream)
        branches.append(
            f"(SELECT {columns}, coalesce({key_sql}) AS key, {hash_sql} AS hash FROM {spec.qualified()} AS e "
            f"WHERE {where} AND e.id > %s AND e.id <= {to}{ours[0]}{order})"
        )
        params += [*values, low, *to_params, *ours[1]]
    return branches, params


_NOTHING = (
    "SELECT NULL::bigint, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, "
    "NULL::bigint WHERE false"
)


def _id_of(row: Any) -> int:
    return int(row[0])


def where_sql(spec: TableSpec, stream: Stream[Any]) -> tuple[str, list[Any]]:
    """The condition of a stream on events `e`, and its parameters."""
    return stream_sql(shape_of(stream), spec, "e.", "e.id"), where_params(stream)
