"""Reads of streams."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs

from pgevents.client.parts import ClientParts
from pgevents.client.standbys import Source
from pgevents.errors import ConfigurationError, InvalidValueError, UnsupportedTransactionError, shown
from pgevents.events import Event
from pgevents.save_options import check_key
from pgevents.store.options import (
    PLAIN,
    AsOf,
    OnUndecodable,
    ReadOptions,
    check_flag,
    check_id,
    check_on_undecodable,
)
from pgevents.store.results import EventStream
from pgevents.streams import Stream, stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["ReadingCalls"]

D = TypeVar("D")
Types = str | Sequence[str | type[Any]] | None


class ReadingCalls(ClientParts):
    """The calls that read events."""

    @overload
    def get_event_stream(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        limit: int | None = ...,
        reverse: bool = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> EventStream[D]: ...
    @overload
    def get_event_stream(
        self,
        types: Types = ...,
        /,
        *,
        after: int = ...,
        limit: int | None = ...,
        reverse: bool = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> EventStream[Any]: ...
    def get_event_stream(
        self,
        types: Any = None,
        /,
        *,
        after: int = 0,
        limit: int | None = None,
        reverse: bool = False,
        data: Mapping[str, Any] | None = None,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
        **identifier: Any,
    ) -> EventStream[Any]:
        """The events of a stream, ordered by id, with the position to validate a save against.

        Args:
            types: A class, a union of classes, a type's name or a sequence of these; nothing means any.
            after: Go on after the event of this id, in the order of the read: only events above it, or, in
                reverse, below it.
            limit: At most this many events.
            reverse: The newest first.
            data: Identifiers by field name, for fields that cannot be written as keywords.
            final: Wait (10 seconds at most) until what is visible now can no longer be joined by a late
                event.
            as_of: Only events up to this id, or created up to this time.
            on_undecodable: What becomes of an event that cannot be read: "raise" an error that names it;
                "skip" it, with a warning in the log `pgevents` and its error in `.undecodable` of the result;
                or hand it over "raw", with `UndecodedData` in place of its data.
            **identifier: Field and value, or a list of values of which any will do.

        Raises:
            ConfigurationError: An identifier of None, or another argument that is not valid; or events of
                more than a gigabyte of text at once.
            EventDecodeError: A stored event does not fit its class.
            RetryableError: A final read met a transaction that did not end in time.

        Example:
            ```python
            history = client.get_event_stream(CartEvent, cart_id="c1")
            newest = client.get_event_stream(CartEvent, cart_id="c1", limit=20, reverse=True)
            older = client.get_event_stream(
                CartEvent, cart_id="c1", limit=20, reverse=True, after=newest[-1].id
            )
            ```
        """
        self.types.require_current(types)
        return self.get_event_streams(
            [stream(types, data=data, **identifier)],
            after=after,
            limit=limit,
            reverse=reverse,
            final=final,
            as_of=as_of,
            on_undecodable=on_undecodable,
        )

    def get_event_streams(
        self,
        streams: Sequence[Stream[D]],
        *,
        after: int = 0,
        limit: int | None = None,
        reverse: bool = False,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> EventStream[D]:
        """The events of several streams in one order, each event once; arguments as for
        `get_event_stream`."""
        options = ReadOptions(after, limit, reverse, as_of, on_undecodable)
        if not check_flag(final, "final"):
            return self._shown(lambda source: source.reader.read(streams, options))
        return self.reader.read_final(streams, options, wait=self._wait_for_final(options))

    def _wait_for_final(self, options: ReadOptions) -> float:
        """How long a final read may wait, if it is one that can be made."""
        if options.as_of is not None:
            raise ConfigurationError(
                "final and as_of exclude each other: the past up to an id is read with as_of alone"
            )
        self.check_installed()
        return self.final_wait

    @overload
    def iter_event_stream(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        limit: int | None = ...,
        reverse: bool = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> Iterator[Event[D]]: ...
    @overload
    def iter_event_stream(
        self,
        types: Types = ...,
        /,
        *,
        after: int = ...,
        limit: int | None = ...,
        reverse: bool = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> Iterator[Event[Any]]: ...
    def iter_event_stream(
        self,
        types: Any = None,
        /,
        *,
        after: int = 0,
        limit: int | None = None,
        reverse: bool = False,
        data: Mapping[str, Any] | None = None,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
        **identifier: Any,
    ) -> Iterator[Event[Any]]:
        """Like `get_event_stream`, one event at a time, for streams of any size: memory stays constant.

        Pages of the index are read as the loop goes on, so it may save events and holds no transaction open.
        An event that commits late, below a page that was read, is not seen. With `final=True` there is none:
        each page waits until it is final. Who must not miss later events either, follows the log
        (`pgevents.subscriptions`).

        Example:
            ```python
            for event in client.iter_event_stream():
                print(event.id, event.type)
            ```
        """
        self.types.require_current(types)
        return self.iter_event_streams(
            [stream(types, data=data, **identifier)],
            after=after,
            limit=limit,
            reverse=reverse,
            final=final,
            as_of=as_of,
            on_undecodable=on_undecodable,
        )

    def iter_event_streams(
        self,
        streams: Sequence[Stream[D]],
        *,
        after: int = 0,
        limit: int | None = None,
        reverse: bool = False,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> Iterator[Event[D]]:
        """Like `get_event_streams`, one event at a time in constant memory."""
        options = ReadOptions(after, limit, reverse, as_of, on_undecodable)
        if check_flag(final, "final"):
            return self.reader.pages(streams, options, wait=self._wait_for_final(options))
        if not self._has_standby_now():
            return self.reader.pages(streams, options)
        return self._pages_shown(streams, options)

    def _pages_shown(self, streams: Sequence[Stream[D]], options: ReadOptions) -> Iterator[Event[D]]:
        """The same by standbys: if one fails, another source continues after the last event."""
        self.identifiers.check(streams)  # now, not at the first event

        def pages(source: Source, last: Event[D] | None, given: int) -> Iterator[Event[D]]:
            if last is None:
                return source.reader.pages(streams, options)
            left = None if options.limit is None else options.limit - given
            return source.reader.pages(streams, attrs.evolve(options, after=last.id, limit=left))

        return self.standbys.iterate(pages, self)

    def bookmark(self) -> str:
        """Where the database stands now, with all that is committed: for `reading_after`.

        Raises:
            UnsupportedTransactionError: Inside a transaction, whose own writes are not committed yet.

        Example:
            ```python
            client.save_event(CartCreated("c1"))
            session["seen"] = client.bookmark()
            ```
        """
        if self.session.in_transaction():
            raise UnsupportedTransactionError(
                "a bookmark inside a transaction would not hold what that has written: ask after its end"
            )
        return str(self.session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0])

    def reading_after(self, bookmark: str) -> AbstractContextManager[None]:
        """A block in which no read is older than a bookmark, whichever standby answers.

        A standby gets a second to come as far; then another one answers, or the primary. After a failover
        that lost events, reads may be older than a bookmark from before it, which names no timeline.

        Args:
            bookmark: From `bookmark()` of a client of this database, in whichever process.

        Raises:
            InvalidValueError: Not a bookmark.

        Example:
            ```python
            with client.reading_after(session["seen"]):
                cart = client.get_event_stream(CartEvent, cart_id="c1")
            ```
        """
        if not isinstance(bookmark, str) or re.fullmatch("[0-9A-F]{1,8}/[0-9A-F]{1,8}", bookmark) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidValueError(f"a bookmark has the form 16/B374D848, not {shown(bookmark)}")
        return self.standbys.reading_after(bookmark)

    def get_event(self, event_id: int, *, on_undecodable: OnUndecodable = "raise") -> Event[Any] | None:
        """The event with this id, or None.

        Args:
            event_id: The id.
            on_undecodable: As for `get_event_stream`; what is skipped is None.

        Raises:
            ConfigurationError: An upcaster splits the event into several.

        Example:
            ```python
            saved = client.save_event({"type": "NOTED", "data": {}})
            same = client.get_event(saved.id)
            ```
        """
        check_id(event_id, "event_id")
        check_on_undecodable(on_undecodable)
        found = self._shown(lambda source: source.reader.by_ids([event_id], on_undecodable))
        if len(found) > 1:
            raise ConfigurationError(
                f"event {event_id} is split into {len(found)} by an upcaster, and get_event gives one: read "
                f"them by get_event_stream(after={event_id - 1}, as_of={event_id})"
            )
        return found[0] if found else None

    def get_saved(self, idempotency_key: str) -> list[Event[Any]]:
        """The events that were saved with an idempotency key, in order; empty if it was not used, or by a
        decision that had nothing to save.

        Args:
            idempotency_key: The key of a save or of a decision.

        Example:
            ```python
            if not client.get_saved("payment 17"):
                pay()
            ```
        """
        return self.reader.by_key(check_key(idempotency_key)) or []

    @overload
    def get_latest_event(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        **identifier: Any,
    ) -> Event[D] | None: ...
    @overload
    def get_latest_event(
        self,
        types: Types = ...,
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        **identifier: Any,
    ) -> Event[Any] | None: ...
    def get_latest_event(
        self,
        types: Any = None,
        /,
        *,
        after: int = 0,
        data: Mapping[str, Any] | None = None,
        final: bool = True,
        **identifier: Any,
    ) -> Event[Any] | None:
        """The event of a stream with the greatest id, or None.

        Args:
            types: As for `get_event_stream`.
            after: None, if it is not above this id.
            data: As for `get_event_stream`.
            final: Wait (10 seconds at most) until no event can appear below it, so that its id may be
                validated against. False: do not wait, for display.
            **identifier: As for `get_event_stream`.

        Raises:
            RetryableError: A transaction that writes to the stream did not end in time; the message names it.

        Example:
            ```python
            latest = client.get_latest_event("CHECKED_OUT", cart_id="c1")
            ```
        """
        wanted = [stream(types, data=data, **identifier)]
        if check_flag(final, "final"):
            return self.reader.latest(wanted, after, wait=self._wait_for_final(PLAIN))
        return self._shown(lambda source: source.reader.latest(wanted, after))
