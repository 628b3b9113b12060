"""`@event`: makes a class an event and registers it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

import attrs

from pgevents.caches import Until, forget
from pgevents.declarations import Upcaster, checked_renames, checked_upcasters, make_event_class
from pgevents.event_types import MARK, EventType, check_type_name
from pgevents.type_registry import EventTypes

if typing.TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[Any], Any]:
        return lambda decorated: decorated


__all__ = [
    "event",
]


T = TypeVar("T")


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
    old_names = tuple(check_type_name(old) for old in ([formerly] if isinstance(formerly, str) else formerly))

    def register(cls: type[T], type_name: str) -> type[T]:
        type_name = check_type_name(type_name)
        event_class = make_event_class(cls, _names_at(2))
        event_type = EventType(type_name, event_class, version, steps, old_names, old_fields)
        setattr(event_class, MARK, event_type)
        EventTypes.everything.add(event_type)
        forget(Until.CLASS_ADDED)  # a base class also names its new subclass
        return event_class

    if isinstance(name, type) or inspect.isroutine(name):
        bare: Any = name
        return register(bare, bare.__name__)
    if name is not None:
        check_type_name(name)

    def decorate(cls: type[T]) -> type[T]:
        return register(cls, getattr(cls, "__name__", "") if name is None else name)

    return decorate


def _names_at(depth: int) -> Mapping[str, Any]:
    """The local names of the frame that is `depth` calls above the caller."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = None if frame is None else frame.f_back
    return {} if frame is None else frame.f_locals
