"""The cattrs converter of events and views: types beyond JSON, and no conversion between JSON types."""

from __future__ import annotations

import inspect
import threading
import types
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import cattrs
from cattrs.preconf.json import make_converter

from pgevents.codec.times import parse_date, parse_datetime, parse_time

__all__ = ["make_event_converter"]

Structure = Callable[[Any, Any], Any]
"""Makes a value of JSON an instance of a type."""


def make_event_converter() -> cattrs.Converter:
    """A cattrs converter for what events hold beyond JSON: Decimal, UUID, dates and times, tuples, sets.

    Money stays exact: a Decimal is stored as text. A datetime without a time zone is refused. JSON types are
    not converted: "3" is not an int, and a text is not a list of its letters.
    """
    converter = make_converter(unstruct_collection_overrides={tuple: list})
    for kind, to_text, from_text in (
        (Decimal, str, Decimal),
        (UUID, str, UUID),
        (date, _date_text, parse_date),
        (time, time.isoformat, parse_time),
        (datetime, _datetime_text, parse_datetime),
    ):
        converter.register_unstructure_hook(kind, to_text)
        converter.register_structure_hook(kind, _from_text(kind, from_text))
    converter.register_unstructure_hook(timedelta, timedelta.total_seconds)
    converter.register_structure_hook(timedelta, _timedelta)
    for plain in (int, float, bool, str, types.NoneType):
        converter.register_structure_hook(plain, _strict(plain))
    converter.register_unstructure_hook_factory(_is_named_tuple, _named_tuple_to_list)
    converter.register_structure_hook_factory(_is_named_tuple, _named_tuple_from_list)
    _refuse_other_containers(converter)
    return converter


def _is_named_tuple(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, tuple) and hasattr(cast(Any, kind), "_fields")


def _types_of(kind: Any) -> list[Any]:
    """The types of the fields of a named tuple, also if its annotations are text."""
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # annotations cannot be resolved: values must have JSON's own types
        hints = {}
    return [hints.get(name, Any) for name in kind._fields]


def _named_tuple_to_list(kind: Any, converter: cattrs.Converter) -> Callable[[Any], list[Any]]:
    kinds = _types_of(kind)

    def unstructure(value: Any) -> list[Any]:
        return [converter.unstructure(part, part_kind) for part, part_kind in zip(value, kinds, strict=True)]

    return unstructure


def _named_tuple_from_list(kind: Any, converter: cattrs.Converter) -> Structure:
    plain: Any = tuple[tuple(_types_of(kind))]  # type: ignore[misc]
    structure = converter.get_structure_hook(plain)
    return lambda value, _: kind(*structure(value, plain))


def _from_text(kind: type[Any], from_text: Callable[[Any], Any]) -> Structure:
    takes_int = kind is Decimal
    own_errors = (ArithmeticError, ValueError) if kind in (Decimal, UUID) else ()

    def structure(value: Any, _: Any) -> Any:
        if type(value) is str or (takes_int and type(value) is int):
            try:
                return from_text(value)
            except own_errors as error:  # in words of the standard library
                raise ValueError(f"{value!r} is not a {kind.__name__}") from error
        if type(value) is kind:
            return value
        raise TypeError(f"expected {kind.__name__} as text, got {value!r}")

    return structure


def _strict(kind: type[Any]) -> Structure:
    accepted = (int, float) if kind is float else (kind,)

    def structure(value: Any, cls: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"expected {kind.__name__}, got {value!r}")
        if cls is not kind and isinstance(cls, type) and issubclass(cls, kind):  # an IntEnum, a class of str
            return cls(value)
        return kind(value) if kind is float else value

    return structure


def _date_text(value: date) -> str:
    if isinstance(value, datetime):
        raise TypeError(f"expected a date, got the datetime {value!r}; give its .date()")
    return value.isoformat()


def _datetime_text(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError(
            f"{value!r} has no time zone; use datetime.now(timezone.utc) or .replace(tzinfo=...)"
        )
    return value.isoformat()


def _timedelta(value: Any, _: Any) -> timedelta:
    if type(value) not in (int, float):
        raise TypeError(f"expected seconds as a number, got {value!r}")
    return timedelta(seconds=value)


LISTS = (list, tuple, set, frozenset, deque, Sequence, Set)


def _refuse_other_containers(converter: cattrs.Converter) -> None:
    """Accept only lists for lists and only objects for dicts; cattrs takes any iterable, even a text."""
    inside = _Inside()

    def is_container(kind: Any) -> bool:
        return kind not in inside.kinds and _json_container(kind) is not None

    def make_hook(kind: Any, converter: cattrs.Converter) -> Structure:
        inside.kinds += (kind,)
        try:
            structure = converter.get_structure_hook(kind, cache_result=False)  # cattrs' own hook
        finally:
            inside.kinds = inside.kinds[:-1]
        container: type[Any] = _json_container(kind) or list

        def strict(value: Any, cls: Any) -> Any:
            if type(value) is not container:
                raise TypeError(f"expected {'a list' if container is list else 'an object'}, got {value!r}")
            return structure(value, cls)

        return strict

    converter.register_structure_hook_factory(is_container, make_hook)


class _Inside(threading.local):
    """The types whose hooks this thread is making: for these, cattrs' own hook is wanted."""

    kinds: tuple[Any, ...] = ()


def _json_container(kind: Any) -> type[Any] | None:
    """The JSON type of a collection, list or dict; None for other types."""
    origin = cast("type[Any]", typing.get_origin(kind) or kind)
    if not inspect.isclass(origin) or issubclass(origin, (str, bytes, bytearray)):
        return None
    if issubclass(origin, Mapping) or typing.is_typeddict(origin):
        return dict
    return list if issubclass(origin, LISTS) else None
