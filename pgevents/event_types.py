"""What `@event` records of a class, and the types that an argument `types` names."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import attrs

from pgevents.caches import remembered
from pgevents.declarations import Upcaster
from pgevents.errors import ConfigurationError, UnknownEventTypeError, shown
from pgevents.texts import is_text

__all__ = [
    "MARK",
    "check_type_name",
    "event_types_of",
    "named_items",
    "EventType",
    "event_type_of",
    "names_and_classes",
    "type_names",
]

MARK = "__pgevents_type__"
TOO_DEEP = "event types are named by a flat sequence, not one nested so deeply"
NamesAndClasses: TypeAlias = tuple[tuple[str, ...], tuple[type[Any], ...]]
MAX_NAME = 200
"""Characters of an event type's name."""


@attrs.frozen
class EventType:
    """What `@event` records of a class: its name in the log, its version, and how older versions are read."""

    name: str
    cls: type[Any]
    version: int = 1
    upcasters: Mapping[int, Upcaster] = attrs.field(factory=dict[int, Upcaster])
    formerly: tuple[str, ...] = ()
    renamed: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]])

    @property
    def names(self) -> tuple[str, ...]:
        """Every name under which events of this class are stored."""
        return (self.name, *self.formerly)


def check_type_name(name: object) -> str:
    """The name as plain text, if it can be an event type's name.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"an event type's name is a non-empty string, not {shown(name)}")
    if len(name) > MAX_NAME or any(ord(char) < 32 for char in name) or not is_text(name):
        raise ConfigurationError(
            f"an event type's name has at most {MAX_NAME} characters and no control characters: {name!r:.240}"
        )
    return str.__str__(name)  # the plain text, also of an Enum that is a str


def event_type_of(cls: type[Any]) -> EventType:
    """The `EventType` of a class made by `@event`.

    Raises:
        UnknownEventTypeError: The class was not made by `@event`.
    """
    event_type: EventType | None = vars(cls).get(MARK) if isinstance(cls, type) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    shown = getattr(cls, "__qualname__", repr(cls))
    if event_type is None:
        is_own = getattr(cls, "__module__", "") != "builtins"
        hint = "decorate it with @event" if is_own else "an event is an instance of a class made by @event"
        raise UnknownEventTypeError(f"{shown} is not an event class: {hint}", cls)
    if event_type.cls is not cls:
        raise UnknownEventTypeError(
            f"{shown} was replaced by another decorator above @event, so it is not the class of the events "
            "that reads give; put @event on top",
            cls,
        )
    return event_type


def event_types_of(cls: type[Any]) -> list[EventType]:
    """The type of a class, and those of the event classes that derive from it."""
    event_types, pending = [event_type_of(cls)], cls.__subclasses__()
    while pending:
        subclass = pending.pop(0)
        event_type = vars(subclass).get(MARK)
        if event_type is not None and event_type.cls is subclass:
            event_types.append(event_type)
        pending.extend(subclass.__subclasses__())
    return event_types


def type_names(wanted: Any) -> tuple[str, ...]:
    """The stored names that `types` arguments other than None stand for; see `EventTypes.names`."""
    try:
        return _names(tuple(wanted) if isinstance(wanted, list) else wanted)  # pyright: ignore[reportUnknownArgumentType]
    except TypeError:  # not hashable, so not remembered
        return _find_names(wanted)
    except RecursionError:
        raise ConfigurationError(TOO_DEEP) from None


def _find_names(wanted: Any) -> tuple[str, ...]:
    """The stored names of classes, unions, names and sequences of these."""
    names: dict[str, None] = {}
    for item in named_items(wanted):
        if isinstance(item, str):
            names[check_type_name(item)] = None
        else:
            names.update(dict.fromkeys(name for of_item in event_types_of(item) for name in of_item.names))
    return tuple(names)


_names = remembered("names of event types")(_find_names)


def names_and_classes(wanted: Any) -> NamesAndClasses:
    """What `types` arguments other than None stand for: the stored names, sorted; and the event classes, none
    of them if a type is named by text."""
    try:
        return _names_and_classes(tuple(wanted) if isinstance(wanted, list) else wanted)  # pyright: ignore[reportUnknownArgumentType]
    except TypeError:  # not hashable, so not remembered
        return _find_names_and_classes(wanted)
    except RecursionError:
        raise ConfigurationError(TOO_DEEP) from None


def _find_names_and_classes(wanted: Any) -> NamesAndClasses:
    return tuple(sorted(_find_names(wanted))), _find_classes(wanted)


_names_and_classes = remembered("names and classes of event types")(_find_names_and_classes)


def _find_classes(wanted: Any) -> tuple[type[Any], ...]:
    items = list(named_items(wanted))
    if any(isinstance(item, str) for item in items):
        return ()
    return tuple(dict.fromkeys(of_item.cls for item in items for of_item in event_types_of(item)))


def named_items(wanted: Any) -> Iterable[Any]:
    """The classes and names in a class, a union, an alias, a name or (nested) sequences of these."""
    if wanted is None:
        return
    if isinstance(wanted, (str, type)):
        yield wanted
    elif isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union:
        for part in typing.get_args(wanted):
            yield from named_items(part)
    elif typing.get_origin(wanted) is typing.Annotated:
        yield from named_items(typing.get_args(wanted)[0])
    elif isinstance(typing.get_origin(wanted), type):
        raise ConfigurationError(
            f"{shown(wanted)} names a class with a type parameter, which the log does not know; "
            "name the class alone"
        )
    elif hasattr(wanted, "__value__"):  # a `type X = A | B` alias
        yield from named_items(wanted.__value__)
    elif isinstance(wanted, Iterable) and not isinstance(wanted, (Mapping, bytes)):
        parts: Iterable[Any] = wanted  # pyright: ignore[reportUnknownVariableType]
        for part in parts:
            if part is None:
                raise ConfigurationError("None is not an event type; leave the types out to mean any")
            yield from named_items(part)
    else:
        raise ConfigurationError(
            "event types are named by a class, a union of classes, a type's name or a sequence of these, "
            f"not {shown(typing.cast(object, wanted))}"
        )
