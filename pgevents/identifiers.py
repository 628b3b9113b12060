"""Whether the identifiers of a question can find what it asks for: a misspelt one would find nothing, "
"silently."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from pgevents.codec.serialization import Serializer
from pgevents.errors import ConfigurationError
from pgevents.events import EventType, event_type_of
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
        names = {cls: _stored_names(self._serializer, cls) for cls in classes}
        for field in fields:
            if not any(known is None or field in known for known in names.values()):
                raise ConfigurationError(_no_such_field(field, names))
        able = [cls for cls, known in names.items() if known is None or known.issuperset(fields)]
        if not able:
            raise ConfigurationError(
                f"no event of {_listed(classes)} has all of the fields {', '.join(fields)}, so nothing "
                "would be "
                "found: several identifiers must all match"
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


def _stored_names(serializer: Serializer, cls: type[Any]) -> set[str] | None:
    """The names under which the fields of an event class are stored; None if that cannot be known."""
    overrides: Mapping[str, Any] | None = getattr(serializer.unstructure_hook(cls), "overrides", None)
    if overrides is None or not attrs.has(cls):
        return None  # it is written by a function of the application's own
    names: set[str] = set()
    for field in attrs.fields(cls):
        override = overrides.get(field.name)
        if override is None or not override.omit:
            names.add(getattr(override, "rename", None) or field.name)
    return names


def _listed(classes: Iterable[type[Any]]) -> str:
    return ", ".join(cls.__qualname__ for cls in classes)


def _no_such_field(field: str, names: Mapping[type[Any], set[str] | None]) -> str:
    known = sorted({name for some in names.values() for name in some or ()})
    near = difflib.get_close_matches(field, known, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"no event of {_listed(names)} has a field {field!r}, so nothing would be found: {hint}"
        f"They have {', '.join(known) or 'no fields'}. A field that only stored events have is asked for "
        "with the "
        'types as texts: stream("CART_CREATED", ...)'
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
