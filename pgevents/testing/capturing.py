"""What a client saves while a block runs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pgevents.events import Event
from pgevents.type_registry import EventTypes

if TYPE_CHECKING:
    from pgevents.client import EventClient

__all__ = ["CapturedEvents", "capture_events"]


class CapturedEvents(list[Event[Any]]):
    """The events that were saved, in order."""

    @property
    def data(self) -> list[Any]:
        """The instances of the event classes (or dicts), without their envelopes."""
        return [event.data for event in self]


@contextmanager
def capture_events(
    client: EventClient, types: Any = None, *, uncommitted: bool = False
) -> Generator[CapturedEvents, None, None]:
    """Collect what is saved by a client while the block runs.

    It is a plugin with one hook: other clients, threads' clients and processes are not seen.

    Args:
        client: The client to watch.
        types: Only events of these types; as for `stream()`.
        uncommitted: True: also what stands in a transaction that is not committed (yet); by default only what
            is in the log.

    Example:
        ```python
        with capture_events(client) as saved:
            check_out(client, "c1")
        assert saved.data == [CartCheckedOut("c1", NOW)]
        ```
    """
    names = EventTypes.everything.names(types)
    captured = CapturedEvents()
    plugin = _capturer(captured, names, "pgevents_after_save" if uncommitted else "pgevents_after_commit")
    client.plugins.register(plugin)
    try:
        yield captured
    finally:
        client.plugins.unregister(plugin)


def _capturer(captured: CapturedEvents, names: Sequence[str] | None, hook: str) -> Any:
    from pgevents.hooks.specs import hookimpl

    def collect(self: object, events: Sequence[Event[Any]]) -> None:
        captured.extend(event for event in events if names is None or event.type in names)

    return type("CaptureEvents", (), {hook: hookimpl(collect)})()
