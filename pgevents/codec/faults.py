"""Which field is at fault when a value cannot be stored or read, and why."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any, cast

import attrs
import cattrs

from pgevents.errors import shown

__all__ = ["Fault", "fault_in_data", "fault_in_value"]

UNKNOWN = object()


@attrs.frozen
class Fault:
    """What an error is about.

    Attributes:
        field: The path of the field, such as `items.0.price`; None if no field is at fault.
        reason: What is wrong with its value.
    """

    field: str | None
    reason: str

    @property
    def place(self) -> str:
        """The field as it follows the name of the event's type."""
        return f", field {self.field!r}" if self.field else ""


def fault_in_value(converter: cattrs.Converter, instance: Any, error: Exception) -> Fault:
    """The first part of an instance that cannot be encoded by itself.

    Args:
        converter: What encodes it.
        instance: An instance of an event's or a view's class.
        error: What the converter has raised.
    """
    path: list[str] = []
    value, kind, cls = instance, instance.__class__, instance.__class__
    while True:
        for name, part, part_kind in _parts(value, kind):
            if part is UNKNOWN:
                return Fault(".".join([*path, name]), "it has no value")
            try:
                converter.unstructure(part, unstructure_as=part_kind)
            except Exception as raised:  # the part at fault
                path.append(name)
                value, kind, error = part, part_kind, raised
                break
        else:
            break
    expected: Any = typing.get_origin(kind) or kind
    is_other = inspect.isclass(expected) and not isinstance(value, expected)
    if path and (is_other or isinstance(error, AttributeError)):
        return Fault(".".join(path), f"expected {_name_of(kind)}, got {shown(value)}")
    return Fault(".".join(path) or None, _reason_of(error, cls))


def _parts(value: Any, kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """The parts of a value, each with its name and its declared type."""
    kinds = typing.get_args(kind)
    if kinds and isinstance(value, dict):
        values: dict[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        for key, item in values.items():
            yield str(key), key, kinds[0]
            yield str(key), item, kinds[-1]
    elif kinds and isinstance(value, (list, tuple, set, frozenset)):
        for number, item in enumerate(cast("list[Any]", value)):
            is_fixed = isinstance(value, tuple) and kinds[-1] is not ... and number < len(kinds)
            yield str(number), item, kinds[number if is_fixed else 0]
    elif attrs.has(value.__class__) and value.__class__ is kind:
        for field in attrs.fields(value.__class__):
            yield field.name, getattr(value, field.name, UNKNOWN), field.type


def _name_of(kind: Any) -> str:
    return kind.__qualname__ if inspect.isclass(kind) and not typing.get_args(kind) else str(kind)


def fault_in_data(error: BaseException, data: Any, cls: type[Any]) -> Fault:
    """The first field at fault in cattrs' tree of errors.

    Args:
        error: What the converter has raised.
        data: What it was to decode.
        cls: The class that it was to make of it.
    """
    path: list[str] = []
    kind: Any = None
    is_key = False
    while True:
        inner = getattr(error, "exceptions", None)
        if not inner:
            break
        error = inner[0]
        for note in getattr(error, "__notes__", ()):
            if isinstance(note, cattrs.AttributeValidationNote):
                path.append(note.name)
                kind, is_key = note.type, False
            elif isinstance(note, cattrs.IterableValidationNote):
                path.append(str(note.index))
                kind = note.type
                is_key = note.startswith("Structuring mapping key")
    for depth, name in enumerate(path, 1):  # cattrs looks for the fields of a class in whatever stands there
        data = _part_of(data, name)
        is_object = depth < len(path) or (attrs.has(kind) and not is_key)
        if is_object and data is not UNKNOWN and not isinstance(data, (dict, list, tuple)):
            return Fault(".".join(path[:depth]), f"expected an object, got {shown(data)}")
    if isinstance(error, KeyError):
        return Fault(".".join(path) or str(error.args[0]), "it is missing")
    reason = _reason_of(error, cls)
    if is_key and isinstance(error, TypeError):
        reason += "; the keys of a JSON object are text, so declare dict[str, ...]"
    return Fault(".".join(path) or None, reason)


def _part_of(data: Any, name: str) -> Any:
    if isinstance(data, dict):
        return cast("dict[str, Any]", data).get(name, UNKNOWN)
    if isinstance(data, (list, tuple)) and name.isdigit() and int(name) < len(cast("list[Any]", data)):
        return cast("list[Any]", data)[int(name)]
    return UNKNOWN


def _reason_of(error: BaseException, cls: type[Any]) -> str:
    """What an error means, in words for the author of the class."""
    if isinstance(error, NameError):
        return (
            f"{error}, so an annotation of {cls.__qualname__} cannot be resolved; import the name where the "
            "class is declared (not only for type checkers), and declare classes outside of functions"
        )
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) or type(error).__name__
