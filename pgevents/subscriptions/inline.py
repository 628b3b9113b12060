"""`Inline`: views that are folded in the transaction of the save itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.codec.serialization import load_json
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.hooks.specs import hookimpl
from pgevents.merging import merge_streams
from pgevents.streams import Stream
from pgevents.subscriptions.whose import Rule, rule_of
from pgevents.views import jsonb_text

__all__ = ["Inline"]


Row = tuple[str, str, str | None]
"""Type, data and metadata of an event as they will be stored."""


@attrs.frozen
class Changed:
    """A view that a save changes.

    Attributes:
        made: Its projection.
        rows: The events that change it as they will be stored, and which ones of the save they are.
    """

    made: Any
    rows: Sequence[tuple[int, Row]]


class Inline:
    """A plugin that folds the views of a projection in each save: their rows commit with the events.

    Each save locks its views' streams as a validated save does, so saves of one id come one after the
    other; a transaction that saves for several ids may meet a deadlock, which is retryable. A reducer
    that fails, fails the save. Programs without the plugin leave their views behind, until the next save
    here: have a runner `keep` the projection, too.

    Args:
        projection: The projection's class. Its id is the value of one field, a data index of the events
            table.

    Example:
        ```python
        from pgevents.subscriptions import Inline

        client = create_event_client(db, events, views, plugins=[Inline(CartProjection)])
        ```
    """

    def __init__(self, projection: Any) -> None:
        if not isinstance(projection, type) or not hasattr(projection, "declared_for"):
            raise ConfigurationError(f"Inline takes a projection's class, not {projection!r}")
        self.projection: Any = projection

    @hookimpl
    def pgevents_registered(self, client: EventClient) -> None:
        """From now on each save of the client folds."""
        client.saver.inline += (_Folder(client, self.projection),)


class _Folder:
    """What a save calls, in its transaction."""

    def __init__(self, client: EventClient, projection: Any) -> None:
        self.client = client
        self.projection = projection
        self._rule: Rule | None = None

    @property
    def rule(self) -> Rule:
        """Whose view an event changes; found out at the first save, when all event classes are known."""
        if self._rule is None:
            rule = rule_of(self.projection, self.client)
            if len(rule.fields_now) != 1:
                raise ConfigurationError(
                    f"{self.projection.__name__} cannot be folded inline: a save can lock a view only where "
                    "its id is the value of one field of all its events. Keep it by a runner: keep(...)"
                )
            self._rule = rule
        return self._rule

    def read(self, rows: Sequence[Row]) -> list[Changed]:
        """Lock and read the views that events will change, before the events are appended.

        Args:
            rows: Type, data and metadata of each event as they will be stored.

        Returns:
            The views, in the order of their ids.
        """
        rule = self.rule
        changing: dict[str, list[tuple[int, Row]]] = {}
        for place, row in enumerate(rows):
            for text in rule.ids((0, *row), None):
                changing.setdefault(text, []).append((place, row))
        made = [rule.made(text) for text in sorted(changing)]
        if made:
            streams = merge_streams([stream for each in made for stream in each.get_streams()])
            self._read_locked(made, streams)
        return [Changed(one, changing[text]) for text, one in zip(sorted(changing), made, strict=True)]

    def _read_locked(self, made: Sequence[Any], streams: Sequence[Stream[Any]]) -> None:
        """Until the commit nobody else saves to the streams, and nobody changes the log."""
        first, *others = made
        first.load(streams, is_undisturbed=True, holds_redactions=True)
        for one in others:
            one.load(is_undisturbed=True)

    def fold(self, views: Sequence[Changed], saved: Sequence[Event[Any]]) -> None:
        """Fold all that is above the rows of these views into them.

        Args:
            views: What `read` gave.
            saved: The events that were appended since, one for each row; none if they stood there before.
        """
        for one in views:
            loaded = one.made.load()
            events = [*loaded.events, *self._as_read(one, saved)]
            if not events:
                continue
            view = one.made.fold_on(loaded.row, events, loaded.position)
            base = None if loaded.row is None else loaded.row[6]
            self.client.save_snapshot(one.made, view, events[-1].id, events, base)

    def _as_read(self, view: Changed, saved: Sequence[Event[Any]]) -> Sequence[Event[Any]]:
        """The events of a view as a read would give them, apart from those that the caller gets."""
        if not saved:
            return []
        rows: list[Any] = []
        for place, (name, data, metadata) in view.rows:
            text = jsonb_text(load_json(data))  # jsonb keeps another order of keys
            at = saved[place].created_at.isoformat(" ")
            rows.append((saved[place].id, name, text, metadata, at, None))
        return self.client.decoder.events(rows)
