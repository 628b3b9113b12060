"""What the extra `fast` brings: msgspec reads and writes JSON, and event classes of plain fields in one step.

Everything here has a slower way in `serialization` that gives the same results; whatever msgspec refuses goes there.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import attrs

msgspec: Any = None
if not TYPE_CHECKING:
    try:
        import msgspec
    except ImportError:
        pass

__all__ = ["dump_exactly", "instance_decoder", "instance_encoder", "load"]

SAME_IN_JSON = (str, int, bool, float, UUID, types.NoneType)
"""Field types that msgspec and cattrs write alike, and read by the same rules."""
SAME_WHEN_READ = (*SAME_IN_JSON, datetime, date)
"""Field types that they read alike, though they do not write the same text (`Z` and `+00:00`)."""

load: Callable[[str | bytes], Any] = json.loads if msgspec is None else msgspec.json.decode


def dump_exactly(value: object) -> tuple[str, Any] | None:
    """JSON text, and what reading it gives; None for what msgspec does not take, or would change without a word.

    It writes more than JSON has: a Decimal as text, NaN as null, a tuple as a list.
    """
    if msgspec is None:
        return None
    try:
        text = msgspec.json.encode(value)
        loaded = msgspec.json.decode(text)
    except Exception:  # whatever it is, the slower way says what is wrong
        return None
    return None if loaded != value or b"\\u0000" in text else (text.decode(), loaded)


def instance_decoder(cls: type[Any]) -> Callable[[str], Any] | None:
    """From JSON text to an instance in one step, if all fields of the class are plain; else None."""
    if msgspec is None or not _is_plain(cls, SAME_WHEN_READ, frozenset()):
        return None
    decode: Callable[[str], Any] = msgspec.json.Decoder(cls).decode
    return decode


def instance_encoder(cls: type[Any]) -> Callable[[Any], tuple[str, Any] | None] | None:
    """From an instance to JSON text, and what reading it gives, if all fields of the class are plain; else None.

    The encoder returns None for an instance that a read would not give back as it is: a value is not of its field's type.
    """
    if msgspec is None or not _is_plain(cls, SAME_IN_JSON, frozenset()):
        return None
    encode, decode = msgspec.json.encode, msgspec.json.Decoder(cls).decode

    def dump(instance: Any) -> tuple[str, Any] | None:
        try:
            text = encode(instance)
            loaded = decode(text)
        except Exception:  # likewise
            return None
        return None if loaded != instance or b"\\u0000" in text else (text.decode(), loaded)

    return dump


def _is_plain(kind: Any, leaves: tuple[type[Any], ...], outer: frozenset[Any]) -> bool:
    """Whether a type is made of these types alone: by itself, or as an attrs class, list, tuple, dict or union with None."""
    if kind in leaves:
        return True
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, tuple):
        inner = arguments[:1] if origin is list or arguments[1:] == (...,) else ()
        return len(inner) == 1 and _is_plain(inner[0], leaves, outer)
    if origin is dict:
        return arguments[0] is str and _is_plain(arguments[1], leaves, outer)
    if origin in (typing.Union, types.UnionType):
        named = [one for one in arguments if one is not types.NoneType]
        return len(named) == 1 and _is_plain(named[0], leaves, outer)
    if not isinstance(kind, type) or not attrs.has(kind) or kind in outer or getattr(kind, "__parameters__", None):
        return False
    if hasattr(kind, "__attrs_pre_init__") or issubclass(kind, Mapping):
        return False
    try:
        fields = attrs.fields(attrs.resolve_types(kind))
    except Exception:  # annotations that cannot be resolved
        return False
    return all(
        one.init
        and not (isinstance(one.default, attrs.Factory) and one.default.takes_self)  # type: ignore[arg-type]
        and one.converter is None
        and one.alias == one.name
        and not one.name.startswith("_")
        and _is_plain(one.type, leaves, outer | {kind})
        for one in fields
    )
