"""Writes JSON text that PostgreSQL's jsonb gives back with the same values, and reads what jsonb gives.

jsonb keeps values, not their text: numbers become decimals (1e16 a whole number, -0.0 zero), keys become
unique and lose their order. A value that it would change is written in a form that it keeps, or refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, cast

from pgevents.codec import fast
from pgevents.codec.fast import MAX_DEPTH, ODD_NUMBER
from pgevents.errors import EventEncodeError, shown

__all__ = ["MAX_DEPTH", "dump_and_load", "dump_json", "json_copy", "load_json"]

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?')
"""Matches a string or a number: strings, so that digits inside them are passed over."""


def load_json(text: str) -> Any:
    """A JSON value from what PostgreSQL gives.

    Raises:
        ValueError: Not JSON, or a number of more digits than Python reads.
        RecursionError: Nested too deeply.
    """
    try:
        return fast.load(text)
    except ValueError:  # a number beyond what msgspec takes, such as 1e400
        return json.loads(text)


def dump_json(value: object, what: str) -> str:
    """JSON text of a value that jsonb gives back as it is.

    Args:
        value: A value as JSON has them.
        what: What to call it in an error.

    Raises:
        EventEncodeError: NaN, infinity or -0.0, a NUL character, a lone surrogate, too deep a nesting, or a
            value that JSON has no form for.
    """
    try:
        text = _encode(value)
        text.encode()
    except UnicodeEncodeError:
        raise EventEncodeError(
            f"{what}: a string holds half of a surrogate pair, which is not text"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise EventEncodeError(f"{what} cannot be stored as JSON: {error}") from error
    if "\\u0000" in text and _holds_nul(value):
        raise EventEncodeError(f"{what}: PostgreSQL cannot hold a NUL character in a string; remove it")
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise EventEncodeError(
            f"{what} cannot be stored as JSON: it is nested more than {MAX_DEPTH} levels deep, "
            "which a reader's recursion limit may not allow"
        )
    return _with_exact_numbers(text, what) if ODD_NUMBER.search(text) else text


def _with_exact_numbers(text: str, what: str) -> str:
    """The text with large floats written out and ending in `.0`: jsonb makes a whole number of 1e16."""

    def exact(match: re.Match[str]) -> str:
        number = match[0]
        if number[0] == '"' or not ODD_NUMBER.search(number):
            return number
        if float(number) == 0:
            raise EventEncodeError(
                f"{what}: PostgreSQL cannot hold -0.0, it would become 0.0; add 0.0 to it before"
            )
        digits = format(Decimal(number), "f")
        return digits if "." in digits else digits + ".0"

    return _NUMBER.sub(exact, text)


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        return any(_holds_nul(part) for pair in pairs.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return any(_holds_nul(part) for part in cast("list[object]", value))
    return False


def _depth(value: object) -> int:
    level, depth = [value], 0
    while level:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(cast("dict[str, object]", item).values())
            elif isinstance(item, (list, tuple)):
                inner.extend(cast("list[object]", item))
        if not any(isinstance(item, (dict, list, tuple)) for item in level):
            break
        level, depth = inner, depth + 1
    return depth


def dump_and_load(value: Any, what: str) -> tuple[str, Any]:
    """JSON text of a value that consists of what JSON has, and a copy of the value: what a read gives.

    Raises:
        EventEncodeError: As for `json_copy` and `dump_json`.
    """
    plain = json_copy(value, what)
    return fast.dump(plain) or dump_json(plain, what), plain


def json_copy(value: Any, what: str) -> Any:
    """A copy of a value that consists of JSON's own types, not of subclasses of them.

    Args:
        value: A dict, list, str, int, float, bool or None; so are the values in it, and keys are str.
        what: What to call it in an error.

    Raises:
        EventEncodeError: Anything else, because a read would give another value; the error names its place.
    """
    return _copy(value, what, ())


_SCALARS = frozenset({str, int, bool, type(None)})


def _copy(value: Any, what: str, path: tuple[object, ...]) -> Any:
    kind: type[Any] = value.__class__
    if kind in _SCALARS:
        return value
    if kind is float and math.isfinite(value):
        return value
    if len(path) >= MAX_DEPTH:
        raise EventEncodeError(
            f"{what} cannot be stored as JSON: it is nested more than {MAX_DEPTH} levels deep"
        )
    if kind is list:
        return [_copy(item, what, (*path, n)) for n, item in enumerate(value)]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise EventEncodeError(_misfit(what, path, f"JSON objects have text keys, not {shown(key)}"))
        return {key: _copy(item, what, (*path, key)) for key, item in value.items()}
    raise EventEncodeError(_misfit(what, path, _advice(value)))


def _misfit(what: str, path: tuple[object, ...], reason: str) -> str:
    place = f"{what}, field {'.'.join(map(str, path))!r}" if path else what
    return f"{place} cannot be stored as JSON: {reason}"


def _advice(value: Any) -> str:
    kind: type[Any] = value.__class__
    if kind is float:
        return "a float is finite in JSON, not NaN or infinity"
    if isinstance(value, Enum):
        return f"JSON has no {kind.__qualname__}; give its value"
    for plain in (str, int, float, dict, list):
        if isinstance(value, plain):
            name = plain.__name__
            return f"JSON has no {kind.__qualname__}, a read would give {name}; give {name}(...)"
    if isinstance(value, tuple):
        return "JSON has no tuple, a read would give a list; give a list"
    return (
        f"an object of class {kind.__qualname__} is not JSON serializable as itself; give its text, "
        "or use an event class with a field of that type"
    )
