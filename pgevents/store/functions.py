"""The functions of an events table: the SQL of the files in `sql/`, with the names of the table put in.

The files are valid SQL for a table `my_app.events` with the data index `cart_id`.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

from pgevents.caches import remembered
from pgevents.fields import function_json_sql, function_sql, json_sql, split_many, text_sql
from pgevents.store.layout import TableSpec

__all__ = ["DOORS", "function_names", "functions_mark", "functions_sql", "setting_of"]

FILES = ("keys", "append", "locks", "refuse", "read", "timers", "guards")
FOR_EACH = re.compile(r" *-- for (each data index|each list|each field|lists)\n(.*?) *-- end\n", re.DOTALL)
DEFINITION = re.compile(r"CREATE OR REPLACE FUNCTION my_app\.events(\w+)\(")
GENERATION = "the generation"
"""Placeholder in the files for the digest of their text, by which functions, guard and clients match."""

DOORS = {
    "writer": (
        "_append",
        "_append_many",
        "_append_one",
        "_settle",
        "_lock",
        "_lock_value",
        "_hold_redactions",
        "_begin_keeping",
        "_schedule",
        "_unschedule",
        "_due_timers",
    ),
    "reader": (
        "_final_bound",
        "_published",
        "_digest",
        "_fetch",
        "_fetch_final",
        "_fetch_view",
        "_view_after",
        "_redactions",
        "_view_asked",
    ),
}
"""The functions that programs call, to save and to read. All others are called by these."""

BEFORE = """\
SELECT pg_catalog.set_config('pgevents.search_path', pg_catalog.current_setting('search_path'), true);
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
"""
"""A body that is parsed where it is defined must not find functions of other schemas there."""
AFTER = """\
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('pgevents.search_path'), true);
"""


@remembered("sources of functions")
def _source(data_indexes: tuple[str, ...]) -> tuple[str, str]:
    """The functions of `my_app.events` with these data indexes as they are declared, and their generation."""
    text = "\n".join(map(_file, FILES))
    fields, lists = split_many(data_indexes)
    chosen = {
        "each data index": [field for field in fields if field not in lists],
        "each list": lists,
        "each field": fields,
        "lists": lists[:1],
    }
    text = FOR_EACH.sub(lambda part: "".join(_for_field(field, part[2]) for field in chosen[part[1]]), text)
    generation = hashlib.sha256(text.encode()).hexdigest()[:12]
    return text.replace(GENERATION, generation), generation


def _for_field(field: str, text: str) -> str:
    """A part of the files, which is written for the field `cart_id`, for another field."""
    for sql in (function_sql, function_json_sql, text_sql, json_sql):
        text = text.replace(sql("cart_id"), sql(field))
    return re.sub(r"\bcart_id\b", lambda _: field, text)


def _file(name: str) -> str:
    return (files("pgevents.store") / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def functions_mark(spec: TableSpec) -> str:
    """The comment of the append function: the digest of the functions, their table, and its data indexes.

    A client compares it to find out whether the installed functions are its own.
    """
    _, generation = _source(spec.declared)
    return f"pgevents {generation} {spec.qualified()}: {', '.join(spec.declared)}"


def setting_of(spec: TableSpec) -> str:
    """The setting in which the functions record what a transaction has done to this table."""
    return f"pgevents.t{hashlib.sha256(spec.qualified().encode()).hexdigest()[:16]}"


def functions_sql(spec: TableSpec) -> str:
    """The SQL that creates the functions of an events table and removes those of earlier versions.

    It is to be run in one transaction.

    Args:
        spec: The table, with its schema: the functions name it in full.
    """
    text = _file("former") + "\n" + _source(spec.declared)[0]
    text = text.replace("pgevents.my_app_events", setting_of(spec))
    text = re.sub(r"\bmy_app\.events(\w*)", lambda name: spec.qualified(name[1]), text)
    names = ",\n    ".join(spec.qualified(name) for name in function_names())
    mark = f"COMMENT ON FUNCTION {spec.qualified('_append')} IS '{functions_mark(spec)}';"
    return f"{BEFORE}{text}\nREVOKE ALL ON FUNCTION\n    {names}\nFROM PUBLIC;\n{mark}\n{AFTER}"


@remembered("names of functions")
def function_names() -> tuple[str, ...]:
    """The suffixes that the names of the functions add to that of the table."""
    return tuple(DEFINITION.findall(_source(())[0]))
