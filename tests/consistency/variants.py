"""The library with pauses in it, and the library deliberately broken: a test that cannot see a fault proves
    nothing.

A variant is made from the generated text of the functions by replacing parts of it, each of which must be
there. The mark of the generation stays, so the guard and the client's check take the variant for the real
thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from pgevents.store.append import Appender
from pgevents.store.ordering import Position, functions_sql, setting_sql, streams_json
from pgevents.store.queries import NO_EVENT
from pgevents.store.read import Reader
from pgevents.store.session import Session
from pgevents.store.tables import TableSpec

Replacement = tuple[str, str]


def replaced(text: str, old: str, new: str, count: int = 1) -> str:
    """The text with a part replaced, which must be there so many times (-1: at least once)."""
    found = text.count(old)
    assert found == count or (count == -1 and found), (
        f"{old!r} is {found} times in the functions, not {count} times"
    )
    return text.replace(old, new)


PLACES = ("locked", "published", "checked", "numbered", "issued", "bound")
"""Where pauses are put: after the locks, the publication, the check, `nextval`, in each of the append
functions that has such a place; between both looks of a final bound, after it. The functions' source marks
them by comments."""


@attrs.frozen
class Variant:
    """A variant of the functions and of the client.

    Attributes:
        name: What is different about it.
        replacements: Parts of the functions' text, and what stands there instead; `{...}` names a function.
        patch: Changes the client; called in each process.
        chance: How often a pause is made.
        places: Where; by default everywhere.
    """

    name: str
    replacements: tuple[Replacement, ...] = ()
    patch: Callable[[], None] = lambda: None
    chance: float = 0.3
    places: tuple[str, ...] = PLACES

    def sql_for(self, spec: TableSpec, pause: float) -> str:
        """The variant's functions, with pauses of up to so many seconds."""
        text = functions_sql(spec)
        for old, new in self.replacements:
            old, new = (part.replace("{acquire}", spec.qualified("_acquire")) for part in (old, new))
            if old.startswith("re:"):
                text, found = re.subn(old[3:], new, text, flags=re.S)
                assert found, f"{old!r} is not in the functions"
            else:
                text = replaced(text, old, new, -1)
        sleep = f"PERFORM pg_sleep(random() * {pause}) WHERE random() < {self.chance};" if pause else ""
        for place in self.places:
            text = replaced(text, f"-- [pause: {place}]", sleep, -1)
        return text


RIGHT = Variant("right")

ANY_EVENTS = ("re:CASE WHEN\\n( *current_setting)", r"CASE WHEN\n                false AND\n\1")
"""Leaves everything to the function for any events, whose faults would else be met by few saves."""
EXCLUSIVE_LOCKS = "        _done := {acquire}(_shared, _exclusive) IS NULL;"


def _check_by_last_id() -> None:
    append, append_lines = Appender.append, Appender.append_lines

    def above_last_id(positions: Any) -> Any:
        return positions and [Position(one.last_id, one.last_id, 0, one.streams) for one in positions]

    def by_last_id(self: Appender, rows: Any, positions: Any = None, *more: Any, **options: Any) -> Any:
        return append(self, rows, above_last_id(positions), *more, **options)

    def lines_by_last_id(
        self: Appender, names: Any, data: Any, metadata: Any, positions: Any, *more: Any, **options: Any
    ) -> Any:
        return append_lines(self, names, data, metadata, above_last_id(positions), *more, **options)

    Appender.append = by_last_id  # type: ignore[method-assign]
    Appender.append_lines = lines_by_last_id  # type: ignore[method-assign]


def _bound_after_events() -> None:
    def read(self: Reader, merged: Any, after: int, limit: int | None) -> Any:
        tail = "ORDER BY id" if limit is None else f"ORDER BY id LIMIT {limit:d}"
        rows = self.session.execute(*self.select(merged, after, None, tail=tail)).fetchall()
        bound_sql = f"SELECT {self.spec.qualified('_final_bound')}(%s)"
        return rows, self.session.execute(bound_sql, [streams_json(merged)]).fetchone()[0]

    Reader._read_at_bound = read  # type: ignore[method-assign]


def _bound_in_the_same_statement() -> None:
    def read(self: Reader, merged: Any, after: int, limit: int | None) -> Any:
        tail = "ORDER BY id" if limit is None else f"ORDER BY id LIMIT {limit:d}"
        select, params = self.select(merged, after, None, tail=tail)
        bound = f"WITH bound AS MATERIALIZED (SELECT {self.spec.qualified('_final_bound')}(%s) AS id)\n"
        sql = (
            f"{bound}SELECT NULL::bigint AS id{NO_EVENT}, id FROM bound "
            f"UNION ALL SELECT e.*, NULL FROM ({select}) AS e ORDER BY 1 NULLS FIRST"
        )
        rows = self.session.execute(sql, [streams_json(merged), *params]).fetchall()
        return [row[:6] for row in rows[1:]], rows[0][6]

    Reader._read_at_bound = read  # type: ignore[method-assign]


def _published_once_per_transaction() -> None:
    """The client remembers the publication, and a savepoint's rollback does not make it forget."""
    execute = Session.execute
    remembered: dict[str, str | None] = {"published": None}

    def forgetful(self: Session, sql: str, params: Any = None) -> Any:
        if not self.db.in_transaction():
            remembered["published"] = None
        if "_append" not in sql or not self.db.in_transaction():
            return execute(self, sql, params)
        setting = setting_sql(TableSpec("events", "events", "lab", ()))
        if remembered["published"] is not None:
            state = f"coalesce(nullif(current_setting({setting}, true), ''), %s)"
            execute(self, f"SELECT set_config({setting}, {state}, true)", [remembered["published"] + "|0|"])
        answer = execute(self, sql, params)
        remembered["published"] = execute(
            self, f"SELECT split_part(current_setting({setting}), '|', 1)"
        ).fetchone()[0]
        return answer

    def forgetful_value(self: Session, sql: str, params: Any) -> Any:
        return forgetful(self, sql, params).fetchone()[0]

    Session.execute = forgetful  # type: ignore[method-assign]
    Session.value = forgetful_value  # type: ignore[method-assign]


def _snapshot_at_the_last_id_seen() -> None:
    def read_final(self: Reader, streams: Any, *, after: int = 0, wait: Any = None, limit: Any = None) -> Any:
        return self.read(streams, after=after)

    Reader.read_final = read_final  # type: ignore[method-assign]


BROKEN: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("check by last id after an ordinary read", patch=_check_by_last_id, places=("numbered",)),
        Variant(
            "lock and check in one statement",
            (
                ANY_EVENTS,
                (
                    EXCLUSIVE_LOCKS,
                    "        IF _conditions IS NULL THEN " + EXCLUSIVE_LOCKS.strip() + " END IF;",
                ),
                (" AND id > _base", " AND id > _base AND (SELECT true FROM {acquire}(_shared, _exclusive))"),
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "lock and check in one statement, one event",
            (
                (
                    r"re: AND (pg_try_advisory_xact_lock_shared[^;]*?)\n *THEN(.*? AND id > _base)",
                    r" THEN\2 AND (SELECT pg_sleep(0.002) IS NOT NULL AND (\1))",
                ),
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "lock and check in one statement, its own stream",
            (
                (
                    r"re:(_append_own\"[^;]*? bigint;.*?) AND "
                    r"(pg_try_advisory_xact_lock_shared[^;]*?)\n *THEN(.*? AND id > _base)",
                    r"\1 THEN\3 AND (SELECT pg_sleep(0.002) IS NOT NULL AND (\2))",
                ),
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "plain saves without locks",
            (ANY_EVENTS, ("PERFORM pg_advisory_xact_lock_shared(k)", "PERFORM k")),
            places=("numbered", "checked"),
        ),
        Variant(
            "plain saves without locks, one event",
            (
                (
                    r"re:(_append_plain\"[^;]*? bigint;.*?) AND "
                    r"pg_try_advisory_xact_lock_shared[^;]*?\n *THEN",
                    r"\1 THEN",
                ),
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "validated saves without BULK while batches run",
            (
                ANY_EVENTS,
                (
                    r"re:        _shared := _shared \|\| [^;]*;\n    END IF;\n    IF _exclusive",
                    "    END IF;\n    IF _exclusive",
                ),
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "validated saves without BULK while batches run, one event",
            ((r"re:pg_try_advisory_xact_lock_shared\(hashtextextended\('', [^;\n]*\| 0\)\)\n *AND", ""),),
            places=("numbered", "checked"),
        ),
        Variant("bound read after the events", patch=_bound_after_events, places=("numbered",)),
        Variant(
            "bound inside the reading statement",
            patch=_bound_in_the_same_statement,
            places=("numbered", "bound"),
        ),
        Variant(
            "bound inside the reading statement, one value",
            ((r"re:VOLATILE AS (\$pgevents\$\nDECLARE\n    _bound text;\n)", r"STABLE AS \1"),),
            places=("numbered", "bound"),
        ),
        Variant(
            "publication once per transaction", patch=_published_once_per_transaction, places=("numbered",)
        ),
        Variant("snapshot at the last id seen", patch=_snapshot_at_the_last_id_seen, places=("numbered",)),
    )
}
