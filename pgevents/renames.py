"""Under which names older versions of an event store a field: found by running upcasters on test data."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from pgevents.declarations import upcast_results
from pgevents.event_types import EventType

__all__ = ["stored_names"]

PROBES = 100
"""An upcaster that reads more fields than this is not judged."""
MIXTURES = 10_000
"""Mixtures of values that are tried on an upcaster that fails on values of one kind."""
MARK = "\0"
"""Begins the text of a value that is stored; a derived one has two."""
MADE = "its upcasters make that field, and streams search what is stored"
UNJUDGED = (
    "its upcasters fail on all test data, so it is not known how older versions store that field. If they "
    "store its value as it is, declare under which name: renamed={{{field!r}: {field!r}}}"
)

Kind = Callable[[str, int], Any]
"""Makes the test value of a field from its name and its number, another one for each number."""


def stored_names(event_type: EventType, field: str) -> list[set[str]] | str:
    """For each version, the first one first, the names under which it may store a field of the newest one.

    What `@event(renamed=...)` says goes before what the upcasters show. Those are run on test data; what an
    upcaster does with certain real values only is not detected.

    Returns:
        In place of the names the reason why streams cannot find the field: an upcaster makes it of something
        else, or fails on all test data.
    """
    older: list[set[str]] = []
    for start in range(1, event_type.version):
        if field in event_type.renamed:
            older.append({field, *event_type.renamed[field]})
            continue
        found = _origins(event_type, start, field)
        if not found:
            return UNJUDGED.format(field=field)
        if any(name is not None and name.startswith(MARK) for name in found):
            return MADE
        older.append({name for name in found if name is not None} or {field})
    return [*older, {field}]


def _origins(event_type: EventType, start: int, field: str) -> set[str | None]:
    """Where a version stores what becomes a field, as those runs show that end without an error: the field's
    name; `MARK` if nowhere; None if the run does not tell."""
    texts = _texts_in(event_type, start)
    presets = (frozenset[str](), frozenset([field]), texts - {field})
    of_texts = [make(text) for text in sorted(texts) for make in (_copies_of, _beginning_with)]
    kinds = [*KINDS, *of_texts]
    chance = random.Random(0)  # the same answer each time
    mixture = iter(lambda: chance.choice(kinds), None)
    found: set[str | None] = set()
    for preset in presets:
        for kind in (_of_unknown_kind, *kinds):
            found |= _origin(event_type, start, field, preset, itertools.repeat(kind))
        for _ in range(0 if found else MIXTURES):
            found |= _origin(event_type, start, field, preset, mixture)
            if found:
                break
    return found


def _origin(
    event_type: EventType, start: int, field: str, preset: Iterable[str], kinds: Iterator[Kind]
) -> set[str | None]:
    """What one run shows, in which each field has a value of the next kind; empty if it failed."""
    chosen = {name: next(kinds) for name in sorted(preset)}
    for _ in range(PROBES):
        data = {name: kind(name, number) for number, (name, kind) in enumerate(chosen.items(), 1)}
        try:
            return {_name_of(_field_of(_upcast(event_type, start, {**data}), field), data)}
        except KeyError as error:
            missing = error.args[0] if error.args else None
            if not isinstance(missing, str) or missing in chosen:
                return set()
            chosen[missing] = next(kinds)  # it reads this field
        except Exception:  # values of other kinds may please it
            return set()
    return set()


def _name_of(found: Any, data: dict[str, Any]) -> str | None:
    """The name of the field whose value this is; `MARK` if it is none's, None if there is no value, or if
    several fields have it."""
    if found is None:
        return None
    text = str(found)
    if text.startswith(MARK):
        return text[1:]
    names = [name for name, value in data.items() if value is found]
    names = names or [name for name, value in data.items() if str(value) == text]
    return MARK if not names else names[0] if len(names) == 1 else None


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
    constants = [constant for code in codes if code is not None for constant in code.co_consts]
    inner = [each for constant in constants if isinstance(constant, tuple) for each in cast(Any, constant)]
    return frozenset(text for text in (*constants, *inner) if isinstance(text, str))


def _copies_of(text: str) -> Kind:
    return lambda name, number: "".join([*text])


def _beginning_with(text: str) -> Kind:
    return lambda name, number: f"{text}{number}aB"


def _of_unknown_kind(name: str, number: int) -> Any:
    return _Value(name)


KINDS: tuple[Kind, ...] = (
    lambda name, number: f"{number}aB {number}bC",
    lambda name, number: f"{number}aB {number}bC {number}cD",
    lambda name, number: f"{number}aB-{number}b_c,{number}:d/{number}@e.f",
    lambda name, number: f"{7_000 + number}",
    lambda name, number: f"{7_000 + number}.25",
    lambda name, number: 7_000 + number,
    lambda name, number: 7_000.25 + number,
    lambda name, number: f"2001-02-{number % 28 + 1:02}",
    lambda name, number: f"2001-02-03T04:05:06.{number:06}+00:00",
    lambda name, number: f"{number:08x}-0000-4000-8000-000000000000",
    lambda name, number: [f"{number}aB", f"{number}bC"],
    lambda name, number: [{"id": f"{number}aB"}],
)
"""Real values: an upcaster may take apart, convert, or refuse what it gets."""


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
