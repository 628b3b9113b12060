"""Several streams as one question, in as few index ranges as possible."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from pgevents.caches import remembered
from pgevents.errors import ConfigurationError, shown
from pgevents.streams import Match, Stream, make_stream

__all__ = [
    "TypesOfEach",
    "merge_streams",
    "single_value",
    "union_of_types",
]

TypesOfEach = tuple[tuple[str, ...] | None, ...]
"""The types of each of several streams; None for any."""


def merge_streams(streams: Iterable[Stream[Any]]) -> tuple[Stream[Any], ...]:
    """The same question in as few streams as possible: each that is left is one index range.

    Streams with one identifier become the union of their types; streams of the same types that differ
    in the values of their only field become one list. Streams that match nothing are left out.
    """
    if not isinstance(streams, (list, tuple)):
        if isinstance(streams, Stream) or not isinstance(streams, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"streams are a list of stream(...), not {shown(streams)}")
        streams = tuple(streams)
    question = single_value(streams)
    if question is not None:
        field, value, types_of_each = question
        return (make_stream(union_of_types(types_of_each), ((field, (value,)),)),)
    merged = tuple(_merged_values(_merged_types(streams)))
    # Those that are left may go together now.
    return merged if len(merged) == len(streams) else merge_streams(merged)


def _merged_types(streams: Sequence[Stream[Any]]) -> Iterator[Stream[Any]]:
    """The union of the types of all streams that ask the same of the data."""
    by_question: dict[Any, set[str] | None] = {}
    for stream in streams:
        if not isinstance(stream, Stream):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"streams are a list of stream(...), not of {shown(stream)}")
        if stream.is_empty:
            continue
        match = tuple(sorted((field, tuple(sorted(values))) for field, values in stream.match))
        types = by_question.setdefault((match, stream.compared, stream.after), set[str]())
        if stream.types is None:
            by_question[match, stream.compared, stream.after] = None
        elif types is not None:
            types.update(stream.types)
    for (match, compared, after), types in by_question.items():
        yield Stream(None if types is None else tuple(sorted(types)), match, (), compared, after)


def _merged_values(streams: Iterable[Stream[Any]]) -> Iterator[Stream[Any]]:
    """One stream with a list of values in place of those that differ in the value of their only field."""
    values_by_question: dict[Any, set[str]] = {}
    for stream in streams:
        if len(stream.match) != 1 or stream.is_for_reads:
            yield stream
            continue
        ((field, values),) = stream.match
        values_by_question.setdefault((stream.types, field), set[str]()).update(values)
    for (types, field), all_values in values_by_question.items():
        yield Stream(types, ((field, tuple(sorted(all_values))),))


def single_value(
    streams: Iterable[Stream[Any]], data_indexes: Collection[str] | None = None
) -> tuple[str, str, TypesOfEach] | None:
    """Field, value, and the types of each stream, if all streams ask for the same value of the same field.

    Most questions are of this kind, and the functions for one event and `<events>_fetch` take it.

    Args:
        streams: What is asked.
        data_indexes: The fields that may be asked for; None: any.

    Returns:
        None for any other question.
    """
    if not isinstance(streams, (list, tuple)):
        return None
    match: Match = ()
    types_of_each: list[tuple[str, ...] | None] = []
    for stream in streams:
        is_other = stream.__class__ is not Stream or (types_of_each and stream.match != match)
        if is_other or stream.types == () or stream.compared or stream.after:
            return None
        match = stream.match
        types_of_each.append(stream.types)
    if len(match) != 1:
        return None
    field, values = match[0]
    if len(values) != 1 or (data_indexes is not None and field not in data_indexes):
        return None
    return field, values[0], tuple(types_of_each)


@remembered("unions of types")
def union_of_types(types_of_each: TypesOfEach) -> tuple[str, ...] | None:
    """The types of several streams together, sorted; None (any type) if one of them takes any."""
    names = {name for types in types_of_each if types is not None for name in types}
    return None if None in types_of_each else tuple(sorted(names))
