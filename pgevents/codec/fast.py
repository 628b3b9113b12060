"""The extra `fast`: msgspec reads JSON, and reads and writes classes of plain fields in one step.

Everything here has a slower form in `serialization` that gives the same results; what msgspec refuses is
left to that.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Callable
from datetime import date, datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import attrs

msgspec: Any = None
if not TYPE_CHECKING:
    try:
        import msgspec
    except ImportError:
        pass

__all__ = [
    "MAX_DEPTH",
    "ODD_NUMBER",
    "dump",
    "dump_lines",
    "instance_decoder",
    "key_check",
    "load",
    "preparer",
    "reads_any_order",
    "writer",
]

WRITTEN_ALIKE = (str, int, bool, UUID)
"""Field types that msgspec and cattrs write alike, and whose values a read gives back as they were. Not
float: NaN would become null, and 1e16 a whole number."""
READ_ALIKE = (*WRITTEN_ALIKE, float, types.NoneType, date)
"""Field types that they read by the same rules."""
TIMES = (datetime, datetime | None)
"""Read alike if written as `datetime.isoformat` writes; msgspec and Python differ in a seventh digit."""

MAX_DEPTH = 100
"""How deep lists and objects may nest: readers written in Python recurse once for each level."""
ODD_NUMBER = re.compile(r"[0-9][eE]\+?[0-9]|-0\.0")
"""Matches in numbers that jsonb would change. It may match inside a string, too."""
NUL = "\\u0000"
"""A NUL character as JSON writes it. It is searched for in a str: `in` on bytes first tries to read it as a
number, and discards an error each time."""
NONE = "null"
"""None as JSON writes it; what else is written is an object."""
load: Callable[[str | bytes], Any] = json.loads if msgspec is None else msgspec.json.decode


def instance_decoder(cls: type[Any]) -> Callable[[str], Any] | None:
    """From JSON text to an instance in one step, if class and fields are plain; else None."""
    if msgspec is None or not attrs.has(cls):
        return None
    fields = _plain_fields(cls)
    if fields is None or not all(
        kind in TIMES or _is_read_alike(kind, frozenset({cls})) for kind in fields.values()
    ):
        return None
    try:
        decode: Callable[[str], Any] = msgspec.json.Decoder(cls).decode
    except Exception:  # msgspec resolves annotations itself, and cannot for classes inside functions
        return None
    times = [name for name, kind in fields.items() if kind in TIMES]
    return decode if not times else _time_decoder(decode, times)


def _time_decoder(decode: Callable[[str], Any], fields: list[str]) -> Callable[[str], Any]:
    def decode_and_compare(text: str) -> Any:
        instance = decode(text)
        for field in fields:
            time = getattr(instance, field)
            if time is None:
                continue
            if time.tzinfo is None or f'"{field}": "{time.isoformat()}"' not in text:
                raise ValueError(f"{field} was not written as a datetime is written here")
        return instance

    return decode_and_compare


def key_check(cls: type[Any]) -> Callable[[Any], bool]:
    """A function that says whether JSON that a read of the class takes has only keys of fields, at any depth.
    Of classes that are not plain it says False."""
    fields = _plain_fields(cls) or {"": object}
    if not all(kind in TIMES or _is_read_alike(kind, frozenset({cls})) for kind in fields.values()):
        return lambda data: False
    return _key_check(cls) or bool


def _key_check(kind: Any) -> Callable[[Any], bool] | None:
    """The same of any type that is read alike; None if its JSON has no keys of fields."""
    if kind in READ_ALIKE or kind in TIMES:
        return None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        check = _key_check(members[0])
        return None if check is None else partial(_check_optional, check)
    if origin is not None:
        check = _key_check(arguments[1 if origin is dict else 0])
        return None if check is None else partial(_check_values if origin is dict else _check_items, check)
    fields = _plain_fields(kind) or {}
    names = frozenset(fields)
    checks = [(name, check) for name, field in fields.items() if (check := _key_check(field)) is not None]
    return lambda data: (
        data.keys() <= names and all(check(data[name]) for name, check in checks if name in data)
    )


def _check_optional(check: Callable[[Any], bool], value: Any) -> bool:
    return value is None or check(value)


def _check_values(check: Callable[[Any], bool], found: dict[str, Any]) -> bool:
    return all(map(check, found.values()))


def _check_items(check: Callable[[Any], bool], found: list[Any]) -> bool:
    return all(map(check, found))


def reads_any_order(cls: Any) -> bool:
    """Whether an instance is read alike from jsonb's text, whose keys have another order, and from what is
    written: so are plain classes that hold neither a dict nor a float, which jsonb may write otherwise."""
    return msgspec is not None and cls not in READ_ALIKE and _is_order_free(cls, frozenset())


def _is_order_free(kind: Any, outer: frozenset[Any]) -> bool:
    if kind in READ_ALIKE:
        return kind is not float
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list or (origin is tuple and arguments[1:] == (...,)):
        return _is_order_free(arguments[0], outer)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        return len(members) == 1 and _is_order_free(members[0], outer)
    fields = None if kind in outer else _plain_fields(kind)
    return fields is not None and all(_is_order_free(field, outer | {kind}) for field in fields.values())


def preparer(cls: type[Any]) -> Callable[[Any], Any]:
    """A function from an instance to a value that `dump_lines` writes so that a read gives an equal instance.

    The function returns None where class or instance do not guarantee that. No comparison is needed: the
    values have exactly the types of their fields, which JSON gives back unchanged, and times are in UTC, so
    that a read gives the same zone. The test of the types is compiled, as attrs compiles its methods; it
    raises an AttributeError for an instance without one of its fields.
    """
    fields = _plain_fields(cls)
    is_plain = fields and all(kind in WRITTEN_ALIKE + TIMES for kind in fields.values())
    # A read would run validators, and could refuse what was written.
    if msgspec is None or not is_plain or any(field.validator for field in attrs.fields(cls)):
        return lambda instance: None
    return _compiled_preparer(cast("dict[str, Any]", fields))


_encode_lines: Callable[[list[Any]], bytes] | None = (
    None if msgspec is None else msgspec.json.Encoder().encode_lines
)


def dump_lines(values: list[Any]) -> list[str] | None:
    """JSON text of each of the values that `preparer` gives, written together; None where the slower form
    must decide: about a None among them, a NUL character, or half of a surrogate pair."""
    if _encode_lines is None:
        return None
    try:
        text = _encode_lines(values)[:-1].decode()
    except Exception:  # the slower form meets the same fault, and names type and field
        return None
    lines = text.split("\n")
    return None if NUL in text or NONE in lines else lines


def writer(cls: type[Any]) -> Callable[[Any], str | None]:
    """A function from an instance to JSON text that a read turns into an equal one; see `preparer`."""
    prepare = preparer(cls)

    def write(instance: Any) -> str | None:
        try:
            value = prepare(instance)
        except AttributeError:  # the slower form names the field
            return None
        lines = dump_lines([value])
        return None if lines is None else lines[0]

    return write


def dump(value: object, *, has_floats: bool = True) -> str | None:
    """JSON text of a value in one step; None where the slower form must decide.

    To look for floats that jsonb would change takes longer than to write the text.

    msgspec writes what JSON does not have without an error: NaN as null, a Decimal as text. So the caller
    compares what is read, or has checked that the value holds nothing of the kind.
    """
    if msgspec is None:
        return None
    try:
        text: str = msgspec.json.encode(value).decode()
    except Exception:  # the slower form raises the error, with its place
        return None
    return None if NUL in text or (has_floats and ODD_NUMBER.search(text)) or _may_be_deep(text) else text


def _may_be_deep(text: str) -> bool:
    return text.count("[") + text.count("{") > MAX_DEPTH


def _compiled_preparer(fields: dict[str, Any]) -> Callable[[Any], Any]:
    """A function that gives an instance if its values are of exactly these types; with times, which are to
    be in UTC, a dict of its values."""
    times = {name for name, kind in fields.items() if kind in TIMES}
    names: dict[str, Any] = {
        f"kind_{name}": datetime if name in times else kind for name, kind in fields.items()
    }
    tests = [f"type(instance.{name}) is kind_{name}" for name in fields]
    tests += [f"instance.{name}.tzinfo is utc" for name in times]
    values = [f"{name!r}: instance.{name}{'.isoformat()' if name in times else ''}" for name in fields]
    result = f"{{{', '.join(values)}}}" if times else "instance"
    source = f"lambda instance: {result} if {' and '.join(tests)} else None"
    compiled: Callable[[Any], Any] = eval(source, names | {"utc": timezone.utc})
    return compiled


def _is_read_alike(kind: Any, outer: frozenset[Any]) -> bool:
    """Whether a type is in `READ_ALIKE`, or is a plain class, list, tuple, dict or union with None made of
    such types alone."""
    if kind in READ_ALIKE:
        return True
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list or (origin is tuple and arguments[1:] == (...,)):
        return _is_read_alike(arguments[0], outer)
    if origin is dict:
        return arguments[0] is str and _is_read_alike(arguments[1], outer)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        return len(members) == 1 and _is_read_alike(members[0], outer)
    fields = None if kind in outer else _plain_fields(kind)
    return fields is not None and all(_is_read_alike(field, outer | {kind}) for field in fields.values())


def _plain_fields(cls: Any) -> dict[str, Any] | None:
    """The types of the fields of an attrs class whose `__init__` runs no code of its own and whose instances
    hold nothing but fields; None for other classes.

    msgspec sets the attributes of an instance without its `__init__`, and writes every attribute that it has,
    also what `functools.cached_property` stores there.
    """
    if not isinstance(cls, type) or "__attrs_attrs__" not in vars(cls):
        return None
    init_methods = ("__attrs_init__", "__attrs_pre_init__", "__attrs_post_init__")
    new: Any = cls.__new__
    if new is not object.__new__ or any(hasattr(cls, name) for name in init_methods):
        return None
    try:
        fields = attrs.fields(attrs.resolve_types(cls))
    except Exception:  # annotations that cannot be resolved
        return None
    slots = {name for base in cls.__mro__ for name in vars(base).get("__slots__", ())} - {"__weakref__"}
    names = {field.name for field in fields}
    if cls.__dictoffset__ or slots != names or getattr(cls, "__parameters__", None):
        return None
    for field in fields:
        default_needs_instance = isinstance(field.default, attrs.Factory) and field.default.takes_self  # type: ignore[arg-type]
        if (
            not field.init
            or field.converter
            or field.alias != field.name
            or field.name.startswith("_")
            or default_needs_instance
        ):
            return None
    return {field.name: field.type for field in fields}
