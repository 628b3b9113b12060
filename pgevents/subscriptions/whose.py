"""Whose view an event changes: found out from a projection's streams, or said by its `ids_of`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, PgEventsError, shown
from pgevents.events import Event, parts_of
from pgevents.fields import texts_in
from pgevents.ids import id_of, id_text
from pgevents.streams import Stream, refuse_for_reads, stream
from pgevents.subscriptions.transient import is_transient

__all__ = ["Rule", "UnknownViewsError", "rule_of"]

IDS_OF = "@staticmethod def ids_of(event): return {event.data.cart_id}"
KEPT = "whose view an event changes is found out by single values of identifiers"
"""Why a projection of a range is not kept."""
PROBES = ("probe:one", "probe/two", "12345", "PROBE THREE", str(UUID(int=2**127 + 12345)))
"""Ids that a projection is asked about; their parts show whether a field carries the whole id as it is."""

_load = json.JSONDecoder(parse_float=Decimal).decode  # json.loads makes one each time
Template = tuple[tuple[Stream[Any], ...], tuple[str, ...]]
"""Streams without an id, and for each of them the field that carries it."""


class UnknownViewsError(PgEventsError):
    """Whose views an event changes cannot be told, so nothing above it can be folded."""


@attrs.frozen
class Rule:
    """Which views of a projection an event changes.

    Attributes:
        projection: The projection's class.
        client: Its client.
        id_class: The type of its ids.
        streams: What it is folded from, whatever the id, without the fields that carry the id.
        fields: For each of the streams the field that carries the id; none if the program says.
        fields_now: Those of them under which events are stored now; older versions may have other names.
        ids_of: What the program says.
    """

    projection: Any
    client: EventClient
    id_class: Any
    streams: tuple[Stream[Any], ...]
    fields: tuple[str, ...] = ()
    fields_now: frozenset[str] = frozenset()
    ids_of: Callable[[Event[Any]], Any] | None = None

    @property
    def field(self) -> str | None:
        """The one field that carries the id in all streams; None if there are several, or the program
        says."""
        return self.fields[0] if len(set(self.fields)) == 1 else None

    @property
    def types(self) -> tuple[str, ...] | None:
        """The types of its events; None for any."""
        if any(stream.types is None for stream in self.streams):
            return None
        return tuple(sorted({name for stream in self.streams for name in stream.types or ()}))

    def projection_of(self, text: str) -> Any:
        """The projection of one id.

        Raises:
            ConfigurationError: Its streams are others than those of other ids.
        """
        projection = self.projection(id_of(text, self.id_class), self.client)
        streams = projection.get_streams()
        refuse_for_reads(streams, KEPT)
        checked = self.client.identifiers.check(streams)
        if self.fields and _template(checked, text) != (self.streams, self.fields):
            raise ConfigurationError(
                f"{self.projection.__name__}({text!r}) is folded from other streams than those of other ids, "
                "so whose view an event changes cannot be told from its fields: say it by ids_of(event)"
            )
        return projection

    def ids(self, row: Sequence[Any], event: Event[Any] | None, error: Exception | None = None) -> list[str]:
        """The ids of the views that an event changes, as text and in order.

        Args:
            row: The event as it is stored: id, type, data and metadata as text, and more.
            event: The event, decoded; None if it cannot be.
            error: Why not.

        Raises:
            UnknownViewsError: The program says whose they are, and cannot say it of this event.
        """
        event_type = row[1]
        data: dict[str, Any] = _load(row[2]) if row[2] else {}
        metadata: dict[str, Any] = _load(row[3]) if row[3] else {}
        if self.ids_of is None:
            pairs = zip(self.streams, self.fields, strict=True)
            found = [
                texts_in(field, data, metadata)
                for stream, field in pairs
                if matches(stream, event_type, data, metadata)
            ]
            return sorted({text for texts in found for text in texts})
        return sorted(
            text
            for text in self._ids_said(int(row[0]), event, error)
            if any(matches(stream, event_type, data, metadata) for stream in self._streams_of(text))
        )

    def _ids_said(self, event_id: int, event: Event[Any] | None, error: Exception | None) -> set[str]:
        """What `ids_of` says. An event that it cannot be asked about may change any view."""
        found: list[Any] = []
        if event is not None and self.ids_of is not None:
            try:
                found = [self.ids_of(part) for part in parts_of([event])]
            except Exception as raised:  # of the application
                if is_transient(raised):
                    raise
                error = raised
        if error is not None or event is None:
            raise UnknownViewsError(
                f"event {event_id}: {self.projection.__name__}.ids_of cannot say whose views it changes: "
                f"{type(error).__name__}: {error}"
            ) from error
        for ids in found:
            if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
                raise UnknownViewsError(
                    f"event {event_id}: {self.projection.__name__}.ids_of returns a set of ids, not {ids!r}"
                )
        return {id_text(given) for ids in found for given in ids}

    def _streams_of(self, text: str) -> Sequence[Stream[Any]]:
        """The streams of an id's view; of what is no id all streams, so that it is set aside by its name."""
        try:
            return _streams_of(self.projection_of(text), self.client)
        except ConfigurationError:
            return (stream(),)


def matches(
    wanted: Stream[Any], event_type: str, data: Mapping[str, Any], metadata: Mapping[str, Any]
) -> bool:
    """Whether a stored event belongs to a stream."""
    if wanted.types is not None and event_type not in wanted.types:
        return False
    return all(set(texts_in(field, data, metadata)) & set(values) for field, values in wanted.match)


def rule_of(projection: Any, client: EventClient) -> Rule:
    """Find out whose view an event changes.

    Raises:
        ConfigurationError: It cannot be found out, and the class does not say it.
    """
    declared = projection.declared_for(client.snapshots, client.types)
    if projection.reducers.is_empty and not declared.folds_in_as_json:
        raise ConfigurationError(f"{projection.__name__} folds nothing, so there is nothing to keep")
    id_class = declared.id_class
    ids_of = getattr(projection, "ids_of", None)
    if ids_of is not None:
        _check_ids_of(projection.__name__, ids_of)
    probes: dict[str, Any] = {}
    for text in PROBES:
        try:
            probes[text] = projection(id_of(text, id_class), client)
        except ConfigurationError:  # this text is no id of the class
            continue
    for probe in probes.values():
        refuse_for_reads(probe.get_streams(), KEPT)
    first: Any = next(iter(probes.values()), None)
    if ids_of is not None:
        followed = [stream(declared.events)] if first is None else first.get_streams()
        by_types: tuple[Stream[Any], ...] = tuple(Stream(each.types) for each in followed)
        return Rule(projection, client, id_class, by_types, ids_of=ids_of)
    templates = [_template(_streams_of(probe, client), text) for text, probe in probes.items()]
    if not templates or templates[0] is None or any(template != templates[0] for template in templates):
        raise ConfigurationError(
            f"whose view an event changes cannot be told from the streams of {projection.__name__}: each has "
            "to have exactly one field that is the id, and nothing else that depends on it. Say it in the "
            f"class: {IDS_OF}"
        )
    streams, fields = templates[0]
    spec = client.events.pgevents_spec
    unknown = [field for field in fields if field not in spec.data_indexes]
    if unknown:
        raise ConfigurationError(
            f"{projection.__name__} finds its events by {unknown[0]!r}, which is no data index of the events "
            f"table: each view would be looked for in the whole log. create_events_table(data_indexes=[..., "
            f"{unknown[0]!r}])"
        )
    lists = [field for field in fields if field in spec.lists]
    if lists:
        raise ConfigurationError(
            f"{lists[0]!r} has many values in one event, so an event changes many views of "
            f"{projection.__name__}: say which, in the class: "
            f"@staticmethod def ids_of(event): return set(event.data.{lists[0]})"
        )
    now = frozenset(field for stream in first.get_streams() for field, _ in stream.match)
    return Rule(projection, client, id_class, streams, fields, now & set(fields))


def _check_ids_of(name: str, ids_of: Any) -> None:
    try:
        signature = inspect.signature(ids_of)
    except (TypeError, ValueError) as error:
        if not callable(ids_of):
            raise ConfigurationError(f"{name}.ids_of is a function, not {shown(ids_of)}: {IDS_OF}") from error
        return  # a function that does not tell its arguments
    try:
        signature.bind(None)
    except TypeError as error:
        raise ConfigurationError(f"{name}.ids_of takes the event alone, not {signature}: {IDS_OF}") from error


def _streams_of(projection: Any, client: EventClient) -> Sequence[Stream[Any]]:
    """The streams of a projection, and those that find the same in events of older versions."""
    return client.identifiers.check(projection.get_streams())


def _template(streams: Sequence[Stream[Any]], text: str) -> Template | None:
    """The streams of a projection without its id, and the field of each that carries it; None if one has
    none."""
    pairs: list[tuple[Stream[Any], str]] = []
    for each in streams:
        carrying = [field for field, values in each.match if values == (text,)]
        rest = tuple((field, values) for field, values in each.match if values != (text,))
        if len(carrying) != 1 or any(text in value for _, values in rest for value in values):
            return None
        pairs.append((Stream(each.types, rest), carrying[0]))
    pairs.sort(key=lambda pair: (pair[1], pair[0].types is not None, pair[0].types or (), pair[0].match))
    return tuple(each for each, _ in pairs), tuple(field for _, field in pairs)
