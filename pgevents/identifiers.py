"""Whether the identifiers of a question can find what it asks for: a misspelt one would find nothing."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import attrs

from pgevents.codec.serialization import Serializer
from pgevents.errors import ConfigurationError
from pgevents.events import EventType, event_type_of
from pgevents.fields import path_of
from pgevents.streams import Stream, merge_streams

__all__ = ["Identifiers"]

MANY = 10_000
"""How many questions are remembered as checked."""
PROBES = 100
"""How many fields an upcaster may read before nothing is said about it."""


class Identifiers:
    """Checks the identifiers of a client's questions against the event classes that they name.

    Only a question that names its types by classes can be checked: what events have that are known by name
    alone, or of any type, nobody knows.

    Attributes:
        hidden: Fields that are stored in another form than their value, by the event type's name.
    """

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer
        self._checked: set[tuple[tuple[type[Any], ...], tuple[str, ...]]] = set()
        self.hidden: Mapping[str, frozenset[str]] = {}

    def forget(self) -> None:
        """Check again: the converter has changed."""
        self._checked = set()

    def check(self, streams: Iterable[Stream[Any]]) -> Sequence[Stream[Any]]:
        """The streams as a sequence, checked.

        Raises:
            ConfigurationError: An identifier that none of the stream's classes has, one under which an older
                version of a class is not found, or one that is stored in another form (encrypted).
        """
        if not isinstance(streams, (list, tuple)):
            streams = merge_streams(streams)
        for one in streams:
            classes, match = getattr(one, "classes", ()), getattr(one, "match", ())
            # what is no stream is refused by others
            if self.hidden and match:
                self._refuse_hidden(one)
            if classes and match:
                question = classes, tuple([field for field, _ in match])
                if question not in self._checked:
                    self._check(*question)
        return streams

    def _refuse_hidden(self, asked: Stream[Any]) -> None:
        for event_type in self.hidden if asked.types is None else asked.types:
            for field, _ in asked.match:
                if field in self.hidden.get(event_type, ()):
                    raise ConfigurationError(
                        f"no event of {event_type!r} is found by {field!r}: a plugin stores that field in "
                        "another form than its value, encrypted for example. Identify events by another "
                        "field" + ("" if asked.types else ", or name types that do not have it")
                    )

    def _check(self, classes: tuple[type[Any], ...], fields: tuple[str, ...]) -> None:
        stored = StoredFields(self._serializer)
        for field in fields:
            if not any(stored.may_have(cls, field) for cls in classes):
                raise ConfigurationError(_no_such_field(field, classes, stored))
        able = [cls for cls in classes if all(stored.may_have(cls, field) for field in fields)]
        if not able:
            raise ConfigurationError(
                f"no event of {_listed(classes)} has all of the fields {', '.join(fields)}, so nothing "
                "would be found: several identifiers must all match"
            )
        for cls in able:
            kind = event_type_of(cls)
            made = [field for field in fields if kind.version > 1 and _is_made_by_upcasters(kind, field)]
            if made:
                raise ConfigurationError(
                    f"{made[0]!r} does not find all events of {cls.__qualname__}: its upcasters make that "
                    "field, "
                    "and streams search what is stored. Identify events by a field that all versions store "
                    "under "
                    "one name; older events get it when they are imported anew"
                )
        if len(self._checked) > MANY:
            self.forget()
        self._checked.add((classes, fields))


@attrs.frozen
class StoredFields:
    """Under which names the fields of classes are stored, also those of the classes in their fields."""

    serializer: Serializer

    def may_have(self, cls: type[Any], field: str) -> bool:
        """Whether events of this class may have the field; also where that cannot be known."""
        column, keys = path_of(field)
        return column != "data" or self._may_have(cls, keys)

    def _may_have(self, kind: Any, keys: Sequence[str]) -> bool:
        if not keys:
            return True
        inner = _members(kind)
        if inner:
            return any(self._may_have(one, keys) for one in inner)
        known = self._of(kind) if isinstance(kind, type) else None
        if known is not None:
            return keys[0] in known and self._may_have(known[keys[0]], keys[1:])
        return not (isinstance(kind, type) and issubclass(kind, NO_OBJECTS))

    def names(self, kind: Any, depth: int = 3) -> Iterator[str]:
        """The names that are known, with those of nested fields as paths."""
        for one in _members(kind) or (kind,):
            known = (self._of(one) if isinstance(one, type) else None) or {}
            for name, inner in known.items():
                yield name
                if depth > 1:
                    yield from (f"{name}.{more}" for more in self.names(inner, depth - 1))

    def _of(self, cls: type[Any]) -> dict[str, Any] | None:
        """The types of a class's fields by their stored names; None if that cannot be known."""
        if not attrs.has(cls):
            return None
        overrides: Mapping[str, Any] | None = getattr(
            self.serializer.unstructure_hook(cls), "overrides", None
        )
        if overrides is None:
            return None  # it is written by a function of the application's own
        found: dict[str, Any] = {}
        for field in attrs.fields(cls):
            override = overrides.get(field.name)
            if override is None or not override.omit:
                found[getattr(override, "rename", None) or field.name] = field.type
        return found


NO_OBJECTS = (str, bytes, int, float, bool, list, tuple, set, frozenset, date, time, Decimal, UUID, Enum)
"""What is stored as text, number or list, so that no field stands in it."""


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; the class of a generic one; none for any other."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return tuple(one for one in typing.get_args(kind) if one is not type(None))
    return (origin,) if isinstance(origin, type) else ()


def _listed(classes: Iterable[type[Any]]) -> str:
    return ", ".join(cls.__qualname__ for cls in classes)


def _no_such_field(field: str, classes: Iterable[type[Any]], stored: StoredFields) -> str:
    classes = tuple(classes)
    known = sorted({name for cls in classes for name in stored.names(cls, depth=1)})
    every = {name for cls in classes for name in stored.names(cls)}
    near = difflib.get_close_matches(field, sorted(every), 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"no event of {_listed(classes)} has a field {field!r}, so nothing would be found: {hint}"
        f"They have {', '.join(known) or 'no fields'}. A field that only stored events have is asked for "
        'with the types as texts: stream("CART_CREATED", ...)'
    )


def _is_made_by_upcasters(kind: EventType, field: str) -> bool:
    """Whether upcasters give a field another value than the one that is stored under its name.

    They are run on values that know where they come from. What they do with values that only real ones allow,
    is not known, and not refused.
    """
    return any(
        _is_made(kind, start, field, preset)
        for start in range(1, kind.version)
        for preset in (frozenset[str](), frozenset([field]), _texts_in(kind, start) - {field})
    )


def _is_made(kind: EventType, start: int, field: str, preset: Iterable[str]) -> bool:
    names = dict.fromkeys(preset)
    for _ in range(PROBES):
        data: dict[str, Any] = {name: _Value(name) for name in names}
        try:
            for version in range(start, kind.version):
                step = kind.upcasters.get(version)
                data = data if step is None else step(data)
            found = data.get(field)
        except KeyError as error:
            missing = error.args[0] if error.args else None
            if not isinstance(missing, str) or missing in names:
                return False
            names[missing] = None  # it reads this field
        except Exception:  # an upcaster that fails on probes cannot be judged, and is let pass
            return False
        else:
            return found is not None and str(found) != str(_Value(field))
    return False


def _texts_in(kind: EventType, start: int) -> frozenset[str]:
    """The texts that stand in upcasters: the fields that they may ask for."""
    codes = [getattr(step, "__code__", None) for version, step in kind.upcasters.items() if version >= start]
    return frozenset(
        text for code in codes if code is not None for text in code.co_consts if isinstance(text, str)
    )


class _Value:
    """A stored value of which nothing is known but the field that it stands in."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return f"\0{self._name}"

    def _derived(self, *_: object, **__: object) -> _Value:
        return _Value(f"\0{self._name}")  # no longer what is stored

    def __getattr__(self, name: str) -> Callable[..., _Value]:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._derived

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _derived
    __floordiv__ = __mod__ = __neg__ = __round__ = __getitem__ = _derived
