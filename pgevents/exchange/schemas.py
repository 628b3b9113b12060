"""JSON Schema of event classes, and an AsyncAPI document of all events of a client."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections import deque
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import Any
from uuid import UUID

import attrs
import cattrs

from pgevents.client import EventClient
from pgevents.codec.converter import make_event_converter
from pgevents.errors import ConfigurationError
from pgevents.event_types import EventType, event_type_of

__all__ = ["StoredField", "asyncapi", "json_schema", "resolved", "stored_fields"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "3.0.0"
Schema = dict[str, Any]

PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    types.NoneType: {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    set: {"type": "array", "uniqueItems": True},
    frozenset: {"type": "array", "uniqueItems": True},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "description": "a time of day in ISO form, with or without an offset"},
    timedelta: {"type": "number", "description": "seconds"},
    UUID: {"type": "string", "format": "uuid"},
    Decimal: {"type": "string", "description": "a decimal number as text"},
}
"""How values of these classes are stored, unless a plugin teaches the converter otherwise."""
SETS = (set, frozenset, Set)
LISTS = (list, tuple, deque, Sequence, *SETS)


def json_schema(client: EventClient, event_type: type[Any] | str) -> Schema:
    """The JSON Schema (draft 2020-12) of an event type's data, as this program stores them.

    Fields without a default are required. A type whose JSON form only a function knows, such as one that a
    plugin taught the converter, is left open: `{}` takes any value.

    Args:
        client: A client that knows the class.
        event_type: The class, or the type's name.

    Returns:
        The schema, with the schemas of nested classes under `$defs`; JSON-ready.

    Raises:
        ConfigurationError: The client knows no class of that name.

    Example:
        ```python
        from pgevents.exchange import json_schema

        json_schema(client, CartCreated)["required"]  # ['cart_id', 'user_id']
        ```
    """
    kind = _event_type(client, event_type)
    schemas = _Schemas(client.serializer.converter, "#/$defs/")
    schema = schemas.of_class(kind.cls)
    head: Schema = {"$schema": DIALECT, "title": kind.name, **schema}
    return {**head, "$defs": schemas.definitions} if schemas.definitions else head


def asyncapi(client: EventClient, *, title: str, version: str) -> Schema:
    """An AsyncAPI document (3.0.0) of all event classes that a client knows: what it appends to its log.

    Args:
        client: The client. Its events table is the document's one channel.
        title: What the application is called.
        version: The version of the application's events, for example "1.2.0".

    Returns:
        The document, JSON-ready.

    Raises:
        ConfigurationError: The client knows no event class.

    Example:
        ```python
        from pgevents.exchange import asyncapi

        document = asyncapi(client, title="Shop", version="1.0.0")
        ```
    """
    kinds = client.types.all()
    if not kinds:
        raise ConfigurationError("this client knows no event class, so there is nothing to describe")
    schemas = _Schemas(client.serializer.converter, "#/components/schemas/")
    messages: Schema = {}
    for kind in kinds:
        messages[kind.name] = {
            "name": kind.name,
            "title": kind.cls.__qualname__,
            "contentType": "application/json",
            "payload": {
                "schemaFormat": f"application/schema+json;version={DIALECT}",
                "schema": schemas.ref(kind.cls),
            },
        }
    table = client.events.pgevents_spec
    channel = "events"
    listed = {name: {"$ref": f"#/components/messages/{_pointer(name)}"} for name in messages}
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": {channel: {"address": table.qualified().replace('"', ""), "messages": listed}},
        "operations": {
            "append": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{channel}"},
                "messages": [
                    {"$ref": f"#/channels/{channel}/messages/{_pointer(name)}"} for name in messages
                ],
            }
        },
        "components": {"messages": messages, "schemas": schemas.definitions},
    }


def _event_type(client: EventClient, event_type: type[Any] | str) -> EventType:
    name = event_type if isinstance(event_type, str) else event_type_of(event_type).name
    kind = client.types.find(name)
    if kind is None:
        near = client.types.nearest(name)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ConfigurationError(f"this client knows no class of the event type {name!r}{hint}")
    return kind


def _pointer(name: str) -> str:
    """A name as a part of a JSON pointer in a URI (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1").replace("%", "%25").replace(" ", "%20")


class _Schemas:
    """Schemas of types as one converter stores them; those of classes once each, under their names."""

    def __init__(self, converter: cattrs.Converter, prefix: str) -> None:
        self.definitions: Schema = {}
        self._converter = converter
        self._plain = make_event_converter()
        self._prefix = prefix
        self._names: dict[Any, str] = {}

    def ref(self, cls: Any) -> Schema:
        """A reference to a class's schema, which is made if need be."""
        name = self._names.get(cls)
        if name is None:
            name = cls.__name__
            while name in self._names.values():
                name += "_"
            self._names[cls] = name  # before its fields are looked at: a class may hold itself
            self.definitions[name] = self.of_class(cls)
        return {"$ref": self._prefix + _pointer(name)}

    def of_class(self, cls: Any) -> Schema:
        """An object with the fields of an attrs class, a dataclass or a TypedDict."""
        fields = stored_fields(self._converter, cls)
        if fields is None:
            return {}  # a function of the application's own writes it
        return {
            "type": "object",
            "properties": {name: self.of(field.annotation) for name, field in fields.items()},
            "required": [name for name, field in fields.items() if field.is_required],
        }

    def of(self, annotation: Any) -> Schema:
        """The schema of any type; `{}` where it is not known."""
        kind: Any = resolved(annotation)
        if kind is None:
            return dict(PLAIN[types.NoneType])
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Literal:
            return {"enum": [value.value if isinstance(value, Enum) else value for value in arguments]}
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(argument) for argument in arguments]}
        if isinstance(origin, type):
            return self._of_collection(origin, arguments)
        if not isinstance(kind, type) or self._is_taught(kind):
            return {}
        if issubclass(kind, Flag):
            return dict(PLAIN[int])  # any members together
        if issubclass(kind, Enum):
            return {"enum": [self._converter.unstructure(member) for member in kind]}
        if kind in PLAIN:
            return dict(PLAIN[kind])
        return self.ref(kind) if _has_fields(kind) else {}

    def _of_collection(self, origin: type[Any], arguments: tuple[Any, ...]) -> Schema:
        if issubclass(origin, tuple) and arguments and arguments[-1] is not ...:
            items = [] if arguments == ((),) else [self.of(argument) for argument in arguments]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        if issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if issubclass(origin, LISTS):
            is_set = issubclass(origin, SETS)
            schema: Schema = {"type": "array", "items": self.of(arguments[0])}
            return {**schema, "uniqueItems": True} if is_set else schema
        return {}

    def _is_taught(self, kind: Any) -> bool:
        """Whether a plugin gave the converter a form of its own for a type that has a usual one."""
        if kind not in PLAIN:
            return False
        return self._converter.get_unstructure_hook(kind) != self._plain.get_unstructure_hook(kind)


@attrs.frozen
class StoredField:
    """A field of a class, as its converter stores it.

    Attributes:
        annotation: Its type.
        is_required: Whether data without it do not fit the class.
    """

    annotation: Any
    is_required: bool


def stored_fields(converter: cattrs.Converter, cls: Any) -> dict[str, StoredField] | None:
    """The fields of an event class, or of a class in one, by their names in JSON.

    None if a function of the application's own makes the JSON, and nobody knows what is in it.
    """
    overrides: Mapping[str, Any] | None = getattr(converter.get_unstructure_hook(cls), "overrides", None)
    if overrides is None and not typing.is_typeddict(cls):
        return None
    fields: dict[str, StoredField] = {}
    for name, field in _fields(cls).items():
        override = (overrides or {}).get(name)
        if override is None or not override.omit:
            fields[getattr(override, "rename", None) or name] = field
    return fields


def resolved(kind: Any) -> Any:
    """A type without the names that stand for it: Annotated, NewType, `type X = ...`."""
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif hasattr(kind, "__value__"):
            kind = kind.__value__
        else:
            return kind


def _fields(cls: Any) -> dict[str, StoredField]:
    """The fields of a class by their names in Python."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # annotations that cannot be resolved say nothing
        hints = {}
    if attrs.has(cls):
        return {
            field.name: StoredField(hints.get(field.name, field.type), field.default is attrs.NOTHING)
            for field in attrs.fields(cls)
        }
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        return {
            field.name: StoredField(
                hints.get(field.name, Any), field.default is missing and field.default_factory is missing
            )
            for field in dataclasses.fields(cls)
        }
    required: frozenset[str] = getattr(cls, "__required_keys__", frozenset[str]())
    return {name: StoredField(_without_marks(hint), name in required) for name, hint in hints.items()}


def _has_fields(kind: Any) -> bool:
    return attrs.has(kind) or dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)


def _without_marks(hint: Any) -> Any:
    """A TypedDict's field without Required and NotRequired."""
    while getattr(typing.get_origin(hint), "_name", "") in ("Required", "NotRequired", "ReadOnly"):
        hint = typing.get_args(hint)[0]
    return hint
