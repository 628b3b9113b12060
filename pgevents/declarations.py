"""Makes event classes: checks what `@event` decorates, and lets attrs add `__init__` and fields."""

from __future__ import annotations

import abc
import dataclasses
import inspect
import keyword
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import count
from typing import Any, cast

import attrs

from pgevents.errors import ConfigurationError, shown
from pgevents.fields import check_field

__all__ = ["Upcaster", "checked_renames", "checked_upcasters", "make_event_class", "upcast_results"]

Upcaster = Callable[[dict[str, Any]], dict[str, Any] | Sequence[dict[str, Any]]]
"""From the data of one version to the next one's: one, several or none."""

MAX_VERSION = 10_000
"""The highest version of an event's data; the table checks it, too."""


def make_event_class(cls: Any, scope: Mapping[str, Any]) -> type[Any]:
    """Make a class an attrs class, unless attrs or `dataclasses` has made it already, and check it.

    Args:
        cls: The object that `@event` decorates.
        scope: The names at that place, for annotations that are text.

    Raises:
        ConfigurationError: Not a class, a class that cannot have fields (an Enum, a tuple ...), or one that
            attrs would read otherwise than its author means.
    """
    _refuse_other_kinds(cls)
    event_class: type[Any] = cls
    if "__attrs_attrs__" not in vars(cls) and "__dataclass_fields__" not in vars(cls):
        _refuse_what_attrs_does_not_know(cls)
        _refuse_assigning_init(cls)
        try:
            event_class = attrs.frozen(cls)
        except Exception as error:
            raise ConfigurationError(
                f"{cls.__qualname__} cannot be an event class: attrs refuses it ({error})"
            ) from error
    _check_field_names(event_class)
    _refuse_shared_defaults(event_class)
    _resolve_annotations(event_class, scope)
    return event_class


NO_EVENTS: Mapping[type[Any], str] = {
    Enum: "an Enum",
    tuple: "a tuple",
    dict: "a dict",
    list: "a list",
    set: "a set",
    frozenset: "a frozenset",
    str: "a str",
    bytes: "bytes",
    int: "an int",
    float: "a float",
}


def _refuse_other_kinds(cls: Any) -> None:
    if not inspect.isclass(cls):
        raise ConfigurationError(f"@event stands above a class, not above {shown(cls)}")
    kind = next((name for base, name in NO_EVENTS.items() if issubclass(cls, base)), None)
    if kind is None and type(cls) not in (type, abc.ABCMeta) and not attrs.has(cls):
        kind = f"made by {type(cls).__qualname__}"
    if typing.is_typeddict(cls):
        kind = "a TypedDict"
    if kind is not None:
        raise ConfigurationError(
            f"{cls.__qualname__} cannot be an event class: it is {kind}. An event class is a plain class "
            "with annotated fields, an attrs class or a dataclass"
        )


def _refuse_what_attrs_does_not_know(cls: type[Any]) -> None:
    """Refuse features of dataclasses, which attrs would take for values or ignore."""
    name = cls.__qualname__
    instead = "put @dataclass below @event, or use attrs"
    if any("__dataclass_fields__" in vars(base) for base in cls.__mro__[1:]):
        raise ConfigurationError(
            f"{name} derives from a dataclass, whose fields attrs does not see; {instead}"
        )
    if hasattr(cls, "__post_init__"):
        raise ConfigurationError(
            f"{name}: attrs does not call __post_init__; {instead}, which calls __attrs_post_init__"
        )
    for field, annotation in inspect.get_annotations(cls).items():
        if field == "self":
            raise ConfigurationError(
                f"{name}: a field cannot be named self, that is the name of the instance"
            )
        if isinstance(vars(cls).get(field), dataclasses.Field):
            raise ConfigurationError(f"{name}.{field} is given by dataclasses.field; {instead}.field")
        text = annotation if isinstance(annotation, str) else ""
        is_marker = annotation is dataclasses.KW_ONLY or isinstance(annotation, dataclasses.InitVar)
        if is_marker or re.match(r"(dataclasses\.)?(KW_ONLY$|InitVar\b)", text):
            raise ConfigurationError(f"{name}.{field}: KW_ONLY and InitVar belong to dataclasses; {instead}")


def _refuse_assigning_init(cls: type[Any]) -> None:
    """Refuse an `__init__` that could never run, because it assigns to the fields of a frozen instance."""
    init: Any = vars(cls).get("__init__")
    if isinstance(init, types.FunctionType) and not {"__attrs_init__", "__setattr__"} & {
        *init.__code__.co_names
    }:
        raise ConfigurationError(
            f"{cls.__qualname__}.__init__ cannot assign to fields, because events are frozen; leave it out: "
            "attrs makes it from the annotated fields. attrs.field(converter=...) changes a value, and "
            "attrs.field(default=...) gives one"
        )


def _refuse_shared_defaults(cls: type[Any]) -> None:
    """Refuse a default that all instances would share, and with it what one of them changes."""
    for field in attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cast(Any, cls)):
        default: object = field.default
        kind = next((kind.__name__ for kind in (list, dict, set) if isinstance(default, kind)), None)
        if kind is not None:
            raise ConfigurationError(
                f"{cls.__qualname__}.{field.name}: all events would share one {kind} as their default; use "
                f"{field.name}: ... = attrs.field(factory={kind})"
            )


def _check_field_names(cls: type[Any]) -> None:
    fields = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    for name in [field.name for field in fields]:
        is_mangled = name.startswith("__") or re.match(rf"_{cls.__name__.lstrip('_')}__", name)
        if is_mangled or name == "self" or not name.isidentifier() or keyword.iskeyword(name):
            raise ConfigurationError(
                f"{cls.__qualname__}: a field cannot be named {name!r}; names are Python identifiers, not "
                "self, and do not begin with two underscores"
            )


def _resolve_annotations(cls: type[Any], scope: Mapping[str, Any]) -> None:
    """Resolve annotations that are text here, where classes of the same function have names.

    Names that are defined further below are resolved by the first save or read, which reports missing ones.
    """
    if not attrs.has(cls) or not any(isinstance(field.type, str) for field in attrs.fields(cls)):
        return
    try:
        attrs.resolve_types(cls, localns=dict(scope) if "<locals>" in cls.__qualname__ else None)
    except Exception:  # not only NameError: an annotation is any expression
        return


def checked_upcasters(version: object, upcasters: object) -> dict[int, Upcaster]:
    """Check the upcasters of a type whose data have this version; returns them by older version.

    Raises:
        ConfigurationError: The version is not valid, or an older version has no function.
    """
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise ConfigurationError(f"version is a whole number from 1 to {MAX_VERSION}, not {shown(version)}")
    if upcasters is None:
        return {}
    given: Any = upcasters
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            "upcasters are a dict from each older version to a function, {1: to_version_2}, "
            f"not {shown(upcasters)}"
        )
    steps: dict[Any, Any] = {**given}
    for step, function in steps.items():
        if type(step) is not int or not 1 <= step < version:
            raise ConfigurationError(
                f"version {version} takes upcasters for the versions from 1 to {version - 1}, "
                f"not for {shown(step)}"
            )
        if not callable(function):
            raise ConfigurationError(f"the upcaster from version {step} is a function, not {shown(function)}")
    if steps and len(steps) != version - 1:
        missing = next(step for step in count(1) if step not in steps)
        raise ConfigurationError(
            f"version {version} has an upcaster for {sorted(steps)}, none for version {missing}; "
            "where nothing changes give a function that returns its data"
        )
    return steps


def checked_renames(version: int, renamed: object) -> dict[str, tuple[str, ...]]:
    """Check the older names of fields of a type whose data have this version; returns them by field.

    Raises:
        ConfigurationError: Something is not a field's name, or there is no older version.
    """
    if renamed is None:
        return {}
    if not isinstance(renamed, Mapping):
        raise ConfigurationError(
            f'renamed is a dict from a field to its older name, {{"cart_id": "cartId"}}, not {shown(renamed)}'
        )
    if version == 1:
        raise ConfigurationError(
            "renamed gives the names of fields in older versions; there is no version before version 1"
        )
    given: dict[Any, Any] = {**renamed}
    return {
        check_field(field): tuple(
            check_field(name) for name in ([names] if isinstance(names, str) else names)
        )
        for field, names in given.items()
    }


def upcast_results(result: Any) -> list[Any]:
    """What an upcaster returned, as a list of dicts; `None` stays in it, and is refused by the caller."""
    return [*result] if isinstance(result, (list, tuple)) else [result]
