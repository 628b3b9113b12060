"""The event classes that a client has, by class and by stored name."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Sequence
from typing import Any

from pgevents.caches import Cache
from pgevents.errors import ConfigurationError, UnknownEventTypeError
from pgevents.event_types import EventType, event_type_of, event_types_of, named_items, type_names

__all__ = [
    "EventTypes",
]


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
        self._versioned: tuple[EventType, ...] = ()
        self._ambiguous: dict[str, list[str]] = {}
        self._forget_classes()
        for cls in named_items(classes):
            for event_type in event_types_of(cls):
                self.add(event_type)

    def add(self, event_type: EventType) -> None:
        """Register a type; a class that is defined again (a reloaded module) replaces the former one."""
        for name in event_type.names:
            registered = self._by_name.get(name)
            if registered is not None and registered.cls is not event_type.cls:
                self._note_clash(name, registered.cls, event_type.cls)
            self._by_name[name] = event_type
        if event_type.version > 1 or self._versioned:
            versioned = {id(named): named for named in self._by_name.values() if named.version > 1}
            self._versioned = tuple(versioned.values())
        self._forget_classes()
        self.revision += 1

    def _forget_classes(self) -> None:
        self._by_class: Cache[type[Any], EventType] = Cache("event types by class")

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
        copy._versioned = self._versioned
        for cls in added:
            copy.add(event_type_of(cls))
        return copy

    def find(self, name: str) -> EventType | None:
        """The type registered under a stored name, or None."""
        if name in self._ambiguous:
            raise ConfigurationError(
                f"several classes claim the event type {name!r}: {', '.join(self._ambiguous[name])}; name "
                "the ones this client shall use: create_event_client(db, events, projections, event_types)"
            )
        return self._by_name.get(name)

    def current_name(self, name: str) -> str:
        """What a type is called today, whose events may have been saved under an earlier name."""
        event_type = self.find(name)
        return name if event_type is None else event_type.name

    def versioned(self) -> tuple[EventType, ...]:
        """The types whose data have older versions."""
        return self._versioned

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
        for cls in named_items(wanted):
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


def _same_definition(former: type[Any], latter: type[Any]) -> bool:
    return (former.__module__, former.__qualname__) == (latter.__module__, latter.__qualname__)


EventTypes.everything = EventTypes()
