"""Whether the identifiers of a question can find what it asks for: a misspelt one would find nothing."""

from __future__ import annotations

import difflib
import itertools
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from enum import Enum
from operator import itemgetter
from typing import Any
from uuid import UUID

import attrs

from pgevents.caches import RevisedCache
from pgevents.codec.serialization import Serializer
from pgevents.comparison_kinds import single_types
from pgevents.comparisons import check_kind
from pgevents.errors import ConfigurationError
from pgevents.event_types import EventType, event_type_of
from pgevents.fields import path_of
from pgevents.merging import merge_streams
from pgevents.renames import stored_names
from pgevents.stored_values import FieldTexts, field_texts
from pgevents.streams import Stream
from pgevents.type_registry import EventTypes

__all__ = ["Identifiers"]

FIELD = itemgetter(0)
Other = tuple[tuple[str, ...], tuple[str, ...]]
"""Types, and the names of a question's fields in some of their events."""


class Identifiers:
    """Checks the identifiers of a client's questions against the event classes that they name, and adds the
    names under which older versions store them.

    Only a question that names its types by classes can be checked: if types are named by text, or a stream is
    of any type, the fields of its events are not known.

    Attributes:
        types: The event classes, whose upcasters tell what was renamed.
        hidden: Fields that are stored in another form than their value, by the event type's name.
    """

    def __init__(self, serializer: Serializer, types: EventTypes, lists: Sequence[str] | None = None) -> None:
        self._serializer = serializer
        self._lists = lists
        self._answers: RevisedCache[Any, _Answer] = RevisedCache("older names of fields")
        self.types = types
        self.hidden: Mapping[str, frozenset[str]] = {}

    def forget(self) -> None:
        """Check again: the converter or the classes have changed."""
        self._answers.forget()

    def check(self, streams: Iterable[Stream[Any]]) -> Sequence[Stream[Any]]:
        """The streams as a sequence, checked, and with them those that find the same in older events.

        Raises:
            InvalidValueError: A value that no event has there, by the types of the classes' fields.
            ConfigurationError: An identifier that none of the stream's classes has, one under which an older
                version of a class is not found, or one that is stored in another form (encrypted).
        """
        if not isinstance(streams, (list, tuple)):
            streams = merge_streams(streams)
        answers, versioned = self._answers.at(self.types.revision), self.types.versioned()
        older: list[Stream[Any]] = []
        for stream in streams:
            if not isinstance(stream, Stream):  # pyright: ignore[reportUnnecessaryIsInstance]
                continue  # refused where streams are put together
            match, compared = stream.match, stream.compared
            if not match and not compared:
                continue
            if self.hidden:
                self._refuse_hidden(stream)
            if len(match) > 1 and self._lists is not None:
                self._refuse_all_of(stream, self._lists)
            if compared:
                self._refuse_other_kinds(stream)
            classes = stream.classes
            if classes or versioned:
                fields = tuple(map(FIELD, (*match, *compared) if compared else match))
                question = classes, None if classes else stream.types, fields
                answer = answers.get(question)
                if answer is None:
                    answer = answers[question] = self._answer(*question)
                for place, texts in answer.texts:
                    if place < len(match):
                        texts.check(match[place][1])
                if answer.others:
                    older += [_older_stream(stream, *other) for other in answer.others]
        return [*streams, *older] if older else streams

    def _refuse_hidden(self, stream: Stream[Any]) -> None:
        for event_type in self.hidden if stream.types is None else stream.types:
            for field, _ in (*stream.match, *stream.compared):
                if path_of(field)[1][0] in self.hidden.get(event_type, ()) and path_of(field)[0] == "data":
                    raise ConfigurationError(
                        f"no event of {event_type!r} is found by {field!r}: a plugin stores that field in "
                        "another form than its value, encrypted for example. Identify events by another "
                        "field" + ("" if stream.types else ", or name types that do not have it")
                    )

    def _refuse_all_of(self, stream: Stream[Any], lists: Collection[str]) -> None:
        """Refuse to ask for several values at once of a field that has one in each event."""
        names = [field for field, _ in stream.match]
        for field in names:
            if names.count(field) > 1 and field not in lists:
                raise ConfigurationError(
                    f"all_of is for a data index of many values, and each event has one value of {field!r}: "
                    f"data_indexes=[many({field!r})] if it holds a list, else ask for one_of"
                )

    def _refuse_other_kinds(self, stream: Stream[Any]) -> None:
        """Refuse to compare a field with a value of another type than its class declares."""
        named = [self.types.find(name) for name in stream.types or ()]
        classes = stream.classes or tuple([event_type.cls for event_type in named if event_type is not None])
        stored = StoredFields(self._serializer)
        for field, comparison in stream.compared:
            if field in (self._lists or ()):
                raise ConfigurationError(
                    f"{field!r} has many values in one event, so there is no single value to compare: ask "
                    f"for one of its values, not for {comparison}"
                )
            for cls in classes:
                check_kind(comparison, f"{cls.__qualname__}.{field}", stored.types_of(cls, field))

    def _answer(
        self, classes: tuple[type[Any], ...], names: tuple[str, ...] | None, fields: tuple[str, ...]
    ) -> _Answer:
        """What is known of a question for these fields."""
        stored = StoredFields(self._serializer)
        if classes:
            able = [(event_type_of(cls), _current(stored, event_type_of(cls), fields)) for cls in classes]
            _refuse_unknown(classes, fields, stored)
            if self._lists is not None:
                _refuse_lists(classes, [field for field in fields if field not in self._lists], stored)
        else:
            versioned = self.types.versioned()
            event_types = [
                event_type
                for event_type in versioned
                if names is None or not set(names).isdisjoint(event_type.names)
            ]
            able = [(event_type, _current(stored, event_type, fields)) for event_type in event_types]
        others: dict[tuple[str, ...], set[str]] = {}
        for event_type, current in able:
            if current is not None:
                for other in _older(stored, event_type, current, must_be_known=bool(classes)):
                    if other != fields:
                        others.setdefault(other, set()).update(event_type.names)
        return _Answer(
            [
                (tuple(sorted(found if names is None else found & set(names))), other)
                for other, found in others.items()
            ],
            [
                (place, texts)
                for place, field in enumerate(fields)
                if (texts := self._texts_of(classes, field, stored)) is not None
            ],
        )

    def _texts_of(self, classes: Sequence[type[Any]], field: str, stored: StoredFields) -> FieldTexts | None:
        types_of_each = [stored.types_of(cls, field) for cls in classes]
        known = [types for cls, types in zip(classes, types_of_each, strict=True) if stored.has(cls, field)]
        if not all(types_of_each) or len(known) < len(classes):
            return None
        return field_texts(
            field, [each for types in known for each in types], self._serializer.unstructure_hook
        )


@attrs.frozen
class _Answer:
    """What is known of a question.

    Attributes:
        others: Other names of its fields, and the types that they are for.
        texts: What some of its fields can have, by their places.
    """

    others: Sequence[Other]
    texts: Sequence[tuple[int, FieldTexts]]


def _older_stream(stream: Stream[Any], types: tuple[str, ...], names: Sequence[str]) -> Stream[Any]:
    """The stream with the names that older versions have for its fields."""
    count = len(stream.match)
    match = tuple(sorted((name, values) for name, (_, values) in zip(names, stream.match, strict=False)))
    pairs = zip(names[count:], stream.compared, strict=True)
    return Stream(
        types, match, (), tuple((name, comparison) for name, (_, comparison) in pairs), stream.after
    )


def _refuse_unknown(classes: Sequence[type[Any]], fields: Sequence[str], stored: StoredFields) -> None:
    names_by_class = {
        cls: [_current(stored, event_type_of(cls), (field,)) for field in fields] for cls in classes
    }
    for place, field in enumerate(fields):
        if all(names[place] is None for names in names_by_class.values()):
            raise ConfigurationError(_no_such_field(field, classes, stored))
    if all(None in names for names in names_by_class.values()):
        raise ConfigurationError(
            f"no event of {_listed(classes)} has all of the fields {', '.join(fields)}, so nothing "
            "would be found: several identifiers must all match"
        )


def _refuse_lists(classes: Sequence[type[Any]], fields: Sequence[str], stored: StoredFields) -> None:
    for field in fields:
        for cls in classes:
            if stored.holds_list(cls, field):
                raise ConfigurationError(
                    f"{field!r} of {cls.__qualname__} holds a list, and its values find no event: "
                    f"make the field a data index of many values, data_indexes=[many({field!r})]"
                )


def _current(stored: StoredFields, event_type: EventType, fields: Sequence[str]) -> tuple[str, ...] | None:
    """The names of these fields in the newest version, also of those asked for by an older one; None if the
    class does not have them all."""
    for field in event_type.renamed:
        if not stored.may_have(event_type.cls, field):
            raise ConfigurationError(_no_such_field(field, [event_type.cls], stored))
    names: list[str] = []
    for field in fields:
        if not stored.may_have(event_type.cls, field):
            now = next(
                (name for name in stored.names(event_type.cls) if field in _all_names(event_type, name)), None
            )
            if now is None:
                return None
            field = now
        names.append(field)
    return tuple(names)


def _all_names(event_type: EventType, field: str) -> set[str]:
    found = stored_names(event_type, field)
    return set() if isinstance(found, str) else set[str]().union(*found)


def _older(
    stored: StoredFields, event_type: EventType, fields: tuple[str, ...], *, must_be_known: bool
) -> Iterator[tuple[str, ...]]:
    """The names under which the versions of a type store these fields.

    Raises:
        ConfigurationError: One of them is made by an upcaster, or has an older name that means something else
            now, and that must be known.
    """
    versions: list[list[set[str]]] = []
    for field in fields:
        names = stored_names(event_type, field) if event_type.version > 1 else [{field}]
        if not isinstance(names, str) and any(
            stored.has(event_type.cls, name) for name in set[str]().union(*names) - {field}
        ):
            names = "older versions use that name for another field, whose events would be found, too"
        if isinstance(names, str):
            if must_be_known:
                raise ConfigurationError(
                    f"{field!r} does not find all events of {event_type.cls.__qualname__}: {names}. Identify "
                    "events by a field that all versions store; older events get it when they are imported "
                    "again"
                )
            names = [{field}] * event_type.version
        versions.append(names)
    for names_of_version in zip(*versions, strict=True):
        yield from itertools.product(*map(sorted, names_of_version))


@attrs.frozen
class StoredFields:
    """Under which names the fields of classes are stored, also those of the classes in their fields."""

    serializer: Serializer

    def may_have(self, cls: type[Any], field: str) -> bool:
        """Whether events of this class may have the field; also where that cannot be known."""
        column, keys = path_of(field)
        return column != "data" or self._may_have(cls, keys)

    def has(self, cls: type[Any], field: str) -> bool:
        """Whether they are known to have it."""
        return field in self.names(cls)

    def holds_list(self, cls: type[Any], field: str) -> bool:
        """Whether the field is known to be a list of values."""
        column, keys = path_of(field)
        return column == "data" and self._is_list(cls, keys)

    def _is_list(self, annotation: Any, keys: Sequence[str]) -> bool:
        for member in _members(annotation) or (annotation,):
            if not keys:
                if isinstance(member, type) and issubclass(member, LISTS):
                    return True
            elif isinstance(member, type):
                inner = (self._of(member) or {}).get(keys[0])
                if inner is not None and self._is_list(inner, keys[1:]):
                    return True
        return False

    def _may_have(self, annotation: Any, keys: Sequence[str]) -> bool:
        if not keys:
            return True
        inner = _members(annotation)
        if inner:
            return any(self._may_have(member, keys) for member in inner)
        types_by_name = self._of(annotation) if isinstance(annotation, type) else None
        if types_by_name is not None:
            return keys[0] in types_by_name and self._may_have(types_by_name[keys[0]], keys[1:])
        return not (isinstance(annotation, type) and issubclass(annotation, NO_OBJECTS))

    def types_of(self, cls: type[Any], field: str) -> list[Any]:
        """The types that a field may have, without None; none if they are not known."""
        column, keys = path_of(field)
        field_types: list[Any] = [cls] if column == "data" else []
        for key in keys:
            inner = [(self._of(owner) if isinstance(owner, type) else None) or {} for owner in field_types]
            field_types = [
                field_type
                for types_by_name in inner
                if key in types_by_name
                for field_type in single_types(types_by_name[key])
            ]
        return field_types

    def names(self, annotation: Any, depth: int = 3) -> Iterator[str]:
        """The names that are known, with those of nested fields as paths."""
        for member in _members(annotation) or (annotation,):
            types_by_name = (self._of(member) if isinstance(member, type) else None) or {}
            for name, field_type in types_by_name.items():
                yield name
                if depth > 1:
                    yield from (f"{name}.{nested}" for nested in self.names(field_type, depth - 1))

    def _of(self, cls: type[Any]) -> dict[str, Any] | None:
        """The types of a class's fields by their stored names; None if that cannot be known."""
        if not attrs.has(cls):
            return None
        overrides: Mapping[str, Any] | None = getattr(
            self.serializer.unstructure_hook(cls), "overrides", None
        )
        if overrides is None:
            return None  # it is written by a function of the application's own
        types_by_name: dict[str, Any] = {}
        for field in attrs.fields(cls):
            override = overrides.get(field.name)
            if override is None or not override.omit:
                types_by_name[getattr(override, "rename", None) or field.name] = field.type
        return types_by_name


LISTS = (list, tuple, set, frozenset)
NO_OBJECTS = (str, bytes, int, float, bool, list, tuple, set, frozenset, date, time, Decimal, UUID, Enum)
"""What is stored as text, number or list, so that no field stands in it."""


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; the class of a generic one; none for any other."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return tuple(member for member in typing.get_args(annotation) if member is not type(None))
    return (origin,) if isinstance(origin, type) else ()


def _listed(classes: Iterable[type[Any]]) -> str:
    return ", ".join(cls.__qualname__ for cls in classes)


def _no_such_field(field: str, classes: Iterable[type[Any]], stored: StoredFields) -> str:
    classes = tuple(classes)
    names = sorted({name for cls in classes for name in stored.names(cls, depth=1)})
    paths = {name for cls in classes for name in stored.names(cls)}
    close = difflib.get_close_matches(field, sorted(paths), 1, 0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"no event of {_listed(classes)} has a field {field!r}, so nothing would be found: {hint}"
        f"They have {', '.join(names) or 'no fields'}. To find events by a field that only "
        'stored events have, name the types by text: stream("CART_CREATED", ...)'
    )
