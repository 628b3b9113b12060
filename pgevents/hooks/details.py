"""Objects that hooks receive, one class for each kind of call; new fields do not break plugins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from pgevents.events import Event, NewEvent
from pgevents.streams import Stream

__all__ = ["BrowserLink", "BrowserPage", "Conflict", "Operation", "OperationRecord", "Snapshot"]


@attrs.frozen
class Conflict:
    """A validated save that was refused.

    Attributes:
        events: The events to be saved.
        streams: The streams that the save was validated against.
        expected: The caller's argument: a read, a position, an event, an id or None.
        expected_id: Id of the last event that the caller had read; 0 if there was none.
        conflicting_ids: Ids of the events that the caller had not read (at most 100).
        attempt: 1 for a save, and for the first try of a `decide`; then 2, ...
    """

    events: tuple[NewEvent, ...]
    streams: tuple[Stream[Any], ...]
    expected: Any
    expected_id: int
    conflicting_ids: tuple[int, ...]
    attempt: int


@attrs.frozen
class Snapshot:
    """A projection that is about to be saved, or was.

    Attributes:
        type: The projection's type.
        id: The projection's id.
        data: The view as a JSON-ready dict: what is stored.
        view: The view itself.
        latest_event_id: Id of the last event that is folded into it.
        version: The projection's version.
        events: The events that were folded on top of the snapshot that the fold started from.
        base_saved_at: When the snapshot that the fold started from was saved; None if it started from none.
    """

    type: str
    id: str
    data: dict[str, Any]
    view: Any
    latest_event_id: int
    version: int
    events: Sequence[Event[Any]] = ()
    base_saved_at: datetime | None = None


@attrs.define(eq=False)
class OperationRecord:
    """What pgevents records of an operation while it runs; plugins read it as an `Operation`."""

    name: str
    streams: tuple[Stream[Any], ...] = ()
    types: tuple[str, ...] = ()
    projection: str = ""
    attempt: int = 1
    events: int = 0
    status: str = ""
    lock_wait: float | None = None


@attrs.frozen(eq=False)
class Operation:
    """An operation of a client, as `pgevents_observe` sees it.

    Plugins can only read it. `attempt` of a decide, `events`, `status` and `lock_wait` are known when the
    operation has ended.
    """

    _record: OperationRecord

    @property
    def name(self) -> str:
        """What it does: "save", "validate" (a validated save), "read", "fold", "decide" or "snapshot"."""
        return self._record.name

    @property
    def streams(self) -> tuple[Stream[Any], ...]:
        """The streams that are read or validated against."""
        return self._record.streams

    @property
    def types(self) -> tuple[str, ...]:
        """The types of the events to be saved."""
        return self._record.types

    @property
    def projection(self) -> str:
        """The projection's type, of a fold, a decision or a snapshot."""
        return self._record.projection

    @property
    def attempt(self) -> int:
        """Of a save within a `decide`, the number of the try. Of a `decide`, how many tries it took."""
        return self._record.attempt

    @property
    def events(self) -> int:
        """How many events were saved, read or folded."""
        return self._record.events

    @property
    def status(self) -> str:
        """Of a save, "saved" or "repeated" (its idempotency key was used before). Of a snapshot, "created",
        "updated" or "skipped"."""
        return self._record.status

    @property
    def lock_wait(self) -> float | None:
        """Of a save, the seconds from its arrival at the server until it held its locks and was checked; None
        where that was not measured."""
        return self._record.lock_wait


@attrs.frozen
class BrowserLink:
    """A link that a plugin adds to a page of the browser.

    Attributes:
        label: The text of the link.
        url: The target: an `https:` or `http:` address, or an address of this site that begins with `/`.
            Links with other addresses are left out, and logged.
    """

    label: str
    url: str


@attrs.frozen
class BrowserPage:
    """A page that a plugin adds to the browser.

    Attributes:
        name: The last part of its address: small letters, digits and hyphens.
        title: The heading, and the name in the menu.
        show: A function of the query string's values, called in a read-only transaction. It returns the data
            of the page, ready for JSON, or None for "not found". A list of objects is shown as a table,
            everything else as a tree; `.json` gives the same data.
        template: The Jinja source of the page's content, if it needs another layout; the data are in `data`.
            Values are escaped; the content security policy forbids scripts and styles inside it.
    """

    name: str
    title: str
    show: Callable[[Mapping[str, str]], dict[str, Any] | None]
    template: str | None = None
