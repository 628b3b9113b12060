"""What a projection's class declares: view, events and id, from its type arguments; and the shape of its
snapshots."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import attrs

from pgevents.caches import remembered
from pgevents.errors import ConfigurationError, shown
from pgevents.event_types import event_type_of
from pgevents.reducers import Pipeline
from pgevents.type_registry import EventTypes
from pgevents.views import digest, is_dict_class, shape_text

__all__ = ["Declaration", "check_event_classes", "check_members", "declaration_of", "fold_alike"]


@attrs.frozen
class Declaration:
    """What a class of projections declares.

    Attributes:
        view_class: The view's class; a dict of any fields is `dict`, `dict[str, Any]` or `Any`.
        events: The events' class or union; None for any.
        id_class: The id's type; Any if the class does not say.
        shape: A digest of the view's fields and types, and of which of them are folded and derived.
        folds_in_as_json: Whether the class has no reducers, and an `as_json` of its own that folds.
    """

    view_class: Any
    events: Any
    id_class: Any
    shape: str
    folds_in_as_json: bool

    def shape_of(self, initial: Any) -> str:
        """The shape of one projection: a dict's fields are those of its initial view."""
        if not isinstance(initial, dict):
            return self.shape
        return digest(f"{self.shape} {sorted(cast('dict[str, Any]', initial))}")


@remembered("declarations of projections")
def declaration_of(cls: Any, root: Any) -> Declaration:
    """What a class declares.

    Args:
        cls: The class.
        root: The base of all projections, generic in view, events and id.

    Raises:
        ConfigurationError: It does not say what its view is.
    """
    view_class, events, id_class = _type_arguments(cls, root)
    if isinstance(view_class, TypeVar):
        raise ConfigurationError(
            f"{cls.__name__} must name its view and events: class {cls.__name__}(ProjectionBase[View, Event])"
        )
    if isinstance(events, TypeVar) or is_dict_class(events):
        events = None
    if isinstance(id_class, TypeVar) or id_class is Any:
        id_class = _annotated_id(cls)
    if type(cls.version) is not int or not 0 <= cls.version < 2**31:
        raise ConfigurationError(
            f"{cls.__name__}.version is a whole number from 0 on, not {shown(cls.version)}"
        )
    reducers: Pipeline = cls.reducers
    folds_in_as_json = reducers.is_empty and cls.as_json is not root.as_json
    text = shape_text(view_class)
    if folds_in_as_json:
        text += " folded in as_json"
    else:
        whole = " whole" if reducers.folds_the_whole_view else ""
        text += f" folds {sorted(reducers.folded_fields)}{whole} derives {sorted(reducers.derived_fields)}"
    return Declaration(view_class, events, id_class, digest(text), folds_in_as_json)


def _type_arguments(cls: Any, root: Any) -> tuple[Any, ...]:
    """What the type parameters of the root are in a class; a parameter that nobody has given is itself."""
    if cls is root:
        return tuple(cls.__parameters__)
    bases: Any = _own_attribute(cls, "__orig_bases__", cls.__bases__)
    for base in sorted(
        bases, key=lambda base: not typing.get_args(base)
    ):  # what is written here counts first
        origin: Any = typing.get_origin(base) or base
        if isinstance(origin, type) and issubclass(origin, root):
            arguments = dict(zip(_parameters(origin), typing.get_args(base), strict=False))
            return tuple(_given(parameter, arguments, cls) for parameter in _type_arguments(origin, root))
    raise ConfigurationError(f"{cls.__name__} is no projection")


def _parameters(origin: Any) -> tuple[Any, ...]:
    return tuple(getattr(origin, "__parameters__", ()))


def _given(argument: Any, arguments: dict[Any, Any], cls: Any) -> Any:
    if isinstance(argument, TypeVar):
        argument = arguments.get(argument, argument)
    elif arguments and _parameters(argument):
        argument = argument[tuple(arguments.get(parameter, parameter) for parameter in _parameters(argument))]
    if isinstance(argument, typing.ForwardRef):
        argument = argument.__forward_arg__
    return _evaluated(argument, cls) if isinstance(argument, str) else argument


def _evaluated(text: str, cls: Any) -> Any:
    """A type that is written as text, as the module sees it in which the class is written."""
    names = dict(vars(sys.modules.get(cls.__module__, typing)))
    for member in _members(cls).values():
        if isinstance(member, types.FunctionType):
            names |= member.__globals__
    try:
        return eval(text, names)
    except Exception as error:
        raise ConfigurationError(
            f"{cls.__name__} names {text!r} as a type, which cannot be found: {error}; "
            "define it before the class, at the top of a module"
        ) from error


def _annotated_id(cls: Any) -> Any:
    for base in cls.__mro__:
        written: Any = _own_attribute(base, "__annotations__", {}).get("id", Any)
        id_class = _evaluated(written, base) if isinstance(written, str) else written
        if id_class is not Any and not isinstance(id_class, TypeVar):  # that of the base: nobody gave it
            return id_class
    return Any


def _own_attribute(cls: Any, name: str, default: Any) -> Any:
    """An attribute of a class itself, not of its bases."""
    return _members(cls).get(name, default)


def _members(cls: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", cls.__dict__)


def check_event_classes(name: str, wanted: Any, types: EventTypes) -> None:
    """Check that events are decoded into the classes that a projection was written for.

    Args:
        name: Of the projection's class.
        wanted: What the projection names as its events: classes, unions, names.
        types: The types of its client.

    Raises:
        ConfigurationError: A class was defined again since (its module was reloaded), so that the reducers
            would recognise no event.
    """
    for cls in _classes(wanted):
        event_type = event_type_of(cls)
        decoded = types.find(event_type.name)
        if decoded is not None and decoded.cls is not event_type.cls:
            raise ConfigurationError(
                f"{name} is written for {event_type.cls!r}, and the events of type {event_type.name!r} are "
                f"now decoded into another class, {decoded.cls!r}: it was defined again, as by a reload. "
                f"Reload the module of {name}, too, or restart"
            )


def _classes(wanted: Any) -> list[Any]:
    if wanted is None or wanted is Any or isinstance(wanted, (str, TypeVar)):
        return []
    if hasattr(wanted, "__value__"):  # type X = ...
        return _classes(wanted.__value__)
    if isinstance(wanted, type):
        return [wanted] if not is_dict_class(wanted) else []
    parts = cast("typing.Iterable[Any]", typing.get_args(wanted) or wanted)
    is_collection = bool(typing.get_args(wanted)) or isinstance(wanted, (list, tuple, set, frozenset))
    return [cls for part in parts for cls in _classes(part)] if is_collection else []


FOLDING = (
    "reducers",
    "initial_view",
    "as_json",
    "get_streams",
    "get_event_identifiers",
    "get_stream_options",
    "event_types",
)
"""The attributes that say how a class folds."""


def check_members(cls: Any) -> None:
    """Check what a class of projections gives in place of reducers and methods.

    Raises:
        ConfigurationError: Reducers that `pipeline` has not made, or a method that is not a function.
    """
    if not isinstance(cls.reducers, Pipeline):
        raise ConfigurationError(
            f"{cls.__name__}.reducers are made by pipeline(...), not {shown(cls.reducers)}: "
            "reducers = pipeline(total=to_total), or pipeline(reducer) for the whole view"
        )
    for name in FOLDING[1:-1]:
        member: Any = getattr(cls, name, None)
        if member is not None and not callable(member):
            raise ConfigurationError(
                f"{cls.__name__}.{name} is a method, def {name}(self): ..., not {shown(member)}"
            )


def fold_alike(left: Any, right: Any) -> bool:
    """Whether two classes fold the same: one of them defined again, or two whose folding parts are alike."""
    if (left.__module__, left.__qualname__) == (right.__module__, right.__qualname__):
        return True
    return all(_is_alike(getattr(left, name, None), getattr(right, name, None)) for name in FOLDING)


def _is_alike(left: Any, right: Any) -> bool:
    if isinstance(left, types.FunctionType) and isinstance(right, types.FunctionType):
        parts = [(f.__code__, f.__defaults__, f.__kwdefaults__) for f in (left, right)]
        cells = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (left, right)]
        return parts[0] == parts[1] and cells[0] == cells[1]
    if isinstance(left, Pipeline) and isinstance(right, Pipeline):
        functions = left.functions, right.functions
        return [name for name, _ in functions[0]] == [name for name, _ in functions[1]] and all(
            _is_alike(first, second) for (_, first), (_, second) in zip(*functions, strict=True)
        )
    return bool(left == right)
