"""Whether what a read would give is what was given: equal in value and in kind, down to the last field."""

from __future__ import annotations

import dataclasses
import math
import types
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import attrs

__all__ = ["Difference", "difference"]


@attrs.frozen
class Difference:
    """The first place at which two values differ.

    Attributes:
        path: Names of fields, keys and indexes on the way to it.
        given: What stands there.
        read: What a read would give instead.
        reason: Why these are not the same, if it takes words.
    """

    path: tuple[str, ...]
    given: Any
    read: Any
    reason: str = ""

    def below(self, name: object) -> Difference:
        """The same difference, seen from the object that holds the place under this name."""
        return attrs.evolve(self, path=(str(name), *self.path))

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        given, read = self.given.__class__, self.read.__class__
        if given is read:
            return f"a read would give another {_kind_name(given)} than was saved"
        return f"it holds {_kind_name(given)}, a read would give {_kind_name(read)}"


Comparer = Callable[[Any, Any], Difference | None]
"""Compares two values of one class."""


def difference(given: Any, read: Any) -> Difference | None:
    """The first difference between a value and what a read would give for it, or None.

    The values are of one class, but for two: an int in a float field that equals the float, and a datetime or
    date of a class of its own, as test tools and libraries of times make them. The name of a time zone is not
    stored; its offset is, and counts.
    """
    kind: type[Any] = given.__class__
    if kind is not read.__class__:
        return _other_kind(given, read)
    if kind in BY_VALUE:
        return None if given == read else Difference((), given, read)
    return (_COMPARERS.get(kind) or _comparer(kind))(given, read)


def _other_kind(given: Any, read: Any) -> Difference | None:
    if type(given) is int and type(read) is float:
        return None if given == read else Difference((), given, read, "a float cannot hold this int exactly")
    if isinstance(given, datetime) and type(read) is datetime:
        return _compare_datetimes(given, read)
    if isinstance(given, date) and type(read) is date and not isinstance(given, datetime):
        return None if given == read else Difference((), given, read)
    return Difference((), given, read)


def _comparer(kind: type[Any]) -> Comparer:
    found = _COMPARERS[kind] = _make_comparer(kind)
    return found


def _make_comparer(kind: type[Any]) -> Comparer:
    if attrs.has(kind):
        # What takes no part in comparisons, nor in __init__, is a class's own business.
        return _by_fields(tuple(one.name for one in attrs.fields(kind) if one.init or one.eq))
    if dataclasses.is_dataclass(kind):
        return _by_fields(tuple(one.name for one in dataclasses.fields(kind) if one.init or one.compare))
    for base, compare in _BY_BASE.items():
        if issubclass(kind, base):
            return compare
    own_eq: Any = kind.__eq__
    if own_eq is object.__eq__:
        return _compare_incomparable
    return _compare_values


def _compare_values(given: Any, read: Any) -> Difference | None:
    return None if given == read else Difference((), given, read)


def _compare_incomparable(given: Any, read: Any) -> Difference | None:
    if given is read:
        return None
    name = type(given).__qualname__
    return Difference((), given, read, f"nobody can tell whether two {name} are equal: {name} has no __eq__")


def _compare_floats(given: float, read: float) -> Difference | None:
    if given == read and math.copysign(1.0, given) == math.copysign(1.0, read):
        return None
    return Difference((), given, read)


def _compare_decimals(given: Decimal, read: Decimal) -> Difference | None:
    if given.is_nan():
        return Difference((), given, read, "NaN equals nothing, not even itself")
    return None if str(given) == str(read) else Difference((), given, read)  # 1.10 is not 1.1


def _compare_datetimes(given: datetime, read: datetime) -> Difference | None:
    if given.tzinfo is timezone.utc is read.tzinfo:
        return None if given == read else Difference((), given, read)
    # Not given == read: times that a change of clocks makes ambiguous equal no time of another zone.
    is_same = (
        given.replace(tzinfo=None, fold=0) == read.replace(tzinfo=None, fold=0)
        and given.utcoffset() == read.utcoffset()
    )
    return None if is_same else Difference((), given, read)


def _compare_times(given: time, read: time) -> Difference | None:
    is_same = (
        given.replace(tzinfo=None, fold=0) == read.replace(tzinfo=None, fold=0)
        and (given.tzinfo is None) == (read.tzinfo is None)
        and given.utcoffset() == read.utcoffset()
    )
    return None if is_same else Difference((), given, read)


def _compare_sequences(given: Any, read: Any) -> Difference | None:
    if len(given) != len(read):
        return Difference((), given, read)
    for found in filter(None, map(difference, given, read)):
        place = next(n for n, pair in enumerate(zip(given, read, strict=True)) if difference(*pair))
        return found.below(place)
    return None


def _compare_sets(given: Any, read: Any) -> Difference | None:
    if given != read:
        return Difference((), given, read)
    same: dict[Any, Any] = {one: one for one in read}
    for one in given:  # 1 and True and 1.0 are equal, and are not the same
        found = difference(one, same[one])
        if found is not None:
            return found
    return None


def _compare_mappings(given: Any, read: Any) -> Difference | None:
    if len(given) != len(read):
        return Difference((), given, read)
    keys: dict[Any, Any] = {key: key for key in read}
    for key, value in given.items():
        if key not in keys:
            return Difference((str(key),), key, next(iter(read)), "a read would give this key another kind")
        found = difference(key, keys[key]) or difference(value, read[key])
        if found is not None:
            return found.below(key)
    return None


def _compare_ordered(given: Mapping[Any, Any], read: Mapping[Any, Any]) -> Difference | None:
    if len(given) > 1:
        return Difference(
            (), given, read, "PostgreSQL keeps no order of keys; use a dict, or a list of pairs"
        )
    return _compare_mappings(given, read)


def _compare_defaults(given: Any, read: Any) -> Difference | None:
    if given.default_factory is not read.default_factory:
        return Difference((), given, read)
    return _compare_mappings(given, read)


def _by_fields(names: tuple[str, ...]) -> Comparer:
    missing = object()

    def compare(given: Any, read: Any) -> Difference | None:
        for name in names:
            one, other = getattr(given, name, missing), getattr(read, name, missing)
            found = None if one is other else difference(one, other)
            if found is not None:
                return found.below(name)
        return None

    return compare


BY_VALUE = frozenset({str, int, bool, types.NoneType, bytes, bytearray, date, timedelta, uuid.UUID})
"""Classes of which equal values are the same."""

_COMPARERS: dict[type[Any], Comparer] = {
    float: _compare_floats,
    Decimal: _compare_decimals,
    datetime: _compare_datetimes,
    time: _compare_times,
    **dict.fromkeys((list, tuple), _compare_sequences),
    **dict.fromkeys((set, frozenset), _compare_sets),
    dict: _compare_mappings,
    OrderedDict: _compare_ordered,
    defaultdict: _compare_defaults,
}

_BY_BASE: dict[type[Any], Comparer] = {
    Enum: _compare_values,
    OrderedDict: _compare_ordered,
    dict: _compare_mappings,
    **dict.fromkeys((list, tuple, deque), _compare_sequences),
    **dict.fromkeys((set, frozenset), _compare_sets),
}
"""By what a class derives from, if it is none of those itself."""


def _kind_name(kind: type[Any]) -> str:
    return "None" if kind is types.NoneType else kind.__qualname__
