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

from pgevents.declarations import Upcaster, checked_renames, checked_upcasters, make_event_class
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
    "EventPart",
    "NewEvent",
    "Parts",
    "StoredEvent",
    "UndecodedData",
    "UnfrozenEvent",
    "event",
    "event_type_of",
    "is_text",
    "make_event",
    "named_classes",
    "parts_of",
    "type_names",
]

T = TypeVar("T")
D_co = TypeVar("D_co", covariant=True)

_MARK = "__pgevents_type__"
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


class UnfrozenEvent:
    """An event under construction: the slots of `Event` without the freeze.

    Code that makes many events sets the attributes of such an object, and then its `__class__` to `Event`.
    This is faster than `Event(...)`, whose `__init__` has to bypass the freeze for each attribute.
    """

    __slots__ = ("__weakref__", "created_at", "data", "id", "metadata", "type", "updated_at")


@attrs.frozen(unsafe_hash=True)
class Event(UnfrozenEvent, Generic[D_co]):
    """An event of the log: the envelope and, inside it, an instance of your own class.

    Two events are equal if all their fields are. Events are hashable, whatever data they hold.

    Attributes:
        id: Its place in the total order of the log.
        type: The name under which it is stored.
        data: An instance of the class registered for the type, or a dict if there is none.
        metadata: Facts about the saving of the event (correlation id, actor, ...), beside its data.
        created_at: When it was saved (or the `created_at` that the save was given); has a time zone.
        updated_at: Equal to `created_at` unless the event was redacted.
    """

    id: int
    type: str
    data: D_co = attrs.field(hash=False)
    metadata: dict[str, Any] = attrs.field(hash=False)
    created_at: datetime
    updated_at: datetime

    @property
    def part(self) -> int:
        """Which part of a stored event this is, from 0 on, if an upcaster splits that; else 0. Id and part
        together are unique."""
        return 0


@attrs.frozen(unsafe_hash=True)
class EventPart(Event[D_co], Generic[D_co]):
    """A further part of a stored event, made by an upcaster that splits it; it has the id of the whole."""

    number: int = 1

    @property
    def part(self) -> int:
        return self.number


@attrs.frozen
class Parts:
    """In place of data: what an upcaster makes of one stored event, if that is several or nothing."""

    data: tuple[Any, ...]


def parts_of(events: Sequence[Event[Any]], *, is_reverse: bool = False) -> list[Event[Any]]:
    """The events with those that are split as their parts, and without those that are dropped."""
    found: list[Event[Any]] = []
    for one in events:
        if one.data.__class__ is not Parts:
            found.append(one)
            continue
        made: list[Event[Any]] = []
        for number, data in enumerate(one.data.data):
            envelope = one.id, one.type, data, one.metadata, one.created_at, one.updated_at
            made.append(EventPart(*envelope, number) if number else Event(*envelope))
        found += reversed(made) if is_reverse else made
    return found


def make_event(id: int, type: str, data: T, metadata: dict[str, Any], at: datetime) -> Event[T]:
    """The envelope of an event that was saved at this time and never redacted."""
    unfrozen: Any = UnfrozenEvent()
    unfrozen.id = id
    unfrozen.type = type
    unfrozen.data = data
    unfrozen.metadata = metadata
    unfrozen.created_at = unfrozen.updated_at = at
    unfrozen.__class__ = Event
    saved: Event[T] = unfrozen
    return saved


@attrs.frozen
class NewEvent:
    """An event that is about to be saved, as hooks see it: no id yet.

    Attributes:
        type: The name under which it will be stored.
        data: An instance of a registered class, or a dict.
        metadata: The metadata of this event; a JSON object.
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
        data: The data as a dict of JSON values.
        metadata: The metadata.
    """

    id: int
    type: str
    version: int
    data: dict[str, Any]
    metadata: dict[str, Any]


@attrs.frozen
class UndecodedData:
    """Takes the place of data that cannot be read, for a reader that continues (`on_undecodable="raw"`).

    Attributes:
        text: The data as they are stored: JSON text.
        error: What is wrong with the data, or with the envelope. A time of the envelope that a datetime
            cannot hold is replaced by the nearest datetime.
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
    return str.__str__(name)  # the plain text, also of an Enum that is a str


def is_text(value: str) -> bool:
    """Whether a str can be encoded as UTF-8: half of a surrogate pair cannot."""
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
        upcasters: For every older version, a function from its data (a dict) to the next version's; to a
            list of several, if it splits the event, or to an empty one, if it drops it. Without any, old data
            are read as they are: enough for new fields with defaults.
            They run when events are read; the log is never rewritten.
        formerly: Names that the type had before; reads by class find those events too.
        renamed: For a field that identifies streams, the name or names under which older versions store the
            same value. Needed only if running the upcasters on test data does not show it.

    Raises:
        ConfigurationError: A name, version or upcaster is not valid, or the class cannot be an event class.

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
        event_class = make_event_class(cls, _names_at(2))
        event_type = EventType(type_name, event_class, version, steps, old_names, old_fields)
        setattr(event_class, _MARK, event_type)
        EventTypes.everything.add(event_type)
        _names.cache_clear()
        _classes.cache_clear()  # a base class also names its new subclass
        return event_class

    if isinstance(name, type) or inspect.isroutine(name):
        bare: Any = name
        return register(bare, bare.__name__)
    if name is not None:
        _check_type_name(name)

    def decorate(cls: type[T]) -> type[T]:
        return register(cls, getattr(cls, "__name__", "") if name is None else name)

    return decorate


def _names_at(depth: int) -> Mapping[str, Any]:
    """The local names of the frame that is `depth` calls above the caller."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = None if frame is None else frame.f_back
    return {} if frame is None else frame.f_locals


def event_type_of(cls: type[Any]) -> EventType:
    """The `EventType` of a class made by `@event`.

    Raises:
        UnknownEventTypeError: The class was not made by `@event`.
    """
    event_type: EventType | None = vars(cls).get(_MARK) if isinstance(cls, type) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    shown = getattr(cls, "__qualname__", repr(cls))
    if event_type is None:
        raise UnknownEventTypeError(f"{shown} is not an event class: decorate it with @event", cls)
    if event_type.cls is not cls:
        raise UnknownEventTypeError(
            f"{shown} was replaced by another decorator above @event, so it is not the class of the events "
            "that reads give; put @event on top",
            cls,
        )
    return event_type


def _event_types_of(cls: type[Any]) -> list[EventType]:
    """The type of a class, and those of the event classes that derive from it."""
    event_types, pending = [event_type_of(cls)], cls.__subclasses__()
    while pending:
        subclass = pending.pop(0)
        event_type = vars(subclass).get(_MARK)
        if event_type is not None and event_type.cls is subclass:
            event_types.append(event_type)
        pending.extend(subclass.__subclasses__())
    return event_types


class EventTypes:
    """The event classes that a client knows, by class and by name.

    A client made without `event_types` uses `EventTypes.everything`: all classes decorated so far, and later.

    Attributes:
        restricted: Whether the registry holds only the classes that it was made for.
        revision: Changes whenever a class is added, so that caches can be invalidated.
        has_former: Whether a class was defined again, so that another has taken its place.
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
            for event_type in _event_types_of(cls):
                self.add(event_type)

    def add(self, event_type: EventType) -> None:
        """Register a type; a class that is defined again (a reloaded module) replaces the former one."""
        for name in event_type.names:
            registered = self._by_name.get(name)
            if registered is not None and registered.cls is not event_type.cls:
                self._note_clash(name, registered.cls, event_type.cls)
            self._by_name[name] = event_type
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
        """A copy of this registry with the classes that plugins bring; the shared registry stays as it is."""
        if not added or not self.restricted:
            return self  # classes made by @event are in the shared registry already
        copy = EventTypes(())
        copy._by_name = dict(self._by_name)
        for cls in added:
            copy.add(event_type_of(cls))
        return copy

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

        Names that differ in a number only are not misspellings.
        """
        close = difflib.get_close_matches(name, self._by_name, 1, 0.9)
        if not close or close[0] == name or _without_number(close[0]) == _without_number(name):
            return None
        return close[0]

    def cached(self, cls: type[Any]) -> EventType | None:
        """The cached type of a class whose events `of` has accepted; None before that."""
        return self._by_class.get(cls)

    def of(self, instance: object) -> EventType:
        """The type of an event that is to be saved.

        Raises:
            UnknownEventTypeError: Not an event, or an event that this client was not made for.
        """
        if isinstance(instance, type):
            name = instance.__qualname__
            raise UnknownEventTypeError(
                f"{name} is a class; an event is an instance of it: {name}(...)", instance
            )
        cls = type(instance)
        by_class = self._by_class  # before the look-ups: if `add` comes in between, it drops this cache
        event_type = event_type_of(cls)
        self._refuse_former(event_type)
        if self.restricted and self._by_name.get(event_type.name) is not event_type:
            raise UnknownEventTypeError(
                f"this client was created without the event type {event_type.name!r} ({cls.__qualname__}); "
                "add the class to its event_types",
                cls,
            )
        if (
            event_type.cls is cls
            and event_type.name not in self._ambiguous
            and self._by_name.get(event_type.name) is event_type
        ):
            by_class[cls] = event_type
        return event_type

    def _refuse_former(self, event_type: EventType) -> None:
        """Refuse a class that was defined again, or of which this registry has a former definition."""
        registered = self._by_name.get(event_type.name)
        if (
            registered is None
            or registered.cls is event_type.cls
            or not _same_definition(registered.cls, event_type.cls)
        ):
            return
        raise UnknownEventTypeError(
            f"{event_type.cls.__qualname__} was defined again (a module was reloaded?): "
            "there are two classes of this name, and reads give instances of the one that this client has "
            f"for {event_type.name!r}; import the class again where it is used, or create the client again",
            event_type.cls,
        )

    def require_current(self, wanted: Any) -> None:
        """Refuse classes that were defined again: reads would give instances of their successors.

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
            UnknownEventTypeError: A class is not an event class.
            ConfigurationError: Something does not name a type.
        """
        return None if wanted is None else type_names(wanted)


def _without_number(name: str) -> str:
    return re.sub(r"[_.-]?[vV]?\d+", "", name)


def type_names(wanted: Any) -> tuple[str, ...]:
    """The stored names that `types` arguments other than None stand for; see `EventTypes.names`."""
    try:
        return _names(tuple(wanted) if isinstance(wanted, list) else wanted)  # pyright: ignore[reportUnknownArgumentType]
    except TypeError:  # not hashable, so not cached
        return _names.__wrapped__(wanted)
    except RecursionError:
        raise ConfigurationError(
            "event types are named by a flat sequence, not one nested so deeply"
        ) from None


@lru_cache(maxsize=1024)
def _names(wanted: Any) -> tuple[str, ...]:
    """The stored names of classes, unions, names and sequences of these."""
    names: dict[str, None] = {}
    for item in _flatten(wanted):
        if isinstance(item, str):
            names[_check_type_name(item)] = None
        else:
            names.update(dict.fromkeys(name for of_item in _event_types_of(item) for name in of_item.names))
    return tuple(names)


def named_classes(wanted: Any) -> tuple[type[Any], ...]:
    """The event classes that a `types` argument stands for; empty if it names a type by text."""
    try:
        return _classes(tuple(wanted) if isinstance(wanted, list) else wanted)  # pyright: ignore[reportUnknownArgumentType]
    except TypeError:  # not hashable, so not cached
        return _classes.__wrapped__(wanted)


@lru_cache(maxsize=1024)
def _classes(wanted: Any) -> tuple[type[Any], ...]:
    items = list(_flatten(wanted))
    if any(isinstance(item, str) for item in items):
        return ()
    return tuple(dict.fromkeys(of_item.cls for item in items for of_item in _event_types_of(item)))


def _flatten(wanted: Any) -> Iterable[Any]:
    """The classes and names in a class, a union, an alias, a name or (nested) sequences of these."""
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


def _same_definition(former: type[Any], latter: type[Any]) -> bool:
    return (former.__module__, former.__qualname__) == (latter.__module__, latter.__qualname__)


EventTypes.everything = EventTypes()
