"""`latest()`: the latest event of a stream, as all that a decision rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import attrs

from pgevents.events import Event
from pgevents.store.ordering import Position
from pgevents.store.read import Reader
from pgevents.store.results import EventStream
from pgevents.streams import Stream, stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["LatestEvent", "NewestOfStream", "latest"]

D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)


@attrs.frozen
class LatestEvent(Generic[D_co]):
    """The latest event of a stream, to decide on; made by `latest()`.

    Attributes:
        stream: The stream.
        types: What its types were named by.
    """

    stream: Stream[D_co]
    types: Any = attrs.field(default=None, eq=False, repr=False)


@overload
def latest(
    types: TypeForm[D], /, *, data: Mapping[str, Any] | None = None, **identifier: Any
) -> LatestEvent[D]: ...
@overload
def latest(
    types: str | Sequence[str | type[Any]] | None = None,
    /,
    *,
    data: Mapping[str, Any] | None = None,
    **identifier: Any,
) -> LatestEvent[Any]: ...
def latest(
    types: Any = None, /, *, data: Mapping[str, Any] | None = None, **identifier: Any
) -> LatestEvent[Any]:
    """The latest event of a stream, in the place of a projection in `client.decide()`.

    One event is read and checked, however many there are. The decider gets the event, or None if there is
    none yet. What it decided is saved only if that is still so: no newer event of the stream, and the latest
    one has not been removed.

    Args:
        types: As for `stream`.
        data: As for `stream`.
        **identifier: As for `stream`.

    Example:
        ```python
        from pgevents import latest

        def issue(last):
            return InvoiceIssued(number=1 if last is None else last.data.number + 1)

        client.decide(latest(InvoiceIssued), issue)
        ```
    """
    return LatestEvent(stream(types, data=data, **identifier), types)


@attrs.define
class NewestOfStream(Generic[D_co]):
    """A `LatestEvent` that is read; to `decide` it is a projection."""

    latest: LatestEvent[D_co]
    reader: Reader
    projection_type = "latest event"
    has_staged_events = False
    as_of = None
    _read: EventStream[D_co] | None = attrs.field(init=False, default=None)

    def get_streams(self) -> Sequence[Stream[D_co]]:
        """The stream."""
        return (self.latest.stream,)

    def refresh(self) -> None:
        """Forget what was read."""
        self._read = None

    def load(self, lock: Sequence[Stream[Any]] = (), *, is_undisturbed: bool = False) -> EventStream[D_co]:
        """Read, with some streams locked before if any are given."""
        if self._read is None:
            self._read = self.reader.newest(self.get_streams(), lock)
        return self._read

    @property
    def view(self) -> Event[D_co] | None:
        """The event, or None."""
        found = self.load()
        return found[0] if found else None

    @property
    def position(self) -> Position:
        """That it is the latest."""
        return self.load().position
