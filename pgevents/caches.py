"""What is remembered because it takes time to find out: all caches, how large they get, and when they forget.

The answers of functions are remembered by `remembered`, what an object finds out by one of the classes below.
No module makes a cache by other means. What a transaction has done, or which classes are registered, is not a
cache: it cannot be found out again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, Generic, ParamSpec, TypeVar, cast

import attrs

__all__ = ["CACHES", "Cache", "RevisedCache", "Policy", "TimedCache", "Until", "forget", "remembered"]

K = TypeVar("K")
V = TypeVar("V")
P = ParamSpec("P")
R = TypeVar("R")


class Until(Enum):
    """When an entry is forgotten, besides when there are too many."""

    NEVER = "the value follows from the key alone"
    CLASS_ADDED = "`@event` adds a class"
    TYPES_CHANGED = "the event types of a client or registry change"
    CONVERTER_CHANGED = "a plugin changes the converter"
    SECONDS_PASSED = "its seconds have passed"
    OWNER_GONE = "its owner, a client or a pipeline, is gone: the first answer holds"


@attrs.frozen
class Policy:
    """How much is remembered, and how long.

    Attributes:
        most: How many entries. With one more, a function forgets the one that was not used for longest, an
            object all of them.
        until: When an entry is forgotten.
        seconds: How long, if that is said in seconds.
    """

    most: int
    until: Until = Until.NEVER
    seconds: float = 0.0


CACHES = {
    # of the process: answers of functions
    "checked field names": Policy(1024),
    "paths of fields": Policy(1024),
    "names of event types": Policy(1024, Until.CLASS_ADDED),
    "names and classes of event types": Policy(1024, Until.CLASS_ADDED),
    "unions of types": Policy(1024),
    "fields of views": Policy(1024),
    "types of fields": Policy(1024),
    "casts of fields": Policy(1024),
    "values of Enums": Policy(1024),
    "types of imported lines": Policy(1024),
    "changers of views": Policy(1024),
    "forms of values": Policy(1024),
    "orders of keys": Policy(4096),
    "declarations of projections": Policy(1024),
    "statements about events": Policy(1024),
    "statements about views": Policy(256),
    "sources of functions": Policy(64),
    "names of functions": Policy(1),
    "sections of SQL": Policy(1),
    "statements of subscriptions": Policy(1024),
    "questions of subscriptions": Policy(256),
    "layers of lanes": Policy(256),
    "serializer without a client": Policy(1),
    "module of Arrow": Policy(1),
    # of a registry of event types
    "event types by class": Policy(10_000, Until.TYPES_CHANGED),
    # of a client
    "event types by stored name": Policy(10_000, Until.TYPES_CHANGED),
    "older names of fields": Policy(10_000, Until.TYPES_CHANGED),
    "structuring functions": Policy(10_000, Until.CONVERTER_CHANGED),
    "unstructuring functions": Policy(10_000, Until.CONVERTER_CHANGED),
    "preparers of JSON": Policy(10_000, Until.CONVERTER_CHANGED),
    "readers of JSON": Policy(10_000, Until.CONVERTER_CHANGED),
    "classes read in any order": Policy(10_000, Until.CONVERTER_CHANGED),
    "checks of keys": Policy(10_000, Until.CONVERTER_CHANGED),
    "stored shapes": Policy(1024),
    "kinds of views": Policy(1024, Until.TYPES_CHANGED),
    "views of one shape": Policy(1024, Until.OWNER_GONE),
    "views between decisions": Policy(100, Until.SECONDS_PASSED, 10.0),
    "busy kinds of streams": Policy(1_000, Until.SECONDS_PASSED, 16.0),
    "kept views": Policy(1024, Until.SECONDS_PASSED, 1.0),
    # of a pipeline
    "classes that fit a pipeline": Policy(1024, Until.OWNER_GONE),
}
"""Every cache."""

_functions: dict[str, Any] = {}


def remembered(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function whose answers are remembered; its arguments are hashable.

    Args:
        name: That of a cache of the process in `CACHES`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _functions[name] = lru_cache(maxsize=CACHES[name].most)(function)
        return cast("Callable[P, R]", _functions[name])

    return decorate


def forget(what: str | Until) -> None:
    """Forget all answers of one function, or of those that hold until this happens."""
    for name, function in _functions.items():
        if what in (name, CACHES[name].until):
            function.cache_clear()


class Cache(dict[K, V], Generic[K, V]):
    """What an object remembers. With one entry too many all are forgotten, which is simple, and rare."""

    _most = 1024
    _make: Callable[[K], V] | None = None

    def __init__(self, name: str, make: Callable[[K], V] | None = None) -> None:
        """Nothing is remembered yet.

        Args:
            name: That of a cache in `CACHES`.
            make: Makes the value of a key that is not remembered; without it, `cache[key]` raises a KeyError.
        """
        super().__init__()
        self._most, self._make = CACHES[name].most, make

    def __missing__(self, key: K) -> V:
        if self._make is None:
            raise KeyError(key)
        value = self[key] = self._make(key)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self._most:
            self.clear()
        super().__setitem__(key, value)


class RevisedCache(Generic[K, V]):
    """A cache of what follows from something that has a revision; it starts anew with each of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.forget()

    def forget(self) -> None:
        """Forget everything, whatever the revision."""
        self._current: tuple[int, Cache[K, V]] = -1, Cache(self._name)

    def at(self, revision: int) -> Cache[K, V]:
        """The cache for this revision. What was looked up before a change is written into the former one."""
        cached_revision, cache = self._current
        if cached_revision != revision:
            cache = Cache[K, V](self._name)
            self._current = revision, cache  # one assignment, so that other threads see both or neither
        return cache


class TimedCache(Generic[K, V]):
    """A cache whose entries are looked up again after some seconds."""

    def __init__(self, name: str) -> None:
        self._seconds = CACHES[name].seconds
        self._entries: Cache[K, tuple[float, V]] = Cache(name)

    def forget(self) -> None:
        """Look everything up again."""
        self._entries.clear()

    def get(self, key: K, look_up: Callable[[], V]) -> V:
        """The value of a key, looked up if it is not remembered."""
        entry = self._entries.get(key)
        if entry is None or entry[0] < time.monotonic():
            entry = self._entries[key] = time.monotonic() + self._seconds, look_up()
        return entry[1]

    def clear(self) -> None:
        """Look up all anew."""
        self._entries.clear()
