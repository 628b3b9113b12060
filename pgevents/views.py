"""What a view is made of: an attrs class, a dataclass, a TypedDict or a dict; its fields, and when two are
the same."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar, cast

import attrs

from pgevents.caches import remembered
from pgevents.errors import ConfigurationError

__all__ = [
    "as_jsonb",
    "changed",
    "digest",
    "field_types",
    "first_difference",
    "has_fields",
    "is_alike",
    "is_dict_class",
    "jsonb_text",
    "nearest",
    "shape_text",
    "value_of",
    "values_of",
]

V = TypeVar("V")
Changer = Callable[[Any, Mapping[str, Any]], Any]


def is_dict_class(cls: Any) -> bool:
    """Whether views of this class are dicts of any fields: `dict`, `dict[str, Any]` or `Any`."""
    if type(cls) is type:  # most are, and this is asked for each view
        return cls is dict
    return cls is Any or typing.get_origin(cls) in (dict, Mapping)


def field_types(cls: Any) -> dict[str, Any] | None:
    """The fields of a view's class and their types; None if any field may stand in it.

    Raises:
        ConfigurationError: Views cannot have this class.
    """
    if is_dict_class(cls):
        return None
    if type(cls) is type:
        return _field_types(cls)
    return _field_types(typing.get_origin(cls) or cls)


@remembered("fields of views")
def _field_types(cls: Any) -> dict[str, Any]:
    kind: Any = cls
    if not isinstance(kind, type) or not has_fields(cls):
        shown = getattr(kind, "__qualname__", repr(kind))
        raise ConfigurationError(f"a view is an attrs class, a dataclass or a dict, not {shown}")
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # annotations that cannot be resolved stay as they are written
        hints = {}
    if attrs.has(kind):
        return {field.name: hints.get(field.name, field.type) for field in attrs.fields(kind)}
    if dataclasses.is_dataclass(kind):
        return {field.name: hints.get(field.name, field.type) for field in dataclasses.fields(kind)}
    return hints


def nearest(name: str, names: Collection[str]) -> str:
    """A hint for a name that is not among these: the nearest one, or all of them."""
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(names)) or 'none'}"


def value_of(view: Any, name: str) -> Any:
    """A field's value."""
    return cast("Mapping[str, Any]", view)[name] if isinstance(view, dict) else getattr(view, name)


def values_of(view: Any) -> Mapping[str, Any]:
    """All fields and their values."""
    if isinstance(view, dict):
        return cast("Mapping[str, Any]", view)
    return {name: getattr(view, name) for name in field_types(_class_of(view)) or {}}


def changed(view: V, changes: Mapping[str, Any]) -> V:
    """A copy of a view with some fields changed. What is not changed stays as it is: no converter sees it
    again."""
    if isinstance(view, dict):
        return cast(V, {**view, **changes})
    return cast(V, _changer(_class_of(view))(view, changes))


@remembered("changers of views")
def _changer(cls: type[Any]) -> Changer:
    if not attrs.has(cls):
        return lambda view, changes: dataclasses.replace(view, **changes)
    fields: tuple[Any, ...] = attrs.fields(cast(Any, cls))
    aliases = {field.name: field.alias for field in fields if field.init}
    converted = [field.name for field in fields if field.init and field.converter is not None]
    if (
        not converted
        and all(name == alias for name, alias in aliases.items())
        and len(aliases) == len(fields)
    ):
        names = tuple(aliases)  # once: attrs.evolve looks at the fields each time

        def replaced(view: Any, changes: Mapping[str, Any]) -> Any:
            return cls(**{name: changes[name] if name in changes else getattr(view, name) for name in names})

        return replaced

    def change(view: Any, changes: Mapping[str, Any]) -> Any:
        copy = attrs.evolve(view, **{aliases[name]: new for name, new in changes.items() if name in aliases})
        kept = {name: getattr(view, name) for name in converted if name not in changes}
        late = {name: new for name, new in changes.items() if name not in aliases}
        for name, new in {**kept, **late}.items():
            object.__setattr__(copy, name, new)
        return copy

    return change


# -- the shape ------------------------------------------------------------


def shape_text(cls: Any) -> str:
    """The names and types of a view's fields as one text, alike in every Python; classes in it by their own
    fields."""
    return _canonical(cls, ())


def _canonical(kind: Any, outer: tuple[Any, ...]) -> str:
    if kind is None or kind is types.NoneType:
        return "None"
    if isinstance(kind, (str, typing.ForwardRef)):
        return kind if isinstance(kind, str) else kind.__forward_arg__
    if hasattr(kind, "__supertype__"):  # a NewType
        return _canonical(kind.__supertype__, outer)
    if hasattr(kind, "__value__"):  # type X = ...
        return _canonical(kind.__value__, outer)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _canonical(arguments[0], outer)
    if origin is typing.Literal:
        return f"Literal[{','.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return "|".join(sorted(_canonical(argument, outer) for argument in arguments))
    if origin is not None:
        inner = ",".join("..." if argument is ... else _canonical(argument, outer) for argument in arguments)
        return f"{_canonical(origin, outer)}[{inner}]"
    if isinstance(kind, type) and kind not in outer and has_fields(kind):
        inner = ",".join(
            f"{name}:{_canonical(field_type, (*outer, kind))}"
            for name, field_type in _field_types(kind).items()
        )
        return f"{{{inner}}}"
    return str(getattr(kind, "__name__", kind))


def has_fields(kind: Any) -> bool:
    """Whether a class is an attrs class, a dataclass or a TypedDict."""
    return attrs.has(kind) or dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)


def digest(text: str) -> str:
    """A short text that stands for a long one."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- the same ------------------------------------------------------------


PLAIN = frozenset((str, int, bool, types.NoneType))
"""Kinds whose values are the same if they are equal."""
Difference = tuple[str, Any, Any]
"""Where two values differ, as a path, and what stands there in each."""


def first_difference(left: Any, right: Any, path: str = "") -> Difference | None:
    """Where two values differ in value, kind or the order of a dict's keys; None if nowhere.

    A time zone counts by its offset: a stored time knows no more of it.
    """
    return None if is_alike(left, right) else _difference(left, right, path)


def is_alike(left: Any, right: Any) -> bool:
    """Whether two values are alike in value, kind and the order of a dict's keys."""
    kind = left.__class__
    if kind is not right.__class__:
        return False
    if kind in PLAIN:
        return bool(left == right)
    form, names = _form_of(kind)
    if form == "fields":
        for name in names:
            left_part, right_part = getattr(left, name), getattr(right, name)
            if left_part.__class__ in PLAIN:  # most are
                if left_part.__class__ is not right_part.__class__ or left_part != right_part:
                    return False
            elif not is_alike(left_part, right_part):
                return False
        return True
    if form == "list":
        return len(left) == len(right) and all(map(is_alike, left, right))
    if form == "dict":
        return len(left) == len(right) and all(
            is_alike(a, b) and is_alike(left[a], right[b]) for a, b in zip(left, right, strict=True)
        )
    return _difference(left, right, "") is None


@remembered("forms of values")
def _form_of(kind: Any) -> tuple[str, tuple[str, ...]]:
    if issubclass(kind, dict):
        return "dict", ()
    if issubclass(kind, (list, tuple)):
        return "list", ()
    if not issubclass(kind, (set, frozenset)) and has_fields(kind):
        return "fields", tuple(_field_types(kind))
    return "value", ()


def _difference(left: Any, right: Any, path: str) -> Difference | None:
    here, start = (path, left, right), f"{path}." if path else ""
    kind = _class_of(left)
    if kind is not _class_of(right):
        return here
    if issubclass(kind, dict):
        keys = zip(left, right, strict=False)
        if len(left) != len(right) or any(first_difference(*pair) is not None for pair in keys):
            return path, list(left), list(right)
        return _first((f"{start}{key}", left[key], right[key]) for key in left)
    if issubclass(kind, (list, tuple)):
        if len(left) != len(right):
            return here
        return _first((f"{path}[{n}]", *pair) for n, pair in enumerate(zip(left, right, strict=True)))
    if issubclass(kind, (set, frozenset)):
        first, second = ({(_class_of(item), item) for item in some} for some in (left, right))
        return None if first == second else here
    if has_fields(kind):
        names = _field_types(kind)
        return _first((start + name, getattr(left, name), getattr(right, name)) for name in names)
    return None if _is_same(left, right) else here


def _class_of(value: Any) -> Any:
    return value.__class__


def _first(parts: typing.Iterable[Difference]) -> Difference | None:
    for path, left, right in parts:
        if not is_alike(left, right):
            return _difference(left, right, path) or (path, left, right)
    return None


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, Enum):
        return left is right
    if isinstance(left, float):
        return repr(left) == repr(right)
    if isinstance(left, Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    if isinstance(left, (datetime, time)):
        return bool(left == right) and left.utcoffset() == right.utcoffset()
    return bool(left == right)


def as_jsonb(value: Any) -> Any:
    """What a JSON value is once PostgreSQL's jsonb has had it: keys in its own order, numbers without
    exponents."""
    if value.__class__ in PLAIN:
        return value
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {
            key: part if (part := fields[key]).__class__ in PLAIN else as_jsonb(part)
            for key in _in_order(tuple(fields))
        }
    if isinstance(value, (list, tuple)):
        return [as_jsonb(part) for part in cast("list[Any]", value)]
    if type(value) is float:
        text = format(Decimal(repr(value)), "f")
        text = text.removeprefix("-") if value == 0 else text
        return float(text) if "." in text else int(text)
    return value


def jsonb_text(value: Any) -> str:
    """A JSON value as text, as PostgreSQL gives it back from jsonb; floats may be written otherwise."""
    return _json(as_jsonb(value))


_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes one each time


@remembered("orders of keys")
def _in_order(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(keys, key=_key_order))


def _key_order(key: str) -> tuple[int, bytes]:
    encoded = key.encode()
    return len(encoded), encoded
