"""What must hold of any input: read back equal, or an error of pgevents that says what to do."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import attrs

from pgevents import PgEventsError

__all__ = ["Count", "as_jsonb", "outcome", "same"]


@dataclasses.dataclass
class Count:
    """How many inputs there were, and what became of them."""

    inputs: int = 0
    stored: int = 0
    refused: int = 0

    def __str__(self) -> str:
        return f"{self.inputs:,} inputs: {self.stored:,} read back equal, {self.refused:,} refused, 0 else"


def outcome(make: Any) -> tuple[Any, PgEventsError | None]:
    """What comes out, or pgevents' own error, which must say something; any other error is a fault."""
    try:
        return make(), None
    except PgEventsError as error:
        assert len(str(error)) > 10, error
        return None, error


def shape(value: Any) -> Any:
    """A value as something that is equal only if value and kind are: written apart from the library."""
    kind = type(value)
    if attrs.has(kind):
        return kind.__qualname__, tuple(
            (one.name, shape(getattr(value, one.name))) for one in attrs.fields(kind)
        )
    if dataclasses.is_dataclass(kind):
        return kind.__qualname__, tuple(
            (f.name, shape(getattr(value, f.name))) for f in dataclasses.fields(kind)
        )
    if isinstance(value, datetime):
        return "datetime", value.replace(tzinfo=None, fold=0).isoformat(), str(value.utcoffset())
    if isinstance(value, time):
        return "time", value.replace(tzinfo=None).isoformat(), str(value.utcoffset()), value.tzinfo is None
    if isinstance(value, date):
        return "date", value.isoformat()
    if isinstance(value, OrderedDict):
        return "OrderedDict", tuple((shape(key), shape(one)) for key, one in value.items())
    if isinstance(value, dict):
        return kind.__qualname__, frozenset((shape(key), shape(one)) for key, one in value.items())
    if isinstance(value, (set, frozenset)):
        return kind.__qualname__, frozenset(shape(one) for one in value)
    if isinstance(value, (list, tuple)) or kind.__qualname__ == "deque":
        return kind.__qualname__, tuple(shape(one) for one in value)
    if isinstance(value, float):
        return kind.__qualname__, value.hex()
    if isinstance(value, Decimal):
        return kind.__qualname__, str(value)
    return kind.__qualname__, repr(value)


def same(given: Any, read: Any) -> bool:
    """Whether what was read is what was given; an int may have become the float that it equals."""
    kind = type(given)
    if kind is int and type(read) is float:
        return bool(given == read)
    if kind is type(read) and attrs.has(kind):
        return all(same(getattr(given, one.name), getattr(read, one.name)) for one in attrs.fields(kind))
    if kind is type(read) and dataclasses.is_dataclass(kind):
        return all(same(getattr(given, f.name), getattr(read, f.name)) for f in dataclasses.fields(kind))
    if kind is dict and type(read) is dict:
        return set(map(shape, given)) == set(map(shape, read)) and all(same(given[k], read[k]) for k in given)
    if kind in (list, tuple) and type(read) is kind:
        return len(given) == len(read) and all(map(same, given, read))
    return bool(shape(given) == shape(read))


def as_jsonb(text: str) -> str:
    """JSON text as PostgreSQL's jsonb gives it back: a model of it, for lanes without a database."""
    return _written(json.loads(text, parse_float=Decimal, object_pairs_hook=_Pairs))


class _Pairs(list[Any]):
    """The pairs of an object."""


def _written(value: Any) -> str:
    if isinstance(value, _Pairs):
        last = dict(value)
        keys = sorted(last, key=lambda key: (len(key.encode()), key.encode()))
        return (
            "{"
            + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {_written(last[key])}" for key in keys)
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, Decimal):
        digits = format(value, "f")
        return digits.removeprefix("-") if value == 0 else digits
    return json.dumps(value, ensure_ascii=False)
