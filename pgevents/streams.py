"""`stream()`: which events a question is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import attrs

from pgevents.caches import remembered
from pgevents.comparisons import AllOf, Comparison
from pgevents.errors import ConfigurationError, InvalidValueError, shown
from pgevents.event_types import names_and_classes
from pgevents.fields import check_field, named_once
from pgevents.texts import identifier_text

if TYPE_CHECKING:
    from typing_extensions import TypeForm


__all__ = [
    "Compared",
    "Everything",
    "Stream",
    "everything",
    "make_stream",
    "refuse_for_reads",
    "stream",
]

D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)
Match = tuple[tuple[str, tuple[str, ...]], ...]
"""Fields, and the texts that each may have. All must hold; a field of many values may stand there twice."""
Compared = tuple[tuple[str, Comparison], ...]
"""Fields, and what each is compared with."""
RESERVED = frozenset(
    ("type", "types", "event_type", "event_types", "as_of", "final", "limit", "offset", "order_by")
    + ("metadata", "streams", "where", "reverse", "on_undecodable")
)
"""Keywords that are options of some calls; as an identifier they would be a mistake."""


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
        values: dict[str, Any] = {}
        for field, texts in self.match:
            others = values.get(field)
            if others is None:
                values[field] = texts
            else:  # several that must all be there
                values[field] = {"all": [*(others["all"] if isinstance(others, dict) else others), *texts]}
        return {"types": self.types, "match": values}

    @staticmethod
    def from_json(stored: Any) -> Stream[Any]:
        """The stream that has this `as_json`."""
        types: Any = stored["types"]
        match: list[tuple[str, tuple[str, ...]]] = []
        for field, values in stored["match"].items():
            if isinstance(values, dict):
                match += [(field, (text,)) for text in cast("dict[str, list[str]]", values)["all"]]
            else:
                match.append((field, tuple(values)))
        return Stream(None if types is None else tuple(types), tuple(match))


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
            Of a field that holds a list, `all_of(...)` means all of the values.
            Several fields must all match. Names of options, such as `limit` or `types`, go into `data`.

    Raises:
        ConfigurationError: `None` or another value that cannot identify, a name that cannot be a field's, an
            option of other calls. When a client uses the stream, also a field that none of the classes has;
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
        if value.__class__ is AllOf:
            match += tuple((_checked_name(field), (text,)) for text in _texts(field, value.values))
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
    names, classes = (None, ()) if types is None else names_and_classes(types)
    return make_stream(names, match, classes if match or compared else (), compared, after)


def make_stream(
    types: tuple[str, ...] | None,
    match: Match,
    classes: tuple[type[Any], ...] = (),
    compared: Compared = (),
    after: int = 0,
) -> Stream[Any]:
    """What `Stream(...)` makes, in less time; see `UnfrozenEvent`."""
    unfrozen: Any = UnfrozenStream()
    unfrozen.types = types
    unfrozen.classes = classes
    unfrozen.match = match
    unfrozen.compared = compared
    unfrozen.after = after
    unfrozen.__class__ = Stream
    stream: Stream[Any] = unfrozen
    return stream


def _field_of(pair: tuple[str, Any]) -> str:
    return pair[0]


def refuse_for_nothing(streams: Iterable[Stream[Any]]) -> None:
    """Check that at least one event could match streams that a save is validated against.

    Raises:
        ConfigurationError: None can: there are no streams, or all have an empty list of types or values.
    """
    if all(stream.is_empty for stream in streams):
        raise ConfigurationError(
            "this would validate nothing, because no event can match the streams: there are none, or all of "
            "them have an empty list of types or of values. Name the streams, or save without validation"
        )


def refuse_for_reads(streams: Iterable[Stream[Any]], purpose: str) -> None:
    """Check that streams name fields by equal values alone.

    Args:
        streams: Those that are to be used.
        purpose: What for, and why that takes equal values.

    Raises:
        ConfigurationError: One with a comparison, or with an `after` of its own.
    """
    for stream in streams:
        if stream.compared:
            field, comparison = stream.compared[0]
            raise ConfigurationError(
                f"{field}={comparison} is for reads: {purpose}. Ask for the stream without it, and look at "
                f"the field {field!r} in your program"
            )
        if stream.after:
            raise ConfigurationError(
                f"a stream with after={stream.after} is for reads: {purpose}. Ask for the stream without it"
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
    return named_once(named, identifier)


def _refuse_reserved(identifier: Mapping[str, Any]) -> None:
    name = sorted(RESERVED & set(identifier))[0]
    meant = (
        "types are the first argument, without a keyword"
        if "type" in name
        else f"{name}= is not an option here"
    )
    raise ConfigurationError(
        f"{meant}; if a field of the data is called {name!r}, write "
        f"data={{{name!r}: {shown(identifier[name])}}}"
    )


_checked_name = remembered("checked field names")(check_field)


def _texts(field: str, value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple, set, frozenset)):
        values = cast("Iterable[object]", value)
        return tuple(sorted({identifier_text(field, item) for item in values}))
    return (identifier_text(field, value),)
