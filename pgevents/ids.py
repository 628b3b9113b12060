"""Ids of projections to the text that the projections table holds, and back."""

from __future__ import annotations

import json
import typing
from collections.abc import Sequence
from datetime import date, datetime
from enum import Enum
from typing import Any, cast
from uuid import UUID

from pgevents.errors import ConfigurationError, shown
from pgevents.texts import identifier_text

__all__ = ["id_of", "id_text"]


def id_text(id: object) -> str:
    """A projection's id as text: that of the same value as an identifier of events; a tuple as a JSON array.

    Raises:
        ConfigurationError: None, a value whose class defines no text, or text that PostgreSQL cannot hold.
    """
    if isinstance(id, str) and not isinstance(id, Enum):
        if _parts(id) is not None:
            raise ConfigurationError(f"the id {id!r} is the text of a tuple; give the tuple itself")
        return identifier_text("id", id)
    if id is None or isinstance(id, (int, UUID, Enum)):
        return identifier_text("id", id)
    if isinstance(id, tuple):
        parts = cast("tuple[object, ...]", id)
        if not parts:
            raise ConfigurationError("an empty tuple identifies no projection")
        return _dump([_part(part) for part in parts])
    if type(id).__str__ is object.__str__ or isinstance(id, datetime):
        raise ConfigurationError(
            f"{shown(id)} cannot identify a projection, as it has no text of its own; "
            "give a str, int, bool, UUID, Enum or a tuple of these"
        )
    try:
        text = str(id)
    except Exception as error:
        raise ConfigurationError(f"{shown(id)} has no text that could be an id: {error}") from error
    return identifier_text("id", text)


def id_of(text: str, kind: Any = Any) -> Any:
    """The id that has this text.

    Args:
        text: What `id_text` gave.
        kind: The id's type, if the projection declares it: int, UUID, an Enum, `tuple[UUID, str]`, a
            NamedTuple. Without a type, text stays text, and the parts of a tuple are JSON's values.

    Raises:
        ConfigurationError: The text is not an id of that type.
    """
    if (kind is Any or kind is str) and not text.startswith("["):  # most are
        return text
    parts = _parts(text)
    try:
        return _typed(text if parts is None else parts, kind)
    except (LookupError, TypeError, ValueError) as error:
        name = getattr(kind, "__name__", kind)
        raise ConfigurationError(
            f"the id {text!r} of a saved projection is not of type {name}: {error}"
        ) from error


def _part(value: object) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if type(value) in (int, bool):
        return value
    return identifier_text("id", str(value) if isinstance(value, date) else value)


def _dump(parts: Sequence[Any]) -> str:
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))


def _parts(text: str) -> list[Any] | None:
    """The parts of a tuple's text; None for any other text."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        parts = json.loads(text)
    except ValueError:
        return None
    is_tuple = parts and all(type(part) in (str, int, bool) for part in parts) and _dump(parts) == text
    return parts if is_tuple else None


def _typed(value: Any, wanted: Any) -> Any:
    kind: Any = wanted
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return tuple(_typed(part, part_kind) for part, part_kind in zip(value, kinds, strict=True))
    if hasattr(kind, "_fields"):  # a NamedTuple
        hints = typing.get_type_hints(kind)
        named = zip(kind._fields, value, strict=True)
        return kind(*[_typed(part, hints.get(name, Any)) for name, part in named])
    if value.__class__ is list:
        return tuple(value)
    if kind is bool:
        return value if isinstance(value, bool) else {"true": True, "false": False}[value]
    if isinstance(kind, type) and issubclass(kind, Enum):
        texts = {identifier_text("id", member): member for member in kind}
        return texts[identifier_text("id", value)]
    if kind is int:
        return int(value)
    if kind in (UUID, date):
        return UUID(value) if kind is UUID else date.fromisoformat(value)
    return value
