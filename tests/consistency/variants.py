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

from pgevents.merging import merge_streams
from pgevents.store import results
from pgevents.store.append import Appender
from pgevents.store.functions import function_names, functions_sql
from pgevents.store.layout import TableSpec
from pgevents.store.options import PLAIN, ReadOptions
from pgevents.store.ordering import Position, streams_json
from pgevents.store.queries import NO_EVENT
from pgevents.store.read import Reader

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
        text = replaced(functions_sql(spec), *LOW_LIMIT)
        for old, new in self.replacements:
            for name in function_names():
                old, new = (part.replace(f"{{{name[1:]}}}", spec.qualified(name)) for part in (old, new))
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

ANY_EVENTS = ("_last := CASE WHEN current_setting", "_last := CASE WHEN false AND current_setting")
"""Leaves everything to the function for any events, whose faults would else be met by few saves."""
LOW_LIMIT = (
    "* (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) / 32)",
    ")",
)
"""64 keys, as a rule: a limit that is met more often."""
STABLE_CHECK = (
    r"re:(_conditions jsonb, _last bigint\) RETURNS text\nLANGUAGE plpgsql) VOLATILE",
    r"\1 STABLE",
)
STABLE_ABOVE = (r"re:(_most bigint\n\) RETURNS bigint\[\] LANGUAGE plpgsql) VOLATILE", r"\1 STABLE")
"""Makes the check see what stood there when the calling statement began."""
PUBLISHED_BEFORE = (
    r"re:PERFORM (pg_advisory_xact_lock_shared\([^;]*?_published & 2147483647\)::int\));",
    """
    PERFORM \\1 WHERE NOT EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
            AND objsubid = 2 AND classid = 7 AND objid::text = pg_current_xact_id()::text);
    PERFORM pg_advisory_unlock_all();
    PERFORM pg_advisory_lock(7, pg_current_xact_id()::text::int);
    """,
)
"""A lock of the session remembers that the transaction has published, and no rollback makes it forget."""


def _check_by_last_id() -> None:
    append = Appender.append

    def by_last_id(self: Appender, rows: Any, positions: Any = None, *more: Any, **options: Any) -> Any:
        above = positions and [Position(one.last_id, one.last_id, 0, one.streams) for one in positions]
        return append(self, rows, above, *more, **options)

    Appender.append = by_last_id  # type: ignore[method-assign]


def _nothing_above_the_newest() -> None:
    def above(events: Any, streams: Any, log: Any, **_: bool) -> Position:
        last = events[0].id if events else 0
        return Position(last, last, 0, merge_streams(streams), log=log)

    results.position_of_newest = above


def _own_events_taken_for_final() -> None:
    Reader.uncommitted = lambda *given: None  # type: ignore[method-assign]


def _bound_after_events() -> None:
    def read(self: Reader, merged: Any, options: ReadOptions) -> Any:
        rows = self.session.execute(*self.select_part(merged, options)).fetchall()
        bound_sql = f"SELECT {self.spec.qualified('_final_bound')}(%s)"
        return rows, self.session.execute(bound_sql, [streams_json(merged)]).fetchone()[0]

    Reader._read_at_bound = read  # type: ignore[method-assign]


def _bound_in_the_same_statement() -> None:
    def read(self: Reader, merged: Any, options: ReadOptions) -> Any:
        select, params = self.select_part(merged, options)
        bound = f"WITH bound AS MATERIALIZED (SELECT {self.spec.qualified('_final_bound')}(%s) AS id)\n"
        sql = (
            f"{bound}SELECT NULL::bigint AS id{NO_EVENT}, id FROM bound "
            f"UNION ALL SELECT e.*, NULL FROM ({select}) AS e ORDER BY 1 NULLS FIRST"
        )
        rows = self.session.execute(sql, [streams_json(merged), *params]).fetchall()
        return [row[:6] for row in rows[1:]], rows[0][6]

    Reader._read_at_bound = read  # type: ignore[method-assign]


def _snapshot_at_the_last_id_seen() -> None:
    def read_final(self: Reader, streams: Any, options: ReadOptions = PLAIN, *, wait: Any = None) -> Any:
        return self.read(streams, options)

    Reader.read_final = read_final  # type: ignore[method-assign]


BROKEN: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("check by last id after an ordinary read", patch=_check_by_last_id, places=("numbered",)),
        Variant(
            "check by a count without a digest",
            (
                ("(_seen = 0 OR {digest}(_ids) = _digest)", "true"),
                ("EXIT short WHEN ({digest}(_ids) = _premise[3]) IS NOT TRUE;", ""),
            ),
            places=("numbered",),
        ),
        Variant(
            "newest alone, and not that it stands", patch=_nothing_above_the_newest, places=("numbered",)
        ),
        Variant("own events taken for final", patch=_own_events_taken_for_final, places=("numbered",)),
        Variant(
            "lock and check in one statement",
            (
                ANY_EVENTS,
                ("_locks := {lock_save}(_types, _data, _metadata, _conditions, _key);", ""),
                (
                    "_answer := {check}(_conditions, _last);",
                    "_answer := CASE WHEN {lock_save}(_types, _data, _metadata, _conditions, _key)::text "
                    "IS DISTINCT FROM '-' THEN {check}(_conditions, _last) END;",
                ),
                STABLE_CHECK,
                STABLE_ABOVE,
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "lock and check in one statement, one event",
            (
                (
                    r"re:_is_free := (\(_is_free IS NOT FALSE AND[^;]*);(.*?)"
                    r"AND (\S+try_event\S*\([^)]*\))\s+THEN(.*?)(_ids := )([^;]*);",
                    r"\2THEN\4\5CASE WHEN pg_sleep(0.002) IS NOT NULL AND (\1) AND (\3) THEN \6 END;",
                ),
                STABLE_ABOVE,
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "plain saves without locks",
            (
                ANY_EVENTS,
                (
                    "RETURN {lock_keys}(_shared, ",
                    "RETURN {lock_keys}(CASE WHEN _conditions IS NOT NULL THEN _shared ELSE '{}' END, ",
                ),
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "plain saves without locks, one event",
            (
                (
                    "AND {try_event}(_type, _data, _metadata)",
                    "AND (_stream IS NULL OR {try_event}(_type, _data, _metadata))",
                ),
            ),
            places=("numbered", "checked"),
        ),
        Variant(
            "validated saves without BULK while batches run",
            (ANY_EVENTS, ("CASE WHEN _decides THEN _shared || _bulk ELSE _shared END", "_shared")),
            places=("numbered", "checked"),
        ),
        Variant(
            "validated saves without BULK while batches run, one event",
            ((r"re:pg_try_advisory_xact_lock_shared\(\S+_key\S+\('bulk', ''\)\)\s+AND", ""),),
            places=("numbered", "checked"),
        ),
        Variant(
            "values of a list without locks",
            (ANY_EVENTS, (r"re:\n    \|\| CASE WHEN [^\n]*'tags'\)[^$]*? END", "")),
            places=("numbered", "checked"),
        ),
        Variant(
            "values of a list without locks, one event",
            ((r"re:OR \S*_try_values\S*\('data tags', [^\n]*\)\)", "OR true)"),),
            places=("numbered", "checked"),
        ),
        Variant(
            "the older name of a field is not locked",
            (
                (
                    "IF _values_of IS NOT NULL THEN",
                    "IF _values_of = 'o' THEN NULL; ELSIF _values_of IS NOT NULL THEN",
                ),
            ),
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
            (
                (
                    r"re:VOLATILE( SET search_path = [a-z_, ]* AS \$pgevents\$\nDECLARE\n    _bound text;)",
                    r"STABLE\1",
                ),
            ),
            places=("numbered", "bound"),
        ),
        Variant("publication once per transaction", (ANY_EVENTS, PUBLISHED_BEFORE), places=("numbered",)),
        Variant("snapshot at the last id seen", patch=_snapshot_at_the_last_id_seen, places=("numbered",)),
    )
}
