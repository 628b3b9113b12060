"""The append function, positions, final reads and the horizon: the consistency contract in code.

The SQL itself stands in `ordering.sql`, to be read and reviewed as SQL.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

import attrs

from pgevents.store.tables import TableSpec
from pgevents.streams import Stream

__all__ = [
    "READ_LIMIT",
    "Horizon",
    "HorizonHolder",
    "Position",
    "functions_mark",
    "functions_sql",
    "horizon_of",
    "setting_sql",
]

KEY_LIMIT = 64
"""How many keys a transaction locks one by one before it takes the bulk lock (or the table's) in their
place."""

FUNCTIONS = (
    "acquire",
    "stream_keys",
    "refuse",
    "refuse_order",
    "lock",
    "final_bound",
    "fetch",
    "fetch_final",
    "fetch_view",
    "append",
    "append_rows",
    "append_one",
    "append_own",
    "append_plain",
    "repeated",
    "insert_guard",
    "redactions",
    "hold_redactions",
    "guard",
)
READ_LIMIT = 1_000
"""How many events of an index range the function that fetches looks through; longer ones are read by a
statement."""
TRAIL_LIMIT = 1_000
"""How many ids of changed events a row of the maintenance trail names."""
BULK, TABLE, TYPE, FIRST_FIELD = range(4)
"""What the seed of a key's hash says about its kind."""


@attrs.frozen
class Position:
    """What a read has seen: the exact thing to validate a save against.

    Attributes:
        last_id: Id of the last event that was read, or the base if there was none.
        base: The id that the read started from (a snapshot's id, a final bound, or 0).
        count: How many matching events above the base were read.
        streams: The streams that were read.
        ids: Ids of the events above the base.
        in_transaction: Whether it was read inside a transaction, where a savepoint may roll back what was
            seen.
        own: The last id that this transaction had saved itself; 0 if none.
    """

    last_id: int
    base: int
    count: int
    streams: tuple[Stream[Any], ...]
    ids: Sequence[int] = attrs.field(default=(), eq=False, repr=False)
    in_transaction: bool = attrs.field(default=False, eq=False, repr=False)
    own: int = attrs.field(default=0, eq=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The condition in the form that the append function takes."""
        streams = [one.as_json() for one in self.streams]
        condition: dict[str, Any] = {"base": self.base, "seen": self.count, "streams": streams}
        if self.in_transaction:
            condition["ids"] = "{" + ",".join(map(str, self.ids)) + "}"
            if self.own and self.base:
                condition["own"] = self.own
        return condition


@attrs.frozen
class HorizonHolder:
    """A transaction that holds the horizon back.

    Attributes:
        pid: The backend's process id; None for a prepared transaction.
        since: When its transaction began; None where the role may not see it.
        published: The id above which its events will stand.
        application: Its `application_name`.
    """

    pid: int | None
    since: datetime | None
    published: int
    application: str


@attrs.frozen
class Horizon:
    """Up to where the log can no longer change.

    Attributes:
        id: Every event with an id up to this one is committed and visible, or will never exist.
        last_issued: The last id given out; equal to `id` when nobody is in the middle of a save.
        holders: Who holds it back, the oldest first; empty when nobody does.
    """

    id: int
    last_issued: int
    holders: tuple[HorizonHolder, ...] = ()


@cache
def _template() -> str:
    return (files("pgevents.store") / "ordering.sql").read_text(encoding="utf-8")


def setting_sql(spec: TableSpec) -> str:
    """The name, as SQL, of the setting in which the functions remember what a transaction has done to this
    table.

    It is made of the table's full name. The functions of a table are made with its schema named; where a
    client names none, the database says which it is.
    """
    if spec.schema is not None:
        return f"'pgevents.t{hashlib.sha256(spec.qualified().encode()).hexdigest()[:16]}'"
    return (
        "(SELECT 'pgevents.t' || left(encode(sha256(convert_to("
        """'"' || n.nspname || '"."' || c.relname || '"', 'UTF8')), 'hex'), 16) """
        "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        f"WHERE c.oid = '{spec.qualified()}'::regclass)"
    )


@cache
def functions_sql(spec: TableSpec) -> str:
    """The functions of an events table, as SQL to run or to review."""
    table_literal = spec.qualified().replace("'", "''")
    marks = {name: spec.qualified(f"_{name}") for name in FUNCTIONS}
    marks |= {
        "table": spec.qualified(),
        "table_literal": table_literal,
        "sequence": spec.qualified("_id_seq"),
        "sequence_literal": spec.qualified("_id_seq").replace("'", "''"),
        "maintenance": spec.qualified("_maintenance"),
        "setting": setting_sql(spec),
        "key_limit": str(max(KEY_LIMIT, 4 + len(spec.data_indexes))),  # one event by itself is never a bulk
        "first_field": _case(spec, "WHEN _stream->'match' ? '{field}' THEN '{field}'"),
        "keys_of_one": str(2 + len(spec.data_indexes)),
        "read_limit": str(READ_LIMIT),
        "trail_limit": str(TRAIL_LIMIT),
    }

    def seed(kind: int | str) -> str:
        return f"'{table_literal}'::regclass::oid::bigint << 12 | {kind}"

    def key(kind: int | str, text: str) -> str:
        return f"hashtextextended({text}, {seed(kind)})"

    text, fields = _with_parts(_template()), list(enumerate(spec.data_indexes, FIRST_FIELD))
    for mark, some in (("others", fields[1:]), ("first", fields[:1]), ("field", fields)):
        loop = rf"(?s) *\{{\{{#{mark}\}}\}}\n(.*?) *\{{\{{/{mark}\}}\}}\n"
        text = re.sub(loop, lambda block, some=some: _each(block[1], some, key), text)  # type: ignore[misc]
    text = text.replace("{{bulk_key}}", key(BULK, "''")).replace("{{table_key}}", key(TABLE, "''"))
    text = text.replace("{{redaction_key}}", key(TABLE, "'redaction'"))
    text = re.sub(r"\{\{type_key\((.*?)\)\}\}", lambda mark: key(TYPE, mark[1]), text)
    seed_of_field = _case(spec, "WHEN _field = '{field}' THEN " + seed("{number}"))
    text = re.sub(
        r"\{\{key_of_field\((.*?)\)\}\}", lambda mark: f"hashtextextended({mark[1]}, {seed_of_field})", text
    )
    text = re.sub(r"(?s)\{\{if\}\}(.*?)\{\{end if\}\}", lambda chain: _if_chain(chain[1]), text)
    generation = hashlib.sha256(text.encode()).hexdigest()[:12]
    text = re.sub(r"\{\{(\w+)\}\}", lambda mark: {**marks, "generation": generation}[mark[1]], text)
    mark = f"pgevents {generation} {spec.qualified()}: {', '.join(spec.data_indexes)}"
    return f"{text}\nCOMMENT ON FUNCTION {spec.qualified('_append')} IS '{mark}';\n"


def _with_parts(text: str) -> str:
    """The template with the parts that several functions share put where they are named."""
    parts: dict[str, str] = {}

    def take(found: re.Match[str]) -> str:
        parts[found[1]] = found[2]
        return ""

    text = re.sub(r"(?s)\{\{part (\w+)\}\}\n(.*?)\{\{end part\}\}\n", take, text)
    return re.sub(r" *\{\{(\w+)\}\}\n", lambda mark: parts.get(mark[1], mark[0]), text)


def _each(block: str, fields: Sequence[tuple[int, str]], key: Callable[[int, str], str]) -> str:
    """A part of the template once for each of these data indexes, which have a number and a name."""
    parts: list[str] = []
    for number, field in fields:
        pieces = re.split(r"\{\{field_key\((.*?)\)\}\}", block.replace("{{field}}", field))
        pieces[1::2] = [key(number, text) for text in pieces[1::2]]
        parts += pieces
    return "".join(parts)


def _if_chain(chain: str) -> str:
    """A chain of conditions whose first one, whichever it is, begins with IF; nothing at all if there is
    none."""
    first, *others = chain.split("{{elsif}}")
    return f"{first}IF{'ELSIF'.join(others)}END IF" if others else "NULL"


def _case(spec: TableSpec, when: str) -> str:
    """An expression with a case for each data index, in declared order."""
    whens = [
        when.format(field=field, number=number) for number, field in enumerate(spec.data_indexes, FIRST_FIELD)
    ]
    return f"CASE {' '.join(whens)} END" if whens else "NULL"


def functions_mark(spec: TableSpec) -> str:
    """The comment of the append function: a digest that tells whether the installed functions are these, the
    table that they name, and the data indexes that they were made for."""
    found = re.search(r" IS '(pgevents [^']*)';$", functions_sql(spec).rstrip())
    assert found is not None
    return found[1]


def streams_json(streams: Sequence[Stream[Any]]) -> str:
    """Streams in the form that the database functions take."""
    return json.dumps([one.as_json() for one in streams])


HORIZON_SQL = """\
SELECT a.pid, a.xact_start, coalesce(a.application_name, ''), l.pid IS NULL,
    (%(last)s + ((l.objid::bigint - (%(last)s & 2147483647) + 3221225472 & 2147483647) - 1073741824))::bigint
        AS published
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %(table)s::regclass
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND l.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY published, a.xact_start
"""


def horizon_of(execute: Any, spec: TableSpec) -> Horizon:
    """The bound over everything, and who holds it back."""
    sequence = spec.qualified("_id_seq")
    (last,) = execute(f"SELECT (last_value - (NOT is_called)::int)::bigint FROM {sequence}", None).fetchone()
    rows = execute(HORIZON_SQL, {"last": last, "table": spec.qualified()}).fetchall()
    holders = tuple(
        HorizonHolder(pid, since, published, application) for pid, since, application, _, published in rows
    )
    return Horizon(min([last, *(holder.published for holder in holders)]), last, holders)
