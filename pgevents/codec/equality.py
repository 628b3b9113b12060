"""Compares a saved value with what a read would give: equal in value and in type, down to the last field."""

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
        path: The fields, keys and indexes that lead to it.
        given: The saved value at this place.
        read: What a read would give instead.
        reason: Why the two differ, where their types do not say it.
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

    Both values must have the same class, with two exceptions: an int in a float field may equal the float,
    and a datetime or date may have a subclass, as test tools and time libraries make them. The offset of a
    time zone is stored and compared; its name is not.
    """
    kind: type[Any] = given.__class__
    if kind is not read.__class__:
        return _compare_classes(given, read)
    if kind in BY_VALUE:
        return None if given == read else Difference((), given, read)
    return (_COMPARERS.get(kind) or _comparer(kind))(given, read)


def _compare_classes(given: Any, read: Any) -> Difference | None:
    if type(given) is int and type(read) is float:
        return None if given == read else Difference((), given, read, "a float cannot hold this int exactly")
    if isinstance(given, datetime) and type(read) is datetime:
        return _compare_datetimes(given, read)
    if isinstance(given, date) and type(read) is date and not isinstance(given, datetime):
        return None if given == read else Difference((), given, read)
    return Difference((), given, read)


def _comparer(kind: type[Any]) -> Comparer:
    comparer = _COMPARERS[kind] = _make_comparer(kind)
    return comparer


def _make_comparer(kind: type[Any]) -> Comparer:
    if attrs.has(kind):
        # A field that takes part neither in __init__ nor in comparisons is private to its class.
        return _by_fields(tuple(field.name for field in attrs.fields(kind) if field.init or field.eq))
    if dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
        return _by_fields(tuple(field.name for field in fields if field.init or field.compare))
    for base, compare in _BY_BASE.items():
        if issubclass(kind, base):
            return compare
    eq: Any = kind.__eq__
    if eq is object.__eq__:
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
    # Not given == read: a time that a change of clocks makes ambiguous never equals a time of another zone.
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
    for nested in filter(None, map(difference, given, read)):
        place = next(n for n, pair in enumerate(zip(given, read, strict=True)) if difference(*pair))
        return nested.below(place)
    return None


def _compare_sets(given: Any, read: Any) -> Difference | None:
    if given != read:
        return Difference((), given, read)
    counterparts: dict[Any, Any] = {member: member for member in read}
    for member in given:  # 1, True and 1.0 are equal and of different classes
        nested = difference(member, counterparts[member])
        if nested is not None:
            return nested
    return None


def _compare_mappings(given: Any, read: Any) -> Difference | None:
    if len(given) != len(read):
        return Difference((), given, read)
    keys: dict[Any, Any] = {key: key for key in read}
    for key, value in given.items():
        if key not in keys:
            return Difference((str(key),), key, next(iter(read)), "a read would give this key another kind")
        nested = difference(key, keys[key]) or difference(value, read[key])
        if nested is not None:
            return nested.below(key)
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
            before, after = getattr(given, name, missing), getattr(read, name, missing)
            nested = None if before is after else difference(before, after)
            if nested is not None:
                return nested.below(name)
        return None

    return compare


BY_VALUE = frozenset({str, int, bool, types.NoneType, bytes, bytearray, date, timedelta, uuid.UUID})
"""Classes whose values differ in nothing if `==` holds."""

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
"""Comparers of subclasses, by their base class."""


def _kind_name(kind: type[Any]) -> str:
    return "None" if kind is types.NoneType else kind.__qualname__
