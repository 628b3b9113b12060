"""`@event`, the envelope of a saved event, and the registry of types."""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar, overload

import attrs

from pgevents.declarations import Upcaster, checked_renames, checked_upcasters, made_event_class
from pgevents.errors import ConfigurationError, EventDecodeError, UnknownEventTypeError, shown

if typing.TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[Any], Any]:
        return lambda decorated: decorated


__all__ = [
    "Event",
    "EventType",
    "EventTypes",
    "NewEvent",
    "StoredEvent",
    "UndecodedData",
    "UnfrozenEvent",
    "event",
    "event_type_of",
    "is_text",
    "make_event",
    "make_events",
    "named_classes",
    "type_names",
]

T = TypeVar("T")
D_co = TypeVar("D_co", covariant=True)

_MARK = "__pgevents_type__"
MAX_NAME = 200
"""Characters of an event type's name."""


@attrs.frozen
class EventType:
    """What `@event` knows of a class: its name in the log, its version and its past."""

    name: str
    cls: type[Any]
    version: int = 1
    upcasters: Mapping[int, Upcaster] = attrs.field(factory=dict[int, Upcaster])
    formerly: tuple[str, ...] = ()
    renamed: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]])

    @property
    def names(self) -> tuple[str, ...]:
        """Every name under which events of this class stand in the log."""
        return (self.name, *self.formerly)


class UnfrozenEvent:
    """An event while it is being made: the slots without the freeze.

    Who makes many sets the attributes of one of these, and at last its `__class__` to `Event`. That takes a
    third of the time of `Event(...)`, whose `__init__` has to get round the freeze for each attribute.
    """

    __slots__ = ("__weakref__", "created_at", "data", "id", "metadata", "type", "updated_at")


@attrs.frozen(unsafe_hash=True)
class Event(UnfrozenEvent, Generic[D_co]):
    """An event as it stands in the log: the envelope and, inside it, your own class.

    Two are equal if all of it is; they can stand in sets and be keys of dicts, whatever data they hold.

    Attributes:
        id: Its place in the one total order of the log.
        type: The name under which it is stored.
        data: An instance of the class registered for the type, or a dict if there is none.
        metadata: What is known about the event rather than by it (correlation id, actor, ...).
        created_at: When it was saved (or the `created_at` that the save was given); has a time zone.
        updated_at: Equal to `created_at` unless the event was redacted.
    """

    id: int
    type: str
    data: D_co = attrs.field(hash=False)
    metadata: dict[str, Any] = attrs.field(hash=False)
    created_at: datetime
    updated_at: datetime


def make_event(id: int, type: str, data: T, metadata: dict[str, Any], at: datetime) -> Event[T]:
    """An event as it stands in the log once it is saved."""
    made: Any = UnfrozenEvent()
    made.id = id
    made.type = type
    made.data = data
    made.metadata = metadata
    made.created_at = made.updated_at = at
    made.__class__ = Event
    event: Event[T] = made
    return event


def make_events(
    ids: Iterable[int], names: Iterable[str], several: Iterable[T], at: datetime
) -> list[Event[T]]:
    """The same of several without metadata, which takes less time in one loop."""
    events: list[Event[T]] = []
    for event_id, name, data in zip(ids, names, several, strict=True):
        made: Any = UnfrozenEvent()
        made.id = event_id
        made.type = name
        made.data = data
        made.metadata = {}
        made.created_at = made.updated_at = at
        made.__class__ = Event
        events.append(made)
    return events


@attrs.frozen
class NewEvent:
    """An event that is about to be saved, as hooks see it: no id yet.

    Attributes:
        type: The name under which it will be stored.
        data: An instance of a registered class, or a dict.
        metadata: Metadata of this one event; a JSON object.
    """

    type: str
    data: Any
    metadata: dict[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen
class StoredEvent:
    """An event as it is stored, before its data become an instance: what `pgevents_before_decode` sees.

    Attributes:
        id: Its id; 0 if it is about to be saved.
        type: The name under which it is stored.
        version: The version of its data's shape.
        data: The data, as JSON gives them.
        metadata: The metadata.
    """

    id: int
    type: str
    version: int
    data: dict[str, Any]
    metadata: dict[str, Any]


@attrs.frozen
class UndecodedData:
    """What stands for data that cannot be read, for a reader that goes on (`on_undecodable="raw"`).

    Attributes:
        text: The data as they are stored: JSON text.
        error: What is wrong with them, or with the event's envelope. Where a time of the envelope is beyond
            what a datetime holds, the nearest datetime stands there.
    """

    text: str
    error: EventDecodeError


def _check_type_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"an event type's name is a non-empty string, not {shown(name)}")
    if len(name) > MAX_NAME or any(ord(char) < 32 for char in name) or not is_text(name):
        raise ConfigurationError(
            f"an event type's name has at most {MAX_NAME} characters and no control characters: {name!r:.240}"
        )
    return str.__str__(name)  # of an Enum that is a str, the text


def is_text(value: str) -> bool:
    """Whether a str can be sent as UTF-8 at all: one with half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@overload
def event(name: type[T], /) -> type[T]: ...
@overload
def event(
    name: str | None = None,
    /,
    *,
    version: int = 1,
    upcasters: Mapping[int, Upcaster] | None = None,
    formerly: str | Iterable[str] = (),
    renamed: Mapping[str, str | Iterable[str]] | None = None,
) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def event(
    name: Any = None,
    /,
    *,
    version: int = 1,
    upcasters: Mapping[int, Upcaster] | None = None,
    formerly: str | Iterable[str] = (),
    renamed: Mapping[str, str | Iterable[str]] | None = None,
) -> Any:
    """Make a class an event: `attrs.frozen`, and registered under a name.

    A class that attrs or `dataclasses` has made stays as it is; their decorators stand below `@event`.

    Args:
        name: The type's name in the log; bare `@event` takes the class's name.
        version: Version of the data's shape. Raise it when old data needs an upcaster.
        upcasters: For every older version, a function from its data (a dict) to the next version's. Without
            any, old data are read as they are: enough for new fields with defaults.
            They run when events are read; the log is never rewritten.
        formerly: Names that the type had before; reads by class find those events too.
        renamed: For a field that streams are about, the name or names under which older versions store the
            same value. Needed only where running the upcasters on probes does not show it.

    Raises:
        ConfigurationError: A name, version or upcaster that cannot work, or a class that cannot be an event.

    Example:
        ```python
        from pgevents import event

        @event("CART_CREATED", version=2, upcasters={1: lambda data: {**data, "currency": "GBP"}})
        class CartCreated:
            cart_id: str
            currency: str
        ```
    """

    steps = checked_upcasters(version, upcasters)
    old_fields = checked_renames(version, renamed)
    old_names = tuple(
        _check_type_name(old) for old in ([formerly] if isinstance(formerly, str) else formerly)
    )

    def register(cls: type[T], type_name: str) -> type[T]:
        type_name = _check_type_name(type_name)
        made = made_event_class(cls, _names_at(2))
        kind = EventType(type_name, made, version, steps, old_names, old_fields)
        setattr(made, _MARK, kind)
        EventTypes.everything.add(kind)
        _names.cache_clear()
        _classes.cache_clear()  # a base class stands for one more class now
        return made

    if isinstance(name, type) or inspect.isroutine(name):
        bare: Any = name
        return register(bare, bare.__name__)
    if name is not None:
        _check_type_name(name)

    def decorate(cls: type[T]) -> type[T]:
        return register(cls, getattr(cls, "__name__", "") if name is None else name)

    return decorate


def _names_at(depth: int) -> Mapping[str, Any]:
    """The names of the function or module that called so many calls above the caller."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = None if frame is None else frame.f_back
    return {} if frame is None else frame.f_locals


def event_type_of(cls: type[Any]) -> EventType:
    """The `EventType` of a class made by `@event`.

    Raises:
        UnknownEventTypeError: The class was not made by `@event`.
    """
    kind: EventType | None = vars(cls).get(_MARK) if isinstance(cls, type) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    shown = getattr(cls, "__qualname__", repr(cls))
    if kind is None:
        raise UnknownEventTypeError(f"{shown} is not an event class: decorate it with @event", cls)
    if kind.cls is not cls:
        raise UnknownEventTypeError(
            f"{shown} was made anew by another decorator above @event, so it is not the class that reads "
            "give; put @event on top",
            cls,
        )
    return kind


def _event_types_of(cls: type[Any]) -> list[EventType]:
    """The types that a class stands for: its own, and those of the event classes that derive from it."""
    found, pending = [event_type_of(cls)], cls.__subclasses__()
    while pending:
        below = pending.pop(0)
        kind = vars(below).get(_MARK)
        if kind is not None and kind.cls is below:
            found.append(kind)
        pending.extend(below.__subclasses__())
    return found


class EventTypes:
    """The event classes that a client knows, by class and by name.

    A client made without `event_types` uses `EventTypes.everything`: all classes decorated so far, and later.

    Attributes:
        restricted: Whether there are no classes but those given.
        revision: Changes whenever a class is added, so that whoever remembers what he found can tell.
        has_former: Whether a class among them was defined again, and another has taken its place.
    """

    everything: typing.ClassVar[EventTypes]

    def __init__(self, classes: Any = None) -> None:
        self.restricted = classes is not None
        self.revision = 0
        self.has_former = False
        self._by_name: dict[str, EventType] = {}
        self._by_class: dict[type[Any], EventType] = {}
        self._ambiguous: dict[str, list[str]] = {}
        for cls in _flatten(classes):
            for kind in _event_types_of(cls):
                self.add(kind)

    def add(self, kind: EventType) -> None:
        """Register a type; a class that is defined again (a reloaded module) replaces its former self."""
        for name in kind.names:
            known = self._by_name.get(name)
            if known is not None and known.cls is not kind.cls:
                self._note_clash(name, known.cls, kind.cls)
            self._by_name[name] = kind
        self._by_class = {}
        self.revision += 1

    def _note_clash(self, name: str, former: type[Any], latter: type[Any]) -> None:
        if _same_definition(former, latter):
            self.has_former = True
        elif self.restricted:
            raise ConfigurationError(f"two classes claim the event type {name!r}: {former!r}, {latter!r}")
        else:
            self._ambiguous.setdefault(name, [repr(former)]).append(repr(latter))

    def extended(self, added: Sequence[type[Any]]) -> EventTypes:
        """A registry of its own with the classes that plugins bring added; the shared one is left as it
        is."""
        if not added or not self.restricted:
            return self  # classes made by @event are in the shared registry already
        made = EventTypes(())
        made._by_name = dict(self._by_name)
        for cls in added:
            made.add(event_type_of(cls))
        return made

    def find(self, name: str) -> EventType | None:
        """The type registered under a stored name, or None."""
        if name in self._ambiguous:
            raise ConfigurationError(
                f"several classes claim the event type {name!r}: {', '.join(self._ambiguous[name])}; "
                "name the ones this client shall use: create_event_client(db, events, projections, "
                "event_types)"
            )
        return self._by_name.get(name)

    def versioned(self) -> tuple[EventType, ...]:
        """The types whose data have older versions."""
        return tuple({id(kind): kind for kind in self._by_name.values() if kind.version > 1}.values())

    def all(self) -> list[EventType]:
        """The registered types, by name."""
        return sorted(
            {kind.name: kind for kind in self._by_name.values()}.values(), key=lambda kind: kind.name
        )

    def nearest(self, name: str) -> str | None:
        """The registered name that an unknown one is probably a misspelling of, or None.

        Names that differ in a number only are no misspellings.
        """
        found = difflib.get_close_matches(name, self._by_name, 1, 0.9)
        if not found or found[0] == name or _without_number(found[0]) == _without_number(name):
            return None
        return found[0]

    def known(self, cls: type[Any]) -> EventType | None:
        """The type of a class of which an event was saved before, and no other claims its name; else None."""
        return self._by_class.get(cls)

    def of(self, instance: object) -> EventType:
        """The type of an event that is to be saved.

        Raises:
            UnknownEventTypeError: No event, or an event that this client was not made for.
        """
        if isinstance(instance, type):
            name = instance.__qualname__
            raise UnknownEventTypeError(
                f"{name} is a class; an event is an instance of it: {name}(...)", instance
            )
        cls, by_class = (
            type(instance),
            self._by_class,
        )  # before the names are looked at: `add` leaves it behind
        kind = event_type_of(cls)
        self._refuse_former(kind)
        if self.restricted and self._by_name.get(kind.name) is not kind:
            raise UnknownEventTypeError(
                f"this client was created without the event type {kind.name!r} ({cls.__qualname__}); "
                "add the class to its event_types",
                cls,
            )
        if kind.cls is cls and kind.name not in self._ambiguous and self._by_name.get(kind.name) is kind:
            by_class[cls] = kind
        return kind

    def _refuse_former(self, kind: EventType) -> None:
        """Refuse a class that was defined again since, or of which this registry has a former definition."""
        known = self._by_name.get(kind.name)
        if known is None or known.cls is kind.cls or not _same_definition(known.cls, kind.cls):
            return
        raise UnknownEventTypeError(
            f"{kind.cls.__qualname__} was defined again (a module was reloaded?): there are two classes of "
            f"this name, and reads give instances of the one that this client knows for {kind.name!r}; "
            "import the class anew where it is used, or make the client anew",
            kind.cls,
        )

    def require_current(self, wanted: Any) -> None:
        """That no class among these was defined again since: reads would give instances of its successor.

        Args:
            wanted: What names types, as for `names`.

        Raises:
            UnknownEventTypeError: Names the class.
        """
        if wanted is None or not EventTypes.everything.has_former:
            return
        for cls in _flatten(wanted):
            if not isinstance(cls, str):
                self._refuse_former(event_type_of(cls))

    def names(self, wanted: Any) -> tuple[str, ...] | None:
        """The stored names that a `types` argument stands for; None for any type.

        Args:
            wanted: A class, a union of classes, a name, a sequence of these, or None for any type.

        Raises:
            UnknownEventTypeError: A class that is no event.
            ConfigurationError: Something that is no type at all.
        """
        return None if wanted is None else type_names(wanted)


def _without_number(name: str) -> str:
    return re.sub(r"[_.-]?[vV]?\d+", "", name)


def type_names(wanted: Any) -> tuple[str, ...]:
    """What `EventTypes.names` tells of anything but None."""
    try:
        return _names(tuple(wanted) if isinstance(wanted, list) else wanted)  # pyright: ignore[reportUnknownArgumentType]
    except TypeError:  # not hashable, so not remembered
        return _names.__wrapped__(wanted)
    except RecursionError:
        raise ConfigurationError(
            "event types are named by a flat sequence, not one nested so deeply"
        ) from None


@lru_cache(maxsize=1024)
def _names(wanted: Any) -> tuple[str, ...]:
    """Stored names out of whatever names types."""
    found: dict[str, None] = {}
    for item in _flatten(wanted):
        if isinstance(item, str):
            found[_check_type_name(item)] = None
        else:
            found.update(dict.fromkeys(name for kind in _event_types_of(item) for name in kind.names))
    return tuple(found)


def named_classes(wanted: Any) -> tuple[type[Any], ...]:
    """The event classes that a `types` argument stands for; none if it names any type by a text."""
    try:
        return _classes(tuple(wanted) if isinstance(wanted, list) else wanted)  # pyright: ignore[reportUnknownArgumentType]
    except TypeError:  # not hashable, so not remembered
        return _classes.__wrapped__(wanted)


@lru_cache(maxsize=1024)
def _classes(wanted: Any) -> tuple[type[Any], ...]:
    named = list(_flatten(wanted))
    if any(isinstance(item, str) for item in named):
        return ()
    return tuple(dict.fromkeys(kind.cls for item in named for kind in _event_types_of(item)))


def _flatten(wanted: Any) -> Iterable[Any]:
    """Classes and names out of a class, a union, an annotated alias, a name or (nested) sequences of
    these."""
    if wanted is None:
        return
    if isinstance(wanted, (str, type)):
        yield wanted
    elif isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union:
        for part in typing.get_args(wanted):
            yield from _flatten(part)
    elif typing.get_origin(wanted) is typing.Annotated:
        yield from _flatten(typing.get_args(wanted)[0])
    elif isinstance(typing.get_origin(wanted), type):
        raise ConfigurationError(
            f"{shown(wanted)} names a class with a type parameter, which the log does not know; "
            "name the class alone"
        )
    elif hasattr(wanted, "__value__"):  # a `type X = A | B` alias
        yield from _flatten(wanted.__value__)
    elif isinstance(wanted, Iterable) and not isinstance(wanted, (Mapping, bytes)):
        parts: Iterable[Any] = wanted  # pyright: ignore[reportUnknownVariableType]
        for part in parts:
            if part is None:
                raise ConfigurationError("None is no event type; leave the types out to mean any")
            yield from _flatten(part)
    else:
        raise ConfigurationError(
            "event types are named by a class, a union of classes, a type's name or a sequence of these, "
            f"not {shown(typing.cast(object, wanted))}"
        )


def _same_definition(one: type[Any], other: type[Any]) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


EventTypes.everything = EventTypes()
