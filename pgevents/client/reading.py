"""Reads of streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pgevents.client.parts import ClientParts, check_flag
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.store.read import AsOf, EventStream, OnUndecodable
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
        data: Mapping[str, Any] | None = None,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
        **identifier: Any,
    ) -> EventStream[Any]:
        """The events of a stream, ordered by id, with the position to validate a save against.

        Args:
            types: A class, a union of classes, a type's name or a sequence of these; nothing means any.
            after: Only events above this id.
            data: Identifiers by field name, for fields that cannot be written as keywords.
            final: Wait (10 seconds at most) until what is visible now can no longer be joined by a late
                event.
            as_of: Only events up to this id, or created up to this time.
            on_undecodable: What becomes of an event that cannot be read: "raise" an error that names it;
                "skip" it, with a warning in the log `pgevents` and its error in `.undecodable` of the result;
                or hand it over "raw", with `UndecodedData` in place of its data.
            **identifier: Field and value, or a list of values of which any will do.

        Raises:
            ConfigurationError: An identifier of None, or another argument that cannot be meant; or events of
                more than a gigabyte of text at once.
            EventDecodeError: A stored event does not fit its class.
            RetryableError: A final read met a transaction that did not end in time.

        Example:
            ```python
            history = client.get_event_stream(CartEvent, cart_id="c1")
            ```
        """
        self.types.require_current(types)
        wanted = [stream(types, data=data, **identifier)]
        return self.get_event_streams(
            wanted, after=after, final=final, as_of=as_of, on_undecodable=on_undecodable
        )

    def get_event_streams(
        self,
        streams: Sequence[Stream[D]],
        *,
        after: int = 0,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> EventStream[D]:
        """The events of several streams in one order, each event once; arguments as for
        `get_event_stream`."""
        check_flag(final, "final")
        if not final:
            return self.reader.read(streams, after=after, as_of=as_of, on_undecodable=on_undecodable)
        if as_of is not None:
            raise ConfigurationError(
                "final and as_of exclude each other: the past up to an id is read with as_of alone"
            )
        self.check_installed()
        return self.reader.read_final(
            streams, after=after, wait=self.final_wait, on_undecodable=on_undecodable
        )

    @overload
    def iter_event_stream(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
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
        data: Mapping[str, Any] | None = ...,
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
        data: Mapping[str, Any] | None = None,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
        **identifier: Any,
    ) -> Iterator[Event[Any]]:
        """Like `get_event_stream`, one event at a time, for streams of any size: memory stays constant.

        Pages of the index are read as the loop goes on, so it may save events and holds no transaction open.
        An event
        that commits late, below a page that was read, is not seen: who must not miss any follows the log
        (`pgevents.subscriptions`).

        Example:
            ```python
            for event in client.iter_event_stream():
                print(event.id, event.type)
            ```
        """
        self.types.require_current(types)
        return self.reader.pages([stream(types, data=data, **identifier)], after, as_of, on_undecodable)

    def iter_event_streams(
        self,
        streams: Sequence[Stream[D]],
        *,
        after: int = 0,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> Iterator[Event[D]]:
        """Like `get_event_streams`, one event at a time in constant memory."""
        return self.reader.pages(streams, after, as_of, on_undecodable)

    @overload
    def get_latest_event(
        self,
        types: TypeForm[D],
        /,
        *,
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
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        **identifier: Any,
    ) -> Event[Any] | None: ...
    def get_latest_event(
        self,
        types: Any = None,
        /,
        *,
        data: Mapping[str, Any] | None = None,
        final: bool = True,
        **identifier: Any,
    ) -> Event[Any] | None:
        """The event of a stream with the greatest id, or None.

        Args:
            types: As for `get_event_stream`.
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
        check_flag(final, "final")
        if final:
            self.check_installed()
        return self.reader.latest([stream(types, data=data, **identifier)], final=final, wait=self.final_wait)
