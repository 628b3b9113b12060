"""`stream()`: which events a question is about."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload
from uuid import UUID

import attrs

from pgevents.comparisons import Comparison
from pgevents.errors import ConfigurationError, InvalidValueError, shown
from pgevents.events import is_text, named_classes, type_names
from pgevents.fields import check_field

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = [
    "Compared",
    "Everything",
    "Stream",
    "TypesOfEach",
    "array_text",
    "check_field_name",
    "everything",
    "id_text",
    "identifier_text",
    "merge_streams",
    "one_value",
    "refuse_for_reads",
    "stream",
    "union_of_types",
]

D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)
Match = tuple[tuple[str, tuple[str, ...]], ...]
"""Fields, and the texts that each may have."""
Compared = tuple[tuple[str, Comparison], ...]
"""Fields, and what each is compared with."""
TypesOfEach = tuple[tuple[str, ...] | None, ...]
"""The types of each of several streams; None for any."""


RESERVED = frozenset(
    ("type", "types", "event_type", "event_types", "as_of", "final", "limit", "offset", "order_by")
    + ("metadata", "streams", "where", "reverse", "on_undecodable")
)
"""Keywords that are options of some calls; as an identifier they would be a slip."""


class Everything(Mapping[str, Any]):
    """No identifiers, said on purpose; see `everything`."""

    def __getitem__(self, field: str) -> Any:
        raise KeyError(field)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "everything"

    def __reduce__(self) -> str:
        return "everything"


everything = Everything()
"""In place of identifiers: all events of the types. Without it, no identifiers are taken for a mistake."""


class UnfrozenStream:
    """A stream while it is being made; see `UnfrozenEvent`."""

    __slots__ = ("__weakref__", "after", "classes", "compared", "match", "types")


@attrs.frozen
class Stream(UnfrozenStream, Generic[D_co]):
    """Events of some types that carry some identifiers; make one with `stream()`.

    Attributes:
        types: Stored type names, or None for any type; an empty tuple matches nothing.
        match: Field name to the texts that it may have, as `data->>'field'` gives them; see `fields`.
        classes: The event classes, if the types were named by classes alone: their fields are what can
            identify.
        compared: Field name to a comparison that must hold; for reads alone.
        after: Where a read goes on, as its own `after`; for reads alone.

    Types, fields and values stand in one order, so that equal questions are equal.
    """

    types: tuple[str, ...] | None
    match: Match = ()
    classes: tuple[type[Any], ...] = attrs.field(default=(), eq=False, repr=False)
    compared: Compared = ()
    after: int = 0

    def __reduce__(self) -> Any:  # it was checked; its classes may be local ones
        return Stream, (self.types, self.match, (), self.compared, self.after)

    @property
    def is_empty(self) -> bool:
        """Whether nothing can match: an empty list of types or of values."""
        return self.types == () or any(not values for _, values in self.match)

    @property
    def is_for_reads(self) -> bool:
        """Whether it has what only a read can answer."""
        return bool(self.compared or self.after)

    def as_json(self) -> dict[str, Any]:
        """The form in which the database functions take a stream: of one for reads, the wider stream that it
        is a part of."""
        return {"types": self.types, "match": dict(self.match)}


@overload
def stream(
    types: TypeForm[D], /, *, data: Mapping[str, Any] | None = None, after: int = 0, **identifier: Any
) -> Stream[D]: ...
@overload
def stream(
    types: str | Sequence[str | type[Any]] | None = None,
    /,
    *,
    data: Mapping[str, Any] | None = None,
    after: int = 0,
    **identifier: Any,
) -> Stream[Any]: ...
def stream(
    types: Any = None, /, *, data: Mapping[str, Any] | None = None, after: int = 0, **identifier: Any
) -> Stream[Any]:
    """Describe a stream: events of these types whose data has these values.

    Args:
        types: An event class, a union of classes, a type's name, or a sequence of these; nothing means any
            type.
        data: Identifiers by field name, for fields that cannot be written as keywords: `{"order-no": 7}`,
            nested ones (`{"customer.id": 7}`), and those of the metadata (`{"metadata.tenant": "acme"}`). An
            empty dict is refused, because a filter that vanishes finds everybody's events; `everything` says
            that they are meant.
        after: Where a read of this stream goes on, if its streams are not read from one id on: as `after` of
            the read.
        **identifier: Field and value: str, int, bool, UUID or Enum; a list or tuple means any of. In a stream
            that is only read, also a comparison: `between`, `at_least`, `at_most`, `more_than`, `less_than`,
            `is_not`.
            Several fields must all match. Names of options, such as `limit` or `types`, go into `data`.

    Raises:
        ConfigurationError: `None` or another value that cannot identify, a name that is no field's, an option
            that is none here. When a client uses the stream, also a field that none of the classes has;
            nothing can be known of types that are named by texts.

    Example:
        ```python
        from pgevents import at_least, stream

        one_cart = stream("ITEM_ADDED", cart_id="c1")
        two_carts = stream(cart_id=["c1", "c2"])
        many = stream("ITEM_ADDED", quantity=at_least(10))
        ```
    """
    if data is not None and not isinstance(data, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"data= takes identifiers by field name, a dict, not {shown(data)}")
    match: Match = ()
    compared: Compared = ()
    for field, value in (_identifiers(data, identifier) if data is not None else identifier).items():
        if value.__class__ is Comparison:
            compared += ((_checked_name(field), value),)
            continue
        is_plain = type(value) is str and value.isascii() and "\0" not in value
        match += ((_checked_name(field), (value,) if is_plain else _texts(field, value)),)
    if len(match) > 1:
        match = tuple(sorted(match))
    if len(compared) > 1:
        compared = tuple(sorted(compared, key=_field_of))
    if type(after) is not int or not 0 <= after < 2**63:
        raise InvalidValueError(f"after is the id of an event, a whole number from 0 on, not {shown(after)}")
    if not RESERVED.isdisjoint(identifier):
        _refuse_reserved(identifier)
    made: Any = UnfrozenStream()
    made.types = None if types is None else tuple(sorted(type_names(types)))
    made.classes = named_classes(types) if (match or compared) and types is not None else ()
    made.match = match
    made.compared = compared
    made.after = after
    made.__class__ = Stream
    described: Stream[Any] = made
    return described


def _field_of(pair: tuple[str, Any]) -> str:
    return pair[0]


def refuse_for_reads(streams: Iterable[Stream[Any]], purpose: str) -> None:
    """That streams are held by equal values alone.

    Args:
        streams: Those that are to be used.
        purpose: What for, and why that takes equal values.

    Raises:
        ConfigurationError: One with a comparison, or with an `after` of its own.
    """
    for one in streams:
        if one.compared:
            field, comparison = one.compared[0]
            raise ConfigurationError(
                f"{field}={comparison} is for reads: {purpose}. Ask for the stream without it, and look at "
                f"the field {field!r} in your program"
            )
        if one.after:
            raise ConfigurationError(
                f"a stream with after={one.after} is for reads: {purpose}. Ask for the stream without it"
            )


def _identifiers(data: object, identifier: Mapping[str, Any]) -> Mapping[str, Any]:
    """The identifiers that are given by `data=` and by keywords together."""
    if data is everything:
        return identifier
    named = cast("Mapping[str, Any]", data)
    if not named and not identifier:
        raise ConfigurationError(
            "data={} names no identifier, and would find all events of these types; leave it out, or say so: "
            "data=everything (from pgevents import everything)"
        )
    twice = sorted(set(named) & set(identifier))
    if twice:
        raise ConfigurationError(f"{twice[0]!r} is given twice, as a keyword and in data=")
    return {**named, **identifier}


def _refuse_reserved(identifier: Mapping[str, Any]) -> None:
    name = sorted(RESERVED & set(identifier))[0]
    meant = (
        "types are the first argument, without a keyword" if "type" in name else f"{name}= is no option here"
    )
    raise ConfigurationError(
        f"{meant}; if a field of the data is called {name!r}, write "
        f"data={{{name!r}: {shown(identifier[name])}}}"
    )


def check_field_name(field: object) -> str:
    """The name of a view's field as it may stand in SQL: a Python identifier of at most 63 bytes.

    Raises:
        ConfigurationError: Anything else.
    """
    if not isinstance(field, str) or not field.isidentifier() or len(field.encode()) > 63:
        raise ConfigurationError(
            f"field names are identifiers (letters, digits, underscores) of at most 63 bytes, not "
            f"{shown(field)}"
        )
    return str.__str__(field)  # itself; of an Enum that is a str, the text


_checked_name = lru_cache(maxsize=1024)(check_field)


def identifier_text(field: str, value: object) -> str:
    """The text that `data->>'field'` gives for a value once it is stored.

    Raises:
        ConfigurationError: None, a float or another type that has no single text, or a NUL character.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        if not is_text(value):
            raise InvalidValueError(f"{field}: half of a surrogate pair is not text: {value[:40]!r}")
        if "\0" in value:
            raise InvalidValueError(
                f"{field}: PostgreSQL cannot hold a NUL character, remove it from {value[:40]!r}"
            )
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, UUID)):
        try:
            return str(value)
        except ValueError:  # an int of thousands of digits
            raise InvalidValueError(f"{field}: a number of so many digits cannot identify events") from None
    hint = "a filter on None would match what nobody meant" if value is None else "its text is ambiguous"
    raise InvalidValueError(
        f"{field}={shown(value)} cannot identify events ({hint}); give a str, int, bool, UUID, "
        "Enum or a list of these"
    )


def id_text(id: object) -> str:
    """A projection's id as text: as it stands in the events, if it can identify events; else as `str` gives
    it.

    Raises:
        ConfigurationError: None, or text that PostgreSQL cannot hold.
    """
    if id is None or isinstance(id, (str, int, UUID, Enum)):
        return identifier_text("id", id)
    try:
        text = str(id)
    except Exception as error:
        raise ConfigurationError(f"{shown(id)} has no text that could be an id: {error}") from error
    return identifier_text("id", text)


def _texts(field: str, value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple, set, frozenset)):
        several = cast("Iterable[object]", value)
        return tuple(sorted({identifier_text(field, item) for item in several}))
    return (identifier_text(field, value),)


def merge_streams(streams: Iterable[Stream[Any]]) -> tuple[Stream[Any], ...]:
    """The same question in as few streams as possible: each that is left is one index range.

    Streams with one identifier become the union of their types; streams of the same types that differ
    in the values of their only field become one list. Streams that match nothing fall out.
    """
    if not isinstance(streams, (list, tuple)):
        if isinstance(streams, Stream) or not isinstance(streams, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"streams are a list of stream(...), not {shown(streams)}")
        streams = tuple(streams)
    asked = one_value(streams)
    if asked is not None:
        field, value, several = asked
        return (Stream(union_of_types(several), ((field, (value,)),)),)
    by_match: dict[Any, tuple[str, ...] | None] = {}
    for one in streams:
        if not isinstance(one, Stream):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"streams are a list of stream(...), not of {shown(one)}")
        if one.is_empty:
            continue
        match = tuple(sorted((field, tuple(sorted(values))) for field, values in one.match))
        question = match, one.compared, one.after
        if question not in by_match:
            by_match[question] = one.types
        else:
            known = by_match[question]
            either = None if known is None or one.types is None else tuple(dict.fromkeys(known + one.types))
            by_match[question] = either
    merged: dict[Any, Stream[Any] | set[str]] = {}
    for (match, compared, after), types in by_match.items():
        kinds = None if types is None else tuple(sorted(types))
        if compared or after:
            merged[kinds, match, compared, after] = Stream(kinds, match, (), compared, after)
        elif len(match) == 1:
            ((field, values),) = match
            cast("set[str]", merged.setdefault((kinds, field), set[str]())).update(values)
        else:
            merged[kinds, match] = Stream(kinds, match)
    found = tuple(
        one if isinstance(one, Stream) else Stream(kinds, ((field, tuple(sorted(one))),))
        for (kinds, field, *_), one in merged.items()
    )
    return (
        found if len(found) == len(streams) else merge_streams(found)
    )  # those that are left may go together now


def one_value(
    streams: Iterable[Stream[Any]], data_indexes: Collection[str] | None = None
) -> tuple[str, str, TypesOfEach] | None:
    """Field, value, and the types of each stream, of a question about one value of one field, or of one of
    these.

    None for any other question; but most are of this kind, which the functions for one event and
    `<events>_fetch` take.
    """
    if not isinstance(streams, (list, tuple)):
        return None
    match: Match = ()
    several: list[tuple[str, ...] | None] = []
    for one in streams:
        if one.__class__ is not Stream or one.types == () or (several and one.match != match):
            return None
        if one.compared or one.after:
            return None
        match = one.match
        several.append(one.types)
    if len(match) != 1:
        return None
    field, values = match[0]
    if len(values) != 1 or (data_indexes is not None and field not in data_indexes):
        return None
    return field, values[0], tuple(several)


@lru_cache(maxsize=1024)
def union_of_types(several: TypesOfEach) -> tuple[str, ...] | None:
    """The types of several streams together, sorted."""
    known = [types for types in several if types is not None]
    return tuple(sorted({name for types in known for name in types})) if len(known) == len(several) else None


def array_text(names: Sequence[str]) -> str:
    """An array of names as PostgreSQL writes it."""
    text = '","'.join(names)
    if "\\" in text or text.count('"') != 2 * len(names) - 2:
        text = '","'.join([name.replace("\\", "\\\\").replace('"', '\\"') for name in names])
    return f'{{"{text}"}}' if names else "{}"
