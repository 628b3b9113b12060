"""Under which names older versions of an event store a field: found by running upcasters on probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pgevents.declarations import upcast_results
from pgevents.event_types import EventType

__all__ = ["stored_names"]

PROBES = 100
"""An upcaster that reads more fields than this is not judged."""
MARK = "\0"
"""Begins the text of a value that is stored; a derived one has two."""


def stored_names(event_type: EventType, field: str) -> list[set[str]] | None:
    """For each version, the first one first, the names under which it may store a field of the newest one.

    What `@event(renamed=...)` says goes before what the upcasters show. Those are run on values that know
    where they come from; what an upcaster does with certain real values only is not detected.

    Returns:
        None if an upcaster makes the field of something else, so that the value is not stored as it is.
    """
    older: list[set[str]] = []
    for start in range(1, event_type.version):
        if field in event_type.renamed:
            older.append({field, *event_type.renamed[field]})
            continue
        presets = (frozenset[str](), frozenset([field]), _texts_in(event_type, start) - {field})
        found = [_source(event_type, start, field, preset) for preset in presets]
        if any(name is not None and name.startswith(MARK) for name in found):
            return None
        older.append({name for name in found if name is not None} or {field})
    return [*older, {field}]


def _source(event_type: EventType, start: int, field: str, preset: Iterable[str]) -> str | None:
    """Where a version stores what becomes a field; `MARK` if nowhere, None if that cannot be said."""
    names = dict.fromkeys(preset)
    for _ in range(PROBES):
        data: dict[str, Any] = {name: _Value(name) for name in names}
        try:
            found = _field_of(_upcast(event_type, start, data), field)
        except KeyError as error:
            missing = error.args[0] if error.args else None
            if not isinstance(missing, str) or missing in names:
                return None
            names[missing] = None  # it reads this field
        except Exception:  # an upcaster that fails on probes cannot be judged, and is let pass
            return None
        else:
            text = None if found is None else str(found)
            return text if text is None else text[1:] if text.startswith(MARK) else MARK
    return None


def _upcast(event_type: EventType, start: int, data: dict[str, Any]) -> list[dict[str, Any]]:
    """What the upcasters make of data: one, several or none."""
    parts: list[Any] = [data]
    for version in range(start, event_type.version):
        step = event_type.upcasters.get(version)
        if step is not None:
            parts = [result for part in parts for result in upcast_results(step(part))]
    return parts


def _field_of(parts: list[dict[str, Any]], field: str) -> Any:
    """The field's value, if all parts have the same one; else a value that is in no field."""
    values: list[Any] = []
    for value in parts:
        inner: Any = value
        for key in field.split("."):
            inner = None if inner is None else inner.get(key)
        values.append(inner)
    if len(set(map(str, values))) > 1:
        return MARK + MARK
    return values[0] if values else None


def _texts_in(event_type: EventType, start: int) -> frozenset[str]:
    """The texts that stand in upcasters: the fields that they may ask for."""
    codes = [
        getattr(step, "__code__", None) for version, step in event_type.upcasters.items() if version >= start
    ]
    return frozenset(
        text for code in codes if code is not None for text in code.co_consts if isinstance(text, str)
    )


class _Value:
    """A stored value of which nothing is known but the field that it stands in."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return MARK + self._name

    def _derived(self, *_: object, **__: object) -> _Value:
        return _Value(MARK + self._name)  # no longer what is stored

    def __getitem__(self, key: object) -> _Value:
        return _Value(f"{self._name}.{key}") if isinstance(key, str) else self._derived()

    def __iter__(self) -> Iterator[_Value]:
        yield self._derived()  # without this, Python would ask for one item after the other, without an end

    def get(self, key: object, default: object = None) -> _Value:
        return self[key]

    def __getattr__(self, name: str) -> Callable[..., _Value]:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._derived

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _derived
    __floordiv__ = __mod__ = __neg__ = __round__ = _derived
